"""What `fig_train_size` measures and claims of each domain: critical norm, lowest error and delay against N."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from omnigrok.analysis import medians_by, pick
from omnigrok.claims import NOTHING, Between, Claim, Tables, at_least, last_over_first
from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from reproductions import landscapes

METRICS = {"teacher_student": "loss", "mnist": "error", "imdb": "error", "qm9": "loss", "modular": "loss"}
"""What is measured of a task's landscape."""
GENERALISES = 0.5  # test error below which a norm generalises, for the critical size of MNIST


def metric(task: str) -> str:
    """What is measured of a task; of one that is not the paper's, the error where it generalises by its accuracy."""
    return METRICS.get(task) or ("error" if get_task(task).thresholds.metric == "accuracy" else "loss")


def of_task(table: pd.DataFrame, task: str) -> pd.DataFrame:
    return table[table["task"] == task]


def critical(tables: Tables, task: str, statistic: str) -> pd.DataFrame:
    return landscapes.critical_by_size(of_task(tables["landscapes"], task), task, metric(task), statistic)


def lowest(tables: Tables, task: str, statistic: str) -> pd.DataFrame:
    """Lowest test metric over the norms: sizes down, seeds across."""
    return landscapes.per_size(
        of_task(tables["landscapes"], task), lambda part: pick(part, task, "test", metric(task), statistic).min()
    )


def critical_size(tables: Tables, statistic: str) -> pd.Series:
    """MNIST's smallest N, interpolated in log N, at which some norm has test error below one half; inf: at none."""

    def crossing(errors: pd.Series) -> float:
        n, e = np.log(errors.index.to_numpy(dtype=float)), errors.to_numpy()
        below = np.flatnonzero(e < GENERALISES)
        if len(below) == 0:
            return np.inf
        i = below[0]
        if i == 0:
            return float(np.exp(n[0]))
        return float(np.exp(np.interp(GENERALISES, [e[i], e[i - 1]], [n[i], n[i - 1]])))

    return pd.Series({s: crossing(errors) for s, errors in lowest(tables, "mnist", statistic).items()}, dtype=float)


def few_over_many(tables: Tables, task: str, measure: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
    """What is measured at the smallest size over that at the largest, seed by seed."""
    times = of_task(tables["times"], task)
    if times["n_train"].nunique() < 2:
        return NOTHING
    ends = times[times["n_train"] == times["n_train"].min()], times[times["n_train"] == times["n_train"].max()]
    few, many = map(measure, ends)
    return few / many


def generalised(times: pd.DataFrame) -> pd.Series:
    """Steps to generalise; inf where they are censored."""
    return medians_by(times, "seed", "gen")


def delay(times: pd.DataFrame) -> pd.Series:
    """Steps to generalise over steps to memorise; not a number where a run does not memorise."""
    memorised = medians_by(times, "seed", "mem")
    return generalised(times) / memorised.mask(memorised == np.inf)


SOURCE = "Liu 2023 section 4"


def claims(options: Options) -> list[Claim]:
    read = options.statistic
    return [
        Claim(
            f"{task}-later", f"{name}: steps to generalise with the fewest examples over those with the most", SOURCE,
            at_least(1), partial(few_over_many, task=task, measure=generalised),
        )
        for task, name in (("teacher_student", "Teacher-student"), ("mnist", "MNIST"), ("qm9", "QM9"))
    ] + [
        Claim(
            f"{task}-delay", f"{name}: delay (steps to generalise over steps to memorise), fewest over most examples",
            SOURCE, at_least(1), partial(few_over_many, task=task, measure=delay),
        )
        for task, name in (("teacher_student", "Teacher-student"), ("mnist", "MNIST"))
    ] + [
        Claim(
            "critical-size", "MNIST: smallest N at which some norm has test error below 0.5",
            "this suite, after Liu 2023 Fig. 3b",
            Between(15, 60), lambda t: critical_size(t, read),
        ),
        Claim(
            "qm9-still", "QM9: critical norm at the largest N over that at the smallest", "Liu 2023 Fig. 5",
            Between(0.5, 2), lambda t: last_over_first(critical(t, "qm9", read)),
        ),
    ]  # fmt: skip
