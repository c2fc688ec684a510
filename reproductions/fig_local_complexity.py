"""Local complexity around the training points over training, as the setting varies (Humayun et al. 2024, section 4).

MNIST, 1,000 images, the network of `fig_delayed_robustness`; one setting is changed at a time: depth, width, weight
decay, label noise, training-set size, init scale. The count falls after the start, climbs towards interpolation and
descends again. The paper (Table 1): more parameters hasten grokking, more randomly labelled images delay it. Its
networks, radius and steps are others, and it does not vary the share of random labels (reproductions/differences.md).
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, stack
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.style import HEIGHT, WIDTH
from reproductions.claims.local_complexity import CLAIMS, lc
from reproductions.experiments import local_complexity
from reproductions.paper import HUMAYUN
from reproductions.robust_panels import over_steps

COLOURS = ("#56B4E9", "#0072B2", "#E69F00", "#D55E00")


def sweep(options: Options) -> Groups:
    return local_complexity.runs(options)


def tables(runs: Frames, options: Options) -> Tables:
    parts = [
        curves[CURVE_FIELDS].assign(varied=what, setting=value)
        for what, values in runs.items()
        for value, curves in values.items()
    ]
    return {"curves": stack(parts)}


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(2, 3, figsize=(3.4 * WIDTH, 2.2 * HEIGHT), sharex=True)
    for ax, (what, values) in zip(axes.flat, local_complexity.VARIED.items(), strict=True):
        for colour, value in zip(COLOURS, values, strict=False):
            over_steps(ax, lc(tables, what, value), colour, f"{what} {value:g}")
        ax.set(xscale="log", yscale="log", xlabel="optimizer steps", ylabel="local complexity, training points")
        ax.legend(fontsize=8)
    return figure


FIGURE = Reproduction(
    name="fig_local_complexity",
    paper=f"{HUMAYUN}, section 4",
    doc=__doc__,
    tasks=lambda: ["mnist"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
