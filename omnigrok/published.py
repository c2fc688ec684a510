"""What only `omnigrok bench` needs of a task: how the published code serves its examples and what it evaluates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from omnigrok.spec import RunSpec


@dataclass(frozen=True)
class Published:
    """The published code's evaluations and loader. A task whose code has a loader of its own subclasses it.

    Attributes:
        every: steps from one evaluation to the next.
        train: training examples of an evaluation.
        test: test examples of an evaluation.
    """

    every: int = 100
    train: int = 0
    test: int = 0

    def loader(self, spec: RunSpec, split: str, n: int, generator: torch.Generator) -> Iterable | None:
        """The first n examples of a split (train, test) behind the published code's own loader.

        Iterating it gives an epoch of batches ``(*inputs, targets)`` for the reference model. None: a DataLoader over
        single examples.
        """
        return None
