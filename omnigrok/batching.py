"""How many runs share a batch, and how many threads: measured once per task, shape, machine and device.

Bigger is not always faster, and several threads on small matrices mostly wait. Of several timings the shortest counts:
what else the machine does only ever makes them longer.

The measurement lies beside the runs, in ``results/<task>/batching.json``, so a sweep that is resumed forms the same
batches and ends with the same bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import torch

from omnigrok.errors import CannotBatchError, NewerFileError
from omnigrok.files import atomic, holding, reading
from omnigrok.isolation import own_state
from omnigrok.processor import flushed, threads
from omnigrok.provenance import device_name
from omnigrok.spec import RunSpec
from omnigrok.store import Store
from omnigrok.task import Task, TaskData
from omnigrok.trainer import Trainer, batch_key

FORMAT = 1
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LARGEST_ON_CPU = 64
"""Where every model's matrices already fill the cores, larger batches only cost memory and time to measure."""
MEMORY_SHARE = 0.25
"""Share of the memory that one batch's parameters, gradients and moments may take."""
MUCH_SLOWER = 1.3
"""Larger sizes are not tried once two sizes in a row are slower than the best by this factor: one is not enough, as
two runs can be slower than one and sixteen faster."""
CLEARLY_FASTER = 1.3
"""Twice the threads are taken where a step is faster by this factor: on a busy machine they cost far more than that."""
SECONDS = 0.15
"""Time given to each size."""


@dataclass(frozen=True)
class Batching:
    """A measured batch size over runs.

    Attributes:
        runs: runs a batch, the fastest of the sizes tried.
        threads: of torch; one unless several were clearly faster.
        step_seconds: seconds a step and run at that size.
        evaluation_seconds: seconds an evaluation and run, without the probes.
        run_bytes: parameters, gradients and Adam's moments of one run.
        tried: seconds a step and run at each size.
    """

    runs: int
    threads: int
    step_seconds: float
    evaluation_seconds: float
    run_bytes: int
    tried: dict[str, float]

    def seconds(self, steps: int, evaluations: int, runs: int) -> float:
        """Estimated time of that many runs."""
        return runs * (steps * self.step_seconds + evaluations * self.evaluation_seconds)


def batching(
    task: Task, spec: RunSpec, data: TaskData, device: str, store: Store, runs: int, most_threads: int = 1
) -> Batching:
    """The stored measurement for this task, shape, machine and device; made now when there is none.

    Sizes are tried up to the first that holds `runs`, the most that could go together.
    """
    path = store.root / task.name / "batching.json"
    largest = next((size for size in SIZES if size >= runs), SIZES[-1])
    key = " | ".join(
        [device_name(device), f"up to {most_threads} threads", f"torch {torch.__version__}", f"up to {largest} runs"]
        + [str(part) for part in batch_key(_same_work(spec))]
    )
    known = _read(path)
    if key not in known:
        path.parent.mkdir(parents=True, exist_ok=True)
        with holding(filelock.FileLock(path.with_suffix(".lock"))):  # who measures at the same time is timed too slow
            known = _read(path)
            if key not in known:
                known[key] = asdict(measure(task, spec, data, device, largest, most_threads))
                _write(path, known)
    return Batching(**known[key])


def _same_work(spec: RunSpec) -> RunSpec:
    """The spec without what makes no difference to the time of a step: a sweep over them is measured once."""
    return spec.replace(
        steps=1,
        lr=1.0,
        schedule=(),
        changes=(),
        stop=None,
        optimizer=spec.optimizer.as_costly(),
        evaluation_density=1,
        subset="first",
        data_seed=0,
        probes=(),
        keep=(),
    )


@own_state()
def why_alone(task: Task, spec: RunSpec, data: TaskData, device: str) -> str:
    """Why the runs of a task are trained one by one, by a trial of two; empty where they can share a batch.

    Raises:
        SpecError: they cannot be trained at all.
    """
    if not task.batchable:
        return "its task says batchable = False"
    try:
        with flushed():
            Trainer(task, [spec, spec.replace(seed=spec.seed + 1)], data, device)
    except CannotBatchError as error:
        return error.reason
    return ""


def measure(
    task: Task, spec: RunSpec, data: TaskData, device: str, largest: int = SIZES[-1], most_threads: int = 1
) -> Batching:
    """Time a step at growing batch sizes up to the largest, or until it gets slower or the memory share is reached.

    Probes are left out: one alone may cost more than the whole measurement. Threads are doubled as long as that pays.
    """
    number, found = 1, measure_sizes(task, spec, data, device, largest, 1)
    while device == "cpu" and 2 * number <= most_threads:
        number *= 2
        more = measure_sizes(task, spec, data, device, largest, number)
        if found.step_seconds < CLEARLY_FASTER * more.step_seconds:
            break
        found = more
    return found


@own_state()
def measure_sizes(task: Task, spec: RunSpec, data: TaskData, device: str, largest: int, number: int) -> Batching:
    """The fastest batch size with a number of threads."""
    spec = spec.replace(probes=())
    tried: dict[int, float] = {}
    evaluation = 0.0
    run_bytes = slower = 0
    if device == "cpu":
        largest = min(largest, LARGEST_ON_CPU)
    with threads(number), flushed():
        for size in SIZES if task.batchable else (1,):
            if size > largest or size * run_bytes > MEMORY_SHARE * memory_bytes(device):
                break
            try:
                trainer = Trainer(task, [spec.replace(seed=s) for s in range(size)], data, device)
                run_bytes = 4 * sum(p.nbytes for p in trainer.ensemble.params.values()) // size
                seconds = step_seconds(trainer, SECONDS) / size
                if seconds <= min(tried.values(), default=seconds):
                    evaluation = shortest(trainer.measure, device, 0.0) / size
            except torch.OutOfMemoryError:  # activations are not in run_bytes
                if not tried:
                    raise
                torch.cuda.empty_cache()
                break
            tried[size] = seconds
            slower = slower + 1 if tried[size] > MUCH_SLOWER * min(tried.values()) else 0
            if slower == 2:
                break
    best = min(tried, key=lambda size: tried[size])
    return Batching(best, number, tried[best], evaluation, run_bytes, {str(size): t for size, t in tried.items()})


def step_seconds(trainer: Trainer, budget: float) -> float:
    """Seconds of a step of the whole batch, after three steps to warm up."""
    for _ in range(3):
        trainer.update()
    return shortest(trainer.update, str(trainer.device), budget)


def shortest(work: Callable[[], object], device: str, budget: float, least: int = 3) -> float:
    """The shortest time of a call of many, over that many seconds, in seconds."""
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < least or time.perf_counter() - start < budget:
        times.append(timed(work, device))
    return min(times)


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of one call, with the device's queue empty before and after."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def memory_bytes(device: str) -> int:
    """Memory of the device; for the processor, what this process may use of the machine's."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        machine = 8 << 30
    return min([machine, *_cgroup_limits()])


def _cgroup_limits(processes: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Bytes that a container or a cluster's job may use (cgroup v2: its group's limit and those above it)."""
    with contextlib.suppress(OSError, IndexError):
        group = root / processes.read_text(encoding="utf-8").split("0::/", 1)[1].splitlines()[0]
        limits = [folder / "memory.max" for folder in (group, *group.parents) if folder.is_relative_to(root)]
        texts = [path.read_text(encoding="utf-8").strip() for path in limits if path.is_file()]
        return [int(text) for text in texts if text.isdecimal()]
    return []


def _read(path: Path) -> dict[str, Any]:
    """The measurements in a file, or none where it is not there or damaged: then they are made anew.

    Raises:
        OmnigrokError: the system does not let it be read, or a newer version wrote it.
    """
    try:
        with reading(path):
            content = json.loads(path.read_bytes())
        if content["format"] > FORMAT:
            raise NewerFileError(path, content["format"], FORMAT)
        known: dict[str, Any] = content["measured"]
        return known if content["sha256"] == _sha256(known) else {}
    except (FileNotFoundError, ValueError, TypeError, LookupError):
        return {}


def _write(path: Path, known: dict[str, Any]) -> None:
    content = {"format": FORMAT, "sha256": _sha256(known), "measured": known}
    with atomic(path, locked=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def _sha256(known: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
