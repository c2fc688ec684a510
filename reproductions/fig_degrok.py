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
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, grokking_times
from omnigrok.claims import Tables
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.panels import Run, grokking_panels, times_panel
from omnigrok.spec import RunSpec
from omnigrok.style import HEIGHT, WIDTH
from omnigrok.task import Thresholds, get_task
from reproductions.claims.degrok import BASELINE, CLAIMS, CONSTRAINED, THRESHOLD
from reproductions.paper import LIU, paper_panel

HELD = {
    "quick": (CONSTRAINED, 1.0),
    "default": (0.65, CONSTRAINED, 1.0, 1.25),
    "paper": (0.5, 0.65, CONSTRAINED, 1.0, 1.25, 1.5),
}
STEPS = {"quick": (60, 30), "default": (12_000, 600), "paper": (15_000, 15_000)}


def base(options: Options) -> RunSpec:
    task = get_task("modular")
    return task.spec.replace(
        n_train=options.n_train or task.spec.n_train, dtype="float64" if options.preset == "paper" else "float32"
    )


def free(options: Options) -> list[RunSpec]:
    spec = base(options).replace(steps=STEPS[options.preset][0])
    return [spec.replace(seed=seed) for seed in range(options.seeds)]


def held(options: Options) -> list[RunSpec]:
    spec = base(options).replace(sphere=True, weight_decay=0.0, steps=STEPS[options.preset][1])
    return [spec.replace(alpha=alpha, seed=seed) for alpha in HELD[options.preset] for seed in range(options.seeds)]


def sweep(options: Options) -> list[RunSpec]:
    return free(options) + held(options)


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {"_free": runs_of(runs, free(options))[CURVE_FIELDS], "": runs_of(runs, held(options))[CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    published = options.n_train is None
    figure, axes = plt.subplots(1, 3, figsize=(3.6 * WIDTH, 1.2 * HEIGHT), width_ratios=(1.25, 1.25, 1))
    for ax, table, alpha, title, panel in (
        (axes[0], "_free", BASELINE, "free, weight decay 1", "baseline"),
        (axes[1], "", CONSTRAINED, "held at 0.8 of the norm", "constrained"),
    ):
        run = Run(alpha, title, paper_panel("fig8", panel) if published else {})
        grokking_panels([ax], tables[table], "accuracy", [run], loc="upper left")
    times = grokking_times(tables[""].assign(run=""), Thresholds("accuracy", THRESHOLD, THRESHOLD))
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
