"""Specs -> batches -> trainer -> store. A finished run is never trained again; a killed sweep goes on where it was.

Batches are formed from the whole list of specs, finished or not, and a checkpoint remembers its batch, so a sweep that
is killed and resumed computes the same batches and ends with the same bits. Locks, one a run, let any number of
processes of one machine work on one store: start the same command several times. They do not hold across machines.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import filelock
import pandas as pd
import torch

from omnigrok.errors import CannotBatchError, OmnigrokError, SpecError, first_line
from omnigrok.executors import Executor, WorkerProgress, completed, ended_from_outside, keep_freed_memory, process_pool
from omnigrok.files import holding, make_folder
from omnigrok.isolation import own_state
from omnigrok.loading import data_sha256, run_hash, task_data
from omnigrok.pickles import check_sendable
from omnigrok.plan import Batch, check, plan, unique
from omnigrok.processor import threads
from omnigrok.progress import Progress, say
from omnigrok.provenance import provenance
from omnigrok.registry import get_task, import_places, own_places
from omnigrok.spec import RunSpec
from omnigrok.store import Store
from omnigrok.trainer import Trainer

CHECKPOINT_SECONDS = 30.0
"""At most this much work is lost when a process is killed."""
WORTH_A_POOL = 30.0
"""Seconds of work below which starting processes costs more than it gains."""


@own_state()
def run_sweep(
    specs: Iterable[RunSpec],
    store: Store,
    *,
    device: str = "cpu",
    runs_per_batch: int | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    force: bool = False,
    show_progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> pd.DataFrame:
    """Train what is not in the store yet and return the long table of all specs.

    Args:
        runs_per_batch: set the batch size over runs by hand; None measures it.
        workers: processes that share the work and the machine's threads; one trains in this process.
        executor: trains batches elsewhere (a Dask client's `get_executor()`, say); every worker must see the store's
            folder.
        force: train again what is in the store.

    Raises:
        SpecError, DataUnavailableError: before anything is trained.
        OmnigrokError: memory ran out, or an executor's workers wrote to another folder.
    """
    if isinstance(specs, RunSpec):
        raise SpecError("run_sweep takes a list of runs: run_sweep([spec], store)")
    specs = unique(specs)
    if force:
        for spec in specs:  # nothing is deleted that could not be trained again
            check(spec, device)
        store.delete(specs)
    for _ in train_in_turn(
        [specs],
        store,
        device=device,
        runs_per_batch=runs_per_batch,
        workers=workers,
        executor=executor,
        show_progress=show_progress,
        checkpoint_seconds=checkpoint_seconds,
    ):
        pass
    return store.load(specs)


def train_in_turn(
    sweeps: Sequence[Sequence[RunSpec]],
    store: Store,
    *,
    device: str = "cpu",
    runs_per_batch: int | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    show_progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Iterator[int]:
    """Train what is not in the store yet of several sweeps; gives the number of each, in order, as it is finished.

    Their batches are those that each sweep would have alone after the ones before it, but workers do not wait for the
    last batch of a sweep. Arguments and errors as of `run_sweep`.
    """
    keep_freed_memory()
    batches, turns = _planned(sweeps, store, device, runs_per_batch, workers)
    _say_what_is_known(sweeps, batches, store, show_progress)
    small = runs_per_batch is None and sum(batch.seconds for batch in batches) < WORTH_A_POOL
    label = "training " + ", ".join(sorted({batch.specs[0].task for batch in batches}))
    total = sum(batch.cost for batch in batches)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(total, label, show=show_progress and bool(batches)))
        worker = _Worker(store, device, checkpoint_seconds, progress)
        pool_done: Callable[[], float] | None = None
        if executor is None and workers > 1 and len(batches) > 1 and not small:
            check_sendable(spec for batch in batches for spec in batch.specs)
            executor, pool_done = stack.enter_context(process_pool(min(workers, len(batches))))
        else:
            stack.enter_context(ended_from_outside())
        yield from _in_turn(sweeps, batches, turns, worker, _ended(batches, worker, executor, pool_done))


def _planned(
    sweeps: Sequence[Sequence[RunSpec]], store: Store, device: str, runs_per_batch: int | None, workers: int
) -> tuple[list[Batch], list[int]]:
    """The batches of all sweeps, each sweep's longest first so that all end together, and the sweep of each."""
    planned: set[str] = set()
    batches: list[Batch] = []
    turns: list[int] = []
    for turn, specs in enumerate(sweeps):
        store.delete_finished_checkpoints(specs)
        new = plan(specs, store, device, runs_per_batch, workers, after=planned)
        new.sort(key=lambda batch: batch.cost, reverse=True)
        planned |= {run_hash(spec) for batch in new for spec in batch.specs}
        batches += new
        turns += [turn] * len(new)
    return batches, turns


def _say_what_is_known(sweeps: Sequence[Sequence[RunSpec]], batches: Sequence[Batch], store: Store, show: bool) -> None:
    wanted = {run_hash(spec) for sweep in sweeps for spec in sweep}
    known = wanted - {run_hash(spec) for batch in batches for spec in batch.specs}
    if show and known:
        say(f"{len(known)} of {len(wanted)} runs are from the store {store.root}")


def _ended(
    batches: Sequence[Batch], worker: _Worker, executor: Executor | None, pool_done: Callable[[], float] | None
) -> Iterator[tuple[int, list[RunSpec]]]:
    """Train the batches, here or by an executor's workers; gives the number of each as it ends, and what it left to
    other processes."""
    if executor is None:
        for i, batch in enumerate(batches):
            yield i, worker.train(batch.specs, batch.step_cost, batch.threads)
        return
    root = str(worker.store.root.resolve())  # a cluster's worker has a working folder of its own
    own = own_places(batch.specs[0].task for batch in batches)
    calls = [(root, b.specs, worker.device, worker.checkpoint_seconds, b.step_cost, b.threads, own) for b in batches]
    for i, left in completed(executor, train_batch, calls, lambda: worker.report(pool_done)):
        if pool_done is None:
            worker.progress.advance(batches[i].cost)
        yield i, left


def _in_turn(
    sweeps: Sequence[Sequence[RunSpec]],
    batches: Sequence[Batch],
    turns: Sequence[int],
    worker: _Worker,
    ended: Iterator[tuple[int, list[RunSpec]]],
) -> Iterator[int]:
    """The number of each sweep, in order, once all of its runs are in the store, whoever has trained them."""
    deferred: dict[int, list[Batch]] = defaultdict(list)
    running = Counter(turns)
    for turn, specs in enumerate(sweeps):
        while running[turn]:
            i, left = next(ended)
            deferred[turns[i]].append(replace(batches[i], specs=tuple(left)))
            running[turns[i]] -= 1
        worker.wait_for(deferred[turn])
        if lost := sum(not worker.store.path(spec).is_file() for spec in specs):
            place = f"{lost} runs were trained but are not in {worker.store.root}"
            raise OmnigrokError(f"{place}: do all workers see that folder?")
        yield turn


_one_at_a_time = threading.Lock()


def train_batch(
    root: str,
    specs: Sequence[RunSpec],
    device: str,
    checkpoint_seconds: float,
    step_cost: float,
    number: int,
    own_tasks: Sequence[str] = (),
) -> list[RunSpec]:
    """Train one batch into the store at `root`; what an executor's worker does. Returns what others are training.

    One batch at a time in a process, however many threads an executor has: a model's init draws from torch's generator,
    which all threads share.
    """
    with _one_at_a_time:
        import_places(own_tasks)
        return _Worker(Store(root), device, checkpoint_seconds, WorkerProgress()).train(specs, step_cost, number)


@dataclass
class _Worker:
    """Trains batches into a store."""

    store: Store
    device: str
    checkpoint_seconds: float
    progress: Progress | WorkerProgress

    def train(self, specs: Sequence[RunSpec], step_cost: float = 0.0, number: int = 1) -> list[RunSpec]:
        """Train a batch with a number of threads and store its runs. Returns those that another process is training."""
        begun = self.store.checkpoint_path(specs).is_file()
        with contextlib.ExitStack() as locks:
            taken, deferred = [], []
            for spec in specs:
                try:
                    locks.enter_context(holding(self.store.lock(spec), blocking=False))
                    taken.append(spec)
                except filelock.Timeout:
                    if begun:  # of processes that are restarted together one goes on with all of it, from there
                        return list(specs)
                    deferred.append(spec)
            make_folder(self.store.path(specs[0]).parent)  # writing there makes NFS forget which files were not there
            for spec in taken:
                self.store.set_aside_damaged(spec)
            missing = [spec for spec in taken if not self.store.finished(spec)]
            # A batch that was killed while its results were written is completed as it was.
            whole = not deferred and self.store.checkpoint_path(specs).is_file()
            batch = list(specs) if whole else missing
            if missing:
                with threads(number):
                    self._train_locked(batch, missing, step_cost)
        return deferred

    def report(self, pool_done: Callable[[], float] | None) -> None:
        """Show how far a pool's workers are; other executors report when a batch has ended."""
        if pool_done is not None and isinstance(self.progress, Progress):
            self.progress.set(pool_done())

    def wait_for(self, batches: Iterable[Batch]) -> None:
        """Wait until other processes have finished these runs; take over, batch by batch, what they leave undone."""
        left = [batch for batch in batches if batch.specs]
        if left:
            waiting = sum(len(batch.specs) for batch in left)
            say(f"waiting for {waiting} runs that another process is training")
        while left:
            rest = [replace(batch, specs=tuple(self.train(batch.specs, number=batch.threads))) for batch in left]
            left = [batch for batch in rest if batch.specs]
            time.sleep(1.0 if left else 0.0)

    @own_state()
    def _train_locked(self, specs: Sequence[RunSpec], missing: Sequence[RunSpec], step_cost: float) -> None:
        """Train a batch whose runs this process holds, and store those that are missing."""
        task, data = get_task(specs[0].task), task_data(specs[0], self.device)
        try:
            self._go_on(Trainer(task, specs, data, self.device), specs, missing, step_cost)
        except CannotBatchError as error:  # of these settings; the plan has tried others
            if len(specs) == 1:
                raise
            warnings.warn(f"the runs of {task.name} are trained one by one: {error.reason}", stacklevel=2)
            for each in missing:
                self._train_locked([each], [each], step_cost)

    def _go_on(self, trainer: Trainer, specs: Sequence[RunSpec], missing: Sequence[RunSpec], step_cost: float) -> None:
        """Train from the batch's checkpoint, where there is one, to the end."""
        spec, task, data = specs[0], trainer.task, trainer.data
        code = provenance(self.device)  # as it is now, should it be edited while the runs are trained
        path = self.store.checkpoint_path(specs)
        saved = self.store.load_checkpoint(path, self.device)
        if saved is not None:
            try:
                trainer.load_state_dict(saved["state"])
            except (ValueError, KeyError, RuntimeError) as error:
                reason = f"checkpoint {path} is of another model or of other probes ({first_line(error)})"
                warnings.warn(f"{reason}; starting again", stacklevel=2)
                saved, trainer = None, Trainer(task, specs, data, self.device)
        spent = saved["seconds"] if saved is not None else 0.0
        self.progress.advance(len(specs) * trainer.step * step_cost)
        start = time.time()
        try:
            trainer.train(
                checkpoint=lambda: self.store.save_checkpoint(specs, trainer.state_dict(), spent + time.time() - start),
                checkpoint_seconds=self.checkpoint_seconds,
                progress=self._report(trainer, step_cost),
            )
        except torch.OutOfMemoryError as error:
            raise OmnigrokError(
                f"{self.device} ran out of memory with {len(specs)} runs of {task.name} at once: take fewer --workers "
                "or free what else is on it; finished runs and checkpoints are kept"
            ) from error
        self.progress.advance(len(specs) * (spec.steps - trainer.step) * step_cost)  # of runs that stopped
        run: dict[str, Any] = {
            "data": {"source": data.source, "sha256": data_sha256(spec), "n": spec.n_train},
            "provenance": {**code, "dtype": spec.dtype, "threads": torch.get_num_threads()},
            "runs_per_batch": len(specs),
        }
        host = {"finished": time.time(), "batch_seconds": spent + time.time() - start}
        for each, frame, weights in zip(specs, trainer.frames(), trainer.weights(), strict=True):
            if each in missing:
                run["data"]["n"] = each.n_train
                if weights:
                    self.store.write_weights(each, weights)
                self.store.write(each, frame, run, host)
        path.unlink(missing_ok=True)

    def _report(self, trainer: Trainer, step_cost: float) -> Callable[[int], None]:
        last = [trainer.step]

        def report(step: int) -> None:
            metric = trainer.task.thresholds.metric
            train, test = (trainer.latest(split, metric) for split in ("train", "test"))
            note = f"step {step:,}, mean {metric}: train {train:.3f}, test {test:.3f}"
            self.progress.advance(len(trainer.specs) * (step - last[0]) * step_cost, note)
            last[0] = step

        return report
