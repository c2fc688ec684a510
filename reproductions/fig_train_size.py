"""Training-set size across domains: critical norm, lowest loss and delay against N (Liu et al. 2023, Fig. 2 to 5).

For every domain, from networks held on norm spheres: the critical norm w_c(N), and the lowest test loss or error that
any norm reaches; from free runs: the steps to memorise and to generalise. Fewer examples strengthen grokking:
generalising takes longer as N falls, absolutely and against memorising, until below a critical N no norm does. Bands
and dots are seeds; a run that does not get there is an arrow at its last step.

Your own sizes:  python -m reproductions.fig_train_size --tasks mnist --n-train 128,256,512,1024 --out figures/sizes
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omnigrok.analysis import grokking_times, reduced
from omnigrok.claims import Tables
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.panels import times_panel
from omnigrok.spec import RunSpec
from omnigrok.style import COLOURS, HEIGHT, WIDTH
from omnigrok.task import get_task
from reproductions import fig_imdb, fig_mnist, fig_qm9, fig_time_to_grok, landscapes
from reproductions.claims.train_size import DOMAINS, claims, critical, lowest, of_task
from reproductions.paper import LIU

QUICK_SIZES = {"teacher_student": (50, 100), "mnist": (100, 200), "imdb": (100,), "qm9": (10, 50), "modular": (40, 60)}


def sizes(options: Options, task: str) -> tuple[int, ...]:
    return (
        options.sizes or (QUICK_SIZES if options.preset == "quick" else {t: d.sizes for t, d in DOMAINS.items()})[task]
    )


def landscape(options: Options, task: str) -> list[RunSpec]:
    """The runs of the domain's own figure, and at other sizes runs like them."""
    if options.preset == "paper" or task in ("teacher_student", "modular"):
        alphas = landscapes.log_grid(0.1, 10, 3 if options.preset == "quick" else 11)
        return landscapes.specs(task, options, alphas, sizes(options, task), options.seeds)
    module = {"mnist": fig_mnist, "imdb": fig_imdb, "qm9": fig_qm9}[task]
    return [s for s in module.maps(options, sizes(options, task)) if s.alpha != fig_mnist.ALPHA_8]


def runs(options: Options, task: str) -> list[RunSpec]:
    """Free runs: those of `fig_time_to_grok` and `fig_qm9`, at several sizes."""
    if not DOMAINS[task].run_sizes:
        return []
    if task == "qm9":
        base = [s for s in fig_qm9.curves(options) if s.alpha == fig_qm9.LARGE]
    else:
        decay = {"teacher_student": 0.05, "mnist": 0.03}[task]
        base = [s for s in fig_time_to_grok.runs(options, task) if s.weight_decay == decay]
    base = base[: min(3, options.seeds)]
    chosen = options.sizes or (sizes(options, task) if options.preset == "quick" else DOMAINS[task].run_sizes)
    return [s.replace(n_train=n) for n in chosen for s in base]


def sweep(options: Options) -> list[RunSpec]:
    return [s for task in options.tasks for s in [*landscape(options, task), *runs(options, task)]]


def tables(frame: pd.DataFrame, options: Options) -> Tables:
    surfaces = [reduced(runs_of(frame, landscape(options, task))) for task in options.tasks]
    found = {"": pd.concat(surfaces, ignore_index=True)}
    times = [
        grokking_times(runs_of(frame, runs(options, task)), DOMAINS[task].thresholds or get_task(task).thresholds)
        for task in options.tasks
        if runs(options, task)
    ]
    return {**found, "_times": pd.concat(times, ignore_index=True).drop(columns="run")} if times else found


def draw(tables: Tables, options: Options) -> Figure:
    timed = "_times" in tables
    shape = (3 if timed else 2, len(options.tasks))
    figure, axes = plt.subplots(*shape, figsize=(0.95 * WIDTH * shape[1], 0.95 * HEIGHT * shape[0]), squeeze=False)
    for column, task in zip(axes.T, options.tasks, strict=True):
        domain = DOMAINS[task]
        column[0].set_title(get_task(task).display_name)
        band(
            column[0], critical(tables, task, options.statistic), COLOURS["critical"], "critical norm $w_c$ ($\\alpha$)"
        )
        column[0].set_yscale("log")
        band(column[1], lowest(tables, task, options.statistic), COLOURS["test"], f"lowest test {domain.metric}")
        if domain.metric == "loss":
            column[1].set_yscale("log")
        else:
            column[1].set_ylim(0, 1)
        if timed:
            times = of_task(tables["_times"], task)
            if times.empty:
                column[2].set_axis_off()
                column[2].text(0.5, 0.5, "no free runs\nat several sizes", ha="center", va="center", fontsize=8)
            else:
                times_panel(column[2], times, "n_train")
                column[2].set(xscale="log")
        for ax in column:
            ax.set(xscale="log", xlabel="training examples N")
    return figure


def band(ax: Axes, table: pd.DataFrame, colour: str, label: str) -> None:
    ax.plot(table.index, table.median(axis=1), marker="o", ms=4, color=colour)
    ax.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.2, lw=0)
    ax.set_ylabel(label)


FIGURE = Reproduction(
    name="fig_train_size",
    paper=f"{LIU}, Fig. 2 to 5",
    doc=__doc__,
    tasks=lambda: list(DOMAINS),
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=claims,
    compares_sizes=True,
)

if __name__ == "__main__":
    FIGURE.main()
