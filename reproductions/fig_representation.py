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

from omnigrok.analysis import median_over_seeds, reduced
from omnigrok.claims import Tables
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.panels import map_panel
from omnigrok.schedule import Drop
from omnigrok.spec import RunSpec
from omnigrok.sphere import Sphere
from omnigrok.style import COLOURS, HEIGHT, WIDTH
from omnigrok.task import get_task
from reproductions.claims.representation import CLAIMS, CONTOUR, CROSS, STAR, angles, contour
from reproductions.paper import LIU

PER_SHARE = 5  # the paper's messiness over the share of random embeddings
STEPS = {"quick": 60, "default": 6_000, "paper": 15_000}
SIZES = {"quick": (25, 54), "default": (25, 35, 45, 54), "paper": (25, 35, 45, 54)}
MAP_SIZE = 45
COARSE = {"quick": (3, 2), "default": (8, 5), "paper": (20, 21)}  # alphas, messinesses
FINE = {"quick": (3, 2), "default": (8, 4), "paper": (21, 21)}
MAP_LEVELS = {"train": (0.001, 0.01, 0.1), "test": (0.5, 1.0, 1.5)}
PATH_L, PATH_H = CROSS - STAR, 0.8 - 0.03  # from the cross to the star, in norm and messiness
COLOUR_OF_SIZE = ("#56B4E9", "#0072B2", "#E69F00", "#D55E00")


def grid(options: Options, n: int, which: str) -> list[tuple[float, RunSpec]]:
    """(messiness, spec) over norms, messinesses and seeds: the coarse map, or the zoom on the contour."""
    norms, messes = (COARSE if which == "map" else FINE)[options.preset]
    low, high, top = (0.45, 9.0, 1.0) if which == "map" else (2.0, 4.5, 0.5)
    steps = STEPS[options.preset]
    base = get_task("modular_toy").spec.replace(n_train=n, steps=steps, schedule=(Drop(max(1, steps // 3), 0.2),))
    base = base.replace(sphere=Sphere(first_twice=options.reading == "published"))
    return [
        (m, base.replace(alpha=round(float(w), 5), seed=seed, options=(("messiness", round(m / PER_SHARE, 5)),)))
        for m in np.linspace(0, top, messes)
        for w in np.linspace(low, high, norms)
        for seed in range(options.seeds)
    ]


def zooms(options: Options) -> list[tuple[float, RunSpec]]:
    return [pair for n in SIZES[options.preset] for pair in grid(options, n, "zoom")]


def sweep(options: Options) -> list[RunSpec]:
    return [spec for _, spec in [*grid(options, MAP_SIZE, "map"), *zooms(options)]]


def with_messiness(runs: pd.DataFrame, pairs: list[tuple[float, RunSpec]]) -> pd.DataFrame:
    """Reduced losses with a column for the messiness of the run."""
    parts = []
    for m in sorted({m for m, _ in pairs}):
        part = reduced(runs_of(runs, [spec for found, spec in pairs if found == m]))
        parts.append(part[part["metric"] == "loss"].assign(messiness=m))
    return pd.concat(parts, ignore_index=True).query("statistic == 'last'")  # "best" in the published code is the last


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {
        "": with_messiness(runs, grid(options, MAP_SIZE, "map")),
        "_contours": with_messiness(runs, zooms(options)),
    }


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(2.6 * WIDTH, 2.3 * HEIGHT))
    for ax, split in zip(axes[0], ("train", "test"), strict=True):
        chosen = tables[""].query("split == @split")
        values = median_over_seeds(chosen, "messiness", "alpha")
        map_panel(ax, values, f"{split} loss", MAP_LEVELS[split], logarithmic=True)
        ax.plot(STAR, 0.03, "*", ms=13, ls="", color="white", mec="black", label="paper: generalises")
        ax.plot(CROSS, 0.8, "X", ms=10, ls="", color="white", mec="black", label="paper: overfits")
        ax.legend(fontsize=8, loc="lower right", frameon=True, framealpha=0.85)
        ax.set(xlabel="relative weight norm $\\alpha$", ylabel="messiness m")
        ax.set_title(f"{split} loss, {MAP_SIZE} of 55 pairs", fontsize=10)
    theta = angles(tables["_contours"])
    for colour, (n, part) in zip(COLOUR_OF_SIZE, tables["_contours"].groupby("n_train"), strict=False):
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
