"""QM9: loss against weight norm and training-set size, and grokking on molecules (Liu et al. 2023, Fig. 5).

Maps: graph networks held on spheres of alpha times the usual norm; N molecules for training and N for the test. Train
and test loss have walls on both sides even for few molecules, and the usable band of norms does not widen with N.

Runs: 50 molecules each, no weight decay. From the usual initialisation the test loss falls within a thousand steps;
from three times that norm it stays a thousand times higher for thousands of steps and then drops.

Losses are the true mean squared error in Bohr^6; the paper's values, plotted there as about 1/32 of it, are scaled.
"--reading corrected" draws molecules at random from all of QM9; the published code takes the first and smallest.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.claims import Tables
from omnigrok.figure import Options, Reproduction
from omnigrok.panels import Run, grokking_panels, legend, lu_panel
from omnigrok.spec import RunSpec
from omnigrok.style import HEIGHT, WIDTH
from omnigrok.task import get_task
from reproductions import landscapes
from reproductions.claims.qm9 import LARGE, MOST, SMALL, USUAL, claims
from reproductions.paper import LIU, paper_panel

STEPS = {"quick": 200, "default": 40_000, "paper": 100_000}
ALPHAS = {"quick": 3, "default": 9, "paper": 21}
SIZES = {
    "quick": (10, 50),
    "default": (6, 16, 50, 200, 1200),
    "paper": (5, 6, 9, 13, 18, 26, 36, 50, 70, 96, 134, 187, 260, 361, 502, 698, 970, 1347, 1873, 2603, 3618, 5000),
}
MAP_SEEDS = 3
LEVELS = {"train": (1.0, 10.0, 100.0), "test": (3.2, 10.0, 100.0)}


def subset(options: Options) -> str:
    return "first" if options.reading == "published" else "shuffled"


def maps(options: Options, sizes: Sequence[int] = ()) -> list[RunSpec]:
    """The runs of the maps, at sizes of the preset or at others."""
    if options.n_train is not None:
        return []
    grid = landscapes.log_grid(0.1, 10, ALPHAS[options.preset])
    seeds = min(MAP_SEEDS, options.seeds)
    return landscapes.specs("qm9", options, grid, sizes or SIZES[options.preset], seeds, subset=subset(options))


def curves(options: Options) -> list[RunSpec]:
    base = get_task("qm9").spec
    base = base.replace(steps=STEPS[options.preset], n_train=options.n_train or base.n_train, subset=subset(options))
    return [base.replace(alpha=alpha, seed=seed) for alpha in (LARGE, USUAL) for seed in range(options.seeds)]


def sweep(options: Options) -> list[RunSpec]:
    return curves(options) + maps(options)


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return landscapes.tables(runs, maps(options), curves(options))


def draw(tables: Tables, options: Options) -> Figure:
    whole = "" in tables
    mosaic = [["train", "test"], ["small", "most"], ["large", "usual"]] if whole else [["large", "usual"]]
    figure, axes = plt.subplot_mosaic(
        mosaic,  # type: ignore[arg-type]
        figsize=(2.5 * WIDTH, (3.2 if whole else 1.2) * HEIGHT),
    )
    published = options.n_train is None and options.reading == "published"
    if whole:
        landscapes.draw_maps([axes["train"], axes["test"]], tables[""], "loss", "MSE (Bohr$^6$)", LEVELS, options)
        for name, n, paper in (("small", SMALL, "slice N=100"), ("most", MOST, "slice N=3000")):
            if n in SIZES[options.preset]:
                part, spec = landscapes.of_size(tables[""], n), maps(options)[0].replace(n_train=n)
                lu_panel(axes[name], part, spec, "loss", paper_panel("fig5", paper) if published else {})
                legend(axes[name])
    runs = [
        Run(alpha, f"$\\alpha$ = {alpha:g}, N = {curves(options)[0].n_train}, no weight decay",
            paper_panel("fig5", f"alpha {alpha:g}") if published else {})
        for alpha in (LARGE, USUAL)
    ]  # fmt: skip
    grokking_panels([axes["large"], axes["usual"]], tables["_curves"], "loss", runs, log=True, loc="lower left")
    for name in ("large", "usual"):
        axes[name].set_ylabel("mean squared error (Bohr$^6$)")
    return figure


FIGURE = Reproduction(
    name="fig_qm9",
    paper=f"{LIU}, Fig. 5",
    doc=__doc__,
    tasks=lambda: ["qm9"],
    seeds={"quick": 2, "default": 5, "paper": 5},
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=claims,
)

if __name__ == "__main__":
    FIGURE.main()
