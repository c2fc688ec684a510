"""A small task whose numbers are the same on every processor: float64 throughout, drawn by uniform numbers alone.

Three classes of points of a box in 30 dimensions, two units of the network that are exactly zero everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from omnigrok import RunSpec, Task, TaskData
from omnigrok.spec import generator
from omnigrok.task import Thresholds
from omnigrok.trainer import Trainer

FEATURES, CLASSES, EXAMPLES = 30, 3, 1_100
LOW, HIGH = 0.1, 0.9


class Boxes(Task):
    name = "boxes"
    display_name = "Boxes"
    citation = "these tests"
    recipe = "boxes/1"
    spec = RunSpec(task=name, n_train=1_050, steps=3, lr=1e-2, dtype="float64", batch_size=50)
    thresholds = Thresholds(metric="accuracy", train=0.9, test=0.9)

    def load(self, spec):
        draw = generator(0, "boxes")
        x = LOW + (HIGH - LOW) * torch.rand(2 * EXAMPLES, FEATURES, generator=draw, dtype=torch.float64)
        y = x[:, :CLASSES].argmax(dim=1)
        return TaskData((x[:EXAMPLES],), y[:EXAMPLES], (x[EXAMPLES:],), y[EXAMPLES:], "generated")

    def model(self, spec):
        double = {"dtype": torch.float64}
        net = nn.Sequential(
            nn.Linear(FEATURES, 12, **double), nn.ReLU(), nn.Linear(12, 10, **double), nn.ReLU(),
            nn.Linear(10, CLASSES, **double),
        )  # fmt: skip
        with torch.no_grad():
            for layer in (net[0], net[2]):
                layer.weight[0] = layer.bias[0] = 0.0
        return net

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, outputs, targets):
        return {"accuracy": (outputs.argmax(dim=1) == targets).double()}


def boxes(runs: int = 2, task: Task | None = None, **changes) -> Trainer:
    """Runs of init scale 1, 2, ... before their first step."""
    task = task or Boxes()
    spec = task.spec.replace(**changes)
    return Trainer(task, [spec.replace(seed=s, alpha=1.0 + s) for s in range(runs)], task.load(spec))
