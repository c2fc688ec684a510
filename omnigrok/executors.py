"""Where batches are trained: in this process, in a pool of processes, or by any `concurrent.futures.Executor`.

A Dask cluster takes part through ``distributed.Client(address).get_executor()``. Workers share nothing but the store's
folder, whose locks and checkpoints make them safe to kill.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from typing import Any

import torch

__all__ = ["Executor", "completed", "process_pool"]


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[Executor | None]:
    """A pool of processes that divide the machine's threads among them; None, this process, for one worker."""
    if workers == 1:
        yield None
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads can hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def completed(executor: Executor, work: Callable, calls: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
    """Submit every call and yield (index of the call, its result) as they end. A call's error is raised here."""
    futures: dict[Future, int] = {executor.submit(work, *call): i for i, call in enumerate(calls)}
    for future in as_completed(futures):
        yield futures[future], future.result()
