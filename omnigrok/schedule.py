"""When a run is evaluated: on a logarithmic grid, because grokking is read on a logarithmic axis."""

from __future__ import annotations


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
