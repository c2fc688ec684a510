"""The papers' own numbers, from ``paper_values.csv``: one row a value, each with its source and uncertainty."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

LIU = "Liu, Michaud, Tegmark: Omnigrok: Grokking Beyond Algorithmic Data (ICLR 2023)"


@cache
def all_paper_values() -> pd.DataFrame:
    """Columns figure, panel, series, x, y, uncertainty, source (repository output, digitised or text)."""
    return pd.read_csv(Path(__file__).with_name("paper_values.csv"))


def paper_values(figure: str, panel: str, series: str) -> pd.DataFrame:
    """One series of the paper, by x; empty when the paper does not show it."""
    chosen = all_paper_values().query("figure == @figure and panel == @panel and series == @series")
    return chosen.sort_values("x")
