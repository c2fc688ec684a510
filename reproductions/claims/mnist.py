"""MNIST: the shape of the error over norm and N, and when the run generalises."""

from __future__ import annotations

import pandas as pd
from scipy.stats import spearmanr

from omnigrok.analysis import basin_width, first_reached, pick, row, value_at
from omnigrok.claims import NOTHING, Between, Claim, Tables, at_least, at_most
from omnigrok.figures.figure import Options
from reproductions import landscapes
from reproductions.experiments.lu import ALPHA_8
from reproductions.experiments.mnist import LU, UU
from reproductions.paper import cited

LEVELS = (0.1, 0.2, 0.3, 0.4)


def error(tables: Tables, n: int, split: str, statistic: str) -> pd.DataFrame:
    return pick(landscapes.of_size(tables["maps"], n), "mnist", split, "error", statistic)


def width_correlation(tables: Tables, statistic: str) -> pd.Series:
    """Spearman's rank correlation of N and the width of the basin with test error below the outermost contour."""

    def widths(part: pd.DataFrame) -> pd.Series:
        return pick(part, "mnist", "test", "error", statistic).apply(lambda e: basin_width(e.index, e, LEVELS[-1]))

    table = landscapes.per_size(tables["maps"], widths)
    if len(table) < 2:
        return NOTHING
    return table.apply(lambda width: spearmanr(table.index, width).statistic)


SIGNIFICANT = 0.738  # Spearman's rho with p < 0.05 for 8 sizes
RUN, MAPS = "Liu 2023 Fig. 3d", "Liu 2023 Fig. 3a to c"


def at(name: str, step: int) -> float:
    """The paper's value of its grokking run at a step."""
    return cited("fig3", "grokking", name, step)


GROKKING = [
    Claim(
        "memorises", "First step with train accuracy 1.0", RUN,
        at_most(3000, paper=cited("fig3", "derived", "memorised")),
        lambda t: first_reached(t["curves"], "train", "accuracy", 1.0),
    ),
    Claim(
        "chance", "Test accuracy at step 6,000", RUN, at_most(0.25, paper=at("test accuracy", 6_000)),
        lambda t: value_at(t["curves"], "test", "accuracy", 6_000),
    ),
    Claim(
        "generalises", "Test accuracy at step 60,000", RUN, at_least(0.84, paper=at("test accuracy", 60_000)),
        lambda t: value_at(t["curves"], "test", "accuracy", 60_000),
    ),
    Claim(
        "norm", "Weight norm at step 20,000", RUN, Between(72.1, 76.1, paper=at("weight norm", 20_000)),
        lambda t: value_at(t["curves"], "parameters", "weight_norm", 20_000),
    ),
    Claim(
        "plateau", "Test accuracy at step 100,000 (paper preset)", RUN,
        at_least(0.86, paper=at("test accuracy", 100_000)),
        lambda t: value_at(t["curves"], "test", "accuracy", 100_000),
    ),
    Claim(
        "final-norm", "Weight norm at step 100,000 (paper preset)", RUN,
        Between(48, 56, paper=at("weight norm", 100_000)),
        lambda t: value_at(t["curves"], "parameters", "weight_norm", 100_000),
    ),
]  # fmt: skip


def claims(options: Options) -> list[Claim]:
    read = options.statistic
    return [
        *GROKKING,
        Claim(
            "lu", "N = 200: test error at alpha = 8", MAPS,
            at_least(0.6, paper=cited("fig3", "slice N=200", "test error", 8)),
            lambda t: row(error(t, LU, "test", read), ALPHA_8),
        ),
        Claim(
            "uu", "N = 8,000: test error at alpha = 8", MAPS,
            at_most(0.15, paper=cited("fig3", "slice N=8000", "test error", 8)),
            lambda t: row(error(t, UU, "test", read), ALPHA_8),
        ),
        Claim(
            "critical-size", "N = 10: lowest test error at any norm", MAPS, at_least(0.5, paper=None),
            lambda t: error(t, 10, "test", read).min(),
        ),
        Claim(
            "widens", "Rank correlation of N and the width of the basin of test error 0.4", MAPS,
            at_least(SIGNIFICANT, paper=cited("fig3", "derived", "rank correlation of basin width and N")),
            lambda t: width_correlation(t, read),
        ),
    ]  # fmt: skip
