"""De-grokking modular addition: the Transformer free and held at 0.8 of its norm (Liu et al. 2023, Fig. 8).

Trained as usual, the network memorises within 300 steps and generalises thousands of steps later, when weight decay has
brought its norm down. Started at 0.8 of the usual norm and held there, it generalises as soon as it memorises. The
default preset trains 8,000 steps in float32, the paper preset 15,000 in float64 as published.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, first_reached
from omnigrok.claims import Between, Claim, Tables, at_most
from omnigrok.figure import Options, Reproduction
from omnigrok.panels import Run, grokking_figure
from omnigrok.spec import RunSpec
from omnigrok.task import get_task
from reproductions.paper import LIU, paper_panel

BASELINE, CONSTRAINED = 1.0, 0.8  # alpha
STEPS = {"quick": (60, 60), "default": (8_000, 600), "paper": (15_000, 15_000)}


def sweep(options: Options) -> list[RunSpec]:
    base = get_task("modular").spec
    base = base.replace(
        n_train=options.n_train or base.n_train, dtype="float64" if options.preset == "paper" else "float32"
    )
    free, held = STEPS[options.preset]
    constrained = base.replace(alpha=CONSTRAINED, sphere=True, weight_decay=0.0, steps=held)
    return [s.replace(seed=seed) for s in (base.replace(steps=free), constrained) for seed in range(options.seeds)]


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {"": runs[CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    published = options.n_train is None
    runs = [
        Run(BASELINE, "Free, weight decay 1", paper_panel("fig8", "baseline") if published else {}),
        Run(CONSTRAINED, "Held at 0.8 of the norm", paper_panel("fig8", "constrained") if published else {}),
    ]
    figure = grokking_figure(tables[""], "accuracy", runs)
    figure.suptitle(f"Modular addition, N = {tables['']['n_train'].iloc[0]}", fontsize=11)
    return figure


def reached(tables: Tables, alpha: float, split: str) -> pd.Series:
    """First logged step at 95 % accuracy."""
    return first_reached(tables[""].query("alpha == @alpha"), split, "accuracy", 0.95)


SOURCE = "Liu 2023 Fig. 8, digitised"
CLAIMS = [
    Claim(
        "memorises", "modular", "Free: first step with train accuracy 0.95", SOURCE,
        at_most(300, paper=150), lambda t: reached(t, BASELINE, "train"),
    ),
    Claim(
        "groks", "modular", "Free: first step with test accuracy 0.95", SOURCE,
        Between(4_000, 12_000, paper=7_000), lambda t: reached(t, BASELINE, "test"),
    ),
    Claim(
        "de-groks", "modular", "Held at 0.8: first step with test accuracy 0.95", SOURCE,
        at_most(800, paper=300), lambda t: reached(t, CONSTRAINED, "test"),
    ),
    Claim(
        "no-gap", "modular", "Held at 0.8: steps from train to test accuracy 0.95", SOURCE,
        at_most(150, paper=40), lambda t: reached(t, CONSTRAINED, "test") - reached(t, CONSTRAINED, "train"),
    ),
]  # fmt: skip

FIGURE = Reproduction(
    name="fig_degrok",
    paper=f"{LIU}, Fig. 8",
    doc=__doc__,
    tasks=lambda: ["modular"],
    seeds={"quick": 2, "default": 3, "paper": 3},
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
