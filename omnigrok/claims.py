"""A claim of a paper, what was measured, and the verdict. Verdicts come from several seeds with an interval.

PASS: the whole interval over seeds (95 % bootstrap of the median) lies in the expected range. DEVIATES: all of it
lies outside.
INCONCLUSIVE: it straddles the border, or there are fewer than MIN_SEEDS seeds, or one of them decides nothing (a ratio
of two times that were both not reached). NOT RUN: the measure says that there is nothing to measure, by an empty
Series or None. With three seeds the interval is their range, which covers the true median with 75 %.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from omnigrok.analysis import bootstrap_interval
from omnigrok.errors import OmnigrokError

Status = Literal["PASS", "DEVIATES", "INCONCLUSIVE", "NOT RUN"]
Tables = dict[str, pd.DataFrame]
MIN_SEEDS = 3
NOTHING: pd.Series = pd.Series(dtype=float)
"""What a measure returns where the tables do not have the runs that it is about."""


class ClaimError(RuntimeError):
    """A claim could not be measured: a fault in its measure or the tables, no verdict. The message names the claim."""


@dataclass(frozen=True)
class Between:
    """An expected range, ends included. `paper` is the paper's own value, where it states or shows one.

    A `paper` with an attribute `row` (a `reproductions.paper.Cited`) says which stored value of the paper it is.
    """

    low: float = -math.inf
    high: float = math.inf
    paper: float | None = None

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"at most {self.high:g}"
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"

    def as_json(self) -> dict[str, Any]:
        ends = {"low": _finite(self.low), "high": _finite(self.high)}
        return {**ends, "paper": self.paper, "paper_row": getattr(self.paper, "row", None)}


def at_least(low: float, paper: float | None = None) -> Between:
    return Between(low=low, paper=paper)


def at_most(high: float, paper: float | None = None) -> Between:
    return Between(high=high, paper=paper)


@dataclass(frozen=True)
class Claim:
    """One statement that a figure tests.

    Attributes:
        source: where the paper says it.
        measure: from the figure's tables by name to one value a seed; not a number: the seed decides nothing; empty or
            None: there is nothing to measure, and the claim is NOT RUN.
    """

    id: str
    statement: str
    source: str
    expect: Between
    measure: Callable[[Tables], Any]  # a Series; pandas types a row of a table as more than that

    def test(self, tables: Tables, figure: str = "") -> dict[str, Any]:
        """The claim with its measurement and verdict, ready for the sidecar; `figure` is named when it fails.

        Raises:
            ClaimError: the measure raised, or gave something else than one number a seed.
        """
        try:
            found = self.measure(tables)
            values = NOTHING if found is None else pd.Series(found, dtype=float)
            if not values.index.is_unique:
                raise ValueError(f"several values a seed: {values.index.tolist()}")
        except Exception as error:
            name = "/".join(filter(None, [figure, self.id]))
            raise ClaimError(f"{name} cannot be measured: {type(error).__name__}: {error}") from error
        return self.judge(values)

    def judge(self, values: pd.Series) -> dict[str, Any]:
        """The claim with the verdict on a value a seed, ready for the sidecar."""
        asked, values = len(values), values.dropna()
        interval = bootstrap_interval(values) if len(values) else None
        return {
            "id": self.id,
            "statement": self.statement,
            "source": self.source,
            "expected": {**self.expect.as_json(), "text": str(self.expect)},
            "measured": _finite(float(np.median(values))) if len(values) else None,
            "interval": [_finite(end) for end in interval] if interval else None,
            "n_seeds": len(values),
            "undecided_seeds": asked - len(values),
            "status": verdict(interval, len(values), self.expect, undecided=asked - len(values)),
        }


def together(*measured: pd.Series) -> tuple[pd.Series, ...]:
    """Measurements that are compared seed by seed; all empty where one is: against what was not run nothing is said."""
    return (NOTHING,) * len(measured) if any(values.empty for values in measured) else measured


def ratio(first: pd.Series, second: pd.Series) -> pd.Series:
    """One measurement over another, seed by seed; empty where one of them was not run."""
    above, below = together(first, second)
    return above / below


def at_the_end(values: pd.DataFrame) -> pd.Series:
    """The last row of a table with seeds across; empty where it has none."""
    return values.iloc[-1] if len(values) else NOTHING


def last_over_first(values: pd.DataFrame) -> pd.Series:
    """The last row of a table with seeds across over the first; empty where there are not two to compare."""
    return values.iloc[-1] / values.iloc[0] if len(values) > 1 else NOTHING


def verdict(interval: tuple[float, float] | None, n_seeds: int, expect: Between, undecided: int = 0) -> Status:
    """The rule of this module's docstring."""
    if not n_seeds and not undecided:
        return "NOT RUN"
    if interval is None or n_seeds < MIN_SEEDS or undecided:
        return "INCONCLUSIVE"
    low, high = interval
    if expect.low <= low and high <= expect.high:
        return "PASS"
    if high < expect.low or low > expect.high:
        return "DEVIATES"
    return "INCONCLUSIVE"


def read_sidecars(folder: Path) -> list[dict[str, Any]]:
    """The sidecars of a folder of figures, by name.

    Raises:
        OmnigrokError: there are none.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    sidecars = [sidecar for sidecar in found if "claims" in sidecar]
    if not sidecars:
        raise OmnigrokError(f"there are no figures in {folder}; python -m reproductions.all draws them")
    return sidecars


STATUSES: tuple[Status, ...] = ("PASS", "DEVIATES", "INCONCLUSIVE", "NOT RUN")


def verdicts(sidecar: dict[str, Any]) -> str:
    """How often a figure's claims have each verdict, as in "3 PASS, 1 DEVIATES"."""
    found = [claim["status"] for claim in sidecar["claims"]]
    return ", ".join(f"{found.count(status)} {status}" for status in STATUSES if status in found) or "no claims"


def figures_table(sidecars: Iterable[dict[str, Any]]) -> str:
    """The table of figures that the README shows: paper, verdicts, and minutes of two cores for its runs."""
    lines = ["| figure | paper | verdicts | minutes |", "|---|---|---|---|"]
    for sidecar in sidecars:
        name, paper = sidecar["figure"], sidecar["paper"].removeprefix("after ")
        who, _, where = paper.partition(": ")
        year = re.search(r"\((?:\w+ )?(\d{4})\)(?:, )?(.*)", where)
        place = f"{who.split(',')[0]} et al. {year[1]}" + (f", {year[2]}" if year[2] else "") if year else paper
        minutes = sidecar.get("training_seconds", 0) / 120
        lines.append(f"| [{name}](figures/README.md#{name}) | {place} | {verdicts(sidecar)} | {minutes:.0f} |")
    return "\n".join(lines)


def markdown_table(sidecars: Iterable[dict[str, Any]]) -> str:
    """All claims, a line each."""
    lines = [
        "| claim | statement | paper | expected | measured (interval over seeds) | seeds | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for sidecar in sidecars:
        for claim in sidecar["claims"]:
            paper = claim["expected"]["paper"]
            lines.append(
                f"| `{sidecar['figure']}/{claim['id']}` | {claim['statement']} ({claim['source']}) "
                f"| {'' if paper is None else f'{paper:.4g}'} | {claim['expected']['text']} "
                f"| {measured_text(claim)} | {claim['n_seeds']} | {claim['status']} |"
            )
    return "\n".join(lines)


def summary(sidecars: Iterable[dict[str, Any]]) -> str:
    """Counts of verdicts, a line a figure and a line for all."""
    lines = [f"{'figure':<28}" + "".join(f"{status:>14}" for status in STATUSES)]
    total = dict.fromkeys(STATUSES, 0)
    for sidecar in sidecars:
        found = [claim["status"] for claim in sidecar["claims"]]
        lines.append(f"{sidecar['figure']:<28}" + "".join(f"{found.count(status):>14}" for status in STATUSES))
        total = {status: n + found.count(status) for status, n in total.items()}
    return "\n".join([*lines, f"{'all':<28}" + "".join(f"{n:>14}" for n in total.values())])


KNOWN_HEADING = "Known deviations"


def known_deviations(text: str) -> set[str]:
    """The claims, as figure/claim, that lead the items of a Markdown list under the heading `Known deviations`."""
    _, _, part = text.partition(f"## {KNOWN_HEADING}")
    return set(re.findall(r"^- `(\w+/[\w-]+)`", part.partition("\n## ")[0], flags=re.MULTILINE))


TABLE_START, TABLE_END = "<!-- verdicts: omnigrok claims --write README.md -->", "<!-- end of verdicts -->"


def replace_table(text: str, table: str) -> str:
    """A Markdown text with the table between its two markers replaced.

    Raises:
        ValueError: the markers are not there.
    """
    if TABLE_START not in text or TABLE_END not in text:
        raise ValueError(f"it has no lines {TABLE_START} and {TABLE_END}")
    before, rest = text.split(TABLE_START, 1)
    return f"{before}{TABLE_START}\n{table}\n{TABLE_END}{rest.split(TABLE_END, 1)[1]}"


def measured_text(claim: dict[str, Any]) -> str:
    """A measurement and its interval in four significant digits; a censored time is not reached."""
    undecided = claim.get("undecided_seeds", 0)
    if claim["n_seeds"] == 0:
        return f"{undecided} undecided" if undecided else "not run"
    value, low, high = ["not reached" if x is None else f"{x:.4g}" for x in (claim["measured"], *claim["interval"])]
    return f"{value} ({low} to {high})" + (f", {undecided} more undecided" if undecided else "")


def _finite(value: float) -> float | None:
    """JSON knows no infinity: null stands for a value that was not reached."""
    return value if math.isfinite(value) else None
