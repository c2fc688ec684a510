"""The partition of every run at the logged steps, as numbers: whether linear regions migrate (Humayun et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from omnigrok.ensemble import Ensemble
from omnigrok.probes.finite import NotFiniteError
from omnigrok.probes.partition import Plane, partition
from omnigrok.task import TaskData


@dataclass(frozen=True)
class PartitionProbe:
    """Logs how the linear regions lie on the plane through three training examples, run by run.

    Metrics: `regions`, their number on the square; `boundary_length`; `boundary_distance` and `decision_distance`, mean
    distance of the three examples to the nearest boundary and to the decision boundary (the square's half-width where
    there is none); `crowding`, the density of boundaries within a tenth of the half-width of the decision boundary over
    that of the whole square (Humayun et al. 2024: regions migrate from the data to the decision boundary). A run
    that has diverged has nan in its row.
    """

    examples: tuple[int, int, int] = (0, 1, 2)
    margin: float = 1.2

    def plane(self, data: TaskData) -> Plane:
        return Plane.through(data.train_inputs[0][list(self.examples)].cpu(), self.margin)

    def __call__(self, ensemble: Ensemble, data: TaskData) -> dict[str, Float[Tensor, "runs"]]:
        plane = self.plane(data)
        anchors = plane.coordinates(data.train_inputs[0][list(self.examples)].cpu())
        names = ("regions", "boundary_length", "boundary_distance", "decision_distance", "crowding")
        rows: list[tuple[float, ...]] = []
        for r in range(len(ensemble)):
            with ensemble.evaluating():
                model = ensemble.model(r)
            try:
                found = partition(model, plane)
            except NotFiniteError:
                rows.append((math.nan,) * len(names))
                continue
            near, decided = (
                np.minimum(found.distances(anchors, to), plane.half_width).mean() for to in ("boundaries", "decision")
            )
            crowding = found.crowding(plane.half_width / 10)
            rows.append((len(found.regions), found.boundary_length(), near, decided, crowding))
        return dict(zip(names, torch.tensor(rows, dtype=torch.float64).T, strict=True))
