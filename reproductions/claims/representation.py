"""What `fig_representation` measures and claims: the contour's angle, and where on the map the test loss is low."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from omnigrok.claims import Between, Claim, Tables, at_least, at_most
from reproductions.paper import cited

CONTOUR = 0.02
STAR, CROSS = (cited("fig6", "derived", f"{name} norm") for name in ("generalising", "overfitting"))


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
