"""What `fig_domains` measures and claims: loss gap at matched norm, delay, and what is left without representation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from omnigrok.analysis import critical_alpha, one_value_each, pick
from omnigrok.claims import NOTHING, Claim, Tables, at_least, ratio
from omnigrok.figures.figure import Frames
from omnigrok.loading import task_data
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec
from reproductions.claims.representation import with_messiness

MATCHED = 3.0  # times the critical norm
REAL = ("mnist", "imdb", "qm9")  # domains with data that nobody generated


def relative_losses(tables: Tables, task: str) -> pd.DataFrame:
    """log10 of the reduced test loss over its minimum, on a grid of log10(w / w_c): grid down, seeds across."""
    losses = pick(tables["landscapes"], task, "test", "loss")
    critical = critical_alpha(tables["landscapes"], task)
    grid = np.linspace(-1, 2, 301)
    columns = {}
    for (seed, column), norm in zip(losses.items(), critical, strict=True):
        at, y = np.log10(column.index / norm), np.log10(column / column.min())
        columns[seed] = np.interp(grid, at, y, left=np.nan, right=np.nan)
    return pd.DataFrame(columns, index=grid)


def gap(tables: Tables, task: str) -> pd.Series:
    """log10 of the reduced test loss at MATCHED times the critical norm over its minimum, a value a seed."""
    losses = relative_losses(tables, task)
    return losses.iloc[np.abs(losses.index - np.log10(MATCHED)).argmin()]


def delay(tables: Tables, task: str) -> pd.Series:
    """Steps to generalise over steps to memorise, a value a seed; inf for a run that memorises and does not generalise,
    not a number for one that does not memorise."""
    times = tables["times"].query("task == @task").set_index("seed")
    return times["delay"].mask(times["gen_censored"] & ~times["mem_censored"], np.inf)


def unexplained(frames: Frames, task: str, specs: Sequence[RunSpec]) -> pd.DataFrame:
    """Test loss at the best norm over that of a constant answer, by messiness and seed; `specs`: the frames' runs.

    Without rows where the representation cannot be chosen.
    """
    if not specs:
        return pd.DataFrame(columns=["messiness", "seed", "value", "task"])
    losses = with_messiness(frames).query("split == 'test'")
    told = one_value_each(losses, "alpha", "messiness", "seed")
    lowest = told.groupby(["messiness", "seed"], as_index=False)["value"].min()
    return lowest.assign(task=task, value=lowest["value"] / constant_loss(specs[-1]))


def constant_loss(spec: RunSpec) -> float:
    """Test loss of the mean of the training answers."""
    task, data = get_task(spec.task), task_data(spec, "cpu")
    mean = data.train_targets[: spec.n_train].mean(dim=0).expand_as(data.test_targets)
    return float(task.loss(mean, data.test_targets).mean())


def without_representation(tables: Tables, task: str) -> pd.Series:
    """Share of the constant answer's test loss that is left at messiness 1 and the best norm, a value a seed."""
    chosen = tables["representation"].query("task == @task and messiness == 1")
    return chosen.set_index("seed")["value"]


def most(tables: Tables, measure: Callable[[Tables, str], pd.Series]) -> pd.Series:
    """Modular addition's value over the largest of the other domains' medians, seed by seed.

    A seed that decides nothing leaves its domain's median, and so the largest, undecided.
    """
    others = [measure(tables, task) for task in REAL]
    if any(values.empty for values in others):
        return NOTHING
    return measure(tables, "modular") / np.max([np.median(values) for values in others])


SOURCE = "Liu 2023 section 5"

CLAIMS = [
    Claim(
        "most-delayed", "Delay of modular addition over the longest of MNIST, IMDb and QM9", SOURCE,
        at_least(1), lambda t: most(t, delay),
    ),
    Claim(
        "largest-gap", "Loss gap (factors of ten) of modular addition over the largest of MNIST, IMDb and QM9", SOURCE,
        at_least(1), lambda t: most(t, gap),
    ),
    Claim(
        "representation", "Test loss left at messiness 1 and the best norm: modular addition's share over MNIST's",
        SOURCE, at_least(2),
        lambda t: ratio(without_representation(t, "modular"), without_representation(t, "mnist")),
    ),
]  # fmt: skip
