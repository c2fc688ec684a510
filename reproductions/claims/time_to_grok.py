"""What `fig_time_to_grok` measures and claims: the time law's fit, and the critical norm by it and by the landscape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from omnigrok.analysis import TimeLaw, critical_alpha, medians_by, pick, time_law
from omnigrok.claims import Between, Claim, Tables, at_most, ratio
from omnigrok.registry import get_task
from reproductions.claims.curves import thresholds
from reproductions.experiments.weight_decay import DOMAINS
from reproductions.paper import cited

AGREES = 1.25  # factor within which two estimates of the critical norm agree


def of_task(tables: Tables, task: str) -> pd.DataFrame:
    """The times of a task's runs; none where the task was not asked for."""
    return tables["times"].query("task == @task")


def medians(times: pd.DataFrame) -> pd.Series:
    """Kaplan-Meier medians of t_gen by weight decay, without the control; inf where fewer than half are known."""
    return medians_by(times[times["weight_decay"] > 0], "weight_decay", "gen")


def fit(times: pd.DataFrame) -> TimeLaw:
    found = medians(times)
    return time_law(found.index, found)


def by_seed(times: pd.DataFrame) -> dict[int, pd.DataFrame]:
    return {int(str(seed)): part for seed, part in times.groupby("seed")}


def worst_error(times: pd.DataFrame) -> float:
    """Largest relative error of the fitted law over the uncensored medians."""
    found, law = medians(times), fit(times)
    found = found[np.isfinite(found)]
    return float(np.abs(law(found.index) / found - 1).max())


def slope(times: pd.DataFrame) -> float:
    """Of log t_gen against log weight decay, without an offset."""
    found = medians(times)
    found = found[np.isfinite(found)]
    return float(stats.linregress(np.log(found.index), np.log(found)).slope) if len(found) > 1 else np.nan


def fitted_alpha(times: pd.DataFrame) -> float:
    """The critical norm that the law's slope implies, in units of the default init's."""
    return DOMAINS["teacher_student"].alpha * fit(times).critical_ratio(get_task("teacher_student").spec.lr)


def edge_alpha(tables: Tables) -> pd.Series:
    """The largest norm, interpolated in log alpha, at which the held network has the threshold's test accuracy; not a
    number where it has it at none."""
    threshold = thresholds("teacher_student").test
    accuracy = pick(tables["landscape"], "teacher_student", "test", "accuracy")

    def edge(column: pd.Series) -> float:
        x, y = np.log(column.index.to_numpy()), column.to_numpy()
        if not (y >= threshold).any():
            return np.nan
        last = int(np.flatnonzero(y >= threshold).max())
        if last == len(x) - 1:
            return float(np.exp(x[last]))
        share = (y[last] - threshold) / (y[last] - y[last + 1])
        return float(np.exp(x[last] + share * (x[last + 1] - x[last])))

    return pd.Series({seed: edge(column) for seed, column in accuracy.items()}, dtype=float)


def each_seed(measure: Callable[[pd.DataFrame], float], task: str = "teacher_student") -> Callable[[Tables], pd.Series]:
    return lambda t: pd.Series({seed: measure(part) for seed, part in by_seed(of_task(t, task)).items()}, dtype=float)


def saturation(times: pd.DataFrame) -> float:
    """Half-rise at weight decay 0.003 over that at 0.03; the law says 10."""
    found = medians(times)
    return float(found[0.003] / found[0.03]) if np.isfinite(found[0.03]) else np.nan


def over_landscape(tables: Tables, alpha: pd.Series) -> pd.Series:
    return ratio(each_seed(fitted_alpha)(tables), alpha)


SOURCE, OWN = "Liu 2023 section 2", "this suite, after Liu 2023 section 2"

CLAIMS = [
    Claim(
        "law", "Teacher-student: largest relative error of t = offset + slope / wd, a seed's own fit", SOURCE,
        at_most(0.15), each_seed(worst_error),
    ),
    Claim(
        "bare-slope", "Teacher-student: log-log slope of t_gen against weight decay, without offset", SOURCE,
        Between(-1.15, -0.85, paper=cited("fig2", "derived", "slope of time against weight decay")), each_seed(slope),
    ),
    Claim(
        "edge", "Teacher-student: critical norm by the fit over the largest with test accuracy 0.95 held", OWN,
        Between(1 / AGREES, AGREES), lambda t: over_landscape(t, edge_alpha(t)),
    ),
    Claim(
        "minimum", "Teacher-student: critical norm by the fit over the landscape's minimum", OWN,
        Between(1 / AGREES, AGREES), lambda t: over_landscape(t, critical_alpha(t["landscape"], "teacher_student")),
    ),
    Claim(
        "saturates", "MNIST: half-rise at weight decay 0.003 over that at 0.03 (the law: 10)",
        "Co-author's repository; Liu 2023 appendix C",
        at_most(5, paper=cited("fig3", "derived", "times half-rise at weight decay 0.003 over 0.03")),
        each_seed(saturation, "mnist"),
    ),
]  # fmt: skip
