"""De-grokking modular addition: the Transformer free and with its norm held (Liu et al. 2023, Fig. 8; arXiv: 7).

Trained as usual, the network memorises within 300 steps and generalises thousands of steps later, when weight decay has
brought its norm down. Started at 0.8 of the usual norm and held there, it generalises as soon as it memorises. Third
panel: the norm that is held against the steps to 95 % train and test accuracy; an arrow is a run that does not get
there, at its last step.

The network is the published one. The default preset trains it in float32, 12,000 steps where the norm is free and 600
where it is held; the paper preset in float64, 15,000 as published.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, grokking_times
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import Run, grokking_panels, times_panel
from omnigrok.figures.style import HEIGHT, WIDTH
from omnigrok.task import Thresholds
from reproductions.claims.degrok import CLAIMS, THRESHOLD
from reproductions.experiments.modular import BASELINE, CONSTRAINED, base, free, held
from reproductions.paper import LIU, paper_panel


def sweep(options: Options) -> Groups:
    return {"free": free(options), "held": held(options)}


def tables(runs: Frames, options: Options) -> Tables:
    return {name: runs[name][CURVE_FIELDS] for name in ("held", "free")}


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(3.6 * WIDTH, 1.2 * HEIGHT), width_ratios=(1.25, 1.25, 1))
    for ax, table, alpha, title, panel in (
        (axes[0], "free", BASELINE, "free, weight decay 1", "baseline"),
        (axes[1], "held", CONSTRAINED, "held at 0.8 of the norm", "constrained"),
    ):
        run = Run(alpha, title, paper_panel("fig8", panel) if options.published_size else {})
        grokking_panels([ax], tables[table], "accuracy", [run], loc="upper left")
    times = grokking_times(tables["held"].assign(run=""), Thresholds("accuracy", THRESHOLD, THRESHOLD))
    times_panel(axes[2], times, "alpha")
    axes[2].set(xlabel="norm that is held, relative to the usual", title="held at other norms")
    axes[2].title.set_fontsize(10)
    figure.suptitle(f"Addition mod 113, N = {base(options).n_train}", fontsize=11)
    return figure


FIGURE = Reproduction(
    name="fig_degrok",
    paper=f"{LIU}, Fig. 8",
    doc=__doc__,
    tasks=lambda: ["modular"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
