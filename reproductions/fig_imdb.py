"""IMDb: error against weight norm and training-set size, and grokking on text (Liu et al. 2023, Fig. 4).

Maps: LSTMs held on spheres of alpha times the usual norm, trained on N reviews. Runs: from six times the usual norm,
with weight decay 1, the network fits its 750 reviews while the test accuracy stays at chance, and generalises later;
from the usual initialisation both rise together. Accuracy is on 2,000 held-out reviews.

The default preset is smaller than the published code (hidden size 256, 500 tokens; 128 in the text): the runs have
hidden size 64, 200 tokens and 8,000 steps, the maps 32, 100 and 300. The paper preset is as the code. The paper's
values are for its own size.
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
from reproductions.claims.imdb import LARGE, USUAL, claims
from reproductions.paper import LIU, paper_panel

STEPS = {"quick": (10, 10), "default": (8_000, 1_000), "paper": (75_000, 75_000)}
NETWORK = {"quick": {"hidden": 8, "length": 60}, "default": {"hidden": 64, "length": 200}, "paper": {}}


ALPHAS = {"quick": 2, "default": 6, "paper": 11}
LOWEST = {"quick": 0.1, "default": 0.0316, "paper": 0.1}  # the smaller network's left wall lies further left
PAPER_SIZES = (75, 118, 188, 298, 472, 750, 1188, 1883, 2985, 4731, 7500, 11886)  # 75 % of the published numbers
SIZES = {"quick": (100,), "default": (250, 750, 3000, 12000), "paper": PAPER_SIZES}
LEVELS = (0.2, 0.25, 0.3, 0.35)
SLICE = 750


def maps(options: Options, sizes: Sequence[int] = ()) -> list[RunSpec]:
    """The runs of the maps, at sizes of the preset or at others."""
    if options.n_train is not None:
        return []
    grid = landscapes.log_grid(LOWEST[options.preset], 10, ALPHAS[options.preset])
    return landscapes.specs("imdb", options, grid, sizes or SIZES[options.preset], options.seeds)


def curves(options: Options) -> list[RunSpec]:
    base = get_task("imdb").spec
    sizes = tuple(sorted({**dict(base.options), **NETWORK[options.preset]}.items()))
    base = base.replace(n_train=options.n_train or base.n_train, options=sizes)
    long, short = STEPS[options.preset]
    runs = (base.replace(alpha=LARGE, steps=long), base.replace(alpha=USUAL, weight_decay=0.0, steps=short))
    return [run.replace(seed=seed) for run in runs for seed in range(options.seeds)]


def sweep(options: Options) -> list[RunSpec]:
    return curves(options) + maps(options)


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return landscapes.tables(runs, maps(options), curves(options))


def draw(tables: Tables, options: Options) -> Figure:
    whole = "" in tables
    below = ["large", "large", "large", "usual", "usual", "usual"]
    mosaic = [["train", "train", "test", "test", "slice", "slice"], below] if whole else [below]
    figure, axes = plt.subplot_mosaic(
        mosaic,  # type: ignore[arg-type]
        figsize=(3.3 * WIDTH, (2.2 if whole else 1.2) * HEIGHT),
    )
    if whole:
        levels = {"train": LEVELS, "test": LEVELS}
        landscapes.draw_maps([axes["train"], axes["test"]], tables[""], "error", "error", levels, options)
        n = SLICE if SLICE in SIZES[options.preset] else SIZES[options.preset][0]
        spec = maps(options)[0].replace(n_train=n)
        paper = paper_panel("fig4", "slice N=1000") if n == SLICE else {}
        lu_panel(axes["slice"], landscapes.of_size(tables[""], n), spec, "error", paper)
        legend(axes["slice"])
    size = dict(curves(options)[0].options)
    shape = f"hidden {size['hidden']}, {size['length']} tokens"
    runs = [
        Run(alpha, f"$\\alpha$ = {alpha:g}, weight decay {decay}, N = {curves(options)[0].n_train}, {shape}",
            paper_panel("fig4", f"alpha {alpha:g}") if options.n_train is None else {})
        for alpha, decay in ((LARGE, 1), (USUAL, 0))
    ]  # fmt: skip
    grokking_panels([axes["large"], axes["usual"]], tables["_curves"], "accuracy", runs, loc="lower left")
    return figure


FIGURE = Reproduction(
    name="fig_imdb",
    paper=f"{LIU}, Fig. 4",
    doc=__doc__,
    tasks=lambda: ["imdb"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=claims,
)

if __name__ == "__main__":
    FIGURE.main()
