"""Adversarial training groks too: from a large init, robust accuracy comes late while local complexity falls.

MNIST with PGD adversarial training (radius 0.1 pixels, 5 steps) from four times the usual initialisation, beside
ordinary training from there. An experiment of this suite, which joins Liu et al. 2023 (the init scale) and Humayun et
al. 2024 (robustness, local complexity); neither paper has it. Under adversarial training clean test accuracy comes
first and accuracy under attack several times later; in between the local complexity around the data falls. All else is
as in `fig_delayed_robustness`. The 6,000 steps of the default preset are too few to say what ordinary training does:
from alpha = 8, Humayun et al. (Fig. 7) see its accuracy under attack rise after some 43,000.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS
from omnigrok.claims import Tables
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.robustness import PGD
from omnigrok.spec import RunSpec
from omnigrok.style import HEIGHT, WIDTH
from reproductions.claims.adversarial_training import CLAIMS
from reproductions.robust_runs import (
    HUMAYUN,
    MAIN,
    complexity_probe,
    draw_accuracy,
    draw_complexity,
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
