"""Delayed robustness: accuracy under attack rises long after clean accuracy (Humayun et al. 2024, Fig. 1 and 2).

An ordinary initialisation: clean test accuracy is there after a hundred steps. Accuracy under PGD falls back early and
rises again tens of thousands of steps later, while the local complexity around the data, which first falls and climbs
to a peak near interpolation, descends a second time. Dotted: accuracy under a stronger attack than the paper's, on the
margin, which a vanishing gradient cannot fool, with long first steps, which a rugged loss does not hold up. Radii are
in pixels of [0, 1].

CIFAR-10 at the default preset is 3,000 steps of a small convolutional network on 1,000 images, which shows the first
phases; it does not rise by step 100,000 either (reproductions/differences.md). The late rise of the paper is that of
the published ResNet18 on all images for 500,000 steps: the paper preset, and a GPU.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS
from omnigrok.claims import Claim, Tables, at_least, at_most
from omnigrok.figure import Options, Reproduction
from omnigrok.spec import RunSpec
from omnigrok.style import HEIGHT, WIDTH
from omnigrok.task import get_task
from reproductions.robust_runs import (
    CIFAR_EPS,
    EPS,
    HUMAYUN,
    MAIN,
    by_seed,
    cifar10,
    complexity_probe,
    curve,
    draw_accuracy,
    draw_complexity,
    first_at,
    mnist,
    peak,
    plot,
    robustness_probe,
)

STEPS = {"quick": 40, "default": 60_000, "paper": 1_000_000}
CIFAR_STEPS = {"quick": 3, "default": 3_000, "paper": 500_000}
MAIN_EPS = {"mnist": MAIN, "cifar10": CIFAR_EPS[-1]}  # the radius that the claims are about
DENSITY = 2  # of MNIST's evaluations: at 9 a decade two seeds' second descent and late rise fall together
EARLY, LATE = 50, 9_000  # steps after which the second ascent is looked for, and the rise


def runs(options: Options, task: str) -> list[RunSpec]:
    quick = options.preset == "quick"
    if task == "mnist":
        base = mnist(quick).replace(steps=STEPS[options.preset], evaluation_density=DENSITY)
        base = base.replace(probes=(complexity_probe(quick), robustness_probe(quick)))
    else:
        base = cifar10(options.preset).replace(steps=CIFAR_STEPS[options.preset])
    base = base.replace(n_train=options.n_train or base.n_train)
    return [base.replace(seed=seed) for seed in range(options.seeds)]


def sweep(options: Options) -> list[RunSpec]:
    return [spec for task in options.tasks for spec in runs(options, task)]


def tables(frame: pd.DataFrame, options: Options) -> Tables:
    return {"": frame[CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    rows = len(options.tasks)
    figure, axes = plt.subplots(rows, 3, figsize=(3.6 * WIDTH, 1.25 * HEIGHT * rows), squeeze=False)
    for row, task in zip(axes, options.tasks, strict=True):
        curves = tables[""].query("task == @task")
        spec = runs(options, task)[0]
        what = "4 x 200 ReLU" if task == "mnist" else str(spec.option("network")).upper()
        if task == "mnist":
            draw_accuracy(row[0], curves, EPS, legend=(0.62, 0.5))
        else:
            draw_accuracy(row[0], curves, CIFAR_EPS)
        row[0].set_title(f"{get_task(task).display_name}, N = {spec.n_train}, {what}, $\\alpha$ = 1", fontsize=10)
        draw_complexity(row[1], curves)
        plot(row[2], curve(curves, "probe", "zero_gradient"), "#CC79A7", "test examples with zero gradient")
        plot(row[2], curve(curves, "probe", "lc_train_dead"), "#444444", "units dead on training points")
        plot(row[2], curve(curves, "probe", "lc_train_always_on"), "#E69F00", "units always on")
        row[2].set(xscale="log", xlabel="optimizer steps", ylabel="share", ylim=(-0.02, 1))
        row[2].set_title("what could feign robustness", fontsize=10)
        row[2].legend(fontsize=8)
    return figure


def lc(tables: Tables, task: str = "mnist") -> pd.DataFrame:
    return curve(tables[""].query("task == @task"), "probe", "lc_train")


def robust(tables: Tables, name: str = "robust", task: str = "mnist") -> pd.DataFrame:
    return curve(tables[""].query("task == @task"), "probe", f"{name}_{MAIN_EPS[task]:g}")


def ascent(tables: Tables, task: str = "mnist") -> pd.Series:
    """Local complexity at its peak after the first descent, over its lowest value before the peak."""
    values = lc(tables, task)
    at = peak(values, EARLY)
    return pd.Series({s: column[at[s]] / column[column.index <= at[s]].min() for s, column in by_seed(values)})


def descent(tables: Tables) -> pd.Series:
    """Local complexity at the end over that at its peak after the first descent."""
    values = lc(tables)
    return values.iloc[-1] / values[values.index >= EARLY].max()


def rise(tables: Tables, task: str = "mnist", name: str = "robust") -> pd.Series:
    values = robust(tables, name, task)
    return values.iloc[-1] - values.T[LATE]


def order(tables: Tables) -> pd.Series:
    """Step at which local complexity has halved from its peak, over the step of the half-rise of robust accuracy.

    Both at the same logged step decide nothing: which came first lies between two evaluations.
    """
    values, accuracy = lc(tables), robust(tables)
    late = accuracy[accuracy.index >= EARLY]
    half = (late.min() + late.iloc[-1]) / 2
    halved = first_at(values, values[values.index >= EARLY].max() / 2, after=peak(values, EARLY), below=True)
    ratios = halved / first_at(accuracy, half, after=late.idxmin())
    return ratios.mask(ratios == 1)


SOURCE = "Humayun 2024 section 3"
CLAIMS = [
    Claim("ascent", "Local complexity climbs again: its peak after step 50 over the lowest value before", SOURCE,
          at_least(1.1), ascent),
    Claim("second-descent", "Local complexity at the end over that peak", SOURCE, at_most(0.5), descent),
    Claim("rise", "Rise of the accuracy under PGD 0.1 as published, a weak attack, after step 9,000", SOURCE,
          at_least(0.1), rise),
    Claim("order", "Logged step at which local complexity has halved over that of the half-rise under PGD 0.1", SOURCE,
          at_most(1), order),
    Claim("no-masking", "Accuracy under PGD 0.1 as published less that under the stronger attack, at the end", SOURCE,
          at_most(0.05), lambda t: (robust(t) - robust(t, "margin")).iloc[-1]),
    Claim("rise-margin", "Rise of the accuracy under the stronger attack of radius 0.1 after step 9,000", SOURCE,
          at_least(0.1), lambda t: rise(t, name="margin")),
    Claim("cifar-ascent", "CIFAR-10: peak of local complexity after step 50 over the lowest value before", SOURCE,
          at_least(1.1), lambda t: ascent(t, "cifar10")),
    Claim("cifar-rise", "CIFAR-10: rise of the accuracy under PGD 0.039 after step 9,000", SOURCE, at_least(0.1),
          lambda t: rise(t, "cifar10")),
]  # fmt: skip

FIGURE = Reproduction(
    name="fig_delayed_robustness",
    paper=f"{HUMAYUN}, Fig. 1 and 2",
    doc=__doc__,
    tasks=lambda: ["mnist", "cifar10"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
