"""What claims read off curves, seed by seed: when a level is reached, and values there; and which level counts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from omnigrok.registry import get_task
from omnigrok.task import Thresholds

HALF = Thresholds("accuracy", 0.99, 0.5)  # MNIST's half-rise: its plateau is near 0.9


def thresholds(task: str) -> Thresholds:
    """When a free run of a task counts as having memorised and generalised."""
    return HALF if task == "mnist" else get_task(task).thresholds


def first_at(values: pd.DataFrame, level: pd.Series, *, after: pd.Series | int = 0, below: bool = False) -> pd.Series:
    """First logged step, from `after` on, at which a seed's curve is at its level (or below it); inf: never."""
    found = {}
    for seed, whole in by_seed(values):
        column = whole[whole.index >= (after if isinstance(after, int) else after[seed])]
        reached = column <= level[seed] if below else column >= level[seed]
        found[seed] = float(reached.idxmax()) if reached.any() else np.inf
    return pd.Series(found, dtype=float)


def at_steps(values: pd.DataFrame, steps: pd.Series) -> pd.Series:
    """Each seed's value at a step of its own; not a number where that was never reached."""
    return pd.Series({s: column.get(steps[s], np.nan) for s, column in by_seed(values)}, dtype=float)


def lasts(values: pd.DataFrame, step: int) -> bool:
    """Whether there are runs and they are logged at a step or after it."""
    return len(values) > 0 and values.index[-1] >= step


def by_seed(values: pd.DataFrame) -> list[tuple[int, pd.Series]]:
    """The columns of a table of curves, by seed."""
    return [(int(str(seed)), column) for seed, column in values.items()]


def peak(values: pd.DataFrame, after: int) -> pd.Series:
    """The step of the largest value after a step, seed by seed."""
    return values[values.index >= after].idxmax().astype(int)
