"""Free runs at several weight decays: teacher-student and MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec

QUICK_STEPS = 200


@dataclass(frozen=True)
class Domain:
    """A task's init scale, its steps by weight decay, and how often it is evaluated."""

    alpha: float
    steps: Mapping[float, int]
    density: int
    batch_size: Mapping[str, int] = field(default_factory=dict)  # by preset, where not the published run's


DOMAINS = {
    "teacher_student": Domain(
        alpha=2.0,
        steps={0.0: 120_000, 0.02: 120_000, 0.05: 60_000, 0.1: 60_000, 0.2: 20_000, 0.5: 20_000, 1.0: 20_000},
        density=4,
    ),
    "mnist": Domain(
        alpha=7.0,
        steps={0.0: 40_000, 0.003: 40_000, 0.03: 30_000, 0.1: 8_000, 0.3: 8_000},
        density=2,
        batch_size={"quick": 100, "default": 100},  # half as many examples a step take half as long
    ),
}


def runs(options: Options, task: str) -> list[RunSpec]:
    return [spec for wd in DOMAINS[task].steps for spec in at(options, task, wd)]


def at(options: Options, task: str, weight_decay: float) -> list[RunSpec]:
    """The runs at one weight decay."""
    domain, base = DOMAINS[task], get_task(task).spec
    base = base.replace(
        n_train=options.n_train or base.n_train,
        evaluation_density=domain.density,
        batch_size=domain.batch_size.get(options.preset, base.batch_size),
        alpha=domain.alpha,
        weight_decay=weight_decay,
        steps=QUICK_STEPS if options.preset == "quick" else domain.steps[weight_decay],
    )
    return [base.replace(seed=seed) for seed in range(options.seeds)]
