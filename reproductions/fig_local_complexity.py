"""Local complexity around the training points over training, as the setting varies (Humayun et al. 2024, section 4).

MNIST, 1,000 images, the network of `fig_delayed_robustness`; one setting is changed at a time: depth, width, weight
decay, label noise, training-set size, init scale. The count falls after the start, climbs towards interpolation and
descends again. The paper (Table 1): more parameters hasten grokking, more randomly labelled images delay it. Its
networks, radius and steps are others, and it does not vary the share of random labels (reproductions/differences.md).
"""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS
from omnigrok.claims import Tables
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.spec import RunSpec
from omnigrok.style import HEIGHT, WIDTH
from reproductions.claims.local_complexity import CLAIMS, lc
from reproductions.robust_runs import HUMAYUN, complexity_probe, mnist, plot

STEPS = {"quick": 20, "default": 10_000, "paper": 100_000}
COLOURS = ("#56B4E9", "#0072B2", "#E69F00", "#D55E00")
VARIED: dict[str, dict[float, Callable[[RunSpec], RunSpec]]] = {
    "depth": {v: lambda s, v=v: with_option(s, "depth", v) for v in (3, 4, 6)},  # type: ignore[misc]
    "width": {v: lambda s, v=v: with_option(s, "width", v) for v in (50, 200, 500)},  # type: ignore[misc]
    "weight decay": {v: lambda s, v=v: s.replace(weight_decay=v) for v in (0.0, 0.01, 0.1, 1.0)},  # type: ignore[misc]
    "label noise": {v: lambda s, v=v: with_option(s, "label_noise", v) for v in (0.0, 0.5, 1.0)},  # type: ignore[misc]
    "training images": {v: lambda s, v=v: s.replace(n_train=v) for v in (250, 1000, 4000)},  # type: ignore[misc]
    "init scale": {v: lambda s, v=v: s.replace(alpha=v) for v in (1.0, 4.0)},  # type: ignore[misc]
}


def with_option(spec: RunSpec, name: str, value: float) -> RunSpec:
    default = {"depth": 4, "width": 200, "label_noise": 0.0}[name]
    if value == default:  # one name for one run
        return spec
    return spec.replace(options=tuple(sorted({**dict(spec.options), name: value}.items())))


def runs(options: Options, what: str, value: float) -> list[RunSpec]:
    quick = options.preset == "quick"
    base = mnist(quick).replace(steps=STEPS[options.preset], probes=(complexity_probe(quick),))
    return [VARIED[what][value](base).replace(seed=seed) for seed in range(options.seeds)]


def sweep(options: Options) -> list[RunSpec]:
    return [s for what, values in VARIED.items() for value in values for s in runs(options, what, value)]


def tables(frame: pd.DataFrame, options: Options) -> Tables:
    parts = [
        runs_of(frame, runs(options, what, value))[CURVE_FIELDS].assign(varied=what, setting=value)
        for what, values in VARIED.items()
        for value in values
    ]
    return {"": pd.concat(parts, ignore_index=True)}


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(2, 3, figsize=(3.4 * WIDTH, 2.2 * HEIGHT), sharex=True)
    for ax, (what, values) in zip(axes.flat, VARIED.items(), strict=True):
        for colour, value in zip(COLOURS, values, strict=False):
            plot(ax, lc(tables, what, value), colour, f"{what} {value:g}")
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
