"""The claims that `fig_lu` tests."""

from __future__ import annotations

import pandas as pd

from omnigrok.analysis import critical_alpha, pick, row
from omnigrok.claims import Between, Claim, Tables, at_least, at_most, ratio
from omnigrok.figures.figure import Options
from reproductions.experiments.lu import ALPHA_8
from reproductions.paper import cited

INSIDE = (0.017, 9.5)  # neither end of the grid


def surface(tables: Tables, task: str, split: str, metric: str, statistic: str = "last") -> pd.DataFrame:
    return pick(tables["landscapes"], task, split, metric, statistic)


def mnist(tables: Tables, split: str, statistic: str) -> pd.DataFrame:
    return surface(tables, "mnist", split, "error", statistic)


def ts_wall(tables: Tables) -> pd.Series:
    losses = surface(tables, "teacher_student", "test", "loss")
    return ratio(row(losses, 10.0), losses.min())


FIG2, FIG3 = "Liu 2023 Fig. 2", "Liu 2023 Fig. 3"
FIG4, FIG5 = "Liu 2023 Fig. 4", "Liu 2023 Fig. 5"


TEACHER_STUDENT = [
    Claim(
        "ts-minimum", "Teacher-student: the reduced test loss is lowest at alpha", FIG2,
        Between(0.6, 1.1, paper=cited("fig2", "derived", "test minimum alpha")),
        lambda t: critical_alpha(t["landscapes"], "teacher_student"),
    ),
    Claim(
        "ts-wall", "Teacher-student: test loss at alpha = 10 over its minimum", FIG2,
        at_least(1e5, paper=cited("fig2", "derived", "wall")), ts_wall,
    ),
    Claim(
        "ts-floor", "Teacher-student: highest train loss for alpha >= 0.63", FIG2,
        at_most(1e-5, paper=cited("fig2", "derived", "highest train loss")),
        lambda t: surface(t, "teacher_student", "train", "loss")[0.63:].max(),
    ),
]  # fmt: skip


def claims(options: Options) -> list[Claim]:
    read = options.statistic
    return [
        *TEACHER_STUDENT,
        Claim(
            "mnist-minimum", "MNIST, N = 200: the reduced test error is lowest at alpha", FIG3,
            Between(0.7, 2, paper=cited("fig3", "derived", "N=200 test minimum alpha")),
            lambda t: critical_alpha(t["landscapes"], "mnist", "error", read),
        ),
        Claim(
            "mnist-lowest", "MNIST, N = 200: lowest reduced test error", FIG3,
            Between(0.15, 0.22, paper=cited("fig3", "derived", "N=200 lowest test error")),
            lambda t: mnist(t, "test", read).min(),
        ),
        Claim(
            "mnist-overfit", "MNIST, N = 200: test error at alpha = 8", FIG3,
            at_least(0.6, paper=cited("fig3", "slice N=200", "test error", 8)),
            lambda t: row(mnist(t, "test", read), ALPHA_8),
        ),
        Claim(
            "mnist-floor", "MNIST, N = 200: highest train error for alpha >= 1", FIG3,
            at_most(0.01, paper=cited("fig3", "derived", "N=200 highest train error from alpha 1")),
            lambda t: mnist(t, "train", read)[1.0:].max(),
        ),
        Claim(
            "mnist-floor-last", "MNIST, N = 200: train error for alpha >= 1 at the last step", FIG3,
            at_most(0.01, paper=cited("fig3", "derived", "N=200 highest train error from alpha 1")),
            lambda t: mnist(t, "train", "last")[1.0:].max(),
        ),
        Claim(
            "imdb-minimum", "IMDb, N = 750: the reduced test error is lowest at alpha", FIG4,
            Between(*INSIDE, paper=cited("fig4", "derived", "N=1000 test minimum alpha")),
            lambda t: critical_alpha(t["landscapes"], "imdb", "error", read),
        ),
        Claim(
            "qm9-minimum", "QM9, N = 50: the reduced test loss is lowest at alpha", FIG5,
            Between(0.7, 2, paper=cited("fig5", "derived", "N=100 test minimum alpha")),
            lambda t: critical_alpha(t["landscapes"], "qm9", statistic=read),
        ),
    ]  # fmt: skip
