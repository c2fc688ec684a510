"""Grokking on MNIST: train and test accuracy and weight norm against steps (Liu et al. 2023, Fig. 3d).

1,000 images, init scale alpha = 8, AdamW with weight decay 0.01. The network memorises within 3,000 steps, stays near
chance on the test set, and generalises when weight decay has brought its norm down. The default preset trains 60,000
steps in float32, the paper preset 100,000 in float64 as published.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import onset, value_at
from omnigrok.claims import Between, Claim, Tables, at_least, at_most
from omnigrok.figure import Options, Reproduction
from omnigrok.panels import grokking_panel
from omnigrok.spec import RunSpec
from omnigrok.style import HEIGHT, WIDTH
from omnigrok.task import get_task
from reproductions.paper import LIU, paper_panel

CURVE = ["task", "alpha", "n_train", "weight_decay", "seed", "step", "split", "metric", "value"]
STEPS = {"quick": 600, "default": 60_000, "paper": 100_000}
FIRST_STEP = 10  # the published axis starts here


def sweep(options: Options) -> list[RunSpec]:
    base = get_task("mnist").spec
    base = base.replace(
        steps=STEPS[options.preset],
        n_train=options.n_train or base.n_train,
        dtype="float64" if options.preset == "paper" else "float32",
    )
    return [base.replace(seed=seed) for seed in range(options.seeds)]


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {"": runs[CURVE]}


def draw(tables: Tables, options: Options) -> Figure:
    figure, ax = plt.subplots(figsize=(1.5 * WIDTH, 1.1 * HEIGHT))
    spec = sweep(options)[0]
    grokking_panel(ax, tables[""], "accuracy", paper_panel("fig3", "grokking") if options.n_train is None else {})
    ax.set(xlim=(FIRST_STEP, spec.steps), ylim=(0, 1.03))
    ax.set_title(f"MNIST, N = {spec.n_train}, $\\alpha$ = {spec.alpha:g}, weight decay {spec.weight_decay:g}")
    return figure


def memorised(tables: Tables) -> pd.Series:
    """First step at which every training example is right, a value a seed; inf where there is none."""
    curves = tables[""].query("split == 'train' and metric == 'accuracy'")
    found = {seed: onset(run["step"], run["value"], 1.0, sustain=0) for seed, run in curves.groupby("seed")}
    return pd.Series({seed: float("inf") if first.censored else first.step for seed, first in found.items()})


SOURCE = "Liu 2023 Fig. 3, digitised"
CLAIMS = [
    Claim(
        "memorises", "mnist", "First step with train accuracy 1.0", SOURCE,
        at_most(3000, paper=3000), memorised,
    ),
    Claim(
        "chance", "mnist", "Test accuracy at step 6,000", SOURCE,
        at_most(0.25, paper=0.20), lambda t: value_at(t[""], "test", "accuracy", 6_000),
    ),
    Claim(
        "generalises", "mnist", "Test accuracy at step 60,000", SOURCE,
        at_least(0.84, paper=0.875), lambda t: value_at(t[""], "test", "accuracy", 60_000),
    ),
    Claim(
        "norm", "mnist", "Weight norm at step 20,000", SOURCE,
        Between(72.1, 76.1, paper=74.1), lambda t: value_at(t[""], "parameters", "weight_norm", 20_000),
    ),
    Claim(
        "plateau", "mnist", "Test accuracy at step 100,000 (paper preset)", SOURCE,
        at_least(0.86, paper=0.893), lambda t: value_at(t[""], "test", "accuracy", 100_000),
    ),
    Claim(
        "final-norm", "mnist", "Weight norm at step 100,000 (paper preset)", SOURCE,
        Between(48, 56, paper=52.1), lambda t: value_at(t[""], "parameters", "weight_norm", 100_000),
    ),
]  # fmt: skip

FIGURE = Reproduction(
    name="fig_mnist",
    paper=f"{LIU}, Fig. 3",
    doc=__doc__,
    tasks=lambda: ["mnist"],
    seeds={"quick": 2, "default": 3, "paper": 3},
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
