"""Factors of the learning rate, and when a run is evaluated: on a logarithmic grid, as grokking is read on one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omnigrok.errors import SpecError
from omnigrok.part import Part


@dataclass(frozen=True)
class Schedule(Part):
    """A factor of the learning rate at each step; those of a run are multiplied."""

    def __call__(self, step: int, steps: int) -> float:
        """The factor of the update that follows `step` updates, in a run of `steps`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Drop(Schedule):
    """Times a factor every so many steps, as torch's StepLR.

    >>> [Drop(2, 0.5)(step, 5) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    every: int
    factor: float

    def __post_init__(self) -> None:
        if not (self.every >= 1 and 0 < self.factor < math.inf):
            raise SpecError(f"Drop takes 1 or more steps and a factor above 0, got {self.every!r} and {self.factor!r}")

    def __call__(self, step: int, steps: int) -> float:
        return float(self.factor) ** (step // self.every)


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linearly up to the whole rate, which the update number `length` is the first to have (Power et al. 2022: 10).

    With `from_zero`, as their code has it, the first update's rate is 0 and the one after `length` updates is whole.

    >>> [Warmup(4)(step, 9) for step in range(5)], [Warmup(4, from_zero=True)(step, 9) for step in range(5)]
    ([0.25, 0.5, 0.75, 1.0, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0])
    """

    length: int = 10
    from_zero: bool = False

    def __post_init__(self) -> None:
        if not self.length >= 1:
            raise SpecError(f"Warmup takes 1 or more steps, got {self.length!r}")

    def __call__(self, step: int, steps: int) -> float:
        return min(1.0, (step if self.from_zero else step + 1) / self.length)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the whole rate down to a share of it, `floor`, over the run or the first `length` steps.

    As torch's CosineAnnealingLR; afterwards it stays (Loshchilov and Hutter 2017, without restarts).

    >>> [round(Cosine()(step, 4), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    length: int | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not ((self.length is None or self.length >= 1) and 0 <= self.floor <= 1):
            raise SpecError(
                f"Cosine takes 1 or more steps and a floor from 0 to 1, got {self.length!r}, {self.floor!r}"
            )

    def __call__(self, step: int, steps: int) -> float:
        length = self.length or max(1, steps)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(step, length) / length)) / 2


def evaluation_steps(steps: int, density: int = 1) -> list[int]:
    """Step 0, every m * 10^k with m = 1..9 (and `density` - 1 points between neighbours), and the last step.

    Round steps are always in it, so that a value quoted at a round step is measured and not interpolated. Density 0
    keeps the powers of ten only, for runs whose evaluation costs more than their training.

    >>> evaluation_steps(25)
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 25]
    """
    grid = {0, steps}
    decade = 1
    while decade <= steps:
        grid.update([decade] if density == 0 else (round(decade * (1 + j / density)) for j in range(9 * density)))
        decade *= 10
    return sorted(s for s in grid if s <= steps)
