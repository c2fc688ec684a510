"""A small task with batch normalisation: three classes of points of a box in 8 dimensions, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from omnigrok import RunSpec, Task, TaskData
from omnigrok.spec import generator
from omnigrok.task import Thresholds

FEATURES, CLASSES, EXAMPLES = 8, 3, 64


class Normed(Task):
    name = "normed"
    display_name = "Normed"
    citation = "these tests"
    spec = RunSpec(task=name, n_train=EXAMPLES, steps=20, lr=1e-2, dtype="float64", batch_size=16)
    thresholds = Thresholds(metric="accuracy", train=0.9, test=0.9)

    def load(self, spec):
        x = torch.rand(2 * EXAMPLES, FEATURES, generator=generator(0, "normed"), dtype=torch.float64)
        y = x[:, :CLASSES].argmax(dim=1)
        return TaskData((x[:EXAMPLES],), y[:EXAMPLES], (x[EXAMPLES:],), y[EXAMPLES:], "generated")

    def model(self, spec):
        return nn.Sequential(
            nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(),
            nn.Linear(12, CLASSES),
        )  # fmt: skip

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, outputs, targets):
        return {"accuracy": (outputs.argmax(dim=1) == targets).double()}
