"""Every task's own landscape at its published training-set size."""

from __future__ import annotations

from omnigrok.figures.figure import Options
from omnigrok.registry import available_tasks
from omnigrok.spec import RunSpec
from reproductions.experiments.spheres import landscape_spec, log_grid

ORDER = ("teacher_student", "mnist", "imdb", "qm9", "modular")
GRID = {"quick": 7, "default": 11, "paper": 21}
IMDB_LEFT = (0.0158, 0.0251, 0.0398, 0.0631)  # the smaller network's left wall lies further left
ALPHA_8 = 8.0  # where the paper's value on overfitting is stated; not on the log-spaced grid


def tasks() -> list[str]:
    """The paper's tasks, as far as they are installed. Others are drawn where they are named."""
    return [name for name in ORDER if name in available_tasks()]


def alphas(preset: str, task: str) -> list[float]:
    grid = log_grid(0.1, 10, GRID[preset])
    if task == "mnist":
        return sorted([*grid, ALPHA_8])
    return [*IMDB_LEFT, *grid] if task == "imdb" and preset == "default" else grid


def base(options: Options, task: str) -> RunSpec:
    """What the runs of a task have in common."""
    spec = landscape_spec(task, options.preset)
    return spec.replace(n_train=options.n_train or spec.n_train)


def landscapes(options: Options) -> list[RunSpec]:
    return [spec for task in options.tasks for spec in runs(options, task)]


def runs(options: Options, task: str) -> list[RunSpec]:
    spec = base(options, task)
    return [
        spec.replace(alpha=alpha, seed=seed) for alpha in alphas(options.preset, task) for seed in range(options.seeds)
    ]
