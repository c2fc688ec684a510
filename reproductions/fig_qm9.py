"""Grokking on molecules: the QM9 graph network at alpha = 3 and alpha = 1 (Liu et al. 2023, Fig. 5d).

50 molecules for training and 50 for the test, no weight decay. From the usual initialisation train and test loss fall
together; from three times that norm the test loss stays a thousand times higher for thousands of steps and then drops.
The loss is the true mean squared error in Bohr^6; the paper's values, plotted there as about 1/32 of it, are scaled.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, value_at
from omnigrok.claims import Claim, Tables, at_least, at_most
from omnigrok.figure import Options, Reproduction
from omnigrok.panels import Run, grokking_figure
from omnigrok.spec import RunSpec
from omnigrok.task import get_task
from reproductions.paper import LIU, paper_panel

LARGE, USUAL = 3.0, 1.0  # alpha
STEPS = {"quick": 200, "default": 40_000, "paper": 100_000}


def sweep(options: Options) -> list[RunSpec]:
    base = get_task("qm9").spec
    base = base.replace(steps=STEPS[options.preset], n_train=options.n_train or base.n_train)
    return [base.replace(alpha=alpha, seed=seed) for alpha in (LARGE, USUAL) for seed in range(options.seeds)]


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {"": runs[CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    published = options.n_train is None
    runs = [
        Run(alpha, f"$\\alpha$ = {alpha:g}", paper_panel("fig5", f"alpha {alpha:g}") if published else {})
        for alpha in (LARGE, USUAL)
    ]
    figure = grokking_figure(tables[""], "loss", runs, log=True)
    for ax in figure.axes[: len(runs)]:
        ax.set_ylabel("mean squared error (Bohr$^6$)")
    figure.suptitle(f"QM9 polarizability, N = {tables['']['n_train'].iloc[0]}, no weight decay", fontsize=11)
    return figure


def at(tables: Tables, alpha: float, split: str, step: int) -> pd.Series:
    return value_at(tables[""].query("alpha == @alpha"), split, "loss", step)


def fall_after(tables: Tables, alpha: float, step: int) -> pd.Series:
    """Test loss at a step over its lowest value later on."""
    later = tables[""].query("alpha == @alpha and split == 'test' and metric == 'loss' and step > @step")
    return at(tables, alpha, "test", step) / later.groupby("seed")["value"].min()


SOURCE = "Liu 2023 Fig. 5, digitised"
CLAIMS = [
    Claim(
        "gap", "qm9", "alpha = 3: test over train MSE at step 5,000", SOURCE,
        at_least(10, paper=80), lambda t: at(t, LARGE, "test", 5_000) / at(t, LARGE, "train", 5_000),
    ),
    Claim(
        "falls", "qm9", "alpha = 3: test MSE at step 5,000 over its lowest value later", SOURCE,
        at_least(10, paper=48), lambda t: fall_after(t, LARGE, 5_000),
    ),
    Claim(
        "no-delay", "qm9", "alpha = 1: test MSE at step 1,000 over its lowest value later", SOURCE,
        at_most(2, paper=1.1), lambda t: fall_after(t, USUAL, 1_000),
    ),
]  # fmt: skip

FIGURE = Reproduction(
    name="fig_qm9",
    paper=f"{LIU}, Fig. 5",
    doc=__doc__,
    tasks=lambda: ["qm9"],
    seeds={"quick": 2, "default": 5, "paper": 5},
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
