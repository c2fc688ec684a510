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

from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, reduced
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import Block, Panels, Run, blocks_figure, grokking_panels, legend, lu_panel
from reproductions.claims.mnist import LEVELS, claims
from reproductions.experiments.mnist import LU, UU, grokking, maps
from reproductions.landscapes import draw_maps, of_size
from reproductions.paper import LIU, paper_panel

POINTS = {"A": (1.0, 138), "B": (6.3, 138), "C": (6.3, 7196)}  # the paper's: A to B groks, B to C no longer


def sweep(options: Options) -> Groups:
    return {"grokking": grokking(options), "maps": maps(options)}


def tables(runs: Frames, options: Options) -> Tables:
    return {"maps": reduced(runs["maps"]), "curves": runs["grokking"][CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    def landscapes(axes: Panels) -> None:
        levels = {"train": LEVELS, "test": LEVELS}
        draw_maps([axes["a"], axes["b"]], tables["maps"], "error", "error", levels, options, POINTS)
        for name, n in (("c", LU), ("d", UU)):
            part, spec = of_size(tables["maps"], n), maps(options)[0].replace(n_train=n)
            lu_panel(axes[name], part, spec, "error", paper_panel("fig3", f"slice N={n}"))
        legend(axes["d"])

    def run(axes: Panels) -> None:
        spec = grokking(options)[0]
        title = f"MNIST, N = {spec.n_train}, $\\alpha$ = {spec.alpha:g}, weight decay {spec.weight_decay:g}"
        paper = paper_panel("fig3", "grokking") if options.published_size else {}
        grokking_panels([axes["e"]], tables["curves"], "accuracy", [Run(spec.alpha, title, paper)])

    blocks = [Block("maps", ("aabb", "ccdd"), 2.1, landscapes), Block("curves", ("eeee",), 1.2, run)]
    return blocks_figure(tables, blocks, width=2.4)


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
