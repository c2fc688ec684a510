"""The networks of the robustness figures, and what they read off their curves (Humayun et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from omnigrok.analysis import curve
from omnigrok.complexity import ComplexityProbe
from omnigrok.robustness import RobustnessProbe
from omnigrok.spec import RunSpec
from omnigrok.task import get_task

HUMAYUN = "Humayun, Balestriero, Baraniuk: Deep Networks Always Grok and Here is Why (ICML 2024)"
DEPTH, EXAMPLES = 4, 500
EPS = (0.06, 0.1, 0.2)  # pixels in [0, 1]
MAIN = 0.1  # the radius that the claims are about
SHADES = ("#56B4E9", "#0072B2", "#004466")
CIFAR_EPS = (0.0063, 0.0392)  # 8/255 and 50/255 of the published code's normalised inputs, 5 times as large as pixels
LC_COLOURS = {"train": "#D55E00", "test": "#0072B2", "random": "#7F7F7F"}


def mnist(quick: bool, **options: object) -> RunSpec:
    """1,000 images, ReLU network 784-200-200-200-10, squared error, AdamW, lr 1e-3, weight decay 0.01, batch 200."""
    return get_task("mnist").spec.replace(
        alpha=1.0,
        n_train=200 if quick else 1000,
        evaluation_density=1,
        options=tuple(sorted({"depth": DEPTH, **options}.items())),
    )


def cifar10(preset: str) -> RunSpec:
    """CIFAR-10 with Humayun et al.'s ResNet18 and all images, or what 2 cores can train: 1,000 images, a small CNN.

    The published radius of local complexity, 0.005 of normalised inputs, crosses few of the small network's 10,000
    units; it has 0.005 of a pixel.
    """
    published = preset == "paper"
    base = get_task("cifar10").spec
    if not published:
        base = base.replace(n_train=200 if preset == "quick" else 1000, batch_size=100, options=(("network", "cnn"),))
    complexity = ComplexityProbe(radius=0.001 if published else 0.005, points=1024 if published else 50)
    attack = RobustnessProbe(eps=CIFAR_EPS, examples=10_000 if published else 200)
    if preset == "quick":
        complexity = ComplexityProbe(radius=0.005, directions=5, points=10)
        attack = RobustnessProbe(eps=CIFAR_EPS, steps=2, margin_steps=3, examples=20)
    return base.replace(probes=(complexity, attack))


def complexity_probe(quick: bool) -> ComplexityProbe:
    """Radius 0.5, 25 directions. The paper states 0.005, which crosses hardly a unit of this network, and its counts on
    MNIST (Fig. 2, 10, 29, 32) are those of 0.05.
    """
    return ComplexityProbe(radius=0.5, directions=5 if quick else 25, points=20 if quick else 200)


def robustness_probe(quick: bool, eps: Sequence[float] = EPS) -> RobustnessProbe:
    if quick:
        return RobustnessProbe(eps=tuple(eps), steps=3, margin_steps=3, examples=50)
    return RobustnessProbe(eps=tuple(eps), examples=EXAMPLES)


def plot(ax: Axes, values: pd.DataFrame, colour: str, label: str, style: str = "-") -> None:
    """Median over seeds and their range, from step 1."""
    values = values[values.index > 0]
    ax.plot(values.index, values.median(axis=1), color=colour, label=label, ls=style)
    ax.fill_between(values.index, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2, lw=0)


def draw_accuracy(
    ax: Axes, curves: pd.DataFrame, eps: Sequence[float], legend: tuple[float, float] = (0.01, 0.6)
) -> None:
    plot(ax, curve(curves, "train", "accuracy"), LC_COLOURS["train"], "train")
    plot(ax, curve(curves, "test", "accuracy"), "#009E73", "test, clean")
    for shade, e in zip(SHADES if len(eps) > 1 else SHADES[1:], eps, strict=False):
        plot(ax, curve(curves, "probe", f"robust_{e:g}"), shade, f"test, PGD {e:g}")
        plot(ax, curve(curves, "probe", f"margin_{e:g}"), shade, "", ":")
    ax.plot([], [], color="#444444", ls=":", label="stronger attack")
    ax.set(xscale="log", xlabel="optimizer steps", ylabel="accuracy", ylim=(0, 1.03))
    ax.legend(fontsize=8, loc=legend)  # its lower left corner, in shares of the panel


def draw_complexity(ax: Axes, curves: pd.DataFrame) -> None:
    for name, colour in LC_COLOURS.items():
        plot(ax, curve(curves, "probe", f"lc_{name}"), colour, f"{name} points")
    ax.set(xscale="log", xlabel="optimizer steps", ylabel="local complexity (units that change sign)")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)


def first_at(values: pd.DataFrame, level: pd.Series, *, after: pd.Series | int = 0, below: bool = False) -> pd.Series:
    """First logged step, from `after` on, at which a seed's curve is at its level (or below it); inf: never."""
    found = {}
    for seed, whole in by_seed(values):
        column = whole[whole.index >= (after if isinstance(after, int) else after[seed])]
        reached = column <= level[seed] if below else column >= level[seed]
        found[seed] = float(reached.idxmax()) if reached.any() else np.inf
    return pd.Series(found, dtype=float)


def at_steps(values: pd.DataFrame, steps: pd.Series) -> pd.Series:
    """Each seed's value at a step of its own; not a number where that was never reached."""
    return pd.Series({s: column.get(steps[s], np.nan) for s, column in by_seed(values)}, dtype=float)


def lasts(values: pd.DataFrame, step: int) -> bool:
    """Whether there are runs and they are logged at a step or after it."""
    return len(values) > 0 and values.index[-1] >= step


def by_seed(values: pd.DataFrame) -> list[tuple[int, pd.Series]]:
    """The columns of a table of curves, by seed."""
    return [(int(str(seed)), column) for seed, column in values.items()]


def peak(values: pd.DataFrame, after: int) -> pd.Series:
    """The step of the largest value after a step, seed by seed."""
    return values[values.index >= after].idxmax().astype(int)
