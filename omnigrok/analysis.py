"""The measured quantities, stated once, used everywhere: t_mem, t_gen, delay, reduced loss, loss shape, critical norm.

Tables are those of `Store.load`: run, task, alpha, n_train, weight_decay, seed, step, split, metric, value. Nothing is
averaged over an axis that the caller did not name: where another one varies, or two runs have one place, that is an
OmnigrokError (`one_value_each`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from omnigrok.errors import OmnigrokError
from omnigrok.task import Thresholds

SUSTAIN = 3
"""Evaluations after the first one at the threshold that must hold it too: a spike is not an onset."""
WALL = 10.0
"""Factor over the lowest loss from which the end of a landscape counts as a wall."""
RUN_FIELDS = ["run", "task", "alpha", "n_train", "weight_decay", "seed"]
CURVE_FIELDS = ["task", "alpha", "n_train", "weight_decay", "seed", "step", "split", "metric", "value"]
LANDSCAPE_FIELDS = ["task", "alpha", "weight_norm", "n_train", "weight_decay", "seed"]
TIMES = ["t_mem", "mem_censored", "t_gen", "gen_censored", "delay"]
MEASURED = {"run", "weight_norm", "value", *TIMES}
"""Columns that name a run or say what was measured of it; all others are axes."""


def one_value_each(table: pd.DataFrame, *axes: str) -> pd.DataFrame:
    """The table, when these axes tell its rows apart and no other axis varies.

    Raises:
        OmnigrokError: another column varies, or two rows have one place on the axes, as two runs have that differ in
            what the table does not say (learning rate, options).
    """
    for column in table.columns.difference([*MEASURED, *axes], sort=False):
        found = table[column].unique().tolist()
        if len(found) > 1:
            some = ", ".join(map(str, found[:4])) + (", ..." if len(found) > 4 else "")
            raise OmnigrokError(
                f"{column} varies ({some}) and nothing is averaged over it; select one, "
                f"e.g. table[table[{column!r}] == {found[0]!r}]"
            )
    return _once(table, [*axes])


def _once(table: pd.DataFrame, places: list[str]) -> pd.DataFrame:
    """The table, when no two rows have the same place."""
    twice = table[table.duplicated(places, keep=False)]
    if len(twice):
        first = ", ".join(f"{name} {twice[name].iloc[0]}" for name in places)
        count = int((twice[places] == twice[places].iloc[0]).all(axis=1).sum())
        raise OmnigrokError(
            f"{count} rows have {first}: one run twice, or runs that differ in what the table does not say "
            "(lr, options, ...); select the rows of one, e.g. by the column run of Store.load"
        )
    return table


def _rows(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows with these values; none of a table that has no rows.

    Raises:
        OmnigrokError: there is no such value among them.
    """
    for column, value in wanted.items():
        chosen = table[table[column] == value]
        if chosen.empty and len(table):
            known = ", ".join(sorted(map(str, table[column].unique())))
            raise OmnigrokError(f"there is no {column} {value!r} here; there are: {known}")
        table = chosen
    return table


def stack(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table below the other, without those that have no rows, which would change the types; of none, the first."""
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def surface(table: pd.DataFrame, index: str, columns: str) -> pd.DataFrame:
    """The values of a table by two of its axes, one down and one across; not-a-number where there is no run.

    Raises:
        OmnigrokError: as `one_value_each`.
    """
    return one_value_each(table, index, columns).pivot(index=index, columns=columns, values="value")


def median_over_seeds(table: pd.DataFrame, index: str, columns: str) -> pd.DataFrame:
    """The median over seeds of a table's values, by two axes. A value that is not a number is left out of its median.

    Raises:
        OmnigrokError: as `one_value_each`.
    """
    cells = one_value_each(table, index, columns, "seed").groupby([index, columns])["value"]
    return cells.median().unstack(columns)


def curve(curves: pd.DataFrame, split: str, metric: str) -> pd.DataFrame:
    """A metric against steps: steps down, seeds across. Empty where there are no runs.

    Raises:
        OmnigrokError: no such split or metric was logged, or as `one_value_each`.
    """
    return surface(_rows(curves, split=split, metric=metric), "step", "seed")


def row(values: pd.DataFrame, at: float) -> pd.Series:
    """One row of a surface, a value a seed; empty where nothing was run there."""
    return values.T[at] if at in values.index else pd.Series(dtype=float)


@dataclass(frozen=True)
class Onset:
    """A time in steps; censored: not reached until that step, the run's last."""

    step: int
    censored: bool


def onset(
    steps: ArrayLike, values: ArrayLike, threshold: float, sustain: int = SUSTAIN, *, stopped: bool = False
) -> Onset:
    """First logged step from which a metric stays at or above its threshold for the next `sustain` evaluations.

    A run that never gets there is right-censored at its last step; so is one with too few evaluations to sustain it,
    unless it has `stopped` because it generalised: then it stays where it is. Not-a-number is below every threshold.

    Raises:
        OmnigrokError: there are no evaluations, or the steps do not rise.
    """
    steps, values = np.asarray(steps), np.asarray(values)
    if len(steps) == 0 or len(steps) != len(values) or (np.diff(steps) <= 0).any():
        raise OmnigrokError("an onset needs rising steps with a value each, those of one run")
    above = values >= threshold
    for i in range(len(steps) - (0 if stopped else sustain)):
        if above[i : i + sustain + 1].all():
            return Onset(int(steps[i]), censored=False)
    return Onset(int(steps[-1]), censored=True)


def grokking_times(curves: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """t_mem, t_gen and delay = t_gen / t_mem of every run, in steps; a row a run.

    `mem_censored` and `gen_censored` mark runs that never memorised or never generalised. The delay of a run that
    memorised and never generalised is a lower bound; that of one which never memorised is not a number, whether it
    generalised or not. Step 0 counts as step 1 in the ratio.

    Raises:
        OmnigrokError: the metric was not logged on both splits, or two runs are not told apart.
    """
    logged = _rows(curves, metric=thresholds.metric)
    stopped = set(curves.loc[(curves["split"] == "run") & (curves["metric"] == "stopped"), "run"])
    rows = []
    for fields, run in _once(logged, [*RUN_FIELDS, "split", "step"]).groupby(RUN_FIELDS, sort=False):
        found: dict[str, Any] = dict(zip(RUN_FIELDS, fields, strict=True))
        for split, name, threshold in (("train", "mem", thresholds.train), ("test", "gen", thresholds.test)):
            values = _rows(run, split=split).sort_values("step")
            first = onset(values["step"], values["value"], threshold, stopped=found["run"] in stopped)
            found[f"t_{name}"], found[f"{name}_censored"] = first.step, first.censored
        found["delay"] = np.nan if found["mem_censored"] else max(found["t_gen"], 1) / max(found["t_mem"], 1)
        rows.append(found)
    return pd.DataFrame(rows, columns=[*RUN_FIELDS, *TIMES])


def median_time(times: ArrayLike, censored: ArrayLike) -> float:
    """Kaplan-Meier median of times of which some are right-censored; inf when fewer than half are known to end.

    Raises:
        OmnigrokError: there are no times, or one is not a number.
    """
    times, censored = np.asarray(times, dtype=float), np.asarray(censored, dtype=bool)
    if len(times) == 0 or np.isnan(times).any():
        raise OmnigrokError("a median time needs at least one time, and none that is not a number")
    data = stats.CensoredData(uncensored=times[~censored], right=times[censored])
    survival = stats.ecdf(data).sf
    reached = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    return float(reached[0]) if len(reached) else np.inf


def medians_by(times: pd.DataFrame, column: str, name: Literal["mem", "gen"]) -> pd.Series:
    """Kaplan-Meier medians over seeds of t_mem or t_gen (of a table of `grokking_times`), by the values of a column.

    Raises:
        OmnigrokError: as `one_value_each`.
    """
    groups = one_value_each(times, *dict.fromkeys([column, "seed"])).groupby(column)
    medians = {key: median_time(group[f"t_{name}"], group[f"{name}_censored"]) for key, group in groups}
    return pd.Series(medians, dtype=float)


def reduced(curves: pd.DataFrame) -> pd.DataFrame:
    """Landscape of reduced losses: what each run on its norm sphere ends with.

    Per run, split and metric two statistics: the last value, and the best over training (for the test set an oracle's
    early stopping, as the published figures show it). Where there is an accuracy there is an error, 1 - accuracy.

    Raises:
        OmnigrokError: two runs are not told apart.
    """
    _once(curves, [*RUN_FIELDS, "split", "metric", "step"])
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
    """One surface of a landscape: alphas down, seeds across. Empty where the task was not run.

    Raises:
        OmnigrokError: the task has no such split, metric or statistic, or as `one_value_each`.
    """
    chosen = landscape[landscape["task"] == task]
    return surface(_rows(chosen, split=split, metric=metric, statistic=statistic), "alpha", "seed")


def by_size(landscape: pd.DataFrame, split: str, metric: str, statistic: str = "last") -> pd.DataFrame:
    """The map of a landscape of one task, median over seeds: training-set sizes down, alphas across.

    Alphas at which not every size has a number are left out.

    Raises:
        OmnigrokError: there is no such split, metric or statistic, or as `one_value_each`.
    """
    chosen = _rows(landscape, split=split, metric=metric, statistic=statistic)
    return median_over_seeds(chosen, "n_train", "alpha").dropna(axis=1)


def basin_width(alphas: ArrayLike, values: ArrayLike, level: float) -> float:
    """Width, in factors of ten of alpha, over which a metric lies below a level; between grid points interpolated.

    Between a value that is not a number and its neighbours nothing counts as below.
    """
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
    offset for the time to memorise); not-a-number where fewer than two weight decays have a time that is known.

    Raises:
        OmnigrokError: a weight decay is not above 0; the law does not reach there.
    """
    wd, t = np.asarray(weight_decays, dtype=float), np.asarray(times, dtype=float)
    if not (wd > 0).all():
        raise OmnigrokError("the time law is of weight decays above 0; leave the others out")
    kept = np.isfinite(t)
    wd, t = wd[kept], t[kept]
    if len(np.unique(wd)) < 2:
        return TimeLaw(np.nan, np.nan)
    columns = np.stack([1 / t, 1 / (wd * t)], axis=1)
    offset, slope = np.linalg.lstsq(columns, np.ones(len(t)), rcond=None)[0]
    return TimeLaw(float(offset), float(slope))


def argmin_alpha(alphas: ArrayLike, values: ArrayLike) -> float:
    """The alpha of the lowest value, between grid points: vertex of the parabola in log alpha through the minimum and
    its neighbours. At the edge of the grid the edge itself. What is not a number is left out, and when
    nothing is left, neither is the result one."""
    x, y = np.log(np.asarray(alphas, dtype=float)), np.asarray(values, dtype=float)
    order = np.argsort(x)
    x, y = x[order], y[order]
    if np.isnan(y).all():
        return np.nan
    i = int(np.nanargmin(y))
    if i in (0, len(x) - 1) or not np.isfinite(y[i - 1 : i + 2]).all():
        return float(np.exp(x[i]))
    left, right = np.diff(y[i - 1 : i + 2]) / np.diff(x[i - 1 : i + 2])  # left < 0 <= right
    middles = (x[i - 1] + x[i]) / 2, (x[i] + x[i + 1]) / 2  # where the parabola has these slopes
    return float(np.exp(middles[0] + left / (left - right) * (middles[1] - middles[0])))


def critical_alpha(landscape: pd.DataFrame, task: str, metric: str = "loss", statistic: str = "last") -> pd.Series:
    """The critical norm w_c of each seed in units of the default init's norm: argmin of the reduced test metric.

    The parabola is fitted to the logarithm of a loss and to an error as it is. Empty where the task was not run.

    Raises:
        OmnigrokError: as `pick`.
    """
    values = pick(landscape, task, "test", metric, statistic)
    scale = np.log if metric == "loss" else np.asarray
    with np.errstate(divide="ignore"):  # a loss of zero is the lowest that there is
        found = {seed: argmin_alpha(values.index, scale(column)) for seed, column in values.items()}
    return pd.Series(found, dtype=float)


def loss_shape(alphas: ArrayLike, losses: ArrayLike, wall: float = WALL) -> Literal["L", "U", "J", "flat"]:
    """Shape of a reduced loss against the norm by its walls: L left only, U both, J right only, flat none.

    A wall is an end of the grid at least `wall` times above the lowest value; a loss that is not a number is as high as
    can be.

    Raises:
        OmnigrokError: no loss is finite.
    """
    y = np.asarray(losses, dtype=float)[np.argsort(np.asarray(alphas))]
    y = np.where(np.isnan(y), np.inf, y)
    if not np.isfinite(y).any():
        raise OmnigrokError("a loss has no shape where none of its values is finite")
    left, right = y[0] >= wall * y.min(), y[-1] >= wall * y.min()
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

    Raises:
        OmnigrokError: there are no values, or one is not a number.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0 or np.isnan(values).any():
        raise OmnigrokError("an interval needs at least one value, and none that is not a number")
    rng = np.random.default_rng(0)
    samples = values[rng.integers(len(values), size=(resamples, len(values)))]
    statistics = statistic(samples, axis=1)
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return float(low), float(high)


def first_reached(curves: pd.DataFrame, split: str, metric: str, threshold: float) -> pd.Series:
    """First logged step at which a metric is at its threshold, sustained or not, a value a seed; inf: never.

    Empty where there are no runs.

    Raises:
        OmnigrokError: as `curve`.
    """
    found = {
        seed: onset(values.index, values, threshold, sustain=0) for seed, values in curve(curves, split, metric).items()
    }
    return pd.Series({seed: np.inf if first.censored else first.step for seed, first in found.items()}, dtype=float)


def value_at(curves: pd.DataFrame, split: str, metric: str, step: int) -> pd.Series:
    """A metric at a logged step, a value a seed; empty when all runs are shorter, not a number for a run that is.

    Raises:
        OmnigrokError: the step lies within the runs and was not logged, or as `curve`.
    """
    values = curve(curves, split, metric)
    if step not in values.index and len(values) and step < values.index[-1]:
        after = int(values.index.searchsorted(step))
        near = " and ".join(f"{logged:,}" for logged in values.index[max(0, after - 1) : after + 1])
        raise OmnigrokError(f"step {step:,} was not logged; the nearest are {near}")
    return row(values, step)
