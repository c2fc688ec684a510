"""Teacher-student: when the large init memorises and generalises, and how fast its norm decays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from omnigrok.analysis import first_reached, value_at
from omnigrok.claims import Between, Claim, Tables, at_least, at_most, ratio
from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from reproductions.claims import lu
from reproductions.experiments.teacher_student import LARGE, SMALL
from reproductions.paper import cited

THRESHOLD = 0.95  # accuracy
DECAYING = (2_000, 20_000)  # steps, about where the paper's log gives the norm


def reached(tables: Tables, alpha: float, split: str) -> pd.Series:
    return first_reached(tables["curves"].query("alpha == @alpha"), split, "accuracy", THRESHOLD)


def delay(tables: Tables, alpha: float) -> pd.Series:
    return reached(tables, alpha, "test") / reached(tables, alpha, "train").clip(lower=1)


def decay_rate(tables: Tables) -> pd.Series:
    """Rate at which the norm decays, over learning rate times weight decay."""
    spec = get_task("teacher_student").spec
    chosen = tables["curves"].query("alpha == @LARGE")
    first, last = (value_at(chosen, "parameters", "weight_norm", step) for step in DECAYING)
    rate = ratio(first, last).map(np.log) / (DECAYING[1] - DECAYING[0])
    return rate / (spec.lr * spec.weight_decay)


SOURCE = "Liu 2023 Fig. 2"


def claims(options: Options) -> list[Claim]:
    def on_sphere(claim: Claim) -> Claim:
        """The claim on the landscape of the reading."""
        return dataclasses.replace(claim, measure=lambda t: claim.measure({"landscapes": t[options.reading]}))

    return [
        *map(on_sphere, lu.TEACHER_STUDENT),
        Claim(
            "memorises", "alpha = 2: first step with train accuracy 0.95", SOURCE,
            at_most(1_000, paper=cited("fig2", "derived", "memorised")), lambda t: reached(t, LARGE, "train"),
        ),
        Claim(
            "groks", "alpha = 2: first step with test accuracy 0.95", SOURCE,
            at_least(20_000, paper=cited("fig2", "derived", "generalised")), lambda t: reached(t, LARGE, "test"),
        ),
        Claim(
            "delay", "alpha = 2: steps to test accuracy 0.95 over those to train accuracy 0.95", SOURCE,
            at_least(30, paper=cited("fig2", "derived", "delay")), lambda t: delay(t, LARGE),
        ),
        Claim(
            "no-delay", "alpha = 0.5: steps to test accuracy 0.95 over those to train accuracy 0.95", SOURCE,
            at_most(3), lambda t: delay(t, SMALL),
        ),
        Claim(
            "decay-rate", "alpha = 2: rate of the norm's decay over learning rate times weight decay", SOURCE,
            Between(0.9, 1.1, paper=cited("fig2", "derived", "decay rate over lr wd")), decay_rate,
        ),
    ]  # fmt: skip
