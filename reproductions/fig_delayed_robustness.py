"""Delayed robustness: accuracy under attack rises long after clean accuracy (Humayun et al. 2024, Fig. 1, 2 and 6).

An ordinary initialisation: clean test accuracy is there after a hundred steps. Accuracy under plain PGD (ten constant
steps of a quarter of the radius from one random start; the paper takes 100 steps of 4/255 on MNIST) falls back early
and rises again tens of thousands of steps later, while the local complexity around the data, which first falls and
climbs to a peak near interpolation, descends a second time. Dotted: accuracy under a stronger attack, on the margin,
which a vanishing gradient cannot fool, with long first steps, which a rugged loss does not hold up. Radii are in pixels
of [0, 1].

MNIST is the paper's Fig. 2, of 100,000 steps; the default preset trains 60,000, the paper preset 1,000,000, the default
of the published code. CIFAR-10 at the default preset is 3,000 steps of a small convolutional network on 1,000 images,
which shows the first phases; it does not rise by step 100,000 either (reproductions/differences.md). The networks whose
late rise the paper shows have all 50,000 images: a ResNet18 (Fig. 1: the paper preset, and a GPU) and a convolutional
network (Fig. 6).
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, curve
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.style import HEIGHT, WIDTH
from omnigrok.registry import get_task
from reproductions.claims.delayed_robustness import CLAIMS
from reproductions.experiments.robust import CIFAR_EPS, EPS, delayed
from reproductions.paper import HUMAYUN
from reproductions.robust_panels import draw_accuracy, draw_complexity, over_steps


def sweep(options: Options) -> Groups:
    return {"curves": [spec for task in options.tasks for spec in delayed(options, task)]}


def tables(runs: Frames, options: Options) -> Tables:
    return {"curves": runs["curves"][CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    rows = len(options.tasks)
    figure, axes = plt.subplots(rows, 3, figsize=(3.6 * WIDTH, 1.25 * HEIGHT * rows), squeeze=False)
    for row, task in zip(axes, options.tasks, strict=True):
        curves = tables["curves"].query("task == @task")
        spec = delayed(options, task)[0]
        what = "4 x 200 ReLU" if task == "mnist" else str(spec.option("network")).upper()
        if task == "mnist":
            draw_accuracy(row[0], curves, EPS, legend=(0.62, 0.5))
        else:
            draw_accuracy(row[0], curves, CIFAR_EPS)
        row[0].set_title(f"{get_task(task).display_name}, N = {spec.n_train}, {what}, $\\alpha$ = 1", fontsize=10)
        draw_complexity(row[1], curves)
        over_steps(row[2], curve(curves, "probe", "zero_gradient"), "#CC79A7", "test examples with zero gradient")
        over_steps(row[2], curve(curves, "probe", "lc_train_dead"), "#444444", "units dead on training points")
        over_steps(row[2], curve(curves, "probe", "lc_train_always_on"), "#E69F00", "units always on")
        row[2].set(xscale="log", xlabel="optimizer steps", ylabel="share", ylim=(-0.02, 1))
        row[2].set_title("what could feign robustness", fontsize=10)
        row[2].legend(fontsize=8)
    return figure


FIGURE = Reproduction(
    name="fig_delayed_robustness",
    paper=f"{HUMAYUN}, Fig. 2 (MNIST), 1 and 6 (CIFAR-10)",
    doc=__doc__,
    tasks=lambda: ["mnist", "cifar10"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
