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


def paper_panel(figure: str, panel: str) -> dict[str, pd.DataFrame]:
    """The series of one panel of a paper, each by x; none when the paper has no such panel."""
    chosen = all_paper_values().query("figure == @figure and panel == @panel")
    return {str(series): values.sort_values("x") for series, values in chosen.groupby("series")}
