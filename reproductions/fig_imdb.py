"""IMDb: error against weight norm and training-set size, and grokking on text (Liu et al. 2023, Fig. 4).

Maps: LSTMs held on spheres of alpha times the usual norm, trained on N reviews. Runs: from six times the usual norm,
with weight decay 1, the network fits its 750 reviews while the test accuracy stays at chance, and generalises later;
from the usual initialisation both rise together. Accuracy is on 2,000 held-out reviews.

The default preset is smaller than the published code (hidden size 256, 500 tokens; 128 in the text): the runs have
hidden size 64, 200 tokens and 8,000 steps, the maps 32, 100 and 300. The paper preset is as the code. The paper's
values are for its own size.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, reduced
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import Block, Panels, Run, blocks_figure, grokking_panels, legend, lu_panel
from reproductions.claims.imdb import claims
from reproductions.experiments.imdb import LARGE, SIZES, SLICE, USUAL, free, maps
from reproductions.landscapes import draw_maps, of_size
from reproductions.paper import LIU, paper_panel

LEVELS = (0.2, 0.25, 0.3, 0.35)


def sweep(options: Options) -> Groups:
    return {"free": [*free(options, LARGE), *free(options, USUAL)], "maps": maps(options)}


def tables(runs: Frames, options: Options) -> Tables:
    return {"maps": reduced(runs["maps"]), "curves": runs["free"][CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    def landscapes(axes: Panels) -> None:
        levels = {"train": LEVELS, "test": LEVELS}
        draw_maps([axes["train"], axes["test"]], tables["maps"], "error", "error", levels, options)
        sizes = SIZES[options.preset].n_train
        n = SLICE if SLICE in sizes else sizes[0]
        spec = maps(options)[0].replace(n_train=n)
        paper = paper_panel("fig4", "slice N=1000") if n == SLICE else {}
        lu_panel(axes["slice"], of_size(tables["maps"], n), spec, "error", paper)
        legend(axes["slice"])

    def runs(axes: Panels) -> None:
        spec = free(options, LARGE)[0]
        shape = f"N = {spec.n_train}, hidden {spec.option('hidden')}, {spec.option('length')} tokens"
        shown = [
            Run(alpha, f"$\\alpha$ = {alpha:g}, weight decay {decay}, {shape}",
                paper_panel("fig4", f"alpha {alpha:g}") if options.published_size else {})
            for alpha, decay in ((LARGE, 1), (USUAL, 0))
        ]  # fmt: skip
        grokking_panels([axes["large"], axes["usual"]], tables["curves"], "accuracy", shown, loc="lower left")

    above = [name for name in ("train", "test", "slice") for _ in range(2)]
    below = [name for name in ("large", "usual") for _ in range(3)]
    return blocks_figure(tables, [Block("maps", [above], 1.0, landscapes), Block("curves", [below], 1.2, runs)], 3.3)


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
