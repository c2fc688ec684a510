"""What a process does with the processor: denormal numbers, threads, and how idle threads wait.

Once a training set is memorised, gradients and Adam's moments sink below 1e-38, where an Intel processor computes many
times slower. So whatever trains or times flushes such numbers to zero. The setting belongs to a thread, and a thread
takes it from the one that starts it: torch's further threads flush if the process flushed before they were started.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

GRAIN = 2**15
"""Elements that one of torch's threads takes at least."""


def flush_denormals() -> None:
    """This thread computes with zero in place of denormal numbers, and so do the threads that it will start."""
    torch.set_flush_denormal(True)


def flushes(*, all_threads: bool = True) -> bool:
    """Whether all threads that torch would use now, or this one, flush: one that does not leaves a number behind."""
    size = 2 * GRAIN * torch.get_num_threads() if all_threads else 1
    smallest = torch.finfo(torch.float32).tiny
    numbers = torch.full((size,), smallest, dtype=torch.float32, device="cpu").mul_(0.5)
    return not numbers.view(torch.int32).any().item()  # as bits: a thread that flushes takes a denormal for zero


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """Denormals are flushed in this thread within; the caller's setting comes back afterwards."""
    before = flushes(all_threads=False)
    flush_denormals()
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch with that many threads within, or with one where threads are at work already that do not flush.

    With several, this thread flushes from now on: those that it starts do.
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number)
        if number > 1:
            flush_denormals()
            if not flushes():
                torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
