"""Norm and representation in MNIST: the Goldilocks zone hardly moves (Liu et al. 2023, Fig. 7; arXiv: 8).

Each image is mixed with a constant image that stands for its class: messiness 1 is MNIST, messiness 0 its labels. The
maps show the reduced loss against norm and messiness with the paper's path A (not yet fitted), B (fitted and general),
C (the ideal representation). Where modular addition has to find its representation on the way down, MNIST's critical
norm is about the same for all: one zone, no barrier between B and C, hence no dramatic grokking at the usual init.

Losses are ten times the mean squared error, as published. The default preset has 10,000 images and 3,000 steps; the
paper preset 60,000 and 10,000 as published. With ten different inputs at messiness 0 the loss jumps by orders of
magnitude from step to step, and the best of the logged values is a matter of luck there.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from omnigrok.analysis import median_over_seeds, reduced, stack, surface
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import band, legend, map_panel
from omnigrok.figures.style import COLOURS, HEIGHT, WIDTH
from reproductions.claims.mnist_representation import POINTS, claims
from reproductions.experiments.representation import templates
from reproductions.paper import LIU

PUBLISHED_LOSS = 10  # the published loss sums over the ten outputs
LEVELS = (0.002, 0.01, 0.05)
SHADES = (COLOURS["critical"], "#56B4E9", COLOURS["norm"], COLOURS["test"])


def sweep(options: Options) -> Groups:
    return templates(options)


def tables(runs: Frames, options: Options) -> Tables:
    table = stack([reduced(curves).assign(messiness=m) for m, curves in runs.items()])
    loss = table["metric"] == "loss"
    table.loc[loss, "value"] *= PUBLISHED_LOSS
    return {"maps": table}


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(3.6 * WIDTH, 1.2 * HEIGHT))
    losses = tables["maps"].query("metric == 'loss' and statistic == @options.statistic")
    for ax, split in zip(axes, ("train", "test"), strict=False):
        chosen = losses[losses["split"] == split]
        values = median_over_seeds(chosen, "messiness", "alpha")
        ax.set(xscale="log", xlabel="relative weight norm $\\alpha$", ylabel="messiness m")
        map_panel(ax, values, f"{split} loss", LEVELS, logarithmic=True, points=POINTS)
        ax.set_title(f"{split} loss, N = {losses['n_train'].iloc[0]}", fontsize=10, pad=12)
    for colour, (m, part) in zip(SHADES, losses[losses["split"] == "test"].groupby("messiness"), strict=False):
        band(axes[2], surface(part, "alpha", "seed"), colour, f"m = {m:g}", marker="o", ms=4)
    axes[2].set(xscale="log", yscale="log", xlabel="relative weight norm $\\alpha$", ylabel="reduced test loss")
    axes[2].set_title("one zone at every messiness", fontsize=10)
    legend(axes[2])
    return figure


FIGURE = Reproduction(
    name="fig_mnist_representation",
    paper=f"{LIU}, Fig. 7",
    doc=__doc__,
    tasks=lambda: ["mnist_templates"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=claims,
)

if __name__ == "__main__":
    FIGURE.main()
