"""What happens to a run on its way: settings that change at a step, and an end before its last step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omnigrok.errors import SpecError
from omnigrok.part import Part


@dataclass(frozen=True)
class ChangeAt(Part):
    """From the update that follows `step` updates on, a run has other settings; what is left out stays.

    Examples are drawn and training metrics are measured as in a run that had `n_train` from its start. What is measured
    at `step` itself is of the settings before.
    """

    step: int
    lr: float | None = None
    weight_decay: float | None = None
    n_train: int | None = None

    def __post_init__(self) -> None:
        if not self.step >= 0:
            raise SpecError(f"settings change at a step, 0 or more, got {self.step!r}")
        if not self.settings:
            raise SpecError("ChangeAt needs what changes: lr, weight_decay or n_train")

    @property
    def settings(self) -> dict[str, Any]:
        """The new values by the names of the spec's fields."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "step"}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Stop(Part):
    """A run ends once it has generalised: its test metric has reached the task's threshold and held it for `hold`
    more evaluations.

    Its curve ends there, with `stopped` (split `run`) as its last word. In a batch it ends for itself: what its
    neighbours still train is not logged of it.
    """

    hold: int = 3

    def __post_init__(self) -> None:
        if not self.hold >= 0:
            raise SpecError(f"hold must be 0 or more evaluations, got {self.hold!r}")

    def at(self, values: Sequence[float], threshold: float) -> float:
        """Index of the evaluation after which a run ends; inf: it goes on.

        >>> Stop(hold=1).at([0.2, 0.96, 0.5, 0.97, 0.98], 0.95)
        4
        """
        held = 0
        for i, value in enumerate(values):
            held = held + 1 if value >= threshold else 0
            if held > self.hold:
                return i
        return math.inf
