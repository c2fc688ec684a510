"""The published QM9 network with torch_geometric's own layers: the oracle of the bond-typed form."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
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

    def forward(self, *inputs: Tensor) -> Float[Tensor, "batch"]:
        """Either a torch_geometric batch (x, edge_index, edge_attr, batch) or the bond-typed form's padded inputs."""
        return self.graphs(*(inputs if len(inputs) == 4 else as_graphs(*inputs)))

    def graphs(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: Tensor) -> Float[Tensor, "batch"]:
        x = self.conv1(x, edge_index, edge_attr).relu()
        x = self.conv2(x, edge_index, edge_attr).relu()
        return self.head(global_add_pool(x, batch)).squeeze(-1)


def as_graphs(aggregated: Tensor, bonds: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Padded molecules as one disjoint graph: x, edge_index, edge_attr, batch."""
    molecule, atom = real.nonzero(as_tuple=True)
    number = torch.zeros_like(real, dtype=torch.long)
    number[molecule, atom] = torch.arange(len(atom), device=real.device)
    m, kind, i, j = bonds.nonzero(as_tuple=True)
    edges = torch.stack([number[m, j], number[m, i]])
    one_hot = torch.eye(BOND_TYPES, dtype=aggregated.dtype, device=real.device)[kind]
    return aggregated[molecule, atom, -ATOM_FEATURES:], edges, one_hot, molecule


class PublishedLoader:
    """torch_geometric's DataLoader over Data objects, as batches (x, edge_index, edge_attr, batch, target)."""

    def __init__(
        self, inputs: tuple[Tensor, ...], targets: Tensor, size: int, shuffle: bool, generator: torch.Generator
    ) -> None:
        graphs = []
        for i, y in enumerate(targets):
            x, edge_index, edge_attr, _ = as_graphs(*(tensor[i : i + 1] for tensor in inputs))
            graphs.append(Data(x=x, edge_index=edge_index, edge_attr=edge_attr, y=y.unsqueeze(0)))
        self.loader = DataLoader(graphs, batch_size=size, shuffle=shuffle, generator=generator)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self.loader:
            yield batch.x, batch.edge_index, batch.edge_attr, batch.batch, batch.y
