"""Landscapes over alpha and training-set size, as the figures of the domains share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from omnigrok.analysis import CURVE_FIELDS, LANDSCAPE_FIELDS, by_size, critical_alpha, reduced
from omnigrok.claims import Tables
from omnigrok.figure import Options, runs_of
from omnigrok.panels import map_panel
from omnigrok.spec import RunSpec
from omnigrok.task import get_task


def log_grid(low: float, high: float, points: int) -> list[float]:
    """Alphas at equal ratios."""
    return [float(f"{alpha:.4g}") for alpha in np.geomspace(low, high, points)]


def specs(
    task: str, options: Options, alphas: Sequence[float], sizes: Sequence[int], seeds: int, **changes: object
) -> list[RunSpec]:
    """The task's norm-sphere runs over alphas, training-set sizes and seeds."""
    base = get_task(task).landscape(options.preset)
    assert base is not None
    base = base.replace(**changes)
    return [base.replace(alpha=alpha, n_train=n, seed=seed) for n in sizes for alpha in alphas for seed in range(seeds)]


def tables(runs: pd.DataFrame, maps: Sequence[RunSpec], curves: Sequence[RunSpec]) -> Tables:
    """The landscape of the maps' runs, where there are maps, and the curves of the others."""
    found = {"_curves": runs_of(runs, curves)[CURVE_FIELDS]}
    return {"": reduced(runs_of(runs, maps)), **found} if maps else found


def maps_of(found: Tables) -> pd.DataFrame:
    """The landscape of `tables`; without rows where there are no maps."""
    return found.get("", pd.DataFrame(columns=[*LANDSCAPE_FIELDS, "split", "metric", "statistic", "value"]))


def of_size(landscape: pd.DataFrame, n_train: int) -> pd.DataFrame:
    """The slice of one training-set size; without rows where it was not run."""
    return landscape[landscape["n_train"] == n_train]


def per_size(landscape: pd.DataFrame, measure: Callable[[pd.DataFrame], pd.Series]) -> pd.DataFrame:
    """A number a seed of every slice: sizes down, seeds across."""
    return pd.DataFrame({n: measure(part) for n, part in landscape.groupby("n_train")}).T


def critical_by_size(landscape: pd.DataFrame, task: str, metric: str, statistic: str) -> pd.DataFrame:
    """The critical norm at every size, in units of the default init's: sizes down, seeds across."""
    return per_size(landscape, lambda part: critical_alpha(part, task, metric, statistic))


def draw_maps(
    axes: Sequence[Axes],
    landscape: pd.DataFrame,
    metric: str,
    label: str,
    levels: Mapping[str, Sequence[float]],
    options: Options,
    points: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Train and test map of a metric over alpha and N, with contours at the paper's levels and its points."""
    for ax, split in zip(axes, ("train", "test"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="relative weight norm $\\alpha$", ylabel="training examples N")
        map_panel(
            ax, by_size(landscape, split, metric, options.statistic), f"{split} {label}", levels[split],
            logarithmic=metric == "loss", blurred=options.reading == "published", points=points,
        )  # fmt: skip
        ax.set_title(f"{split} {label}", fontsize=10)
