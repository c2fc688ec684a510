"""Landscapes over alpha and training-set size: what claims read off them, and their maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes

from omnigrok.analysis import by_size, critical_alpha
from omnigrok.figures.figure import Options
from omnigrok.figures.panels import map_panel


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
