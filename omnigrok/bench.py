"""How fast the trainer is, as ratios measured in one run: against the published style of loop, the strongest plain loop
and the matrix products alone.

published  one model, DataLoader over per-sample Python (for MNIST PIL and ToTensor), torch's default optimizer,
           `.item()` each step, evaluations through DataLoaders on as many examples and as often as published
plain      one model, tensors on the device, gathered minibatches, torch's fused optimizer, no DataLoader, no evaluation
           (both with the plain form of the model, where the trainer's is an exact fast form)
trainer    the suite's trainer at several batch sizes over runs, a step without evaluation
matmul     the matrix products of such a step and nothing else: no step of these models can be faster

The first two run in an ordinary process, the others in one that keeps freed memory (`keep_freed_memory`), as the
trainer's workers do. One works at a time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from omnigrok.batching import MUCH_SLOWER, timed, why_alone
from omnigrok.ensemble import scaled_model
from omnigrok.executors import keep_freed_memory
from omnigrok.gradients import Clip
from omnigrok.loading import task_data
from omnigrok.oracle import Examples
from omnigrok.order import BatchOrder
from omnigrok.probes.activations import find_layers
from omnigrok.probes.complexity import ComplexityProbe, changes, examples_of, extremes, frame
from omnigrok.processor import flush_denormals
from omnigrok.spec import RunSpec
from omnigrok.task import Task, TaskData
from omnigrok.trainer import Trainer

SIZES = (1, 4, 8, 16, 32, 64)
ROUNDS = 7
ROUND_SECONDS = 0.3
ORDINARY = ("published", "plain")
"""Loops of the process that is as Python starts it."""
WARM_UP = 3
LATE_STEPS, TIMED = 3_000, 100
"""Of `bench_denormals`: steps trained, and how many at either end are timed."""
MATMULS = (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm)


@dataclass
class Contender:
    """A loop that a call advances by one step."""

    step: Callable[[], object]
    extra: float = 0.0
    """Seconds a step that are measured apart: the share of an evaluation."""


def bench(task: Task, spec: RunSpec, device: str, sizes: tuple[int, ...] = SIZES) -> pd.DataFrame:
    """Milliseconds a step and run of every loop, and the ratios.

    Contenders take turns in ROUNDS rounds, so that a slow moment of the machine meets all of them. Each is built for
    its turn and dropped after it, so that none works beside the memory of another. A contender's time is the median
    over rounds of the mean in a round.
    """
    contenders = [("published", 1), ("plain", 1)]
    fetched(task)
    together = not why_alone(task, spec, task_data(spec, device), device)
    contenders += [(loop, size) for size in (sizes if together else (1,)) for loop in ("trainer", "matmul")]
    times: dict[tuple[str, int], list[float]] = {}
    with _process(spec, device, keeps=False) as ordinary, _process(spec, device, keeps=True) as ours:
        for round_ in range(ROUNDS):
            for loop, size in list(contenders):
                process = ordinary if loop in ORDINARY else ours
                work = process.submit(_in_process, turn, task, spec, device, loop, size, ROUND_SECONDS)
                found = times.setdefault((loop, size), [])
                found.append(work.result())
                fastest = min(t[0] for (other, _), t in times.items() if other == loop)
                if round_ == 0 and loop == "trainer" and found[0] > MUCH_SLOWER * fastest:
                    del contenders[contenders.index((loop, size)) + 2 :]  # larger batches only cost memory
                    break
    rows = [(task.name, loop, runs, 1e3 * statistics.median(found)) for (loop, runs), found in times.items()]
    return with_ratios(pd.DataFrame(rows, columns=["task", "loop", "runs", "ms"]))


def turn(data: TaskData, task: Task, spec: RunSpec, device: str, loop: str, runs: int, seconds: float) -> float:
    """Seconds a step and run of a loop in its turn."""
    spec = spec.replace(steps=10**6, alpha=1.0)  # loops end when time is up
    if loop == "published":
        contender = published_loop(task, spec, data)
    elif loop == "plain":
        contender = plain_loop(task, spec, data, device)
    else:
        trainer = Trainer(task, [spec.replace(seed=seed) for seed in range(runs)], data, device)
        contender = Contender(trainer.update if loop == "trainer" else matmul_limit(trainer))
    for _ in range(WARM_UP):
        contender.step()
    return (mean_seconds(contender.step, device, seconds) + contender.extra) / runs


def fetched(task: Task) -> None:
    """Have the data in the cache: a process that cannot load them ends without saying why."""
    if task.dataset is not None:
        task.dataset.fetch()


@contextlib.contextmanager
def _process(spec: RunSpec, device: str, *, keeps: bool, flush: bool = True) -> Iterator[ProcessPoolExecutor]:
    """A process of its own, of as many threads as this one, with the data of a run."""
    arguments = torch.get_num_threads(), spec, device, keeps, flush
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start, arguments) as process:
        yield process


_DATA: list[TaskData] = []
"""What `_start` loaded in this process."""


def _start(threads: int, spec: RunSpec, device: str, keeps: bool, flush: bool) -> None:
    if flush:
        flush_denormals()
    torch.set_num_threads(threads)
    if keeps:
        keep_freed_memory()
    _DATA.append(task_data(spec, device))


def _in_process(work: Callable[..., Any], *arguments: object) -> Any:
    return work(_DATA[0], *arguments)


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Add how many times faster than the published and the plain loop each row is, and its share of the limit."""
    ms = table.set_index("loop")["ms"]
    limit = table[table["loop"] == "matmul"].set_index("runs")["ms"]
    table = table.assign(vs_published=ms["published"] / table["ms"], vs_plain=ms["plain"] / table["ms"])
    share = table["runs"].map(limit) / table["ms"]
    return table.assign(share_of_limit=share.where(table["loop"] == "trainer"))


def bench_probe(task: Task, spec: RunSpec, device: str, runs: int = 32, points: int = 50) -> float:
    """How many times faster `ComplexityProbe` is than a loop over models and points with the same frame.

    The loop is the plain form: hooks on one model, the vertices of one point through all of its layers.
    """
    fetched(task)
    times: dict[str, list[float]] = {"loop": [], "probe": []}
    with _process(spec, device, keeps=False) as ordinary, _process(spec, device, keeps=True) as ours:
        for _ in range(ROUNDS):
            for form, process in zip(times, (ordinary, ours), strict=True):
                work = process.submit(_in_process, probe_turn, task, spec, device, form, runs, points)
                times[form].append(work.result())
    plain, batched = (statistics.median(found) for found in times.values())
    return plain / batched


def bench_denormals(task: Task, spec: RunSpec, device: str, runs: int = 2) -> pd.DataFrame:
    """Milliseconds a step and run at the start and after LATE_STEPS steps, with denormals flushed and without.

    Once the training set is memorised, gradients and moments become denormal: a processor that computes with them more
    slowly has a last column that the first row alone keeps. Both train the landscape's run at growing alpha.
    """
    fetched(task)
    rows = []
    for flush in (True, False):
        with _process(spec, device, keeps=True, flush=flush) as process:
            early, late = process.submit(_in_process, denormal_turn, task, spec, device, runs).result()
        rows.append((task.name, "flushed" if flush else "not flushed", 1e3 * early, 1e3 * late, late / early))
    return pd.DataFrame(rows, columns=["task", "denormals", "ms early", "ms late", "late over early"])


def denormal_turn(data: TaskData, task: Task, spec: RunSpec, device: str, runs: int) -> tuple[float, float]:
    """Seconds a step and run in the first and in the last TIMED of LATE_STEPS steps, the median of each."""
    specs = [spec.replace(steps=LATE_STEPS, alpha=8.0**r, seed=r) for r in range(runs)]
    trainer = Trainer(task, specs, data, device)
    times = [timed(trainer.update, device) for _ in range(LATE_STEPS)]
    return statistics.median(times[WARM_UP:TIMED]) / runs, statistics.median(times[-TIMED:]) / runs


def probe_turn(data: TaskData, task: Task, spec: RunSpec, device: str, form: str, runs: int, points: int) -> float:
    """Seconds of the local complexity of all runs, as a loop or as a probe; the median of three calls after a first."""
    trainer = Trainer(task, [spec.replace(seed=seed) for seed in range(runs)], data, device)
    probe = ComplexityProbe(points=points)
    models = [trainer.ensemble.model(r).to(device) for r in range(runs)]
    train, test = data.train_inputs[0][:points], data.test_inputs[0][:points]
    offsets = frame(train.shape[1:], probe.directions, probe.radius).to(train)

    @torch.no_grad()
    def loop() -> None:
        for model in models:
            layers = find_layers(model, examples_of(train, offsets))
            for point in (*train, *test, *train):  # as many as the probe has
                found = extremes(model, layers, point.unsqueeze(0), offsets, shared=False)
                torch.stack([changes(low, high) for low, high in found]).sum(dim=0)

    def batched() -> None:
        probe(trainer.ensemble, data)

    work = loop if form == "loop" else batched
    timed(work, device)
    return statistics.median(timed(work, device) for _ in range(3))


def markdown(table: pd.DataFrame) -> str:
    """The table as the README shows it."""
    lines = [
        "| task | loop | runs together | ms a step and run | times published | times plain | share of matmul limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        share = f"{row.share_of_limit:.0%}" if row.loop == "trainer" else ""
        ratios = f"{row.vs_published:.1f} | {row.vs_plain:.2f} | {share}"
        lines.append(f"| {row.task} | {row.loop} | {row.runs} | {row.ms:.3f} | {ratios} |")
    return "\n".join(lines)


def mean_seconds(step: Callable[[], object], device: str, seconds: float) -> float:
    """Mean seconds of a call, over that many seconds."""
    times: list[float] = []
    while sum(times) < seconds:
        times.append(timed(step, device))
    return sum(times) / len(times)


def published_loop(task: Task, spec: RunSpec, data: TaskData) -> Contender:
    """The published style of loop; its evaluations are timed apart and spread over the steps between them."""
    device = data.train_targets.device
    own = torch.Generator()

    def loader(split: str, n: int) -> Iterable:
        published = task.published.loader(spec, split, n, own)
        if published is not None:
            return published
        examples, train = Examples(data, n, test=split == "test"), split == "train"
        return DataLoader(examples, batch_size=spec.effective_batch_size, shuffle=train, generator=own)

    model = scaled_model(task, spec, reference=True).to(device)
    optimizer = spec.optimizer.plain(model.parameters(), spec.lr, spec.weight_decay)
    train = loader("train", spec.n_train)
    sizes = {"train": task.published.train, "test": task.published.test}
    evaluated = [loader(split, n) for split, n in sizes.items() if n]

    def batches() -> Iterator[list[Tensor]]:
        while True:
            yield from train

    stream = batches()

    def step() -> float:
        *inputs, targets = (x.to(device) for x in next(stream))
        optimizer.zero_grad()
        loss = task.loss(model(*inputs), targets).mean()
        loss.backward()
        clip(model, spec)
        optimizer.step()
        return loss.item()

    @torch.no_grad()
    def evaluate() -> None:
        for batches in evaluated:
            for *inputs, targets in batches:
                task.loss(model(*(x.to(device) for x in inputs)), targets.to(device)).mean().item()

    extra = 0.0
    if evaluated:
        evaluate()
        extra = statistics.median(timed(evaluate, str(device)) for _ in range(3)) / task.published.every
    return Contender(step, extra)


def clip(model: nn.Module, spec: RunSpec) -> None:
    for part in spec.gradient:
        if isinstance(part, Clip):
            torch.nn.utils.clip_grad_norm_(model.parameters(), part.limit)


def plain_loop(task: Task, spec: RunSpec, data: TaskData, device: str) -> Contender:
    """The strongest plain loop of one model."""
    model = scaled_model(task, spec, reference=True).to(device)
    optimizer = spec.optimizer.plain(model.parameters(), spec.lr, spec.weight_decay, fused=True)
    n, size = spec.n_train, spec.effective_batch_size
    order = BatchOrder([spec], torch.device(device))
    whole = tuple(x[:n] for x in data.train_inputs), data.train_targets[:n]
    count = iter(range(10**9))

    def step() -> None:
        inputs, targets = whole
        if size < n:
            index = order(next(count))[0]
            inputs, targets = tuple(x[index] for x in data.train_inputs), data.train_targets[index]
        optimizer.zero_grad()
        task.loss(model(*inputs), targets).mean().backward()
        clip(model, spec)
        optimizer.step()

    return Contender(step)


def matmul_limit(trainer: Trainer) -> Callable[[], object]:
    """A call that does the matrix products of one training step, same shapes and strides, and nothing else."""
    with Recorder() as recorder:
        trainer.update()

    def products() -> None:
        for function, operands in recorder.products:
            function(*operands)

    return products


class Recorder(TorchDispatchMode):
    """Keeps operands of the shapes and strides of every matrix product that is executed while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[Callable[..., Tensor], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.overloadpacket in MATMULS:
            operands = args[-2:]  # addmm and baddbmm lead with what is added
            function = torch.mm if operands[0].ndim == 2 else torch.bmm
            self.products.append((function, [like(x) for x in operands]))
        return func(*args, **(kwargs or {}))


def like(x: Tensor) -> Tensor:
    """A tensor of its own with the shape and strides of x, overlapping ones too."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(x.size(), x.stride(), strict=True))
    return torch.full((extent,), 0.5, dtype=x.dtype, device=x.device).as_strided(x.size(), x.stride())
