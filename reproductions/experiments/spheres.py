"""Networks held on norm spheres, over alphas, training-set sizes and seeds; and a task's own run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec

QUICK_STEPS = 200


def log_grid(low: float, high: float, points: int) -> list[float]:
    """Alphas at equal ratios."""
    return [float(f"{alpha:.4g}") for alpha in np.geomspace(low, high, points)]


def held(
    task: str, options: Options, alphas: Sequence[float], sizes: Sequence[int], seeds: int, **changes: object
) -> list[RunSpec]:
    """The task's norm-sphere runs over alphas, training-set sizes and seeds."""
    base = landscape_spec(task, options.preset).replace(**changes)
    return [base.replace(alpha=alpha, n_train=n, seed=seed) for n in sizes for alpha in alphas for seed in range(seeds)]


def landscape_spec(task: str, preset: str) -> RunSpec:
    """The published landscape of a task; of one that has none, its own run on the norm sphere, without weight decay."""
    chosen = get_task(task)
    return chosen.landscape(preset) or shortened(chosen.spec, preset).replace(alpha=1.0, weight_decay=0.0, sphere=True)


def free(task: str, options: Options) -> list[RunSpec]:
    """The task's own run, of which nothing but N and the seeds is chosen."""
    base = shortened(get_task(task).spec, options.preset)
    base = base.replace(n_train=options.n_train or base.n_train)
    return [base.replace(seed=seed) for seed in range(options.seeds)]


def shortened(spec: RunSpec, preset: str) -> RunSpec:
    """A spec of a task that says nothing of presets: at the quick preset its first steps."""
    if preset != "quick":
        return spec
    steps = min(spec.steps, QUICK_STEPS)
    return spec.replace(steps=steps, keep=tuple(step for step in spec.keep if step <= steps))
