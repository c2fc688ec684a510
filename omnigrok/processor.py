"""What a process does with the processor: denormal numbers, threads, and how idle threads wait.

Once a training set is memorised, gradients and Adam's moments sink below 1e-38, where an Intel processor computes many
times slower. So whatever trains or times flushes such numbers to zero. The setting belongs to a thread, and a thread
takes it from the one that starts it: torch's further threads flush if the process flushed before they were started.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

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
    """Processor cores that this process may use, one at least: by its affinity, its container's quota, its job."""
    try:
        own = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        own = os.cpu_count() or 1
    job = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min([own, *([int(job)] if job.isdecimal() else []), *_quotas()]))


def _quotas(processes: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Cores that a container or a cluster's job may use at a time: its groups' quotas and those above them, v1 and v2.

    A part of a core counts as one.
    """
    try:
        lines = processes.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, place in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / controllers  # of version 2 the root itself
        group = mount / place.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount):
                found += _quota(folder)
    return found


def _quota(folder: Path) -> list[int]:
    """The cores of one group's quota, where it has one: microseconds of work in a period."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if (both := folder / "cpu.max").is_file():
            quota, period = both.read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        if int(quota) > 0:  # "max" is no number, and -1 none in version 1
            return [-(-int(quota) // int(period))]
    return []
