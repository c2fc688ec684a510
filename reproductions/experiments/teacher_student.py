"""Teacher and student: the landscape on either sphere, and free runs from a large and a small init."""

from __future__ import annotations

from dataclasses import dataclass

from omnigrok.figures.figure import Options, Reading
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec
from omnigrok.sphere import Sphere
from reproductions.experiments.spheres import held, landscape_spec, log_grid

LARGE, SMALL = 2.0, 0.5  # alpha


@dataclass(frozen=True)
class Size:
    """What a preset trains: steps of the free runs, alphas of the landscapes."""

    steps: int
    alphas: int


SIZES = {"quick": Size(300, alphas=7), "default": Size(100_000, alphas=11), "paper": Size(100_000, alphas=21)}


def landscape(options: Options, reading: Reading) -> list[RunSpec]:
    """Students on the published notebook's sphere, or on that of the norm."""
    sizes = [options.n_train or landscape_spec("teacher_student", options.preset).n_train]
    notebook = reading == "published"
    return held(
        "teacher_student", options, log_grid(0.1, 10, SIZES[options.preset].alphas), sizes, options.seeds,
        sphere=Sphere(first_twice=notebook, early=notebook),
    )  # fmt: skip


def free(options: Options, alpha: float) -> list[RunSpec]:
    base = get_task("teacher_student").spec
    base = base.replace(steps=SIZES[options.preset].steps, n_train=options.n_train or base.n_train, alpha=alpha)
    return [base.replace(seed=seed) for seed in range(options.seeds)]
