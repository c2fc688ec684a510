"""Time to generalise against weight decay: the slow clock of the LU mechanism (Liu et al. 2023, section 2, Fig. 2c).

Above the critical norm w_c only weight decay moves the norm, at rate learning rate times weight decay, so a network
that starts at w_0 generalises after ln(w_0 / w_c) / (lr wd) steps, to which the time to memorise is added.
Teacher-student (alpha = 2) is fitted with t = offset + slope / wd. The slope gives w_c / w_0, which is held against the
landscape on norm spheres: its minimum, and the largest norm at which the held network has test accuracy 0.95, where a
run that comes from above should cross the threshold.

MNIST (alpha = 7, N = 1000): with little weight decay something else shrinks the generalisation time, and the law
saturates, as in the paper, whose appendix C has the law from weight decay 0.1 to 1 (alpha = 9) and shorter times below.
Batches are of 100 at the default preset, of 200 as published at the paper preset. Arrows: runs that do not get there.

Your own task, at 0 to 4 times its weight decay:  python -m reproductions.fig_time_to_grok --tasks my_file:MyTask
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omnigrok.analysis import bootstrap_interval, critical_alpha, grokking_times, reduced, stack
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import legend, times_panel
from omnigrok.figures.style import COLOURS, HEIGHT, WIDTH
from omnigrok.registry import get_task
from reproductions.claims import time_to_grok as measured
from reproductions.claims.curves import thresholds
from reproductions.experiments import teacher_student, weight_decay
from reproductions.paper import LIU

CONTROL = 2.0  # wd = 0 has no place on a logarithmic axis: drawn this factor left of the smallest


def sweep(options: Options) -> Groups:
    free = {task: weight_decay.runs(options, task) for task in options.tasks}
    held = teacher_student.landscape(options, "corrected") if "teacher_student" in free else []  # the law is of norms
    return {"free": free, "held": held}


def tables(runs: Frames, options: Options) -> Tables:
    times = [grokking_times(curves, thresholds(task)) for task, curves in runs["free"].items()]
    return {"times": stack(times).drop(columns="run"), "landscape": reduced(runs["held"])}


def draw(tables: Tables, options: Options) -> Figure:
    n = len(options.tasks)
    figure, axes = plt.subplots(1, n, figsize=(1.4 * WIDTH * n, 1.3 * HEIGHT), squeeze=False)
    for ax, task in zip(axes.flat, options.tasks, strict=True):
        times = measured.of_task(tables, task)
        draw_task(ax, times, task)
        if task == "teacher_student" and np.isfinite(measured.medians(times)).sum() > 2:
            draw_law(ax, times, tables)
    return figure


def draw_law(ax: Axes, times: pd.DataFrame, tables: Tables) -> None:
    grid, law = np.geomspace(0.02, 1, 100), measured.fit(times)
    ax.plot(grid, law(grid), color=COLOURS["critical"], ls="--", label=f"{law.offset:,.0f} + {law.slope:,.0f} / wd")
    minimum = critical_alpha(tables["landscape"], "teacher_student").median()
    ax.set_title(
        f"{ax.get_title()}\ncritical $\\alpha$: {measured.fitted_alpha(times):.2f} by the fit, "
        f"{measured.edge_alpha(tables).median():.2f} and {minimum:.2f} by the landscape (edge, minimum)",
        fontsize=9,
    )
    legend(ax)


def draw_task(ax: Axes, times: pd.DataFrame, task: str) -> None:
    smallest = times.loc[times["weight_decay"] > 0, "weight_decay"].min()
    shown = times.assign(weight_decay=times["weight_decay"].where(times["weight_decay"] > 0, smallest / CONTROL))
    times_panel(ax, shown, "weight_decay", apart=smallest / CONTROL)
    ax.set(xscale="log", xlabel=f"weight decay (leftmost: 0, at {smallest / CONTROL:g})")
    bare = [found for part in measured.by_seed(times).values() if np.isfinite(found := measured.slope(part))]
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
    tasks=lambda: list(weight_decay.DOMAINS),
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=measured.CLAIMS,
    any_task=True,
)

if __name__ == "__main__":
    FIGURE.main()
