"""Reduced training and test loss against weight norm: the L and the U (Liu et al. 2023, Fig. 1b, 2 and 3).

Every run is held on a sphere of weight norm alpha times that of the default init. Against alpha the training loss looks
like an L, the test loss like a U; the bottom of the U is the critical norm. One panel a task; MNIST also as error rate.

The paper's error rates are the best over training, drawn dotted here beside the last value. The two differ at the ends:
at alpha = 10 some seeds still lose a few of the 200 training images at the last step, because Adam's steps, of fixed
size, keep the weights oscillating on a sphere this large.

Compare training-set sizes:  python -m reproductions.fig_lu --tasks mnist --n-train 1000 --out figures/n1000
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import critical_alpha, pick, reduced
from omnigrok.claims import Between, Claim, Tables, at_least, at_most
from omnigrok.figure import Options, Reproduction
from omnigrok.panels import legend, lu_panel
from omnigrok.spec import RunSpec
from omnigrok.style import HEIGHT, WIDTH, not_run
from omnigrok.task import available_tasks, get_task
from reproductions.paper import LIU, paper_panel

ORDER = ("teacher_student", "mnist", "imdb", "qm9", "modular")
ERROR_PANELS = ("mnist",)  # published as an error rate
ALPHA_8 = 8.0  # where the paper's claim on overfitting is stated; not on the log-spaced grid
GRID = {"quick": 7, "default": 11, "paper": 21}
PAPER_SERIES = {
    ("teacher_student", "loss"): ("fig2", "landscape"),
    ("mnist", "error"): ("fig3", "slice N=200"),
}


def tasks() -> list[str]:
    """Tasks with a landscape of their own, the paper's first."""
    known = [name for name in available_tasks() if get_task(name).landscape("default") is not None]
    return sorted(known, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def alphas(preset: str) -> list[float]:
    grid = [float(f"{alpha:.4g}") for alpha in np.logspace(-1, 1, GRID[preset])]
    return sorted([*grid, ALPHA_8])


def sweep(options: Options) -> list[RunSpec]:
    specs = []
    for name in options.tasks:
        base = get_task(name).landscape(options.preset)
        assert base is not None
        base = base.replace(n_train=options.n_train or base.n_train)
        specs += [
            base.replace(alpha=alpha, seed=seed) for alpha in alphas(options.preset) for seed in range(options.seeds)
        ]
    return specs


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {"": reduced(runs)}


def draw(tables: Tables, options: Options) -> Figure:
    panels = [(name, "loss") for name in [*options.tasks, *options.missing]]
    panels += [(name, "error") for name in ERROR_PANELS if name in options.tasks]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH * columns, HEIGHT * rows), squeeze=False)
    published = options.n_train is None
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (name, metric) in zip(axes.flat, panels, strict=False):
        if name in options.missing:
            not_run(ax, get_task(name).display_name, options.missing[name])
        else:
            lu_panel(
                ax,
                tables[""],
                name,
                metric,
                paper_panel(*PAPER_SERIES.get((name, metric), ("", ""))) if published else {},
            )
    for position in sorted({0, *(i for i, (_, metric) in enumerate(panels) if metric != "loss")}):
        legend(axes.flat[position])
    return figure


def surface(tables: Tables, task: str, split: str, metric: str, statistic: str = "last") -> pd.DataFrame:
    return pick(tables[""], task, split, metric, statistic)


def mnist(tables: Tables, split: str, statistic: str = "best") -> pd.DataFrame:
    """MNIST's error, as published: the best over training."""
    return surface(tables, "mnist", split, "error", statistic)


def ts_wall(tables: Tables) -> pd.Series:
    losses = surface(tables, "teacher_student", "test", "loss")
    return losses.T[10.0] / losses.min()


FIG2, FIG3 = "Liu 2023 Fig. 2, repository output", "Liu 2023 Fig. 3, digitised, best over training"
CLAIMS = [
    Claim(
        "ts-minimum", "teacher_student", "Teacher-student: the reduced test loss is lowest at alpha", FIG2,
        Between(0.6, 1.1, paper=1.0), lambda t: critical_alpha(t[""], "teacher_student"),
    ),
    Claim(
        "ts-wall", "teacher_student", "Teacher-student: test loss at alpha = 10 over its minimum", FIG2,
        at_least(1e4, paper=1.2e5), ts_wall,
    ),
    Claim(
        "ts-floor", "teacher_student", "Teacher-student: highest train loss for alpha >= 0.63", FIG2,
        at_most(1e-5, paper=1e-6), lambda t: surface(t, "teacher_student", "train", "loss")[0.63:].max(),
    ),
    Claim(
        "mnist-minimum", "mnist", "MNIST, N = 200: the reduced test error is lowest at alpha", FIG3,
        Between(0.7, 2, paper=1.5), lambda t: critical_alpha(t[""], "mnist", "error", "best"),
    ),
    Claim(
        "mnist-lowest", "mnist", "MNIST, N = 200: lowest reduced test error", FIG3,
        Between(0.15, 0.24, paper=0.18), lambda t: mnist(t, "test").min(),
    ),
    Claim(
        "mnist-overfit", "mnist", "MNIST, N = 200: test error at alpha = 8", FIG3,
        at_least(0.6, paper=0.79), lambda t: mnist(t, "test").T[ALPHA_8],
    ),
    Claim(
        "mnist-floor", "mnist", "MNIST, N = 200: highest train error for alpha >= 1", FIG3,
        at_most(0.01, paper=0.0), lambda t: mnist(t, "train")[1.0:].max(),
    ),
    Claim(
        "mnist-floor-last", "mnist", "The same at the last step instead of the best one", FIG3,
        at_most(0.01, paper=0.0), lambda t: mnist(t, "train", "last")[1.0:].max(),
    ),
]  # fmt: skip

FIGURE = Reproduction(
    name="fig_lu",
    paper=f"{LIU}, Fig. 1b, 2 and 3",
    doc=__doc__,
    tasks=tasks,
    seeds={"quick": 2, "default": 3, "paper": 3},
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
