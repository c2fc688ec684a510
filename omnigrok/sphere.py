"""The norm sphere: what holds a run's weight norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from omnigrok.errors import SpecError
from omnigrok.part import Part

if TYPE_CHECKING:
    from omnigrok.ensemble import Ensemble


@dataclass(frozen=True)
class Sphere(Part):
    """Holds the weight norm: after each step, theta <- theta * radius / |theta| (Liu et al. 2023, section 2).

    Attributes:
        first_twice: the norm counts the first weight matrix twice, as two published notebooks do.
        early: back on the sphere between forward and backward pass, as one published notebook does, not after the step.
        of: the norm of all parameters, or of the weights only (parameters of two dimensions or more), which alone are
            then scaled; biases and gains stay free.
        scale: the radius, as a multiple of the norm that the run has at step `start`.
        norm: the radius itself, instead.
        start: the step from which on the norm is held.
    """

    first_twice: bool = False
    early: bool = False
    of: Literal["parameters", "weights"] = "parameters"
    scale: float = 1.0
    norm: float | None = None
    start: int = 0

    def __post_init__(self) -> None:
        if self.of not in ("parameters", "weights"):
            raise SpecError(f"a sphere is of parameters or of weights, got {self.of!r}")
        if not 0 < self.scale < math.inf or not (self.norm is None or 0 < self.norm < math.inf) or not self.start >= 0:
            raise SpecError("a sphere's scale and norm are finite numbers above 0, its start is a step, 0 or more")
        if self.norm is not None and self.scale != 1:
            raise SpecError("a sphere takes its radius from scale or from norm, not from both")

    def canonical(self) -> dict[str, Any]:
        """The published ones keep the keys that they had when they were fields of the spec."""
        if self == Sphere(self.first_twice, self.early):
            named = {"sphere": True, "sphere_first_twice": self.first_twice, "sphere_early": self.early}
            return {name: value for name, value in named.items() if value}
        return {"sphere": super().canonical()}


class Spheres:
    """The spheres of a batch of runs at work; a run may have none.

    Attributes:
        radius: (runs,) the norm that each run's sphere holds, once it has begun.
    """

    def __init__(self, ensemble: Ensemble, spheres: Sequence[Sphere | None]) -> None:
        self.ensemble, self.parts = ensemble, spheres
        like = ensemble.theta[0]
        weights = [p.ndim > 2 for p in ensemble.params.values()]  # of a matrix of a run, with the axis of runs
        self.scaled: Bool[Tensor, "tensors runs"] = torch.tensor(
            [[w or not (part and part.of == "weights") for part in spheres] for w in weights], device=like.device
        )
        self.of_all = bool(self.scaled.all())
        self.counts: Float[Tensor, "tensors runs"] = self.scaled.to(like.dtype)
        for row, part in enumerate(spheres):
            if part and part.first_twice:
                self.counts[0, row] *= 2.0**0.5
        self.radius: Float[Tensor, "runs"] = self._norm()
        self.starts = {part.start for part in spheres if part}
        self.held: dict[bool, Bool[Tensor, "runs"]] = {}  # which runs are held now, by when they are put back

    def begin(self, step: int) -> None:
        """At the step where spheres begin: their radius is that of the weights as they are, or as the part says."""
        if step not in self.starts:
            return
        self._hold(step)
        new = self._rows(lambda part: part.start == step)
        given = torch.tensor([part.norm or 0.0 if part else 0.0 for part in self.parts]).to(self.radius)
        scale = torch.tensor([part.scale if part else 1.0 for part in self.parts]).to(self.radius)
        self.radius = torch.where(new, torch.where(given > 0, given, self._norm() * scale), self.radius)
        moved = self._rows(lambda part: part.start == step and (part.norm is not None or part.scale != 1))
        if moved.any():
            self._project(moved)

    def after_step(self) -> None:
        """Back on the sphere: theta <- theta * radius / |theta|."""
        if False in self.held:
            for matrix, factors in zip(self.ensemble.theta, self._factors(self.held[False]), strict=True):
                matrix.mul_(factors[:, None])

    def within_step(self) -> None:
        """The same between forward and backward pass, which then goes through the weights as they are now."""
        if True in self.held:
            self._project(self.held[True])

    def state_dict(self) -> dict[str, Tensor]:
        return {"radius": self.radius}

    def load_state_dict(self, state: dict[str, Tensor], step: int) -> None:
        """After that many steps; those that begin at `step` itself have yet to."""
        self.radius = state["radius"].to(self.radius)
        self._hold(max(0, step - 1))

    def _hold(self, step: int) -> None:
        early = self._rows(lambda part: part.start <= step and part.early)
        late = self._rows(lambda part: part.start <= step and not part.early)
        self.held = {when: rows for when, rows in ((True, early), (False, late)) if rows.any()}

    def _project(self, held: Bool[Tensor, "runs"]) -> None:
        """Unseen by autograd, which may be between its two passes."""
        for p, factors in zip(self.ensemble.params.values(), self._factors(held), strict=True):
            p.data.mul_(factors.view(-1, *[1] * (p.ndim - 1)))

    def _factors(self, held: Bool[Tensor, "runs"]) -> list[Tensor]:
        """What the rows of each parameter are multiplied by."""
        factors = torch.where(held, self.radius / self._norm(), 1.0)
        if self.of_all:
            return [factors] * len(self.scaled)
        return [torch.where(scaled, factors, 1.0) for scaled in self.scaled]

    def _norm(self) -> Float[Tensor, "runs"]:
        return torch.linalg.vector_norm(row_norms(self.ensemble.theta) * self.counts, dim=0)

    def _rows(self, which: Callable[[Sphere], bool]) -> Bool[Tensor, "runs"]:
        return torch.tensor([part is not None and which(part) for part in self.parts], device=self.radius.device)


def row_norms(matrices: Iterable[Tensor]) -> Float[Tensor, "tensors runs"]:
    """L2 norm of each row of matrices with a row a run."""
    return torch.stack([torch.linalg.vector_norm(matrix, dim=1) for matrix in matrices])
