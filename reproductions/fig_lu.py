"""Reduced training and test loss against weight norm: the L and the U (Liu et al. 2023, Fig. 1b, 2 to 5).

Every run is held on a sphere of weight norm alpha times that of the default init. Against alpha the training loss looks
like an L, the test loss like a U; the bottom of the U is the critical norm. One panel a task; MNIST and IMDb also as
error rate. At the default preset the IMDb network and the modular problem are smaller than published; titles say so.
IMDb's grid reaches further down there, to the left wall of the smaller network.

The paper's error rates are the best over training, drawn dotted here beside the last value; "--reading corrected" tests
the claims on the last value. The two differ at the ends: at alpha = 10 some seeds still lose a few of the 200 training
images at the last step, because Adam's steps, of fixed size, keep the weights oscillating on a sphere this large.

Compare training-set sizes:  python -m reproductions.fig_lu --tasks mnist --n-train 1000 --out figures/n1000
Your own task:               python -m reproductions.fig_lu --tasks my_file:MyTask --out figures/mine
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from omnigrok.analysis import reduced
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import legend, lu_panel
from omnigrok.figures.style import HEIGHT, WIDTH, not_run
from omnigrok.registry import get_task
from reproductions.claims.lu import claims
from reproductions.experiments import lu
from reproductions.paper import LIU, paper_panel

ERROR_PANELS = {"teacher_student": False, "mnist": True, "imdb": True, "qm9": False, "modular": False}
"""What is published as an error rate; of other tasks what has an accuracy."""
PAPER_SERIES = {
    ("teacher_student", "loss"): ("fig2", "landscape"),
    ("mnist", "error"): ("fig3", "slice N=200"),
    ("imdb", "error"): ("fig4", "slice N=1000"),
    ("qm9", "loss"): ("fig5", "slice N=100"),
}


def sweep(options: Options) -> Groups:
    return {"landscapes": lu.landscapes(options)}


def tables(runs: Frames, options: Options) -> Tables:
    return {"landscapes": reduced(runs["landscapes"])}


def draw(tables: Tables, options: Options) -> Figure:
    panels = [(name, "loss") for name in [*options.tasks, *options.missing]]
    panels += [(name, "error") for name in options.tasks if has_error_panel(tables, name)]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH * columns, HEIGHT * rows), squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (name, metric) in zip(axes.flat, panels, strict=False):
        if name in options.missing:
            not_run(ax, get_task(name).display_name, options.missing[name])
        else:
            series = PAPER_SERIES.get((name, metric), ("", "")) if options.published_size else ("", "")
            lu_panel(ax, tables["landscapes"], lu.base(options, name), metric, paper_panel(*series))
    for position in sorted({0, *(i for i, (_, metric) in enumerate(panels) if metric != "loss")}):
        legend(axes.flat[position])
    return figure


def has_error_panel(tables: Tables, task: str) -> bool:
    measured = tables["landscapes"].query("task == @task")["metric"]
    return ERROR_PANELS.get(task, "error" in set(measured))


FIGURE = Reproduction(
    name="fig_lu",
    paper=f"{LIU}, Fig. 1b and 2 to 5",
    doc=__doc__,
    tasks=lu.tasks,
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=claims,
    any_task=True,
)

if __name__ == "__main__":
    FIGURE.main()
