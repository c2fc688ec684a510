"""Panels that several figures draw: reduced loss against norm, and metrics with the weight norm against steps.

Everywhere: median over seeds as a line, the range of seeds as a band, the paper's values as crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from omnigrok.analysis import bootstrap_interval, critical_alpha, curve, medians_by, pick
from omnigrok.errors import OmnigrokError
from omnigrok.figures.style import COLOURS, HEIGHT, WIDTH
from omnigrok.probes.partition import Partition
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec

Panels = Mapping[str, Axes]
"""Axes by the names that a mosaic gives them."""
Paper = Mapping[str, pd.DataFrame]
"""The paper's values of a panel: by series ("test loss", "weight norm"), columns x, y and uncertainty."""


@dataclass(frozen=True)
class Block:
    """Rows of panels that show one table: its name, their mosaic, their height in panels, and what draws them."""

    table: str
    mosaic: Sequence[Sequence[str]]
    height: float
    draw: Callable[[Panels], None]


def blocks_figure(tables: Mapping[str, pd.DataFrame], blocks: Sequence[Block], width: float) -> Figure:
    """Blocks above each other, `width` panels wide; a block whose table has no rows is left out."""
    shown = [block for block in blocks if len(tables[block.table])]
    mosaic: list[Any] = [[*row] for block in shown for row in block.mosaic]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(width * WIDTH, sum(block.height for block in shown) * HEIGHT))
    for block in shown:
        block.draw(axes)
    return figure


def lu_panel(ax: Axes, landscape: pd.DataFrame, spec: RunSpec, metric: str, paper: Paper) -> None:
    """Reduced train and test metric against alpha, the norm on top, the critical norm with its interval over seeds.

    `spec` is one of the runs: the title says what was trained.

    Raises:
        OmnigrokError: the landscape has no runs of the spec's task and size, or as `analysis.pick`.
    """
    task = spec.task
    rows = landscape[landscape["task"] == task]
    if spec.n_train not in rows["n_train"].to_numpy():
        raise OmnigrokError(f"the landscape has no runs of {task} with {spec.n_train} training examples")
    for split in ("train", "test"):
        band(ax, pick(landscape, task, split, metric), COLOURS[split], split, marker="o", ms=4)
        _crosses(ax, paper.get(f"{split} {metric}"), split)
        if metric != "loss":  # the paper's error rates are the best over training
            best = pick(landscape, task, split, metric, "best").median(axis=1)
            ax.plot(best.index, best, color=COLOURS[split], ls=":", label="best over training")
    critical = critical_alpha(landscape, task, metric).dropna()
    if len(critical):
        ax.axvline(critical.median(), color=COLOURS["critical"], ls="--", lw=1.2, label="critical norm $w_c$")
        ax.axvspan(*bootstrap_interval(critical), color=COLOURS["critical"], alpha=0.15, lw=0)
    unit = (rows["weight_norm"] / rows["alpha"]).median()
    top = ax.secondary_xaxis("top", functions=(lambda x: np.asarray(x) * unit, lambda x: np.asarray(x) / unit))
    top.set_xlabel("weight norm $|w|$", fontsize=8)
    top.tick_params(labelsize=8)
    ax.set(xscale="log", xlabel="relative weight norm $\\alpha$", ylabel=f"reduced {metric}")
    what = [get_task(task).display_name, f"N = {spec.n_train}", get_task(task).configuration(spec)]
    found = f"at $\\alpha$ = {critical.median():.2f}" if len(critical) else "undecided"
    ax.set_title(f"{', '.join(filter(None, what))}\n$w_c$ {found}", fontsize=10)
    if metric == "loss":
        ax.set_yscale("log")
    else:
        ax.set_ylim(-0.03, 1)


FIRST_STEP = 10  # published axes start here


@dataclass(frozen=True)
class Run:
    """A panel of `grokking_panels`: the runs at one alpha, its title, the paper's values."""

    alpha: float
    title: str
    paper: Paper


def grokking_panels(
    axes: Sequence[Axes],
    curves: pd.DataFrame,
    metric: str,
    runs: Sequence[Run],
    *,
    log: bool = False,
    loc: str = "center left",
) -> None:
    """Train and test metric and weight norm against steps, a panel a run; `log`: a logarithmic metric; `loc`: of the
    legend."""
    for ax, run in zip(axes, runs, strict=True):
        chosen = curves[curves["alpha"] == run.alpha]
        grokking_panel(ax, chosen, metric, run.paper, loc)
        ax.set_xlim(min(FIRST_STEP, chosen["step"].max()), chosen["step"].max())
        ax.set_title(run.title, fontsize=10)
        if log:
            ax.set_yscale("log")
        else:
            ax.set_ylim(0, 1.03)


def grokking_panel(ax: Axes, curves: pd.DataFrame, metric: str, paper: Paper, loc: str) -> None:
    """Train and test metric (left) and weight norm (right) against steps, of runs that differ in their seed alone.

    Raises:
        OmnigrokError: they differ in more, or as `analysis.curve`.
    """
    curves = curves[curves["step"] > 0]
    right = ax.twinx()
    right.grid(False)
    right.spines["right"].set_visible(True)
    for axes, split, name, label in (
        (ax, "train", metric, f"train {metric}"),
        (ax, "test", metric, f"test {metric}"),
        (right, "parameters", "weight_norm", "weight norm"),
    ):
        seeds = curve(curves, split, name)
        colour = "norm" if axes is right else split
        band(axes, seeds, COLOURS[colour], label)
        _crosses(axes, paper.get(label), colour)
    ax.set(xscale="log", xlabel="optimizer steps", ylabel=metric)
    right.set_ylabel("weight norm $|w|$", color=COLOURS["norm"])
    right.set_ylim(bottom=0)
    legend(ax, right, loc=loc)


def map_panel(
    ax: Axes,
    values: pd.DataFrame,
    label: str,
    levels: Sequence[float],
    *,
    logarithmic: bool = False,
    blurred: bool = False,
    points: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """A map of a metric with contours: rows up the vertical axis, columns along the horizontal, on the axes' scales.

    `blurred`: contours of the map smoothed by one cell, as published. `points` are the paper's, by name.
    """
    x, y = values.columns.to_numpy(dtype=float), values.index.to_numpy(dtype=float)
    scales = [np.log if axis.get_scale() == "log" else np.asarray for axis in (ax.xaxis, ax.yaxis)]
    invert = [np.exp if scale is np.log else np.asarray for scale in scales]
    edges = [back(_edges(scale(v))) for v, scale, back in zip((x, y), scales, invert, strict=True)]
    found = values.to_numpy(dtype=float)
    if logarithmic:  # colours end a little below the lowest contour: a loss of 1e-12 would leave none for the rest
        norm: Normalize = LogNorm(max(found.min(), levels[0] / 30), found.max())
    else:
        norm = Normalize(0, max(levels[-1], 1 if found.max() <= 1 else 0))
    mesh = ax.pcolormesh(*edges, values.clip(lower=norm.vmin), cmap="rocket_r", norm=norm, rasterized=True)
    smooth = found
    if logarithmic:
        smooth = np.maximum(smooth, norm.vmin or 0.0)  # a loss of exactly zero would take all contours with it
    if blurred:
        smooth = gaussian_filter(np.log(smooth) if logarithmic else smooth, 1, mode="nearest")
        smooth = np.exp(smooth) if logarithmic else smooth
    if min(smooth.shape) > 1 and any(smooth.min() < level < smooth.max() for level in levels):
        lines = ax.contour(x, y, smooth, levels=levels, colors=COLOURS["contour"], linewidths=1.3)
        ax.clabel(lines, fontsize=7)
    for name, (at_x, at_y) in (points or {}).items():
        ax.plot(at_x, at_y, "o", color="white", mec="black", ms=11, clip_on=False, zorder=5)
        ax.annotate(name, (at_x, at_y), ha="center", va="center", fontsize=7, fontweight="bold", zorder=6)
    # A linear axis ends at its first and last value, so that no negative norm is shown.
    shown = [borders if scale is np.log else v for v, borders, scale in zip((x, y), edges, scales, strict=True)]
    ax.set_xlim(shown[0][0], shown[0][-1])
    ax.set_ylim(shown[1][0], shown[1][-1])
    ax.grid(False)
    ax.figure.colorbar(mesh, ax=ax, label=label)


def times_panel(ax: Axes, times: pd.DataFrame, x: str, *, apart: float | None = None) -> None:
    """Steps to memorise and to generalise against a column of the runs: each run a dot, Kaplan-Meier medians a line.

    `times` as `analysis.grokking_times` gives it. A censored run is an arrow at its last step. The line does not run to
    the value of `x` that stands `apart`: a control whose place on the axis means nothing.
    """
    columns: tuple[tuple[Literal["mem", "gen"], str, str], ...] = (
        ("mem", "train", "memorised"),
        ("gen", "test", "generalised"),
    )
    for name, split, label in columns:
        censored = times[f"{name}_censored"]
        colour = COLOURS[split]
        ax.plot(times.loc[~censored, x], times.loc[~censored, f"t_{name}"], "o", ms=4, color=colour, alpha=0.5)
        size = 11 if name == "mem" else 7  # both are seen where both lie
        ax.plot(times.loc[censored, x], times.loc[censored, f"t_{name}"], "^", ms=size, mfc="none", color=colour)
        medians = medians_by(times, x, name)
        medians = medians.where(np.isfinite(medians))
        alone = medians.index == apart
        ax.plot(medians[~alone].index, medians[~alone], "s-", ms=5, mfc="none", color=colour, label=label)
        ax.plot(medians[alone].index, medians[alone], "s", ms=5, mfc="none", color=colour)
    if times[["mem_censored", "gen_censored"]].to_numpy().any():
        ax.plot([], [], "^", ms=7, mfc="none", color=COLOURS["paper"], label="not until then")
    ax.set(yscale="log", ylabel="optimizer steps")
    legend(ax)


def _edges(centres: np.ndarray) -> np.ndarray:
    """Borders of cells halfway between their centres."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def legend(*axes: Axes, loc: Any = "best") -> None:
    """One legend for axes that share a panel, what was measured first."""
    entries: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    labels = sorted(entries, key=lambda label: label == "paper")
    axes[0].legend([entries[label] for label in labels], labels, loc=loc, fontsize=8, frameon=True, framealpha=0.85)


def band(ax: Axes, seeds: pd.DataFrame, colour: str, label: str = "", **line: Any) -> None:
    """Median over the columns of a table, one a seed, as a line, and their range as a band. `line`: as `Axes.plot`."""
    ax.plot(seeds.index, seeds.median(axis=1), color=colour, label=label, **line)
    ax.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=colour, alpha=0.2, lw=0)


def _crosses(ax: Axes, values: pd.DataFrame | None, colour: str) -> None:
    """The paper's values in the colour of what they are compared with; a bound is not a value and is left out."""
    if values is None:
        return
    values = values[values["uncertainty"] != "at most"]
    ax.plot(values["x"], values["y"], ls="", marker="x", ms=6, mew=1.4, color=COLOURS[colour], alpha=0.65)
    if "paper" not in [line.get_label() for line in ax.get_lines()]:
        ax.plot([], [], ls="", marker="x", ms=6, color=COLOURS["paper"], label="paper")


def partition_figure(partition: Partition, anchors: np.ndarray, labels: Sequence[str] = ()) -> Figure:
    """A partition's boundaries, decision boundary and the points that its plane goes through."""
    figure, ax = plt.subplots(figsize=(1.3 * HEIGHT, 1.3 * HEIGHT))
    partition_panel(ax, partition, anchors, labels)
    ax.set_title(f"{len(partition.regions):,} regions", fontsize=10)
    return figure


def partition_panel(ax: Axes, partition: Partition, anchors: np.ndarray, labels: Sequence[str] = ()) -> None:
    """The panel of `partition_figure` on axes that are there already."""
    thin = 0.35 * min(1.0, 40 / max(1, len(partition.boundaries)) ** 0.5)  # many lines: their density is seen as grey
    ax.add_collection(LineCollection(list(partition.boundaries), colors="black", linewidths=thin, rasterized=True))
    ax.add_collection(LineCollection(list(partition.decision), colors=COLOURS["train"], linewidths=1.8))
    ax.plot(*anchors.T, "o", color=COLOURS["test"], mec="white", ms=8)
    for label, (x, y) in zip(labels, anchors, strict=False):
        ax.annotate(label, (x, y), xytext=(6, 6), textcoords="offset points", fontsize=9, fontweight="bold")
    width = partition.plane.half_width
    ax.set(xlim=(-width, width), ylim=(-width, width), aspect="equal", xlabel="along u", ylabel="along v")
    ax.grid(False)
