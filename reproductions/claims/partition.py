"""Partitions: what becomes of regions, their boundaries and the decision boundary."""

from __future__ import annotations

import pandas as pd

from omnigrok.analysis import curve, value_at
from omnigrok.claims import Claim, Tables, at_least, at_most, at_the_end, ratio

FROM = 1_000  # the step that the end is compared with: the training set is interpolated by then


def at_the_end_over(tables: Tables, metric: str) -> pd.Series:
    """The last value over that at step FROM, seed by seed."""
    return ratio(
        at_the_end(curve(tables["curves"], "probe", metric)), value_at(tables["curves"], "probe", metric, FROM)
    )


OWN = "this suite, after Humayun 2024"

CLAIMS = [
    Claim("fewer", "Regions on the plane at the end over those at step 1,000", OWN, at_most(0.5),
          lambda t: at_the_end_over(t, "regions")),
    Claim("recede", "Distance of three training images to the nearest boundary: at the end over that at step 1,000",
          OWN, at_least(2), lambda t: at_the_end_over(t, "boundary_distance")),
    Claim("margin", "Distance of three training images to the decision boundary: at the end over that at step 1,000",
          OWN, at_least(1), lambda t: at_the_end_over(t, "decision_distance")),
    Claim("crowd", "Crowding of boundaries at the decision boundary: at the end over that at step 1,000", OWN,
          at_least(1), lambda t: at_the_end_over(t, "crowding")),
]  # fmt: skip
