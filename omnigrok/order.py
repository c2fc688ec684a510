"""Which examples each run's step takes: a function of seed and step alone, so no generator's state is kept."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from omnigrok.spec import RunSpec, generator

ORDER_BLOCK = 128  # steps whose batch order is drawn at once


class BatchOrder:
    """Minibatch indices: consecutive slices of an endless stream of permutations, one permutation an epoch.

    The epoch's permutation is keyed by (seed, epoch), so the order is a function of the step alone. Where the batch
    size divides N this is DataLoader(shuffle=True); elsewhere a batch may hold the end of one epoch and the start of
    the next, so that every step has the same shape.
    """

    def __init__(self, specs: Iterable[RunSpec], device: torch.device) -> None:
        self._runs = [(spec.seed, spec.n_train) for spec in specs]
        self._size = next(iter(specs)).effective_batch_size
        self._device = device
        self._start: int | None = None
        self._block = torch.empty(0)

    def __call__(self, step: int) -> Int[Tensor, "runs batch"]:
        start = step - step % ORDER_BLOCK
        if start != self._start:
            positions = range(start * self._size, (start + ORDER_BLOCK) * self._size)
            stream = torch.stack([self.stream(seed, n, positions) for seed, n in self._runs])
            block = stream.view(len(self._runs), ORDER_BLOCK, self._size).transpose(0, 1)
            self._start, self._block = start, block.contiguous().to(self._device)
        return self._block[step - start]

    @staticmethod
    def stream(seed: int, n: int, positions: range) -> Int[Tensor, "positions"]:
        """A stretch of one run's stream of example indices."""
        first, last = positions.start // n, (positions.stop - 1) // n
        epochs = [torch.randperm(n, generator=generator(seed, "order", e)) for e in range(first, last + 1)]
        return torch.cat(epochs)[positions.start - first * n : positions.stop - first * n]
