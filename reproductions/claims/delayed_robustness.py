"""Delayed robustness: ascent and second descent of local complexity, the rise of accuracy under attack."""

from __future__ import annotations

import pandas as pd

from omnigrok.analysis import curve, value_at
from omnigrok.claims import NOTHING, Claim, Tables, at_least, at_most, at_the_end, together
from reproductions.claims.curves import by_seed, first_at, lasts, peak
from reproductions.experiments.robust import CIFAR_EPS, MAIN

MAIN_EPS = {"mnist": MAIN, "cifar10": CIFAR_EPS[-1]}  # the radius that the claims are about
EARLY, LATE = 50, 9_000  # steps after which the second ascent is looked for, and the rise


def lc(tables: Tables, task: str = "mnist") -> pd.DataFrame:
    return curve(tables["curves"].query("task == @task"), "probe", "lc_train")


def robust(tables: Tables, name: str = "robust", task: str = "mnist") -> pd.DataFrame:
    return curve(tables["curves"].query("task == @task"), "probe", f"{name}_{MAIN_EPS[task]:g}")


def ascent(tables: Tables, task: str = "mnist") -> pd.Series:
    """Local complexity at its peak after the first descent, over its lowest value before the peak."""
    values = lc(tables, task)
    if not lasts(values, EARLY):
        return NOTHING
    at = peak(values, EARLY)
    return pd.Series({s: column[at[s]] / column[column.index <= at[s]].min() for s, column in by_seed(values)})


def descent(tables: Tables) -> pd.Series:
    """Local complexity at the end over that at its peak after the first descent."""
    values = lc(tables)
    if not lasts(values, EARLY):
        return NOTHING
    return values.iloc[-1] / values[values.index >= EARLY].max()


def rise(tables: Tables, task: str = "mnist", name: str = "robust") -> pd.Series:
    curves, metric = tables["curves"].query("task == @task"), f"{name}_{MAIN_EPS[task]:g}"
    end, late = together(at_the_end(curve(curves, "probe", metric)), value_at(curves, "probe", metric, LATE))
    return end - late


def order(tables: Tables) -> pd.Series:
    """Step at which local complexity has halved from its peak, over the step of the half-rise of robust accuracy.

    Both at the same logged step decide nothing: which came first lies between two evaluations.
    """
    values, accuracy = lc(tables), robust(tables)
    if not lasts(values, EARLY):
        return NOTHING
    late = accuracy[accuracy.index >= EARLY]
    half = (late.min() + late.iloc[-1]) / 2
    halved = first_at(values, values[values.index >= EARLY].max() / 2, after=peak(values, EARLY), below=True)
    ratios = halved / first_at(accuracy, half, after=late.idxmin())
    return ratios.mask(ratios == 1)


SOURCE, OWN = "Humayun 2024", "this suite, after Humayun 2024"

CLAIMS = [
    Claim("ascent", "Local complexity climbs again: its peak after step 50 over the lowest value before", SOURCE,
          at_least(1.1), ascent),
    Claim("second-descent", "Local complexity at the end over that peak", SOURCE, at_most(0.5), descent),
    Claim("rise", "Rise of the accuracy under plain PGD 0.1, a weak attack, after step 9,000", SOURCE,
          at_least(0.1), rise),
    Claim("order", "Logged step at which local complexity has halved over that of the half-rise under plain PGD",
          SOURCE, at_most(1), order),
    Claim("no-masking", "Accuracy under plain PGD 0.1 less that under the stronger attack, at the end", OWN,
          at_most(0.05), lambda t: at_the_end(robust(t) - robust(t, "margin"))),
    Claim("rise-margin", "Rise of the accuracy under the stronger attack of radius 0.1 after step 9,000", OWN,
          at_least(0.1), lambda t: rise(t, name="margin")),
    Claim("cifar-ascent", "CIFAR-10: peak of local complexity after step 50 over the lowest value before", SOURCE,
          at_least(1.1), lambda t: ascent(t, "cifar10")),
    Claim("cifar-rise", "CIFAR-10: rise of the accuracy under plain PGD 0.039 after step 9,000", SOURCE, at_least(0.1),
          lambda t: rise(t, "cifar10")),
]  # fmt: skip
