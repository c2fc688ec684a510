"""QM9: the fall of the test loss long after the training loss, and where it is lowest."""

from __future__ import annotations

import pandas as pd

from omnigrok.analysis import critical_alpha, curve, pick, value_at
from omnigrok.claims import Between, Claim, Tables, at_least, at_most, at_the_end, ratio
from omnigrok.figures.figure import Options
from reproductions import landscapes
from reproductions.experiments.qm9 import LARGE, MOST, SMALL, USUAL
from reproductions.paper import cited


def at(tables: Tables, alpha: float, split: str, step: int) -> pd.Series:
    return value_at(tables["curves"].query("alpha == @alpha"), split, "loss", step)


def fall_after(tables: Tables, alpha: float, step: int) -> pd.Series:
    """Test loss at a step over its lowest value later on."""
    test = curve(tables["curves"].query("alpha == @alpha"), "test", "loss")
    return ratio(at(tables, alpha, "test", step), test[test.index > step].min())


def late(tables: Tables, alpha: float) -> pd.Series:
    """Lowest test loss in the last tenth of the steps: at the very end a run may be in one of Adam's spikes."""
    test = curve(tables["curves"].query("alpha == @alpha"), "test", "loss")
    return test[test.index >= 0.9 * test.index.max()].min()


def most_minimum(tables: Tables, statistic: str) -> pd.Series:
    return critical_alpha(landscapes.of_size(tables["maps"], MOST), "qm9", statistic=statistic)


def right_wall(tables: Tables, n: int, split: str, statistic: str) -> pd.Series:
    """Reduced loss at the largest norm over the lowest."""
    losses = pick(landscapes.of_size(tables["maps"], n), "qm9", split, "loss", statistic)
    return ratio(at_the_end(losses), losses.min())


RUN, MAPS = "Liu 2023 Fig. 5d", "Liu 2023 Fig. 5a to c"


def claims(options: Options) -> list[Claim]:
    def derived(name: str) -> float:
        return cited("fig5", "derived", name)

    return [
        Claim(
            "gap", "alpha = 3: test over train MSE at step 5,000", RUN,
            at_least(10, paper=derived("test over train at 5000")),
            lambda t: at(t, LARGE, "test", 5_000) / at(t, LARGE, "train", 5_000),
        ),
        Claim(
            "falls", "alpha = 3: test MSE at step 5,000 over its lowest value later", RUN,
            at_least(10, paper=derived("fall after 5000")), lambda t: fall_after(t, LARGE, 5_000),
        ),
        Claim(
            "no-delay", "alpha = 1: test MSE at step 1,000 over its lowest value later", RUN,
            at_most(2, paper=derived("alpha 1 fall after 1000")), lambda t: fall_after(t, USUAL, 1_000),
        ),
        Claim(
            "stays-above", "Lowest test MSE of the last tenth of the steps, alpha = 3 over alpha = 1", RUN,
            at_least(1, paper=derived("final test alpha 3 over alpha 1")), lambda t: late(t, LARGE) / late(t, USUAL),
        ),
        Claim(
            "train-wall", "N = 50: reduced train MSE at alpha = 10 over its minimum", MAPS,
            at_least(10, paper=derived("N=100 train wall")), lambda t: right_wall(t, SMALL, "train", options.statistic),
        ),
        Claim(
            "most-minimum", "N = 1,200: the reduced test MSE is lowest at alpha", MAPS,
            Between(0.7, 2, paper=derived("N=3000 test minimum alpha")),
            lambda t: most_minimum(t, options.statistic),
        ),
    ]  # fmt: skip
