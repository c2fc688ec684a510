"""Does a task of one's own keep the contract? Small experiments on it, and what to mend in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from omnigrok.batching import why_alone
from omnigrok.errors import OmnigrokError, first_line
from omnigrok.isolation import own_state
from omnigrok.loading import load_data
from omnigrok.processor import flushed
from omnigrok.spec import RunSpec
from omnigrok.task import Task, TaskData
from omnigrok.trainer import Trainer

STEPS = 5
CLOSE = 1e-8
"""How far a float64 run of a few steps may lie from itself in a batch: rounding is a millionth of that."""


@dataclass(frozen=True)
class Finding:
    """What one experiment showed."""

    ok: bool
    text: str


@own_state()
def check_task(task: Task) -> list[Finding]:
    """The findings of all experiments, as far as they could be made.

    >>> from omnigrok import get_task
    >>> all(finding.ok for finding in check_task(get_task("teacher_student")))
    True
    """
    found: list[Finding] = []

    def tried(what: str, experiment: Callable[[], str]) -> bool:
        try:
            found.append(Finding(True, f"{what}: {experiment()}"))
        except OmnigrokError as error:
            found.append(Finding(False, f"{what}: {error}"))
        except Exception as error:
            found.append(Finding(False, f"{what}: {type(error).__name__}: {first_line(error)}"))
        return found[-1].ok

    small = _small(task.spec)
    data: list[TaskData] = []
    if not tried("data", lambda: _data(task, small, data)):
        return found
    small = small.replace(n_train=min(small.n_train, data[0].pool_size))
    if tried("loss, metrics and parameters", lambda: _one_run(task, small, data[0])):
        tried("repeated", lambda: _repeated(task, small, data[0]))
        tried("in a batch", lambda: _batched(task, small, data[0]))
    tried("landscape", lambda: _landscape(task))
    return found


def _small(spec: RunSpec) -> RunSpec:
    return spec.replace(
        steps=STEPS, n_train=min(spec.n_train, 64), batch_size=min(spec.effective_batch_size, 16), dtype="float64",
        probes=(), keep=(), changes=(), stop=None,
    )  # fmt: skip


def _data(task: Task, spec: RunSpec, data: list[TaskData]) -> str:
    first, second = (load_data(task, spec, "cpu") for _ in range(2))
    if first.sha256 != second.sha256:
        raise OmnigrokError(
            "`load` gave other data the second time: draw what is random from "
            "omnigrok.spec.generator(spec.data_seed, 'a name')"
        )
    if task.spec.n_train > first.pool_size:
        raise OmnigrokError(f"its spec wants {task.spec.n_train} training examples, `load` gives {first.pool_size}")
    data.append(first)
    return f"the same twice, {first.pool_size} training and {len(first.test_targets)} test examples"


@flushed()
def _trained(task: Task, specs: list[RunSpec], data: TaskData) -> Trainer:
    trainer = Trainer(task, specs, data)
    trainer.train()
    return trainer


def _one_run(task: Task, spec: RunSpec, data: TaskData) -> str:
    trainer = _trained(task, [spec], data)
    loss = trainer.latest("train", "loss")
    if not loss == loss:
        raise OmnigrokError(f"the loss is not a number after {STEPS} steps: a smaller lr or alpha")
    count = sum(p[0].numel() for p in trainer.ensemble.params.values())
    return f"one number an example, {count:,} parameters, all used"


def _repeated(task: Task, spec: RunSpec, data: TaskData) -> str:
    first, second = (_trained(task, [spec], data) for _ in range(2))
    for a, b in zip(first.ensemble.theta, second.ensemble.theta, strict=True):
        if not torch.equal(a, b):
            raise OmnigrokError(
                "the same run gave other weights the second time: something in it draws unseeded numbers"
            )
    return "the same run ends with the same bits"


def _batched(task: Task, spec: RunSpec, data: TaskData) -> str:
    if reason := why_alone(task, spec, data, "cpu"):
        return f"its runs are trained one by one: {reason}"
    specs = list(_neighbours(spec))
    together = _trained(task, specs, data)
    worst = 0.0
    for r, each in enumerate(specs):
        alone = _trained(task, [each], data)
        for name, p in alone.ensemble.params.items():
            worst = max(worst, float((together.ensemble.params[name][r] - p[0]).detach().abs().max()))
    if not worst <= CLOSE:
        raise OmnigrokError(
            f"a run's weights differ by {worst:.1e} alone and in a batch of three: what it computes depends on its "
            "neighbours; set batchable = False"
        )
    return f"a run alone and in a batch of three differ by {worst:.0e} at most"


def _neighbours(spec: RunSpec) -> Iterator[RunSpec]:
    yield spec
    yield spec.replace(seed=1, alpha=2 * spec.alpha, weight_decay=spec.weight_decay + 0.1)
    yield spec.replace(seed=2, sphere=True)


def _landscape(task: Task) -> str:
    found = {preset: task.landscape(preset) for preset in ("quick", "default", "paper")}
    if None in found.values():
        return "none of its own; figures hold its published run on the norm sphere"
    for preset, spec in found.items():
        assert spec is not None
        if spec.sphere is None or spec.alpha != 1:
            raise OmnigrokError(
                f"landscape({preset!r}) must be at alpha = 1 on the sphere: replace(alpha=1.0, sphere=True)"
            )
    return "at alpha = 1 on the norm sphere"
