"""MNIST: error against weight norm and training-set size, and the grokking run (Liu et al. 2023, Fig. 3).

Maps: networks held on spheres of alpha times the usual norm, trained on N images. With few images the test error is low
only near the critical norm (LU); with many the basin widens until train and test error share their walls (UU).

Run: 1,000 images, alpha = 8, AdamW with weight decay 0.01. The network memorises within 3,000 steps, stays near chance
on the test set, and generalises when weight decay has brought its norm down. The default preset trains it 60,000 steps
in float32, the maps' networks 3,000 up to 1,000 images, which all memorise by then, and 10,000 above; the paper preset
100,000 in float64 and 10,000 everywhere, as published.

Another size:  python -m reproductions.fig_mnist --n-train 4000 --out figures/n4000  draws the run alone.
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
from reproductions.claims.mnist import ALPHA_8, LEVELS, LU, UU, claims
from reproductions.paper import LIU, paper_panel

STEPS = {"quick": 300, "default": 60_000, "paper": 100_000}
FEW = 1000
MAP_STEPS = {"quick": (50, 50), "default": (3_000, 10_000), "paper": (10_000, 10_000)}  # up to FEW images, above
ALPHAS = {"quick": 3, "default": 9, "paper": 21}
PAPER_SIZES = (
    10, 13, 19, 26, 37, 51, 71, 100, 138, 193, LU, 268, 372, 517, 719, 1000, 1389, 1930, 2682, 3727, 5179, 7196, UU,
    10_000, 13_894, 19_306, 26_826, 37_275, 51_794, 60_000,
)  # fmt: skip
SIZES = {"quick": (LU, UU), "default": (10, 20, 50, 100, LU, 500, 1000, UU), "paper": PAPER_SIZES}
POINTS = {"A": (1.0, 138), "B": (6.3, 138), "C": (6.3, 7196)}  # the paper's: A to B groks, B to C no longer


def maps(options: Options, sizes: Sequence[int] = ()) -> list[RunSpec]:
    """The runs of the maps, at sizes of the preset or at others."""
    if options.n_train is not None:
        return []
    grid = landscapes.log_grid(0.1, 10, ALPHAS[options.preset])
    cells = landscapes.specs("mnist", options, grid, sizes or SIZES[options.preset], options.seeds)
    cells += landscapes.specs("mnist", options, [ALPHA_8], [LU, UU], options.seeds)
    few, many = MAP_STEPS[options.preset]
    density = 1 if options.preset == "paper" else 0  # evaluating as often would cost as much as training
    return [s.replace(steps=few if s.n_train <= FEW else many, evaluation_density=density) for s in cells]


def run(options: Options) -> list[RunSpec]:
    base = get_task("mnist").spec
    base = base.replace(
        steps=STEPS[options.preset],
        n_train=options.n_train or base.n_train,
        dtype="float64" if options.preset == "paper" else "float32",
    )
    return [base.replace(seed=seed) for seed in range(options.seeds)]


def sweep(options: Options) -> list[RunSpec]:
    return run(options) + maps(options)


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return landscapes.tables(runs, maps(options), run(options))


def draw(tables: Tables, options: Options) -> Figure:
    whole = "" in tables
    mosaic = "aabb\nccdd\neeee" if whole else "e"
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(2.4 * WIDTH, (3.3 if whole else 1.2) * HEIGHT))
    if whole:
        levels = {"train": LEVELS, "test": LEVELS}
        landscapes.draw_maps([axes["a"], axes["b"]], tables[""], "error", "error", levels, options, POINTS)
        for name, n in (("c", LU), ("d", UU)):
            part, spec = landscapes.of_size(tables[""], n), maps(options)[0].replace(n_train=n)
            lu_panel(axes[name], part, spec, "error", paper_panel("fig3", f"slice N={n}"))
        legend(axes["d"])
    spec = run(options)[0]
    title = f"MNIST, N = {spec.n_train}, $\\alpha$ = {spec.alpha:g}, weight decay {spec.weight_decay:g}"
    paper = paper_panel("fig3", "grokking") if options.n_train is None else {}
    grokking_panels([axes["e"]], tables["_curves"], "accuracy", [Run(spec.alpha, title, paper)])
    return figure


FIGURE = Reproduction(
    name="fig_mnist",
    paper=f"{LIU}, Fig. 3",
    doc=__doc__,
    tasks=lambda: ["mnist"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=claims,
)

if __name__ == "__main__":
    FIGURE.main()
