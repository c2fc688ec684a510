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
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.style import HEIGHT, WIDTH
from reproductions.claims.adversarial_training import CLAIMS
from reproductions.experiments.robust import ALPHA, MAIN, adversarial, ordinary
from reproductions.paper import HUMAYUN
from reproductions.robust_panels import draw_accuracy, draw_complexity


def sweep(options: Options) -> Groups:
    return {"adversarial": adversarial(options), "ordinary": ordinary(options)}


def tables(runs: Frames, options: Options) -> Tables:
    return {name: curves[CURVE_FIELDS] for name, curves in runs.items()}


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(2.6 * WIDTH, 2.3 * HEIGHT), sharex=True)
    for row, table, title in (
        (0, "adversarial", f"PGD {MAIN:g} adversarial training"),
        (1, "ordinary", "ordinary training"),
    ):
        draw_accuracy(axes[row, 0], tables[table], (MAIN,))
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
