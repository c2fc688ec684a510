"""Local complexity: when it has halved from its peak, setting by setting."""

from __future__ import annotations

import numpy as np
import pandas as pd

from omnigrok.analysis import curve
from omnigrok.claims import NOTHING, Claim, Tables, at_least, at_most
from reproductions.claims.curves import first_at, lasts, peak

EARLY = 50  # steps after which the peak is looked for


def lc(tables: Tables, what: str, value: float) -> pd.DataFrame:
    chosen = tables["curves"].query("varied == @what and setting == @value")
    return curve(chosen, "probe", "lc_train")


def halved(tables: Tables, what: str, value: float) -> pd.Series:
    """Step at which local complexity has halved from its peak after the first descent."""
    values = lc(tables, what, value)
    if not lasts(values, EARLY):
        return NOTHING
    return first_at(values, values[values.index >= EARLY].max() / 2, after=peak(values, EARLY), below=True)


def ratio(tables: Tables, what: str, first: float, second: float) -> pd.Series:
    """Of two such steps. One not reached counts as the last step, which bounds the ratio; two decide nothing."""
    steps = pd.DataFrame({"first": halved(tables, what, first), "second": halved(tables, what, second)})
    last = tables["curves"]["step"].max()
    ratios = steps["first"].clip(upper=last) / steps["second"].clip(upper=last)
    return ratios.mask((steps == np.inf).all(axis=1))


SOURCE, OWN = "Humayun 2024 section 4", "this suite, after Humayun 2024 section 4"

CLAIMS = [
    Claim("width", "Width 500 over width 50: step at which local complexity has halved (or the last step)", SOURCE,
          at_most(1), lambda t: ratio(t, "width", 500, 50)),
    Claim("depth", "Depth 6 over depth 3: step at which local complexity has halved (or the last step)", SOURCE,
          at_most(1), lambda t: ratio(t, "depth", 6, 3)),
    Claim("noise", "Random labels over true ones: step at which local complexity has halved (or the last step)", OWN,
          at_least(1), lambda t: ratio(t, "label noise", 1.0, 0.0)),
]  # fmt: skip
