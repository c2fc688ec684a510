"""Modular addition: when the free and the held Transformer memorise and generalise."""

from __future__ import annotations

import pandas as pd

from omnigrok.analysis import first_reached
from omnigrok.claims import Between, Claim, Tables, at_least, at_most, ratio
from reproductions.experiments.modular import BASELINE, CONSTRAINED
from reproductions.paper import cited

THRESHOLD = 0.95  # accuracy


def reached(tables: Tables, table: str, alpha: float, split: str) -> pd.Series:
    """First logged step at 95 % accuracy."""
    return first_reached(tables[table].query("alpha == @alpha"), split, "accuracy", THRESHOLD)


def delay(tables: Tables, table: str, alpha: float) -> pd.Series:
    return reached(tables, table, alpha, "test") - reached(tables, table, alpha, "train")


def derived(name: str) -> float:
    return cited("fig8", "derived", name)


SOURCE = "Liu 2023 Fig. 8"

CLAIMS = [
    Claim(
        "memorises", "Free: first step with train accuracy 0.95", SOURCE,
        at_most(300, paper=derived("memorised")), lambda t: reached(t, "free", BASELINE, "train"),
    ),
    Claim(
        "groks", "Free: first step with test accuracy 0.95", SOURCE,
        Between(4_000, 12_000, paper=derived("generalised")), lambda t: reached(t, "free", BASELINE, "test"),
    ),
    Claim(
        "delay", "Free: steps from train to test accuracy 0.95", SOURCE,
        at_least(3_000, paper=derived("delay")), lambda t: delay(t, "free", BASELINE),
    ),
    Claim(
        "de-groks", "Held at 0.8: first step with test accuracy 0.95", SOURCE,
        at_most(800, paper=derived("held generalised")), lambda t: reached(t, "held", CONSTRAINED, "test"),
    ),
    Claim(
        "no-gap", "Held at 0.8: steps from train to test accuracy 0.95", SOURCE,
        at_most(100, paper=derived("held gap")), lambda t: delay(t, "held", CONSTRAINED),
    ),
    Claim(
        "larger-de-groks-less", "Held at 1.25: steps from train to test accuracy 0.95, over those at 0.8", SOURCE,
        at_least(1), lambda t: ratio(delay(t, "held", 1.25), delay(t, "held", CONSTRAINED)),
    ),
]  # fmt: skip
