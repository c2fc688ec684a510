"""A task of your own, complete: change what it learns, from which data, by which model. `omnigrok new-task` wrote it.

Here: the product of three out of twenty signs. A network first learns its examples by heart, later the three signs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from omnigrok import RunSpec, Task, TaskData, Thresholds
from omnigrok.spec import generator

SIGNS = 20


class Parity(Task):
    """The product of the first three of twenty signs."""

    name = "parity"  # of its runs in the store; no other task may have it
    display_name = "Sparse parity"
    citation = "where the task comes from"
    # What is not given on the command line. evaluation_density: how often the curves are logged.
    spec = RunSpec(
        task=name, n_train=500, steps=4_000, lr=3e-3, alpha=4.0, weight_decay=0.3, batch_size=100, evaluation_density=2
    )
    # From which training accuracy a run counts as having memorised, and from which test accuracy as generalising.
    thresholds = Thresholds(metric="accuracy", train=0.99, test=0.95)

    def load(self, spec: RunSpec) -> TaskData:
        """Inputs and targets, examples first; a run trains on the first `n_train` of the training pool.

        In place of the next three lines: your own tensors, arrays (`torch.from_numpy`) or files. What is random is
        drawn from `generator(spec.data_seed, "a name")`, so that it is the same each time.
        """
        x = torch.randint(2, (4_000, SIGNS), generator=generator(spec.data_seed, "signs")) * 2 - 1
        y = (x[:, :3].prod(dim=1) > 0).long()
        x = x.to(spec.torch_dtype)
        return TaskData((x[:2_000],), y[:2_000], (x[2_000:],), y[2_000:], source="generated")

    def model(self, spec: RunSpec) -> nn.Module:
        """Any torch module with its default init, which is scaled by alpha. No dropout, no batch normalisation."""
        return nn.Sequential(nn.Linear(SIGNS, 100), nn.ReLU(), nn.Linear(100, 2))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One number an example: `reduction="none"`."""
        return F.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Further numbers, one an example; the thresholds name one of them, or "loss"."""
        return {"accuracy": (outputs.argmax(dim=1) == targets).to(outputs.dtype)}
