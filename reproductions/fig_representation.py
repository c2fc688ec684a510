"""Norm and representation in modular addition: the toy's landscape (Liu et al. 2023, Fig. 6).

A decoder on its norm sphere reads fixed embeddings that go from a line (messiness 0) to random. Maps: train and test
loss against norm and messiness. The star and the cross are the paper's generalising and overfitting solutions. Below:
the contour of train loss 0.02 for four training-set sizes. In the paper it leans more with more pairs; along it the
norm decays slower by the cosine of its angle, so generalising takes t = (L + h tan(theta)) / gamma, L and h being the
distance in norm and in messiness: as theta nears 90 degrees the time diverges.

The norm is alpha, in units of the default init's; the paper's axis calls it the weight norm. As in the published
notebook the sphere's norm counts the first weight matrix twice; "--reading corrected" counts it once. Messiness is the
paper's axis, 5 times the share of the random embeddings. The default preset trains 6,000 steps, with the published
drops of the learning rate at the same shares of the run, on a coarser grid; the paper preset 15,000 on grids as fine as
published (the zoom's is wider: norms 2 to 4.5 instead of 2.5 to 4, so that no contour leaves it).
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import median_over_seeds
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import map_panel
from omnigrok.figures.style import COLOURS, HEIGHT, WIDTH
from reproductions.claims.representation import CLAIMS, CONTOUR, CROSS, STAR, angles, contour, with_messiness
from reproductions.experiments.representation import MAP_PAIRS, toy_map, toy_zooms
from reproductions.paper import LIU

MAP_LEVELS = {"train": (0.001, 0.01, 0.1), "test": (0.5, 1.0, 1.5)}
PATH_L, PATH_H = CROSS - STAR, 0.8 - 0.03  # from the cross to the star, in norm and messiness
COLOUR_OF_SIZE = ("#56B4E9", "#0072B2", "#E69F00", "#D55E00")


def sweep(options: Options) -> Groups:
    return {"map": toy_map(options), "zooms": toy_zooms(options)}


def tables(runs: Frames, options: Options) -> Tables:
    zooms = list(runs["zooms"].values())
    of_all_sizes = {m: pd.concat([zoom[m] for zoom in zooms]) for m in zooms[0]}
    return {"map": with_messiness(runs["map"]), "contours": with_messiness(of_all_sizes)}


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(2.6 * WIDTH, 2.3 * HEIGHT))
    for ax, split in zip(axes[0], ("train", "test"), strict=True):
        chosen = tables["map"].query("split == @split")
        values = median_over_seeds(chosen, "messiness", "alpha")
        map_panel(ax, values, f"{split} loss", MAP_LEVELS[split], logarithmic=True)
        ax.plot(STAR, 0.03, "*", ms=13, ls="", color="white", mec="black", label="paper: generalises")
        ax.plot(CROSS, 0.8, "X", ms=10, ls="", color="white", mec="black", label="paper: overfits")
        ax.legend(fontsize=8, loc="lower right", frameon=True, framealpha=0.85)
        ax.set(xlabel="relative weight norm $\\alpha$", ylabel="messiness m")
        ax.set_title(f"{split} loss, {MAP_PAIRS} of 55 pairs", fontsize=10)
    theta = angles(tables["contours"])
    for colour, (n, part) in zip(COLOUR_OF_SIZE, tables["contours"].groupby("n_train"), strict=False):
        lines = pd.DataFrame({seed: contour(losses) for seed, losses in part.groupby("seed")})
        axes[1, 0].plot(lines.median(axis=1), lines.index, marker="o", ms=4, color=colour, label=f"{n} pairs")
        axes[1, 0].fill_betweenx(lines.index, lines.min(axis=1), lines.max(axis=1), color=colour, alpha=0.2, lw=0)
    axes[1, 0].set(xlabel="relative weight norm $\\alpha$", ylabel="messiness m")
    axes[1, 0].set_title(f"contour of train loss {CONTOUR}", fontsize=10)
    axes[1, 0].legend()
    times = theta.map(lambda degrees: PATH_L + PATH_H * np.tan(np.radians(degrees)))
    axes[1, 1].plot(times.index, times, "o", color=COLOURS["norm"], alpha=0.5)
    axes[1, 1].plot(times.index, times.median(axis=1), color=COLOURS["norm"], label="$L + h\\,\\tan\\theta$")
    axes[1, 1].set(xlabel="training pairs", ylabel="predicted time x rate of decay of $\\alpha$", yscale="log")
    axes[1, 1].set_title(
        "\n" + ", ".join(f"$\\theta_{{{n}}}$ = {t:.0f}°" for n, t in theta.median(axis=1).items()), fontsize=9
    )
    axes[1, 1].legend()
    return figure


FIGURE = Reproduction(
    name="fig_representation",
    paper=f"{LIU}, Fig. 6",
    doc=__doc__,
    tasks=lambda: ["modular_toy"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
