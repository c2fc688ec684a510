"""Grokking on text: the IMDb LSTM at alpha = 6 and alpha = 1 (Liu et al. 2023, Fig. 4d).

From six times the usual norm, with weight decay 1, the network fits its 750 reviews while the test accuracy stays at
chance, and generalises later; from the usual initialisation both rise together. Accuracy is on 2,000 held-out reviews.
The default preset has hidden size 64 and 200 tokens a review instead of 256 and 500, and 8,000 steps; the paper preset
is as published. The paper's values are for its own size.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, first_reached
from omnigrok.claims import Claim, Tables, at_least, at_most
from omnigrok.figure import Options, Reproduction
from omnigrok.panels import Run, grokking_figure
from omnigrok.spec import RunSpec
from omnigrok.task import get_task
from reproductions.paper import LIU, paper_panel

LARGE, USUAL = 6.0, 1.0  # alpha
STEPS = {"quick": (10, 10), "default": (8_000, 1_000), "paper": (75_000, 75_000)}
SIZES = {"quick": {"hidden": 8, "length": 60}, "default": {"hidden": 64, "length": 200}, "paper": {}}
MEMORISED = 0.95


def sweep(options: Options) -> list[RunSpec]:
    base = get_task("imdb").spec
    sizes = tuple(sorted({**dict(base.options), **SIZES[options.preset]}.items()))
    base = base.replace(n_train=options.n_train or base.n_train, options=sizes)
    long, short = STEPS[options.preset]
    runs = (base.replace(alpha=LARGE, steps=long), base.replace(alpha=USUAL, weight_decay=0.0, steps=short))
    return [run.replace(seed=seed) for run in runs for seed in range(options.seeds)]


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {"": runs[CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    published = options.n_train is None
    runs = [
        Run(
            alpha,
            f"$\\alpha$ = {alpha:g}, weight decay {decay}",
            paper_panel("fig4", f"alpha {alpha:g}") if published else {},
        )
        for alpha, decay in ((LARGE, 1), (USUAL, 0))
    ]
    figure = grokking_figure(tables[""], "accuracy", runs)
    size = dict(sweep(options)[0].options)
    shape = f"hidden size {size['hidden']}, {size['length']} tokens"
    figure.suptitle(f"IMDb, N = {tables['']['n_train'].iloc[0]}, {shape} (paper: 256, 500)", fontsize=11)
    return figure


def when_memorised(tables: Tables, alpha: float) -> pd.Series:
    """Test accuracy at the first logged step with train accuracy 0.95, a value a seed."""
    curves = tables[""].query("alpha == @alpha")
    test = curves.query("split == 'test' and metric == 'accuracy'").set_index(["seed", "step"])["value"]
    steps = first_reached(curves, "train", "accuracy", MEMORISED)
    return pd.Series({seed: test.get((seed, step)) for seed, step in steps.items()}, dtype=float)


def rise(tables: Tables, alpha: float) -> pd.Series:
    """Test accuracy at the end less that at memorisation."""
    curves = tables[""].query("alpha == @alpha and split == 'test' and metric == 'accuracy'")
    return curves.sort_values("step").groupby("seed")["value"].last() - when_memorised(tables, alpha)


SOURCE = "Liu 2023 Fig. 4, digitised"
CLAIMS = [
    Claim(
        "chance", "imdb", "alpha = 6: test accuracy's distance from chance when train accuracy is 0.95", SOURCE,
        at_most(0.05, paper=0.024), lambda t: (when_memorised(t, LARGE) - 0.5).abs(),
    ),
    Claim(
        "rises", "imdb", "alpha = 6: later rise of the test accuracy", SOURCE,
        at_least(0.10, paper=0.23), lambda t: rise(t, LARGE),
    ),
    Claim(
        "no-delay", "imdb", "alpha = 1: rise of the test accuracy after train accuracy 0.95", SOURCE,
        at_most(0.05, paper=0.01), lambda t: rise(t, USUAL),
    ),
]  # fmt: skip

FIGURE = Reproduction(
    name="fig_imdb",
    paper=f"{LIU}, Fig. 4",
    doc=__doc__,
    tasks=lambda: ["imdb"],
    seeds={"quick": 2, "default": 3, "paper": 3},
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
