"""The papers' own numbers, from ``paper_values.csv``: one row a value, each with its source and uncertainty."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

LIU = "Liu, Michaud, Tegmark: Omnigrok: Grokking Beyond Algorithmic Data (ICLR 2023)"
HUMAYUN = "Humayun, Balestriero, Baraniuk: Deep Networks Always Grok and Here is Why (ICML 2024)"


@cache
def all_paper_values() -> pd.DataFrame:
    """Columns figure, panel, series, x, y, uncertainty, source (repository output, digitised or text)."""
    return pd.read_csv(Path(__file__).with_name("paper_values.csv"))


def paper_panel(figure: str, panel: str) -> dict[str, pd.DataFrame]:
    """The series of one panel of a paper, each by x; none when the paper has no such panel."""
    chosen = all_paper_values().query("figure == @figure and panel == @panel")
    return {str(series): values.sort_values("x") for series, values in chosen.groupby("series")}


class Cited(float):
    """A value of the paper with the row of ``paper_values.csv`` that it stands in: figure/panel/series/x."""

    row: str


def cited(figure: str, panel: str, series: str, x: float | None = None) -> Cited:
    """The stored value of a paper; without x, of a series that has one value.

    Raises:
        KeyError: there is no such row.
    """
    rows = paper_panel(figure, panel)[series]
    if x is not None:
        rows = rows[rows["x"] == x]
    if len(rows) != 1:
        raise KeyError(f"paper_values.csv has {len(rows)} rows {figure}, {panel}, {series}, {x}")
    value = Cited(rows["y"].item())
    value.row = "/".join([figure, panel, series, *([] if x is None else [f"{x:g}"])])
    return value
