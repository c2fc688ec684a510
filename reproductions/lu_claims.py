"""The claims that `fig_lu` tests."""

from __future__ import annotations

import pandas as pd

from omnigrok.analysis import critical_alpha, pick
from omnigrok.claims import Between, Claim, Tables, at_least, at_most

ALPHA_8 = 8.0  # where the paper's value on overfitting is stated; not on the log-spaced grid
INSIDE = Between(0.11, 9.5)  # neither end of the grid


def surface(tables: Tables, task: str, split: str, metric: str, statistic: str = "last") -> pd.DataFrame:
    return pick(tables[""], task, split, metric, statistic)


def mnist(tables: Tables, split: str, statistic: str = "best") -> pd.DataFrame:
    """MNIST's error, as published: the best over training."""
    return surface(tables, "mnist", split, "error", statistic)


def ts_wall(tables: Tables) -> pd.Series:
    losses = surface(tables, "teacher_student", "test", "loss")
    return losses.T[10.0] / losses.min()


FIG2, FIG3 = "Liu 2023 Fig. 2, repository output", "Liu 2023 Fig. 3, digitised, best over training"
FIG4, FIG5 = "Liu 2023 Fig. 4, digitised, best over training", "Liu 2023 Fig. 5, digitised"


def claims() -> list[Claim]:
    return [
        Claim(
            "ts-minimum", "teacher_student", "Teacher-student: the reduced test loss is lowest at alpha", FIG2,
            Between(0.6, 1.1, paper=1.0), lambda t: critical_alpha(t[""], "teacher_student"),
        ),
        Claim(
            "ts-wall", "teacher_student", "Teacher-student: test loss at alpha = 10 over its minimum", FIG2,
            at_least(1e4, paper=1.2e5), ts_wall,
        ),
        Claim(
            "ts-floor", "teacher_student", "Teacher-student: highest train loss for alpha >= 0.63", FIG2,
            at_most(1e-5, paper=1e-6), lambda t: surface(t, "teacher_student", "train", "loss")[0.63:].max(),
        ),
        Claim(
            "mnist-minimum", "mnist", "MNIST, N = 200: the reduced test error is lowest at alpha", FIG3,
            Between(0.7, 2, paper=1.5), lambda t: critical_alpha(t[""], "mnist", "error", "best"),
        ),
        Claim(
            "mnist-lowest", "mnist", "MNIST, N = 200: lowest reduced test error", FIG3,
            Between(0.15, 0.24, paper=0.18), lambda t: mnist(t, "test").min(),
        ),
        Claim(
            "mnist-overfit", "mnist", "MNIST, N = 200: test error at alpha = 8", FIG3,
            at_least(0.6, paper=0.79), lambda t: mnist(t, "test").T[ALPHA_8],
        ),
        Claim(
            "mnist-floor", "mnist", "MNIST, N = 200: highest train error for alpha >= 1", FIG3,
            at_most(0.01, paper=0.0), lambda t: mnist(t, "train")[1.0:].max(),
        ),
        Claim(
            "mnist-floor-last", "mnist", "MNIST, N = 200: train error for alpha >= 1 at the last step", FIG3,
            at_most(0.01, paper=0.0), lambda t: mnist(t, "train", "last")[1.0:].max(),
        ),
        Claim(
            "imdb-minimum", "imdb", "IMDb, N = 750: the reduced test error is lowest at alpha", FIG4,
            INSIDE, lambda t: critical_alpha(t[""], "imdb", "error", "best"),
        ),
        Claim(
            "qm9-minimum", "qm9", "QM9, N = 50: the reduced test loss is lowest at alpha", FIG5,
            Between(0.7, 2, paper=1.35), lambda t: critical_alpha(t[""], "qm9"),
        ),
    ]  # fmt: skip
