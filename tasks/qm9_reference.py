"""The published QM9 network with torch_geometric's own layers: the oracle of the bond-typed form."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.nn import NNConv, global_add_pool

from tasks.qm9_data import ATOM_FEATURES, BOND_TYPES


class NNConvNet(nn.Module):
    """NNConv 11-32-16 with edge networks 4-32-(in x out), global add pool, MLP 16-32-1."""

    def __init__(self, hidden: int = 32, out: int = 16) -> None:
        super().__init__()

        def convolution(size: int, out: int) -> NNConv:
            edges = nn.Sequential(nn.Linear(BOND_TYPES, 32), nn.ReLU(), nn.Linear(32, size * out))
            return NNConv(size, out, edges, aggr="add")

        self.conv1, self.conv2 = convolution(ATOM_FEATURES, hidden), convolution(hidden, out)
        self.head = nn.Sequential(nn.Linear(out, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, aggregated: Tensor, bonds: Tensor, real: Tensor) -> Float[Tensor, "batch"]:
        """The padded inputs of the bond-typed form, turned into torch_geometric's graphs first."""
        molecule, atom = real.nonzero(as_tuple=True)
        number = torch.zeros_like(real, dtype=torch.long)
        number[molecule, atom] = torch.arange(len(atom), device=real.device)
        m, kind, i, j = bonds.nonzero(as_tuple=True)
        edges = torch.stack([number[m, j], number[m, i]])
        one_hot = torch.eye(BOND_TYPES, dtype=aggregated.dtype, device=real.device)[kind]
        return self.graphs(aggregated[molecule, atom, -ATOM_FEATURES:], edges, one_hot, molecule)

    def graphs(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: Tensor) -> Float[Tensor, "batch"]:
        x = self.conv1(x, edge_index, edge_attr).relu()
        x = self.conv2(x, edge_index, edge_attr).relu()
        return self.head(global_add_pool(x, batch)).squeeze(-1)
