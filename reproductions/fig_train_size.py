"""Training-set size across domains: critical norm, lowest loss and delay against N (Liu et al. 2023, Fig. 2 to 5).

For every domain, from networks held on norm spheres: the critical norm w_c(N), and the lowest test loss or error that
any norm reaches; from free runs: the steps to memorise and to generalise. Fewer examples strengthen grokking:
generalising takes longer as N falls, absolutely and against memorising, until below a critical N no norm does. Bands
and dots are seeds; a run that does not get there is an arrow at its last step.

Your own sizes:  python -m reproductions.fig_train_size --tasks mnist --n-train 128,256,512,1024 --out figures/sizes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omnigrok.analysis import grokking_times, medians_by, pick, reduced
from omnigrok.claims import Between, Claim, Tables, at_least
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.panels import times_panel
from omnigrok.spec import RunSpec
from omnigrok.style import COLOURS, HEIGHT, WIDTH
from omnigrok.task import Thresholds, get_task
from reproductions import fig_imdb, fig_mnist, fig_qm9, fig_time_to_grok, landscapes
from reproductions.paper import LIU


@dataclass(frozen=True)
class Domain:
    """What is measured of a task: the metric of its landscape, and when a run counts as having generalised."""

    metric: str
    sizes: tuple[int, ...]  # of the landscape
    run_sizes: tuple[int, ...]  # of the free runs
    thresholds: Thresholds | None = None


DOMAINS = {
    "teacher_student": Domain("loss", (25, 50, 100, 400), (50, 100, 400)),
    "mnist": Domain("error", fig_mnist.SIZES["default"], (300, 1000, 3000), fig_time_to_grok.HALF),
    "imdb": Domain("error", fig_imdb.SIZES["default"], ()),
    "qm9": Domain("loss", fig_qm9.SIZES["default"], (16, 50, 200)),
    "modular": Domain("loss", (300, 480, 660), ()),
}
QUICK_SIZES = {"teacher_student": (50, 100), "mnist": (100, 200), "imdb": (100,), "qm9": (10, 50), "modular": (40, 60)}
GENERALISES = 0.5  # test error below which a norm generalises, for the critical size of MNIST


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


def of_task(table: pd.DataFrame, task: str) -> pd.DataFrame:
    return table[table["task"] == task]


def critical(tables: Tables, task: str, statistic: str) -> pd.DataFrame:
    return landscapes.critical_by_size(of_task(tables[""], task), task, DOMAINS[task].metric, statistic)


def lowest(tables: Tables, task: str, statistic: str) -> pd.DataFrame:
    """Lowest test metric over the norms: sizes down, seeds across."""
    metric = DOMAINS[task].metric
    return landscapes.per_size(
        of_task(tables[""], task), lambda part: pick(part, task, "test", metric, statistic).min()
    )


def critical_size(tables: Tables, statistic: str) -> pd.Series:
    """MNIST's smallest N, interpolated in log N, at which some norm has test error below one half."""

    def crossing(errors: pd.Series) -> float:
        n, e = np.log(errors.index.to_numpy(dtype=float)), errors.to_numpy()
        below = np.flatnonzero(e < GENERALISES)
        i = below[0]
        if i == 0:
            return float(np.exp(n[0]))
        return float(np.exp(np.interp(GENERALISES, [e[i], e[i - 1]], [n[i], n[i - 1]])))

    return lowest(tables, "mnist", statistic).apply(crossing)


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


def few_over_many(tables: Tables, task: str, measure: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
    """What is measured at the smallest size over that at the largest, seed by seed."""
    times = of_task(tables["_times"], task)
    ends = times[times["n_train"] == times["n_train"].min()], times[times["n_train"] == times["n_train"].max()]
    few, many = map(measure, ends)
    return few / many


def generalised(times: pd.DataFrame) -> pd.Series:
    """Steps to generalise; inf where they are censored."""
    return medians_by(times, "seed", "gen")


def delay(times: pd.DataFrame) -> pd.Series:
    """Steps to generalise over steps to memorise."""
    return generalised(times) / medians_by(times, "seed", "mem")


SOURCE = "Liu 2023 section 3"


def claims(options: Options) -> list[Claim]:
    read = options.statistic
    return [
        Claim(
            f"{task}-later", f"{name}: steps to generalise with the fewest examples over those with the most", SOURCE,
            at_least(1), partial(few_over_many, task=task, measure=generalised),
        )
        for task, name in (("teacher_student", "Teacher-student"), ("mnist", "MNIST"), ("qm9", "QM9"))
    ] + [
        Claim(
            f"{task}-delay", f"{name}: delay (steps to generalise over steps to memorise), fewest over most examples",
            SOURCE, at_least(1), partial(few_over_many, task=task, measure=delay),
        )
        for task, name in (("teacher_student", "Teacher-student"), ("mnist", "MNIST"))
    ] + [
        Claim(
            "critical-size", "MNIST: smallest N at which some norm has test error below 0.5", "Liu 2023 Fig. 3b",
            Between(15, 60), lambda t: critical_size(t, read),
        ),
        Claim(
            "qm9-still", "QM9: critical norm at the largest N over that at the smallest", "Liu 2023 Fig. 5",
            Between(0.5, 2), lambda t: critical(t, "qm9", read).iloc[-1] / critical(t, "qm9", read).iloc[0],
        ),
    ]  # fmt: skip


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
