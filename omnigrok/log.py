"""The log of a batch of runs: what was measured, at which steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

MEASURED = ["step", "split", "metric", "value"]
"""Columns of what was measured of a run."""


class Log:
    """A row of numbers, one a run, for every split, metric and step; a metric may be missing at some steps."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], dict[int, Float[Tensor, "runs"]]] = {}

    def record(self, step: int, split: str, values: Mapping[str, Float[Tensor, "runs"]]) -> None:
        """Note values of this step; what was noted at it before is replaced."""
        for metric, value in values.items():
            self._rows.setdefault((split, metric), {})[step] = value.detach().cpu()

    def steps(self, split: str, metric: str) -> list[int]:
        """The steps at which a metric was measured, in order."""
        return sorted(self._rows.get((split, metric), {}))

    def values(self, split: str, metric: str) -> Float[Tensor, "steps runs"]:
        """A metric at its steps, in order, in float64."""
        rows = self._rows[split, metric]
        return torch.stack([rows[step] for step in sorted(rows)]).double()

    def latest(self, split: str, metric: str) -> Float[Tensor, "runs"]:
        """A metric at the last of its steps."""
        rows = self._rows[split, metric]
        return rows[max(rows)]

    def tables(self, last: Sequence[float]) -> list[pd.DataFrame]:
        """The long table of each run up to a last step of its own: step, split, metric, value."""
        logged = [
            (split, metric, np.array(self.steps(split, metric)), self.values(split, metric).numpy())
            for split, metric in sorted(self._rows)
        ]
        found = []
        for r, end in enumerate(last):
            parts = [
                pd.DataFrame(
                    {"step": steps[steps <= end], "split": split, "metric": metric, "value": values[steps <= end, r]}
                )
                for split, metric, steps, values in logged
            ]
            found.append(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=MEASURED))
        return found

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """For each metric, as "split/metric", its steps and its values at them."""
        named = {f"{split}/{metric}": (split, metric) for split, metric in self._rows}
        return {
            "log_steps": {name: torch.tensor(self.steps(*key)) for name, key in named.items()},
            "log": {name: torch.stack([self._rows[key][s] for s in self.steps(*key)]) for name, key in named.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], runs: int, evaluations: Sequence[int] = ()) -> None:
        """Go on from a state. One without steps is of before they were noted: all metrics are at all `evaluations`.

        Raises:
            ValueError: it is not known at which steps a metric was measured, or it has not one value a run.
        """
        rows: dict[tuple[str, str], dict[int, Tensor]] = {}
        for name, values in state["log"].items():
            steps = state["log_steps"][name].tolist() if "log_steps" in state else list(evaluations)
            if values.shape != (len(steps), runs):
                raise ValueError(
                    f"its {name!r} has values of shape {tuple(values.shape)}, of {len(steps)} steps and {runs} runs"
                )
            split, metric = name.split("/", 1)
            rows[split, metric] = dict(zip(steps, values.cpu(), strict=True))
        self._rows = rows
