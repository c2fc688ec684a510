"""How strongly each domain groks, at matched relative norm (Liu et al. 2023, arXiv sections 4 and 5).

The reduced test loss over its minimum against the norm over its critical norm: at three times the critical norm the gap
can be read off for all domains alike; beside it, that gap. Below, the delay of each domain's published grokking run,
steps to generalise over steps to memorise, against how far above its critical norm the run starts. The paper's remark
is that grokking is most dramatic on algorithmic data, because there the representation has to change too. Last panel:
the test loss at the best norm, over that of a constant answer, from an ideal representation (messiness 0) to none
(messiness 1: random embeddings of numbers, the pixels of images). Where it stays near 1 no norm is enough.

Nothing is trained for this figure but what the other figures train.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omnigrok.analysis import critical_alpha, grokking_times, one_value_each, reduced, surface
from omnigrok.claims import Tables
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.panels import legend
from omnigrok.spec import RunSpec
from omnigrok.style import HEIGHT, WIDTH
from omnigrok.task import get_task, task_data
from reproductions import (
    fig_degrok,
    fig_imdb,
    fig_lu,
    fig_mnist,
    fig_mnist_representation,
    fig_qm9,
    fig_representation,
    fig_teacher_student,
)
from reproductions.claims.domains import CLAIMS, MATCHED, delay, gap, relative_losses
from reproductions.paper import LIU

COLOURS = {
    "teacher_student": "#0072B2", "mnist": "#E69F00", "imdb": "#009E73", "qm9": "#CC79A7", "modular": "#D55E00",
}  # fmt: skip
SEEDS = 3


def grokking_runs(options: Options, task: str) -> list[RunSpec]:
    """The published grokking run of a domain, as its figure trains it."""
    runs = {
        "teacher_student": lambda: [
            s for s in fig_teacher_student.curves(options) if s.alpha == fig_teacher_student.LARGE
        ],
        "mnist": lambda: fig_mnist.run(options),
        "imdb": lambda: [s for s in fig_imdb.curves(options) if s.alpha == fig_imdb.LARGE],
        "qm9": lambda: [s for s in fig_qm9.curves(options) if s.alpha == fig_qm9.LARGE],
        "modular": lambda: fig_degrok.free(options),
    }[task]()
    return runs[: min(SEEDS, options.seeds)]


def messy_runs(options: Options, task: str) -> list[tuple[float, RunSpec]]:
    """(messiness, spec) of a domain whose representation can be chosen."""
    if task == "modular":
        return fig_representation.grid(options, fig_representation.MAP_SIZE, "map")
    if task == "mnist":
        levels = fig_mnist_representation.MESSINESS[options.preset]
        return [(float(m), spec) for m in levels for spec in fig_mnist_representation.runs(options, m)]
    return []


def sweep(options: Options) -> list[RunSpec]:
    specs = fig_lu.sweep(options)
    for task in options.tasks:
        specs += grokking_runs(options, task) + [spec for _, spec in messy_runs(options, task)]
    return specs


def constant_loss(spec: RunSpec) -> float:
    """Test loss of the mean of the training answers."""
    task, data = get_task(spec.task), task_data(spec, "cpu")
    mean = data.train_targets[: spec.n_train].mean(dim=0).expand_as(data.test_targets)
    return float(task.loss(mean, data.test_targets).mean())


def unexplained(runs: pd.DataFrame, options: Options, task: str) -> pd.DataFrame:
    """Test loss at the best norm over that of a constant answer, by messiness and seed."""
    pairs = messy_runs(options, task)
    losses = fig_representation.with_messiness(runs, pairs).query("split == 'test'")
    told = one_value_each(losses, "alpha", "messiness", "seed")
    lowest = told.groupby(["messiness", "seed"], as_index=False)["value"].min()
    return lowest.assign(task=task, value=lowest["value"] / constant_loss(pairs[-1][1]))


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    times = [
        grokking_times(runs_of(runs, grokking_runs(options, task)), get_task(task).thresholds) for task in options.tasks
    ]
    found = {
        "": reduced(runs_of(runs, fig_lu.sweep(options))),
        "_times": pd.concat(times, ignore_index=True).drop(columns="run"),
    }
    shares = [unexplained(runs, options, task) for task in options.tasks if messy_runs(options, task)]
    return {**found, "_representation": pd.concat(shares, ignore_index=True)} if shares else found


def draw_representation(ax: Axes, tables: Tables) -> None:
    if "_representation" not in tables:
        ax.set_axis_off()
        return
    for task, part in tables["_representation"].groupby("task"):
        seeds = surface(part, "messiness", "seed")
        colour, name = COLOURS[str(task)], get_task(str(task)).display_name
        ax.plot(seeds.index, seeds.median(axis=1), "o-", ms=4, color=colour, label=name)
        ax.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=colour, alpha=0.2, lw=0)
    ax.set(xlabel="messiness of the representation", ylabel="lowest test loss / a constant's")
    ax.set_ylim(bottom=0)
    legend(ax)


def draw(tables: Tables, options: Options) -> Figure:
    figure, grid = plt.subplots(2, 2, figsize=(2.7 * WIDTH, 2.3 * HEIGHT), width_ratios=(1.2, 1))
    axes = grid.flat
    draw_representation(axes[3], tables)
    for i, task in enumerate(options.tasks):
        colour, name = COLOURS[task], get_task(task).display_name
        losses = relative_losses(tables, task)
        axes[0].plot(10**losses.index, 10 ** losses.median(axis=1), color=colour, label=name)
        gaps = gap(tables, task)
        axes[1].plot(gaps, [i] * len(gaps), "o", color=colour, alpha=0.6)
        axes[1].plot(gaps.median(), i, "|", ms=18, mew=2.5, color=colour)
        start = tables["_times"].query("task == @task")["alpha"].iloc[0] / critical_alpha(tables[""], task).median()
        delays = delay(tables, task)
        known = delays[np.isfinite(delays)]
        axes[2].plot([start] * len(known), known, "o", color=colour, alpha=0.6)
        if len(known) < len(delays):
            bound = tables["_times"].query("task == @task and gen_censored")["delay"]
            axes[2].plot([start] * len(bound), bound, "^", mfc="none", color=colour)
        if delays.notna().any():
            place = (start, delays.clip(upper=1e4).median())
            axes[2].annotate(name, place, xytext=(6, 6), textcoords="offset points", fontsize=8, color=colour)
        if delays.isna().any():
            note = f"{name}: {delays.isna().sum()} of {len(delays)} not memorised"
            axes[2].annotate(note, (0.02, 0.02 + 0.06 * i), xycoords="axes fraction", fontsize=7, color=colour)
    axes[0].axvline(MATCHED, color="#444444", ls=":", lw=1.2)
    axes[0].set(xscale="log", yscale="log", xlabel="norm / critical norm", ylabel="reduced test loss / its minimum")
    legend(axes[0])
    axes[1].set(yticks=range(len(options.tasks)), xlabel=f"log$_{{10}}$ of the loss gap at {MATCHED:g} $w_c$")
    axes[1].set_yticklabels([get_task(task).display_name for task in options.tasks])
    axes[1].margins(y=0.15)
    scale = "log" if tables["_times"]["delay"].notna().any() else "linear"  # a logarithmic axis needs a number
    axes[2].set(xscale=scale, yscale=scale, xlabel="initial norm / critical norm", ylabel="$t_{gen}$ / $t_{mem}$")
    return figure


FIGURE = Reproduction(
    name="fig_domains",
    paper=f"{LIU}, sections 4 and 5",
    doc=__doc__,
    tasks=lambda: list(COLOURS),
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
