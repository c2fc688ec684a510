"""What `fig_representation` measures and claims: the contour's angle, and where on the map the test loss is low."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from omnigrok.analysis import one_value_each, reduced, stack, surface
from omnigrok.claims import Between, Claim, Tables, at_least, at_most, last_over_first
from omnigrok.figures.figure import Frames
from reproductions.paper import cited

CONTOUR = 0.02
STAR, CROSS = (cited("fig6", "derived", f"{name} norm") for name in ("generalising", "overfitting"))


def with_messiness(frames: Frames) -> pd.DataFrame:
    """Reduced losses of curves by messiness, with a column for it."""
    parts = []
    for m, curves in frames.items():
        part = reduced(curves)
        parts.append(part[part["metric"] == "loss"].assign(messiness=m))
    return stack(parts).query("statistic == 'last'")  # "best" in the published code is the last


def contour(losses: pd.DataFrame) -> pd.Series:
    """For each messiness, the smallest norm from which the train loss (one size, one seed) lies below the contour."""

    def crossing(column: pd.Series) -> float:
        y, x = np.log(column.to_numpy()), column.index.to_numpy()
        above = np.flatnonzero(y > np.log(CONTOUR))
        if len(above) == 0 or above[-1] == len(y) - 1:
            return np.nan
        i = above[-1]
        return float(x[i] + (y[i] - np.log(CONTOUR)) / (y[i] - y[i + 1]) * (x[i + 1] - x[i]))

    train = surface(losses[losses["split"] == "train"], "alpha", "messiness")
    return pd.Series({m: crossing(column) for m, column in train.items()}).dropna()


def angles(table: pd.DataFrame) -> pd.DataFrame:
    """Angle in degrees between the contour and the norm's axis, in their own units: sizes down, seeds across."""

    def angle(losses: pd.DataFrame) -> float:
        line = contour(losses)
        lean = np.polyfit(line.index, line, 1)[0] if len(line) > 1 else np.nan  # norm a unit of messiness
        return float(np.degrees(np.arctan2(1, lean)))

    sizes = table.groupby("n_train")
    return pd.DataFrame({n: {s: angle(part) for s, part in t.groupby("seed")} for n, t in sizes}).T


def on_the_map(tables: Tables, split: str) -> pd.DataFrame:
    """Losses of the coarse map, each told by norm, messiness and seed."""
    return one_value_each(tables["map"].query("split == @split"), "alpha", "messiness", "seed")


def lowest(tables: Tables, column: str) -> pd.Series:
    """Where on the coarse map the test loss is lowest."""
    test = on_the_map(tables, "test")
    return test.loc[test.groupby("seed")["value"].idxmin()].set_index("seed")[column]


def fitting_norm(tables: Tables, messiness: float) -> pd.Series:
    """Smallest norm of the coarse map with train loss below 0.01, at the nearest messiness; not a number: at none."""
    train = on_the_map(tables, "train")
    nearest = min(train["messiness"].unique(), key=lambda m: abs(m - messiness))
    losses = surface(train[train["messiness"] == nearest], "alpha", "seed")
    return losses.apply(lambda column: column.index[column < 0.01].min())


def leaning(tables: Tables) -> pd.Series:
    """Spearman's rank correlation, rounded: of four sizes it is a multiple of 0.2."""
    theta = angles(tables["contours"])
    return theta.apply(lambda column: round(spearmanr(column.index, column).statistic, 6))


def best(tables: Tables) -> pd.DataFrame:
    """Lowest test loss over the norms: messiness down, seeds across."""
    return on_the_map(tables, "test").groupby(["messiness", "seed"])["value"].min().unstack()


def messy_over_ordered(tables: Tables) -> pd.Series:
    """Test loss at the norm of the paper's generalising solution, at the two ends of the messiness."""
    test = on_the_map(tables, "test")
    alpha = min(test["alpha"].unique(), key=lambda a: abs(a - STAR))
    return last_over_first(surface(test[test["alpha"] == alpha], "messiness", "seed"))


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
        "overfitting-norm", "Smallest alpha with train loss below 0.01 at the messiness nearest 0.8 over that at 0",
        SOURCE, at_least(1, paper=cited("fig6", "derived", "overfitting over generalising norm")),
        lambda t: fitting_norm(t, 0.8) / fitting_norm(t, 0.0),
    ),
    Claim(
        "barrier", "Lowest test loss at messiness 1 over that at messiness 0, at any norm", SOURCE, at_least(2),
        lambda t: last_over_first(best(t)),
    ),
    Claim(
        "order-matters", "Test loss at alpha about 3: at messiness 1 over that at messiness 0", SOURCE,
        at_least(2, paper=cited("fig6", "derived", "test loss at messiness 1 over messiness 0")), messy_over_ordered,
    ),
]  # fmt: skip
