"""Specs into batches: which runs are still to be trained, and which of them together."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omnigrok.batching import Batching, batching, why_alone
from omnigrok.loading import as_named, run_hash, task_data
from omnigrok.processor import cores
from omnigrok.registry import get_task
from omnigrok.schedule import evaluation_steps
from omnigrok.spec import RunSpec
from omnigrok.store import Store
from omnigrok.task import check_options, check_size
from omnigrok.trainer import batch_key


@dataclass(frozen=True)
class Batch:
    """Runs that are trained together."""

    specs: tuple[RunSpec, ...]
    batching: Batching | None

    @property
    def step_cost(self) -> float:
        """Estimated seconds of a step of one run: what progress is counted in. One where the size is set by hand."""
        return self.batching.step_seconds if self.batching else 1.0

    @property
    def threads(self) -> int:
        return self.batching.threads if self.batching else 1

    @property
    def cost(self) -> float:
        return len(self.specs) * self.specs[0].steps * self.step_cost

    @property
    def seconds(self) -> float:
        """Estimated seconds with its evaluations, without its probes; zero where the size is set by hand."""
        spec = self.specs[0]
        evaluations = len(evaluation_steps(spec.steps, spec.evaluation_density))
        return self.batching.seconds(spec.steps, evaluations, len(self.specs)) if self.batching else 0.0


def plan(
    specs: Sequence[RunSpec],
    store: Store,
    device: str,
    runs_per_batch: int | None = None,
    workers: int = 1,
    force: bool = False,
    after: Collection[str] = (),
) -> list[Batch]:
    """The batches that are still to be trained, unfinished ones with a checkpoint first; with `force` all, anew.

    Runs that can share a batch are divided among the workers, in batches of at most the measured size. Those whose
    hashes are in `after` are left out: batches that are trained before have them.
    """
    specs = unique(specs)
    by_hash = {run_hash(spec): spec for spec in specs}
    missing = {h for h, spec in by_hash.items() if h not in after and (force or not store.finished(spec))}
    for h, spec in by_hash.items():
        if h in missing:  # a finished run needs no data
            check(spec, device)

    def measured(spec: RunSpec, runs: int) -> Batching | None:
        if runs_per_batch is not None:
            return None
        most = max(1, cores() // workers)
        return batching(get_task(spec.task), spec, task_data(spec, device), device, store, runs, most)

    batches: list[Batch] = []
    for hashes in [] if force else _resumable(store, by_hash, missing):
        batches.append(Batch(tuple(by_hash[h] for h in hashes), measured(by_hash[hashes[0]], len(hashes))))
        missing -= set(hashes)
    for group in _can_go_together(specs):
        if not any(run_hash(spec) in missing for spec in group):
            continue
        alone = len(group) > 1 and runs_per_batch != 1 and _said_to_be_alone(group[0], device)
        found = measured(group[0], 1 if alone else math.ceil(len(group) / workers))
        size = 1 if alone else found.runs if found else runs_per_batch or 1
        parts = max(math.ceil(len(group) / size), min(workers, len(group)))
        for part in np.array_split(np.arange(len(group)), parts):
            left = tuple(group[i] for i in part if run_hash(group[i]) in missing)
            if left:
                batches.append(Batch(left, found))
    return batches


def _said_to_be_alone(spec: RunSpec, device: str) -> bool:
    """Whether runs like this one are trained one by one; where their task does not say so itself, a warning does."""
    task = get_task(spec.task)
    reason = why_alone(task, spec, task_data(spec, device), device)
    if reason and task.batchable:
        warnings.warn(f"the runs of {task.name} are trained one by one: {reason}", stacklevel=2)
    return bool(reason)


def _can_go_together(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """The specs in groups of which any may share a batch."""
    groups: dict[tuple, list[RunSpec]] = defaultdict(list)
    for spec in specs:
        own_data = spec.n_train if get_task(spec.task).data_depends_on_n_train else None
        groups[(batch_key(spec), own_data)].append(spec)
    return list(groups.values())


def _resumable(store: Store, by_hash: Mapping[str, RunSpec], missing: Collection[str]) -> Iterator[list[str]]:
    """The hashes of batches that were begun, some of whose runs are missing: one may have been killed while its results
    were written."""
    left = set(missing)
    for task in sorted({spec.task for spec in by_hash.values()}):
        for _, hashes in store.checkpointed_batches(task):
            if set(hashes) <= set(by_hash) and set(hashes) & left:
                yield hashes
                left -= set(hashes)


def check(spec: RunSpec, device: str) -> None:
    """Raises SpecError where a run cannot be trained: options its task does not know, more examples than there are."""
    task = get_task(spec.task)
    check_options(task, spec)
    check_size(task, spec, task_data(spec, device))


def unique(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The specs in their order, each once, as they are named."""
    return list(dict.fromkeys(map(as_named, specs)))
