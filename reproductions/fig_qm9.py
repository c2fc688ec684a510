"""QM9: loss against weight norm and training-set size, and grokking on molecules (Liu et al. 2023, Fig. 5).

Maps: graph networks held on spheres of alpha times the usual norm; N molecules for training and N for the test. Train
and test loss have walls on both sides even for few molecules, and the usable band of norms does not widen with N.

Runs: 50 molecules each, no weight decay. From the usual initialisation the test loss falls within a thousand steps;
from three times that norm it stays a thousand times higher for thousands of steps and then drops.

Losses are the true mean squared error in Bohr^6; the paper's values, plotted there as about 1/32 of it, are scaled.
"--reading corrected" draws molecules at random from all of QM9; the published code takes the first and smallest.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, reduced
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import Block, Panels, Run, blocks_figure, grokking_panels, legend, lu_panel
from reproductions.claims.qm9 import claims
from reproductions.experiments.qm9 import LARGE, MOST, SIZES, SMALL, USUAL, free, maps
from reproductions.landscapes import draw_maps, of_size
from reproductions.paper import LIU, paper_panel

LEVELS = {"train": (1.0, 10.0, 100.0), "test": (3.2, 10.0, 100.0)}


def sweep(options: Options) -> Groups:
    return {"free": [*free(options, LARGE), *free(options, USUAL)], "maps": maps(options)}


def tables(runs: Frames, options: Options) -> Tables:
    return {"maps": reduced(runs["maps"]), "curves": runs["free"][CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    published = options.published_size and options.reading == "published"

    def landscapes(axes: Panels) -> None:
        draw_maps([axes["train"], axes["test"]], tables["maps"], "loss", "MSE (Bohr$^6$)", LEVELS, options)
        for name, n, paper in (("small", SMALL, "slice N=100"), ("most", MOST, "slice N=3000")):
            if n in SIZES[options.preset].n_train:
                part, spec = of_size(tables["maps"], n), maps(options)[0].replace(n_train=n)
                lu_panel(axes[name], part, spec, "loss", paper_panel("fig5", paper) if published else {})
                legend(axes[name])

    def runs(axes: Panels) -> None:
        n = free(options, LARGE)[0].n_train
        shown = [
            Run(alpha, f"$\\alpha$ = {alpha:g}, N = {n}, no weight decay",
                paper_panel("fig5", f"alpha {alpha:g}") if published else {})
            for alpha in (LARGE, USUAL)
        ]  # fmt: skip
        chosen = [axes["large"], axes["usual"]]
        grokking_panels(chosen, tables["curves"], "loss", shown, log=True, loc="lower left")
        for ax in chosen:
            ax.set_ylabel("mean squared error (Bohr$^6$)")

    blocks = [
        Block("maps", (("train", "test"), ("small", "most")), 2.0, landscapes),
        Block("curves", (("large", "usual"),), 1.2, runs),
    ]
    return blocks_figure(tables, blocks, width=2.5)


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
