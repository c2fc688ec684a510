"""Panels of `fig_domains`: the loss gaps, the delays, and what is left without a representation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from omnigrok.analysis import critical_alpha, surface
from omnigrok.claims import Tables
from omnigrok.figures.panels import band, legend
from omnigrok.registry import get_task
from reproductions.claims.domains import MATCHED, delay, gap

COLOURS = {
    "teacher_student": "#0072B2", "mnist": "#E69F00", "imdb": "#009E73", "qm9": "#CC79A7", "modular": "#D55E00",
}  # fmt: skip
OTHERS = ("#56B4E9", "#000000", "#F0E442")
"""Of tasks that are not the paper's, in the order in which they are named."""


def colours(tasks: Sequence[str]) -> dict[str, str]:
    """A colour a task."""
    return COLOURS | dict(zip((task for task in tasks if task not in COLOURS), itertools.cycle(OTHERS), strict=False))


def draw_gaps(ax: Axes, tables: Tables, tasks: Sequence[str]) -> None:
    """The loss gap of each task's seeds. One whose norms end before the matched one has a line without points."""
    labels = []
    for i, task in enumerate(tasks):
        gaps, colour, name = gap(tables, task), colours(tasks)[task], get_task(task).display_name
        ax.plot(gaps, [i] * len(gaps), "o", color=colour, alpha=0.6)
        ax.plot(gaps.median(), i, "|", ms=18, mew=2.5, color=colour)
        if gaps.isna().all():
            ax.axhline(i, lw=0)
        labels.append(name if gaps.notna().any() else f"{name}\n(no norm of {MATCHED:g} $w_c$)")
    ax.set(yticks=range(len(tasks)), xlabel=f"log$_{{10}}$ of the loss gap at {MATCHED:g} $w_c$")
    ax.set_yticklabels(labels)
    ax.margins(y=0.15)


def draw_representation(ax: Axes, tables: Tables) -> None:
    if tables["representation"].empty:
        ax.set_axis_off()
        return
    for task, part in tables["representation"].groupby("task"):
        name = get_task(str(task)).display_name
        band(ax, surface(part, "messiness", "seed"), COLOURS[str(task)], name, marker="o", ms=4)
    ax.set(xlabel="messiness of the representation", ylabel="lowest test loss / a constant's")
    ax.set_ylim(bottom=0)
    legend(ax)


def draw_delays(ax: Axes, tables: Tables, tasks: Sequence[str]) -> None:
    for line, (task, colour) in enumerate((task, colours(tasks)[task]) for task in tasks):
        _delay(ax, tables, task, line, colour)
    scale = "log" if tables["times"]["delay"].notna().any() else "linear"  # a logarithmic axis needs a number
    ax.set(xscale=scale, yscale=scale, xlabel="initial norm / critical norm", ylabel="$t_{gen}$ / $t_{mem}$")


def _delay(ax: Axes, tables: Tables, task: str, line: int, colour: str) -> None:
    """The delays of a task against where its runs start; of those that did not memorise, a line of text."""
    times, name = tables["times"].query("task == @task"), get_task(task).display_name
    start = times["alpha"].iloc[0] / critical_alpha(tables["landscapes"], task).median()
    delays = delay(tables, task)
    known, bound = delays[np.isfinite(delays)], times.query("gen_censored")["delay"]
    ax.plot([start] * len(known), known, "o", color=colour, alpha=0.6)
    if len(known) < len(delays):
        ax.plot([start] * len(bound), bound, "^", mfc="none", color=colour)
    if delays.notna().any():
        place = (start, delays.clip(upper=1e4).median())
        ax.annotate(name, place, xytext=(6, 6), textcoords="offset points", fontsize=8, color=colour)
    if delays.isna().any():
        note = f"{name}: {delays.isna().sum()} of {len(delays)} not memorised"
        ax.annotate(note, (0.02, 0.02 + 0.06 * line), xycoords="axes fraction", fontsize=7, color=colour)
