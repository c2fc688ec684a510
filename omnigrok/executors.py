"""Where batches are trained: in this process, in a pool of processes, or by any `concurrent.futures.Executor`.

A Dask cluster takes part through ``distributed.Client(address).get_executor()``. Workers share nothing but the store's
folder, whose checkpoints make them safe to kill. Each batch goes to one worker; the store's locks hold only between
processes of one machine, so two clusters must not work on one store at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from typing import Any

import torch

from omnigrok.errors import OmnigrokError
from omnigrok.processor import flush_denormals

__all__ = ["Executor", "WorkerProgress", "completed", "ended_from_outside", "keep_freed_memory", "process_pool"]

POLL_SECONDS = 0.5
KILLED = 9  # SIGKILL, as by the system when memory runs out
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """What this process frees stays with it: glibc would give large blocks back at every step and take them anew, page
    by page. Does nothing with another C library."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(parameter, 2**31 - 1)


class WorkerProgress:
    """What a pool's worker reports to: a number in shared memory that the main process watches."""

    shared: Any = None  # a multiprocessing.Value, given to each process of a pool as it starts

    def advance(self, units: float, note: str = "") -> None:
        if WorkerProgress.shared is not None:
            with WorkerProgress.shared.get_lock():
                WorkerProgress.shared.value += units


def _start_worker(shared: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    keep_freed_memory()
    flush_denormals()
    torch.set_num_threads(1)
    WorkerProgress.shared = shared
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed has nobody to work for; its checkpoints are kept."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


class LastWords:
    """Standard error of processes that are started `within`: passed on as it comes, and its end remembered.

    A process that cannot even start says why there alone.
    """

    def __init__(self) -> None:
        self._said = b""
        self._listener = threading.Thread(target=lambda: None)

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        try:
            own = os.dup(2)
        except OSError:  # it is closed
            yield
            return
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(writer)
        try:
            yield
        finally:
            os.dup2(own, 2)
            self._listener = threading.Thread(target=self._listen, args=(reader, own), daemon=True)
            self._listener.start()

    def last_line(self) -> str:
        """What was said last; waits a moment for processes that have just ended."""
        if self._listener.is_alive():
            self._listener.join(timeout=1.0)
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")[:300]

    def _listen(self, reader: int, out: int) -> None:
        while text := os.read(reader, 2**16):
            self._said = (self._said + text)[-(2**12) :]
            with contextlib.suppress(OSError):
                os.write(out, text)
        os.close(reader)
        os.close(out)


@contextlib.contextmanager
def ended_from_outside(words: Callable[[], str] = str) -> Iterator[None]:
    """Workers that end within are one line, with the last of what they said.

    Raises:
        OmnigrokError: a worker ended before its work did.
    """
    try:
        yield
    except BrokenExecutor as error:
        if said := words():
            raise OmnigrokError(f"a worker process ended: {said}; finished runs and checkpoints are kept") from error
        raise OmnigrokError(
            "a worker was ended from outside, most often for lack of memory: take fewer --workers; finished runs and "
            "checkpoints are kept"
        ) from error


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[tuple[Executor, Callable[[], float]]]:
    """A pool of processes of one thread, and a call that tells the work they have done.

    On a CPU several processes of one thread do more than one process of several: small matrices leave threads waiting.
    """
    context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads can hang
    shared = context.Value("d", 0.0)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(shared,))
    words = LastWords()
    processes: set[Any] = set()

    def said() -> str:
        for process in processes:
            process.join(timeout=1.0)
        killed = any(process.exitcode == -KILLED for process in processes)  # without a word
        return "" if killed else words.last_line()

    try:
        with ended_from_outside(said):
            with words.within():
                started = [pool.submit(os.getpid) for _ in range(workers)]  # each call starts a process
                processes |= set(multiprocessing.active_children()) - others
            wait(started)
            yield pool, lambda: shared.value
    except BaseException:  # Ctrl-C too: what a worker was training goes on from its checkpoint next time
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
            worker.join()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def completed(
    executor: Executor, work: Callable, calls: Sequence[tuple], poll: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, Any]]:
    """Submit every call and yield (index of the call, its result) as they end; `poll` is called while it waits.

    A call's error is raised here.
    """
    futures: dict[Future, int] = {executor.submit(work, *call): i for i, call in enumerate(calls)}
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        poll()
        for future in done:
            yield futures[future], future.result()
