"""Training-set size across domains: critical norm, lowest loss and delay against N (Liu et al. 2023, Fig. 2 to 5).

For every domain, from networks held on norm spheres: the critical norm w_c(N), and the lowest test loss or error that
any norm reaches; from free runs: the steps to memorise and to generalise. Fewer examples strengthen grokking:
generalising takes longer as N falls, absolutely and against memorising, until below a critical N no norm does. Bands
and dots are seeds; a run that does not get there is an arrow at its last step.

Your own sizes:  python -m reproductions.fig_train_size --tasks mnist --n-train 128,256,512,1024 --out figures/sizes
Your own task:   python -m reproductions.fig_train_size --tasks my_file:MyTask
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omnigrok.analysis import grokking_times, reduced, stack
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import band, times_panel
from omnigrok.figures.style import COLOURS, HEIGHT, WIDTH
from omnigrok.registry import get_task
from reproductions.claims.curves import thresholds
from reproductions.claims.train_size import METRICS, claims, critical, lowest, metric, of_task
from reproductions.experiments.train_size import free, landscape
from reproductions.paper import LIU


def sweep(options: Options) -> Groups:
    return {task: {"held": landscape(options, task), "free": free(options, task)} for task in options.tasks}


def tables(runs: Frames, options: Options) -> Tables:
    times = [grokking_times(groups["free"], thresholds(task)) for task, groups in runs.items()]
    landscapes = [reduced(groups["held"]) for groups in runs.values()]
    return {"landscapes": stack(landscapes), "times": stack(times).drop(columns="run")}


def draw(tables: Tables, options: Options) -> Figure:
    shape = (3 if len(tables["times"]) else 2, len(options.tasks))
    figure, axes = plt.subplots(*shape, figsize=(0.95 * WIDTH * shape[1], 0.95 * HEIGHT * shape[0]), squeeze=False)
    for (top, middle, *bottom), task in zip(axes.T, options.tasks, strict=True):
        read = options.statistic
        top.set_title(get_task(task).display_name)
        band(top, critical(tables, task, read), COLOURS["critical"], marker="o", ms=4)
        top.set(yscale="log", ylabel="critical norm $w_c$ ($\\alpha$)")
        band(middle, lowest(tables, task, read), COLOURS["test"], marker="o", ms=4)
        middle.set_ylabel(f"lowest test {metric(task)}")
        if metric(task) == "loss":
            middle.set_yscale("log")
        else:
            middle.set_ylim(0, 1)
        for ax in bottom:
            draw_times(ax, of_task(tables["times"], task))
        for ax in (top, middle, *bottom):
            ax.set(xscale="log", xlabel="training examples N")
    return figure


def draw_times(ax: Axes, times: pd.DataFrame) -> None:
    if len(times):
        times_panel(ax, times, "n_train")
    else:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no free runs\nat several sizes", ha="center", va="center", fontsize=8)


FIGURE = Reproduction(
    name="fig_train_size",
    paper=f"{LIU}, Fig. 2 to 5",
    doc=__doc__,
    tasks=lambda: list(METRICS),
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=claims,
    compares_sizes=True,
    any_task=True,
)

if __name__ == "__main__":
    FIGURE.main()
