"""Norm and representation in modular addition: the toy's landscape (Liu et al. 2023, section 4.1 and Fig. 6).

A decoder on its norm sphere reads fixed embeddings that go from a line (messiness 0) to random. Maps: train and test
loss against norm and messiness. The star and the cross are the paper's generalising and overfitting solutions. Below:
the contour of train loss 0.02 for four training-set sizes. In the paper it leans more with more pairs; along it the
norm decays slower by the cosine of its angle, so generalising takes t = (L + h tan(theta)) / gamma, L and h being the
distance in norm and in messiness: as theta nears 90 degrees the time diverges.

The norm is alpha, in units of the default init's; the paper's axis calls it the weight norm. As in the published
notebook the sphere's norm counts the first weight matrix twice; "--reading corrected" counts it once. Messiness is the
paper's axis, 5 times the share of the random embeddings. The default preset trains 6,000 steps, with the published
drops of the learning rate at the same shares of the run, on a coarser grid; the paper preset 15,000 on grids as fine as
published (the zoom's is wider: norms 2 to 4.5 instead of 2.5 to 4, so that no contour leaves it).
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from omnigrok.analysis import reduced
from omnigrok.claims import Between, Claim, Tables, at_least, at_most
from omnigrok.figure import Options, Reproduction, runs_of
from omnigrok.panels import map_panel
from omnigrok.spec import RunSpec
from omnigrok.style import COLOURS, HEIGHT, WIDTH
from omnigrok.task import get_task
from reproductions.paper import LIU, cited

PER_SHARE = 5  # the paper's messiness over the share of random embeddings
STEPS = {"quick": 60, "default": 6_000, "paper": 15_000}
SIZES = {"quick": (25, 54), "default": (25, 35, 45, 54), "paper": (25, 35, 45, 54)}
MAP_SIZE = 45
COARSE = {"quick": (3, 2), "default": (8, 5), "paper": (20, 21)}  # alphas, messinesses
FINE = {"quick": (3, 2), "default": (8, 4), "paper": (21, 21)}
MAP_LEVELS = {"train": (0.001, 0.01, 0.1), "test": (0.5, 1.0, 1.5)}
CONTOUR = 0.02
STAR, CROSS = (cited("fig6", "derived", f"{name} norm") for name in ("generalising", "overfitting"))
PATH_L, PATH_H = CROSS - STAR, 0.8 - 0.03  # from the cross to the star, in norm and messiness
COLOUR_OF_SIZE = ("#56B4E9", "#0072B2", "#E69F00", "#D55E00")


def grid(options: Options, n: int, which: str) -> list[tuple[float, RunSpec]]:
    """(messiness, spec) over norms, messinesses and seeds: the coarse map, or the zoom on the contour."""
    norms, messes = (COARSE if which == "map" else FINE)[options.preset]
    low, high, top = (0.45, 9.0, 1.0) if which == "map" else (2.0, 4.5, 0.5)
    steps = STEPS[options.preset]
    base = get_task("modular_toy").spec.replace(n_train=n, steps=steps, lr_drop=(max(1, steps // 3), 0.2))
    base = base.replace(sphere_first_twice=options.reading == "published")
    return [
        (m, base.replace(alpha=round(float(w), 5), seed=seed, options=(("messiness", round(m / PER_SHARE, 5)),)))
        for m in np.linspace(0, top, messes)
        for w in np.linspace(low, high, norms)
        for seed in range(options.seeds)
    ]


def zooms(options: Options) -> list[tuple[float, RunSpec]]:
    return [pair for n in SIZES[options.preset] for pair in grid(options, n, "zoom")]


def sweep(options: Options) -> list[RunSpec]:
    return [spec for _, spec in [*grid(options, MAP_SIZE, "map"), *zooms(options)]]


def with_messiness(runs: pd.DataFrame, pairs: list[tuple[float, RunSpec]]) -> pd.DataFrame:
    """Reduced losses with a column for the messiness of the run."""
    parts = []
    for m in sorted({m for m, _ in pairs}):
        part = reduced(runs_of(runs, [spec for found, spec in pairs if found == m]))
        parts.append(part[part["metric"] == "loss"].assign(messiness=m))
    return pd.concat(parts, ignore_index=True).query("statistic == 'last'")  # "best" in the published code is the last


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    return {
        "": with_messiness(runs, grid(options, MAP_SIZE, "map")),
        "_contours": with_messiness(runs, zooms(options)),
    }


def contour(losses: pd.DataFrame) -> pd.Series:
    """For each messiness, the smallest norm from which the train loss (one size, one seed) lies below the contour."""

    def crossing(part: pd.DataFrame) -> float:
        part = part.sort_values("alpha")
        y, x = np.log(part["value"].to_numpy()), part["alpha"].to_numpy()
        above = np.flatnonzero(y > np.log(CONTOUR))
        if len(above) == 0 or above[-1] == len(y) - 1:
            return np.nan
        i = above[-1]
        return float(x[i] + (y[i] - np.log(CONTOUR)) / (y[i] - y[i + 1]) * (x[i + 1] - x[i]))

    train = losses[losses["split"] == "train"]
    return pd.Series({m: crossing(part) for m, part in train.groupby("messiness")}).dropna()


def angles(table: pd.DataFrame) -> pd.DataFrame:
    """Angle in degrees between the contour and the norm's axis, in their own units: sizes down, seeds across."""

    def angle(losses: pd.DataFrame) -> float:
        line = contour(losses)
        lean = np.polyfit(line.index, line, 1)[0] if len(line) > 1 else np.nan  # norm a unit of messiness
        return float(np.degrees(np.arctan2(1, lean)))

    sizes = table.groupby("n_train")
    return pd.DataFrame({n: {s: angle(part) for s, part in t.groupby("seed")} for n, t in sizes}).T


def draw(tables: Tables, options: Options) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(2.6 * WIDTH, 2.3 * HEIGHT))
    for ax, split in zip(axes[0], ("train", "test"), strict=True):
        chosen = tables[""].query("split == @split")
        values = chosen.pivot_table(index="messiness", columns="alpha", values="value", aggfunc="median")
        map_panel(ax, values, f"{split} loss", MAP_LEVELS[split], logarithmic=True)
        ax.plot(STAR, 0.03, "*", ms=13, ls="", color="white", mec="black", label="paper: generalises")
        ax.plot(CROSS, 0.8, "X", ms=10, ls="", color="white", mec="black", label="paper: overfits")
        ax.legend(fontsize=8, loc="lower right", frameon=True, framealpha=0.85)
        ax.set(xlabel="relative weight norm $\\alpha$", ylabel="messiness m")
        ax.set_title(f"{split} loss, {MAP_SIZE} of 55 pairs", fontsize=10)
    theta = angles(tables["_contours"])
    for colour, (n, part) in zip(COLOUR_OF_SIZE, tables["_contours"].groupby("n_train"), strict=False):
        lines = pd.DataFrame({seed: contour(losses) for seed, losses in part.groupby("seed")})
        axes[1, 0].plot(lines.median(axis=1), lines.index, marker="o", ms=4, color=colour, label=f"{n} pairs")
        axes[1, 0].fill_betweenx(lines.index, lines.min(axis=1), lines.max(axis=1), color=colour, alpha=0.2, lw=0)
    axes[1, 0].set(xlabel="relative weight norm $\\alpha$", ylabel="messiness m")
    axes[1, 0].set_title(f"contour of train loss {CONTOUR}", fontsize=10)
    axes[1, 0].legend()
    times = theta.map(lambda degrees: PATH_L + PATH_H * np.tan(np.radians(degrees)))
    axes[1, 1].plot(times.index, times, "o", color=COLOURS["norm"], alpha=0.5)
    axes[1, 1].plot(times.index, times.median(axis=1), color=COLOURS["norm"], label="$L + h\\,\\tan\\theta$")
    axes[1, 1].set(xlabel="training pairs", ylabel="predicted time x rate of decay of $\\alpha$", yscale="log")
    axes[1, 1].set_title(
        "\n" + ", ".join(f"$\\theta_{{{n}}}$ = {t:.0f}°" for n, t in theta.median(axis=1).items()), fontsize=9
    )
    axes[1, 1].legend()
    return figure


def lowest(tables: Tables, column: str) -> pd.Series:
    """Where on the coarse map the test loss is lowest."""
    test = tables[""].query("split == 'test'")
    return test.loc[test.groupby("seed")["value"].idxmin()].set_index("seed")[column]


def fitting_norm(tables: Tables, messiness: float) -> pd.Series:
    """Smallest norm of the coarse map with train loss below 0.01, at the nearest messiness."""
    train = tables[""].query("split == 'train'")
    nearest = min(train["messiness"].unique(), key=lambda m: abs(m - messiness))
    fitted = train[(train["messiness"] == nearest) & (train["value"] < 0.01)]
    return fitted.groupby("seed")["alpha"].min()


def leaning(tables: Tables) -> pd.Series:
    """Spearman's rank correlation, rounded: of four sizes it is a multiple of 0.2."""
    theta = angles(tables["_contours"])
    return theta.apply(lambda column: round(spearmanr(column.index, column).statistic, 6))


def best(tables: Tables) -> pd.DataFrame:
    """Lowest test loss over the norms: messiness down, seeds across."""
    return tables[""].query("split == 'test'").groupby(["messiness", "seed"])["value"].min().unstack()


def messy_over_ordered(tables: Tables) -> pd.Series:
    """Test loss at the norm of the paper's generalising solution, at the two ends of the messiness."""
    test = tables[""].query("split == 'test'")
    alpha = min(test["alpha"].unique(), key=lambda a: abs(a - STAR))
    losses = test[test["alpha"] == alpha].pivot_table(index="messiness", columns="seed", values="value")
    return losses.iloc[-1] / losses.iloc[0]


SOURCE = "Liu 2023 Fig. 6"
CLAIMS = [
    Claim(
        "lean", "Rank correlation of the contour's angle and the number of training pairs", SOURCE,
        at_most(-1, paper=cited("fig6", "derived", "rank correlation of contour angle and N")), leaning,
    ),
    Claim(
        "ordered", "Messiness of the lowest test loss", SOURCE,
        at_most(0.2, paper=cited("fig6", "derived", "messiness of the lowest test loss")),
        lambda t: lowest(t, "messiness"),
    ),
    Claim(
        "norm", "Relative norm (alpha) of the lowest test loss", SOURCE,
        Between(2.5, 4.5, paper=cited("fig6", "derived", "norm of the lowest test loss")), lambda t: lowest(t, "alpha"),
    ),
    Claim(
        "overfitting-norm",
        "Smallest alpha with train loss below 0.01 at the messiness nearest 0.8 over that at 0",
        SOURCE,
        at_least(1, paper=cited("fig6", "derived", "overfitting over generalising norm")),
        lambda t: fitting_norm(t, 0.8) / fitting_norm(t, 0.0),
    ),
    Claim(
        "barrier", "Lowest test loss at messiness 1 over that at messiness 0, at any norm", SOURCE, at_least(2),
        lambda t: best(t).iloc[-1] / best(t).iloc[0],
    ),
    Claim(
        "order-matters", "Test loss at alpha about 3: at messiness 1 over that at messiness 0", SOURCE,
        at_least(2, paper=cited("fig6", "derived", "test loss at messiness 1 over messiness 0")), messy_over_ordered,
    ),
]  # fmt: skip


FIGURE = Reproduction(
    name="fig_representation",
    paper=f"{LIU}, Fig. 6",
    doc=__doc__,
    tasks=lambda: ["modular_toy"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
