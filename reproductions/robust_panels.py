"""Panels of the robustness figures: accuracy under attack and local complexity against steps."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from omnigrok.analysis import curve
from omnigrok.figures.panels import band

SHADES = ("#56B4E9", "#0072B2", "#004466")
LC_COLOURS = {"train": "#D55E00", "test": "#0072B2", "random": "#7F7F7F"}


def over_steps(ax: Axes, values: pd.DataFrame, colour: str, label: str, style: str = "-") -> None:
    """Median over seeds and their range, from step 1."""
    band(ax, values[values.index > 0], colour, label, ls=style)


def draw_accuracy(
    ax: Axes, curves: pd.DataFrame, eps: Sequence[float], legend: tuple[float, float] = (0.01, 0.6)
) -> None:
    over_steps(ax, curve(curves, "train", "accuracy"), LC_COLOURS["train"], "train")
    over_steps(ax, curve(curves, "test", "accuracy"), "#009E73", "test, clean")
    for shade, e in zip(SHADES if len(eps) > 1 else SHADES[1:], eps, strict=False):
        over_steps(ax, curve(curves, "probe", f"robust_{e:g}"), shade, f"test, PGD {e:g}")
        over_steps(ax, curve(curves, "probe", f"margin_{e:g}"), shade, "", ":")
    ax.plot([], [], color="#444444", ls=":", label="stronger attack")
    ax.set(xscale="log", xlabel="optimizer steps", ylabel="accuracy", ylim=(0, 1.03))
    ax.legend(fontsize=8, loc=legend)  # its lower left corner, in shares of the panel


def draw_complexity(ax: Axes, curves: pd.DataFrame) -> None:
    for name, colour in LC_COLOURS.items():
        over_steps(ax, curve(curves, "probe", f"lc_{name}"), colour, f"{name} points")
    ax.set(xscale="log", xlabel="optimizer steps", ylabel="local complexity (units that change sign)")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
