"""The measured quantities, stated once, used everywhere: t_mem, t_gen, delay, reduced loss, loss shape, critical norm.

Tables are those of `Store.load`: run, task, alpha, n_train, weight_decay, seed, step, split, metric, value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from omnigrok.task import Thresholds

SUSTAIN = 3
"""Evaluations after the first one at the threshold that must hold it too: a spike is not an onset."""
WALL = 10.0
"""Factor over the lowest loss from which the end of a landscape counts as a wall."""
RUN_FIELDS = ["run", "task", "alpha", "n_train", "weight_decay", "seed"]
CURVE_FIELDS = ["task", "alpha", "n_train", "weight_decay", "seed", "step", "split", "metric", "value"]
LANDSCAPE_FIELDS = ["task", "alpha", "weight_norm", "n_train", "weight_decay", "seed"]


@dataclass(frozen=True)
class Onset:
    """A time in steps; censored: not reached until that step, the run's last."""

    step: int
    censored: bool


def onset(steps: ArrayLike, values: ArrayLike, threshold: float, sustain: int = SUSTAIN) -> Onset:
    """First logged step from which a metric stays at or above its threshold for the next `sustain` evaluations.

    A run that never gets there is right-censored at its last step. Not-a-number is below every threshold.
    """
    steps, values = np.asarray(steps), np.asarray(values)
    above = values >= threshold
    for i in range(len(steps) - sustain):
        if above[i : i + sustain + 1].all():
            return Onset(int(steps[i]), censored=False)
    return Onset(int(steps[-1]), censored=True)


def grokking_times(curves: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """t_mem, t_gen and delay = t_gen / t_mem of every run, in steps; a row a run.

    `mem_censored` and `gen_censored` mark runs that never memorised or never generalised: the delay of a run with
    gen_censored is a lower bound. Step 0 counts as step 1 in the ratio.
    """
    rows = []
    for fields, run in curves[curves["metric"] == thresholds.metric].groupby(RUN_FIELDS, sort=False):
        row: dict[str, Any] = dict(zip(RUN_FIELDS, fields, strict=True))
        for split, name, threshold in (("train", "mem", thresholds.train), ("test", "gen", thresholds.test)):
            curve = run[run["split"] == split].sort_values("step")
            found = onset(curve["step"], curve["value"], threshold)
            row[f"t_{name}"], row[f"{name}_censored"] = found.step, found.censored
        row["delay"] = max(row["t_gen"], 1) / max(row["t_mem"], 1)
        rows.append(row)
    return pd.DataFrame(rows)


def median_time(times: ArrayLike, censored: ArrayLike) -> float:
    """Kaplan-Meier median of times of which some are right-censored; inf when fewer than half are known to end."""
    times, censored = np.asarray(times, dtype=float), np.asarray(censored, dtype=bool)
    data = stats.CensoredData(uncensored=times[~censored], right=times[censored])
    survival = stats.ecdf(data).sf
    reached = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    return float(reached[0]) if len(reached) else np.inf


def medians_by(times: pd.DataFrame, column: str, name: Literal["mem", "gen"]) -> pd.Series:
    """Kaplan-Meier medians of t_mem or t_gen (of a table of `grokking_times`) by the values of a column."""
    groups = times.groupby(column)
    return pd.Series({key: median_time(group[f"t_{name}"], group[f"{name}_censored"]) for key, group in groups})


def reduced(curves: pd.DataFrame) -> pd.DataFrame:
    """Landscape of reduced losses: what each run on its norm sphere ends with.

    Per run, split and metric two statistics: the last value, and the best over training (for the test set an oracle's
    early stopping, as the published figures show it). Where there is an accuracy there is an error, 1 - accuracy.
    """
    norms = curves[curves["metric"] == "weight_norm"].sort_values("step").groupby("run")["value"].last()
    values = curves[curves["split"].isin(["train", "test"])].sort_values("step", kind="stable")
    errors = values[values["metric"] == "accuracy"].assign(metric="error", value=lambda t: 1 - t["value"])
    values = pd.concat([values, errors])
    cells = [*RUN_FIELDS, "split", "metric"]
    last = values.drop_duplicates(cells, keep="last").set_index(cells)["value"]  # agg("last") would skip not-a-number
    extremes = values.groupby(cells, sort=False)["value"].agg(lowest="min", highest="max")
    table = extremes.assign(last=last).reset_index()
    table["best"] = table["highest"].where(table["metric"] == "accuracy", table["lowest"])
    table["weight_norm"] = table["run"].map(norms)
    keys = [*LANDSCAPE_FIELDS, "split", "metric"]
    table = table.melt(id_vars=keys, value_vars=["last", "best"], var_name="statistic", value_name="value")
    return table.sort_values([*keys, "statistic"]).reset_index(drop=True)


def pick(landscape: pd.DataFrame, task: str, split: str, metric: str, statistic: str = "last") -> pd.DataFrame:
    """One surface of a landscape: alphas down, seeds across."""
    chosen = landscape.query("task == @task and split == @split and metric == @metric and statistic == @statistic")
    return chosen.pivot_table(index="alpha", columns="seed", values="value")


def by_size(landscape: pd.DataFrame, split: str, metric: str, statistic: str = "last") -> pd.DataFrame:
    """The map of a landscape of one task, median over seeds: training-set sizes down, alphas across.

    Alphas that not every size has are left out.
    """
    chosen = landscape.query("split == @split and metric == @metric and statistic == @statistic")
    table = chosen.pivot_table(index="n_train", columns="alpha", values="value", aggfunc="median")
    return table.dropna(axis=1)


def basin_width(alphas: ArrayLike, values: ArrayLike, level: float) -> float:
    """Width, in factors of ten of alpha, over which a metric lies below a level; between grid points interpolated."""
    x = np.log10(np.asarray(alphas, dtype=float))
    order = np.argsort(x)
    fine = np.linspace(x.min(), x.max(), 1001)
    below = np.interp(fine, x[order], np.asarray(values, dtype=float)[order]) < level
    return float(below.mean() * (x.max() - x.min()))


@dataclass(frozen=True)
class TimeLaw:
    """t = offset + slope / weight decay, in steps: with a norm decaying at rate lr wd, slope = ln(w_0 / w_c) / lr."""

    offset: float
    slope: float

    def __call__(self, weight_decay: ArrayLike) -> NDArray:
        return self.offset + self.slope / np.asarray(weight_decay, dtype=float)

    def critical_ratio(self, lr: float) -> float:
        """w_c / w_0, the share of the initial norm at which the run generalises."""
        return float(np.exp(-self.slope * lr))


def time_law(weight_decays: ArrayLike, times: ArrayLike) -> TimeLaw:
    """The law fitted to uncensored times by least squares of the relative error (Liu et al. 2023, section 2, with an
    offset for the time to memorise); not-a-number where fewer than two times are known."""
    wd, t = np.asarray(weight_decays, dtype=float), np.asarray(times, dtype=float)
    kept = np.isfinite(t)
    wd, t = wd[kept], t[kept]
    if len(t) < 2:
        return TimeLaw(np.nan, np.nan)
    columns = np.stack([1 / t, 1 / (wd * t)], axis=1)
    offset, slope = np.linalg.lstsq(columns, np.ones(len(t)), rcond=None)[0]
    return TimeLaw(float(offset), float(slope))


def argmin_alpha(alphas: ArrayLike, values: ArrayLike) -> float:
    """The alpha of the lowest value, between grid points: vertex of the parabola in log alpha through the minimum and
    its neighbours. At the edge of the grid the edge itself."""
    x, y = np.log(np.asarray(alphas, dtype=float)), np.asarray(values, dtype=float)
    order = np.argsort(x)
    x, y = x[order], y[order]
    i = int(np.nanargmin(y))
    if i in (0, len(x) - 1) or not np.isfinite(y[i - 1 : i + 2]).all():
        return float(np.exp(x[i]))
    a, b, _ = np.polyfit(x[i - 1 : i + 2] - x[i], y[i - 1 : i + 2], 2)
    if a <= 0:
        return float(np.exp(x[i]))
    return float(np.exp(np.clip(x[i] - b / (2 * a), x[i - 1], x[i + 1])))


def critical_alpha(landscape: pd.DataFrame, task: str, metric: str = "loss", statistic: str = "last") -> pd.Series:
    """The critical norm w_c of each seed in units of the default init's norm: argmin of the reduced test metric.

    The parabola is fitted to the logarithm of a loss and to an error as it is.
    """
    surface = pick(landscape, task, "test", metric, statistic)
    scale = np.log if metric == "loss" else np.asarray
    return surface.apply(lambda column: argmin_alpha(surface.index, scale(column)))


def loss_shape(alphas: ArrayLike, losses: ArrayLike, wall: float = WALL) -> Literal["L", "U", "J", "flat"]:
    """Shape of a reduced loss against the norm by its walls: L left only, U both, J right only, flat none.

    A wall is an end of the grid at least `wall` times above the lowest value.
    """
    y = np.asarray(losses, dtype=float)[np.argsort(np.asarray(alphas))]
    left, right = y[0] >= wall * np.nanmin(y), y[-1] >= wall * np.nanmin(y)
    if left and right:
        return "U"
    return "L" if left else "J" if right else "flat"


def bootstrap_interval(
    values: Sequence[float] | pd.Series | NDArray,
    statistic: Callable[..., NDArray] = np.median,
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap interval over seeds, from a generator of its own: the same values, the same interval.

    `statistic` takes an `axis`, as numpy's do. Of the median of three to five values the interval is their range, which
    covers the true median with 75 to 94 %.
    """
    values = np.asarray(values, dtype=float)
    rng = np.random.default_rng(0)
    samples = values[rng.integers(len(values), size=(resamples, len(values)))]
    statistics = statistic(samples, axis=1)
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return float(low), float(high)


def first_reached(curves: pd.DataFrame, split: str, metric: str, threshold: float) -> pd.Series:
    """First logged step at which a metric is at its threshold, sustained or not, a value a seed; inf: never."""
    chosen = curves.query("split == @split and metric == @metric")
    found = {seed: onset(run["step"], run["value"], threshold, sustain=0) for seed, run in chosen.groupby("seed")}
    return pd.Series({seed: np.inf if first.censored else first.step for seed, first in found.items()}, dtype=float)


def value_at(curves: pd.DataFrame, split: str, metric: str, step: int) -> pd.Series:
    """A metric at a logged step, a value a seed; empty when the runs are shorter."""
    chosen = curves.query("split == @split and metric == @metric and step == @step")
    return chosen.set_index("seed")["value"]
