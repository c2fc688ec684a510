"""MNIST with templates: whether the critical norm moves, and the loss along the paper's path."""

from __future__ import annotations

import pandas as pd

from omnigrok.analysis import critical_alpha, row, surface
from omnigrok.claims import Claim, Tables, at_least, at_most, ratio
from omnigrok.figures.figure import Options
from reproductions.paper import cited

POINTS = {"A": (1.0, 1.0), "B": (3.0, 0.97), "C": (2.5, 0.0)}


def critical(tables: Tables, messiness: float, statistic: str) -> pd.Series:
    part = tables["maps"].query("messiness == @messiness")
    return critical_alpha(part, "mnist_templates", "loss", statistic)


def shift(tables: Tables, statistic: str) -> pd.Series:
    return (critical(tables, 1.0, statistic) - critical(tables, 0.0, statistic)).abs()


def along_path(tables: Tables, statistic: str) -> pd.DataFrame:
    """Test loss at alpha = 3 by messiness, seeds across: the way from B to C."""
    chosen = tables["maps"].query("split == 'test' and metric == 'loss' and statistic == @statistic and alpha == 3")
    return surface(chosen, "messiness", "seed")


def barrier(tables: Tables, statistic: str) -> pd.Series:
    """Highest test loss between B (messiness 1) and C (0), over that at B."""
    path = along_path(tables, statistic)
    return ratio(path.max(), row(path, 1.0))


SOURCE = "Liu 2023 Fig. 7"


def claims(options: Options) -> list[Claim]:
    read = options.statistic
    return [
        Claim(
            "one-zone", "Shift of the critical norm (alpha) from messiness 1 to 0", SOURCE,
            at_most(1, paper=cited("fig7", "derived", "shift of the critical norm")), lambda t: shift(t, read),
        ),
        Claim(
            "falls", "alpha = 3: test loss at messiness 1 over that at messiness 0 (B over C)", SOURCE,
            at_least(2, paper=cited("fig7", "derived", "fall from B to C")),
            lambda t: ratio(row(along_path(t, read), 1.0), row(along_path(t, read), 0.0)),
        ),
        Claim(
            "no-barrier", "alpha = 3: highest test loss on the way from B to C over that at B", SOURCE, at_most(1.1),
            lambda t: barrier(t, read),
        ),
    ]  # fmt: skip
