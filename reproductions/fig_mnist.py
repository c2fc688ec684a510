"""Grokking on MNIST: train and test accuracy and weight norm against steps (Liu et al. 2023, Fig. 3d).

1,000 images, init scale alpha = 8, AdamW with weight decay 0.01. The network memorises within 3,000 steps, stays near
chance on the test set, and generalises when weight decay has brought its norm down. The default preset trains 60,000
steps in float32, the paper preset 100,000 in float64 as published.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, first_reached, value_at
from omnigrok.claims import Between, Claim, Tables, at_least, at_most
from omnigrok.figure import Options, Reproduction
from omnigrok.panels import Run, grokking_figure
from omnigrok.spec import RunSpec
from omnigrok.task import get_task
from reproductions.paper import LIU, paper_panel

STEPS = {"quick": 600, "default": 60_000, "paper": 100_000}


def sweep(options: Options) -> list[RunSpec]:
    base = get_task("mnist").spec
    base = base.replace(
        steps=STEPS[options.preset],
        n_train=options.n_train or base.n_train,
        dtype="float64" if options.preset == "paper" else "float32",
    )
    return [base.replace(seed=seed) for seed in range(options.seeds)]


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {"": runs[CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    spec = sweep(options)[0]
    title = f"MNIST, N = {spec.n_train}, $\\alpha$ = {spec.alpha:g}, weight decay {spec.weight_decay:g}"
    paper = paper_panel("fig3", "grokking") if options.n_train is None else {}
    return grokking_figure(tables[""], "accuracy", [Run(spec.alpha, title, paper)])


SOURCE = "Liu 2023 Fig. 3, digitised"
CLAIMS = [
    Claim(
        "memorises", "mnist", "First step with train accuracy 1.0", SOURCE,
        at_most(3000, paper=3000), lambda t: first_reached(t[""], "train", "accuracy", 1.0),
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
