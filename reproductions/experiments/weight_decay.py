"""Free runs at several weight decays: of teacher-student, MNIST and a user's own task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec
from reproductions.experiments.spheres import shortened


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


OWN = {0.0: 4, 0.25: 4, 1.0: 1, 4.0: 1}
"""For another task: factors of its weight decay, and of its steps, because a slower decay takes longer."""
DECAYS = (0.0, 0.01, 0.1, 1.0)
"""For another task that has no weight decay."""


def domain(task: str) -> Domain:
    """What is run of a task; of one that is not the paper's, its own run at several weight decays."""
    if task in DOMAINS:
        return DOMAINS[task]
    spec = get_task(task).spec
    own = {spec.weight_decay * factor: spec.steps * longer for factor, longer in OWN.items()}
    return Domain(spec.alpha, own if spec.weight_decay else dict.fromkeys(DECAYS, spec.steps), spec.evaluation_density)


def runs(options: Options, task: str) -> list[RunSpec]:
    return [spec for wd in domain(task).steps for spec in at(options, task, wd)]


def at(options: Options, task: str, weight_decay: float) -> list[RunSpec]:
    """The runs at one weight decay."""
    chosen, base = domain(task), get_task(task).spec
    base = base.replace(
        n_train=options.n_train or base.n_train,
        evaluation_density=chosen.density,
        batch_size=chosen.batch_size.get(options.preset, base.batch_size),
        alpha=chosen.alpha,
        weight_decay=weight_decay,
        sphere=None,
        steps=chosen.steps[weight_decay],
    )
    base = shortened(base, options.preset)
    return [base.replace(seed=seed) for seed in range(options.seeds)]
