"""Adversarial training groks too: from a large init, robust accuracy comes late while local complexity falls.

MNIST with PGD adversarial training (radius 0.1 pixels, 5 steps) from four times the usual initialisation, beside
ordinary training from there. An experiment of this suite, which joins Liu et al. 2023 (the init scale) and Humayun et
al. 2024 (robustness, local complexity); neither paper has it. Under adversarial training clean test accuracy comes
first and accuracy under attack several times later; in between the local complexity around the data falls. All else is
as in `fig_delayed_robustness`.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS
from omnigrok.claims import Claim, Tables, at_least, at_most
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.robustness import PGD
from omnigrok.spec import RunSpec
from omnigrok.style import HEIGHT, WIDTH
from reproductions.robust_runs import (
    HUMAYUN,
    MAIN,
    by_seed,
    complexity_probe,
    curve,
    draw_accuracy,
    draw_complexity,
    first_at,
    mnist,
    robustness_probe,
)

STEPS = {"quick": 20, "default": 6_000, "paper": 100_000}
ALPHA, ATTACK_STEPS = 4.0, 5
SHOWN = (MAIN,)


def ordinary(options: Options) -> list[RunSpec]:
    quick = options.preset == "quick"
    probes = (complexity_probe(quick), robustness_probe(quick, SHOWN))
    base = mnist(quick).replace(alpha=ALPHA, steps=STEPS[options.preset], probes=probes)
    base = base.replace(n_train=options.n_train or base.n_train)
    return [base.replace(seed=seed) for seed in range(options.seeds)]


def adversarial(options: Options) -> list[RunSpec]:
    return [spec.replace(perturbation=PGD(MAIN, ATTACK_STEPS)) for spec in ordinary(options)]


def sweep(options: Options) -> list[RunSpec]:
    return adversarial(options) + ordinary(options)


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {
        "": runs_of(runs, adversarial(options))[CURVE_FIELDS],
        "_ordinary": runs_of(runs, ordinary(options))[CURVE_FIELDS],
    }


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(2.6 * WIDTH, 2.3 * HEIGHT), sharex=True)
    for row, table, title in ((0, "", f"PGD {MAIN:g} adversarial training"), (1, "_ordinary", "ordinary training")):
        draw_accuracy(axes[row, 0], tables[table], SHOWN)
        draw_complexity(axes[row, 1], tables[table])
        n = tables[table]["n_train"].iloc[0]
        axes[row, 0].set_title(f"{title}, N = {n}, $\\alpha$ = {ALPHA:g}", fontsize=10)
    return figure


def half_rise(tables: Tables, split: str, metric: str) -> pd.Series:
    """First step at half of the final value."""
    values = curve(tables[""], split, metric)
    return first_at(values, values.iloc[-1] / 2)


def later(tables: Tables, attack: str) -> pd.Series:
    return half_rise(tables, "probe", f"{attack}_{MAIN:g}") / half_rise(tables, "test", "accuracy")


def fall(tables: Tables) -> pd.Series:
    """Local complexity at the half-rise of robust accuracy over that at the half-rise of training accuracy."""
    values = curve(tables[""], "probe", "lc_train")
    start, end = half_rise(tables, "train", "accuracy"), half_rise(tables, "probe", f"robust_{MAIN:g}")
    return pd.Series({s: column[end[s]] / column[start[s]] for s, column in by_seed(values)})


SOURCE = "this suite"
CLAIMS = [
    Claim("later", "Steps to half the final accuracy under attack over those to half the final clean accuracy", SOURCE,
          at_least(3), lambda t: later(t, "robust")),
    Claim("later-strong", "The same under the stronger attack", SOURCE, at_least(3), lambda t: later(t, "margin")),
    Claim("falls", "Local complexity at the robust half-rise over that at the half-rise of training accuracy", SOURCE,
          at_most(0.5), fall),
    Claim("robust", "Accuracy under PGD 0.1 at the end", SOURCE, at_least(0.5),
          lambda t: curve(t[""], "probe", f"robust_{MAIN:g}").iloc[-1]),
    Claim("robust-strong", "Accuracy under the stronger attack at the end", SOURCE, at_least(0.5),
          lambda t: curve(t[""], "probe", f"margin_{MAIN:g}").iloc[-1]),
]  # fmt: skip

FIGURE = Reproduction(
    name="fig_adversarial_training",
    paper=f"after {HUMAYUN}",
    doc=__doc__,
    tasks=lambda: ["mnist"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
