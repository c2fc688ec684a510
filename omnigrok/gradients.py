"""Between backward pass and step: parts that change the gradients of all runs, in the order of the spec."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnigrok.errors import SpecError
from omnigrok.part import Part

if TYPE_CHECKING:
    from omnigrok.ensemble import Ensemble

State = list[Tensor]


@dataclass(frozen=True)
class GradientPart(Part):
    """Changes `ensemble.gradient_rows()` in place; `state` is kept from step to step, and in checkpoints."""

    def state(self, ensemble: Ensemble) -> State:
        """What it keeps, before the first step."""
        return []

    def __call__(self, ensemble: Ensemble, state: State, step: int) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Clip(GradientPart):
    """A run's gradient, where it is longer than a limit, is shortened to it, as torch's clip_grad_norm_ does."""

    limit: float

    def __post_init__(self) -> None:
        if not (isinstance(self.limit, int | float) and 0 < self.limit < math.inf):
            raise SpecError(f"a gradient is clipped at a finite number above 0, got {self.limit!r}")
        object.__setattr__(self, "limit", float(self.limit))

    def __call__(self, ensemble: Ensemble, state: State, step: int) -> None:
        factors = (self.limit / (ensemble.gradient_norm() + 1e-6)).clamp(max=1.0)
        for gradient in ensemble.gradient_rows():
            gradient.mul_(factors[:, None])


@dataclass(frozen=True)
class GradientNoise(GradientPart):
    """Adds normal noise of standard deviation `sigma` to every number of the gradient (Neelakantan et al. 2015).

    A run's noise is keyed by its seed, the step and the parameter: it does not depend on the run's neighbours.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise SpecError(f"sigma must be a finite number, 0 or more, got {self.sigma!r}")

    def __call__(self, ensemble: Ensemble, state: State, step: int) -> None:
        for i, gradient in enumerate(ensemble.gradient_rows()):
            ensemble.shaped(gradient, i).add_(ensemble.noise("gradient noise", step, i), alpha=self.sigma)


@dataclass(frozen=True)
class Grokfast(GradientPart):
    """Adds the slow part of the gradient once more: its exponential mean, times `strength` (Lee et al. 2024).

    m <- decay m + (1 - decay) g, then g <- g + strength m; m starts at zero.
    """

    decay: float = 0.98
    strength: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise SpecError(f"decay must be a number in [0, 1), got {self.decay!r}")

    def state(self, ensemble: Ensemble) -> State:
        return [torch.zeros_like(rows) for rows in ensemble.theta]

    def __call__(self, ensemble: Ensemble, state: State, step: int) -> None:
        for gradient, mean in zip(ensemble.gradient_rows(), state, strict=True):
            mean.mul_(self.decay).add_(gradient, alpha=1 - self.decay)
            gradient.add_(mean, alpha=self.strength)


@dataclass(frozen=True)
class GrokfastWindow(GradientPart):
    """Grokfast with the mean of the last `window` gradients, the present one with them (Lee et al. 2024, Grokfast-MA).

    As published, nothing is added before the window is full. The window is kept whole: `window` times the weights.
    """

    window: int = 100
    strength: float = 5.0

    def __post_init__(self) -> None:
        if not self.window >= 1:
            raise SpecError(f"window must be 1 or more, got {self.window!r}")

    def state(self, ensemble: Ensemble) -> State:
        return [rows.new_zeros(self.window, *rows.shape) for rows in ensemble.theta]

    def __call__(self, ensemble: Ensemble, state: State, step: int) -> None:
        for gradient, last in zip(ensemble.gradient_rows(), state, strict=True):
            last[step % self.window] = gradient
            if step + 1 >= self.window:
                gradient.add_(last.mean(dim=0), alpha=self.strength)


@dataclass(frozen=True)
class OrthogonalGradient(GradientPart):
    """Takes off each parameter's gradient its part along the weights, g - (g.w / w.w) w (Prieto et al. 2025).

    A parameter is one tensor. With `same_length` the rest is as long as the gradient was, as in the published code.
    """

    same_length: bool = False

    def __call__(self, ensemble: Ensemble, state: State, step: int) -> None:
        for gradient, weight in zip(ensemble.gradient_rows(), ensemble.theta, strict=True):
            length = gradient.norm(dim=1)
            along = (gradient * weight).sum(dim=1) / weight.square().sum(dim=1).clamp(min=1e-30)
            gradient.addcmul_(weight, along[:, None], value=-1)
            if self.same_length:
                gradient.mul_((length / gradient.norm(dim=1).clamp(min=1e-30))[:, None])


@dataclass(frozen=True)
class WeightNoise(Part):
    """Each step's gradient is taken at the weights plus normal noise of standard deviation `sigma` (Power et al. 2022).

    Fresh at each step, in training only: the step itself starts from, and measurements are made at, the weights without
    it. Keyed by the run's seed, the step and the parameter.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise SpecError(f"sigma must be a finite number, 0 or more, got {self.sigma!r}")

    def __call__(self, ensemble: Ensemble, step: int) -> None:
        """Add the noise of a step to the weights."""
        for i, matrix in enumerate(ensemble.theta):
            ensemble.shaped(matrix, i).add_(ensemble.noise("weight noise", step, i), alpha=self.sigma)
