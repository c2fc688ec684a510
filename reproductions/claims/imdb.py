"""IMDb: accuracy when the reviews are memorised and later, and where the error is lowest."""

from __future__ import annotations

import pandas as pd

from omnigrok.analysis import curve, first_reached, pick
from omnigrok.claims import Between, Claim, Tables, at_least, at_most, at_the_end, last_over_first
from omnigrok.figures.figure import Options
from reproductions import landscapes
from reproductions.claims.curves import at_steps
from reproductions.experiments.imdb import LARGE, USUAL
from reproductions.paper import cited

MEMORISED, FITTED = 0.95, 0.99  # train accuracy


def when_memorised(tables: Tables, alpha: float, memorised: float = MEMORISED) -> pd.Series:
    """Test accuracy at the first logged step with that train accuracy, a value a seed."""
    curves = tables["curves"].query("alpha == @alpha")
    return at_steps(curve(curves, "test", "accuracy"), first_reached(curves, "train", "accuracy", memorised))


def final(tables: Tables, alpha: float) -> pd.Series:
    """Test accuracy at the end."""
    return at_the_end(curve(tables["curves"].query("alpha == @alpha"), "test", "accuracy"))


def rise(tables: Tables, alpha: float) -> pd.Series:
    """Test accuracy at the end less that at memorisation."""
    return final(tables, alpha) - when_memorised(tables, alpha)


def critical_ratio(tables: Tables, statistic: str) -> pd.Series:
    """Critical norm at the largest training set over that at the smallest."""
    return last_over_first(landscapes.critical_by_size(tables["maps"], "imdb", "error", statistic))


def lowest(tables: Tables, n: int, statistic: str) -> pd.Series:
    return pick(landscapes.of_size(tables["maps"], n), "imdb", "test", "error", statistic).min()


RUN, MAPS = "Liu 2023 Fig. 4d", "Liu 2023 Fig. 4a to c"


def claims(options: Options) -> list[Claim]:
    def derived(name: str) -> float:
        return cited("fig4", "derived", name)

    return [
        Claim(
            "chance", "alpha = 6: test accuracy's distance from chance when train accuracy is 0.95", RUN,
            at_most(0.05, paper=derived("alpha 6 distance from chance")),
            lambda t: (when_memorised(t, LARGE) - 0.5).abs(),
        ),
        Claim(
            "rises", "alpha = 6: later rise of the test accuracy", RUN, at_least(0.10, paper=derived("alpha 6 rise")),
            lambda t: rise(t, LARGE),
        ),
        Claim(
            "at-chance", "alpha = 6: test accuracy when train accuracy first reaches 0.99", RUN,
            at_most(0.5, paper=cited("fig4", "alpha 6", "test accuracy", 300)),
            lambda t: when_memorised(t, LARGE, FITTED),
        ),
        Claim(
            "generalises", "alpha = 6: test accuracy at the end", RUN,
            at_least(0.68, paper=cited("fig4", "alpha 6", "test accuracy", 70_000)), lambda t: final(t, LARGE),
        ),
        Claim(
            "no-delay", "alpha = 1: rise of the test accuracy after train accuracy 0.95", RUN,
            at_most(0.05, paper=derived("alpha 1 rise")), lambda t: rise(t, USUAL),
        ),
        Claim(
            "moves-up", "Critical norm at the largest over that at the smallest training set (paper: 37,500 and 750)",
            MAPS, at_least(1, paper=derived("ratio of critical norms N=50000 over N=1000")),
            lambda t: critical_ratio(t, options.statistic),
        ),
        Claim(
            "most-reviews", "Lowest test error with all 50,000 reviews (37,500 for training; no preset has them)", MAPS,
            Between(0.13, 0.19, paper=derived("N=50000 lowest test error")),
            lambda t: lowest(t, 37_500, options.statistic),
        ),
    ]  # fmt: skip
