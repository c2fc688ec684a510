"""Time to generalise against weight decay: the slow clock of the LU mechanism (Liu et al. 2023, section 2, Fig. 2c).

Above the critical norm w_c only weight decay moves the norm, at rate learning rate times weight decay, so a network
that starts at w_0 generalises after ln(w_0 / w_c) / (lr wd) steps, to which the time to memorise is added.
Teacher-student (alpha = 2) is fitted with t = offset + slope / wd. The slope gives w_c / w_0, which is held against the
landscape on norm spheres: its minimum, and the largest norm at which the held network has test accuracy 0.95, where a
run that comes from above should cross the threshold.

MNIST (alpha = 7, N = 1000): with little weight decay something else shrinks the generalisation time, and the law
saturates, as in the paper, whose appendix C has the law from weight decay 0.1 to 1 (alpha = 9) and shorter times below.
Batches are of 100 at the default preset, of 200 as published at the paper preset. Runs that do not get there are drawn
as arrows.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omnigrok.analysis import (
    bootstrap_interval,
    critical_alpha,
    grokking_times,
    reduced,
)  # fmt: skip
from omnigrok.claims import Tables
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.panels import legend, times_panel
from omnigrok.spec import RunSpec
from omnigrok.style import COLOURS, HEIGHT, WIDTH
from omnigrok.task import Thresholds, get_task
from reproductions import fig_teacher_student
from reproductions.claims.time_to_grok import (
    CLAIMS,
    MNIST_ALPHA,
    TS_ALPHA,
    by_seed,
    edge_alpha,
    fit,
    fitted_alpha,
    medians,
    of_task,
    slope,
)
from reproductions.paper import LIU

TS_STEPS = {0.0: 120_000, 0.02: 120_000, 0.05: 60_000, 0.1: 60_000, 0.2: 20_000, 0.5: 20_000, 1.0: 20_000}
MNIST_STEPS = {0.0: 40_000, 0.003: 40_000, 0.03: 30_000, 0.1: 8_000, 0.3: 8_000}
MNIST_BATCH = {"quick": 100, "default": 100, "paper": 200}  # half as many examples a step take half as long
QUICK_STEPS = 200
HALF = Thresholds("accuracy", 0.99, 0.5)  # MNIST's half-rise: its plateau is near 0.9
CONTROL = 2.0  # wd = 0 has no place on a logarithmic axis: drawn this factor left of the smallest


def runs(options: Options, task: str) -> list[RunSpec]:
    base = get_task(task).spec
    base = base.replace(n_train=options.n_train or base.n_train, evaluation_density=4)
    if task == "mnist":
        base = base.replace(batch_size=MNIST_BATCH[options.preset], evaluation_density=2)
    steps = {"teacher_student": TS_STEPS, "mnist": MNIST_STEPS}[task]
    alpha = {"teacher_student": TS_ALPHA, "mnist": MNIST_ALPHA}[task]
    return [
        base.replace(
            alpha=alpha, weight_decay=wd, seed=seed, steps=QUICK_STEPS if options.preset == "quick" else length
        )
        for wd, length in steps.items()
        for seed in range(options.seeds)
    ]


def sweep(options: Options) -> list[RunSpec]:
    specs = [spec for task in options.tasks for spec in runs(options, task)]
    return specs + (landscape(options) if "teacher_student" in options.tasks else [])


def landscape(options: Options) -> list[RunSpec]:
    """On the spheres of the norm, which is what the law speaks of."""
    return fig_teacher_student.landscape(options, "corrected")


def tables(frame: pd.DataFrame, options: Options) -> Tables:
    found = {}
    times = [
        grokking_times(runs_of(frame, runs(options, task)), HALF if task == "mnist" else get_task(task).thresholds)
        for task in options.tasks
    ]
    found[""] = pd.concat(times, ignore_index=True).drop(columns="run")
    if "teacher_student" in options.tasks:
        found["_landscape"] = reduced(runs_of(frame, landscape(options)))
    return found


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(
        1, len(options.tasks), figsize=(1.4 * WIDTH * len(options.tasks), 1.3 * HEIGHT), squeeze=False
    )
    for ax, task in zip(axes.flat, options.tasks, strict=True):
        draw_task(ax, of_task(tables, task), task)
        if task == "teacher_student" and np.isfinite(medians(of_task(tables, task))).sum() > 2:
            times = of_task(tables, task)
            grid, law = np.geomspace(0.02, 1, 100), fit(times)
            label = f"{law.offset:,.0f} + {law.slope:,.0f} / wd"
            ax.plot(grid, law(grid), color=COLOURS["critical"], ls="--", label=label)
            minimum = critical_alpha(tables["_landscape"], task).median()
            ax.set_title(
                f"{ax.get_title()}\ncritical $\\alpha$: {fitted_alpha(times):.2f} by the fit, "
                f"{edge_alpha(tables).median():.2f} and {minimum:.2f} by the landscape (edge, minimum)",
                fontsize=9,
            )
            legend(ax)
    return figure


def draw_task(ax: Axes, times: pd.DataFrame, task: str) -> None:
    smallest = times.loc[times["weight_decay"] > 0, "weight_decay"].min()
    shown = times.assign(weight_decay=times["weight_decay"].where(times["weight_decay"] > 0, smallest / CONTROL))
    times_panel(ax, shown, "weight_decay", apart=smallest / CONTROL)
    ax.set(xscale="log", xlabel=f"weight decay (leftmost: 0, at {smallest / CONTROL:g})")
    bare = [found for part in by_seed(times).values() if np.isfinite(found := slope(part))]
    seen = "{:.2f} ({:.2f} to {:.2f})".format(np.median(bare), *bootstrap_interval(bare)) if bare else "undecided"
    ax.set_title(
        f"{get_task(task).display_name}, $\\alpha$ = {times['alpha'].iloc[0]:g}, N = {times['n_train'].iloc[0]}\n"
        f"log-log slope {seen}",
        fontsize=9,
    )


FIGURE = Reproduction(
    name="fig_time_to_grok",
    paper=f"{LIU}, section 2, Fig. 2c and appendix C",
    doc=__doc__,
    tasks=lambda: ["teacher_student", "mnist"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
