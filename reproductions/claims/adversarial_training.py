"""Adversarial training: how much later than clean accuracy robustness comes."""

from __future__ import annotations

import pandas as pd

from omnigrok.analysis import curve
from omnigrok.claims import Claim, Tables, at_least, at_most
from reproductions.claims.curves import at_steps, first_at
from reproductions.experiments.robust import MAIN


def half_rise(tables: Tables, split: str, metric: str) -> pd.Series:
    """First step at half of the final value."""
    values = curve(tables["adversarial"], split, metric)
    return first_at(values, values.iloc[-1] / 2)


def later(tables: Tables, attack: str) -> pd.Series:
    return half_rise(tables, "probe", f"{attack}_{MAIN:g}") / half_rise(tables, "test", "accuracy").clip(lower=1)


def fall(tables: Tables) -> pd.Series:
    """Local complexity at the half-rise of robust accuracy over that at the half-rise of training accuracy."""
    values = curve(tables["adversarial"], "probe", "lc_train")
    start, end = half_rise(tables, "train", "accuracy"), half_rise(tables, "probe", f"robust_{MAIN:g}")
    return at_steps(values, end) / at_steps(values, start)


SOURCE = "this suite"

CLAIMS = [
    Claim("later", "Steps to half the final accuracy under attack over those to half the final clean accuracy", SOURCE,
          at_least(3), lambda t: later(t, "robust")),
    Claim("later-strong", "The same under the stronger attack", SOURCE, at_least(3), lambda t: later(t, "margin")),
    Claim("falls", "Local complexity at the robust half-rise over that at the half-rise of training accuracy", SOURCE,
          at_most(0.5), fall),
    Claim("robust", "Accuracy under PGD 0.1 at the end", SOURCE, at_least(0.5),
          lambda t: curve(t["adversarial"], "probe", f"robust_{MAIN:g}").iloc[-1]),
    Claim("robust-strong", "Accuracy under the stronger attack at the end", SOURCE, at_least(0.5),
          lambda t: curve(t["adversarial"], "probe", f"margin_{MAIN:g}").iloc[-1]),
]  # fmt: skip
