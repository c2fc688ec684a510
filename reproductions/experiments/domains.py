"""The published grokking run of every domain, and the domains whose representation can be chosen."""

from __future__ import annotations

from omnigrok.figures.figure import Options
from omnigrok.spec import RunSpec
from reproductions.experiments import imdb, mnist, modular, qm9, representation, spheres, teacher_student

SEEDS = 3
MESSY = {"modular": representation.toy_map, "mnist": representation.templates}


def grokking(options: Options, task: str) -> list[RunSpec]:
    """The published grokking run of a domain, as its own figure trains it; of another task its own run."""
    runs = {
        "teacher_student": lambda: teacher_student.free(options, teacher_student.LARGE),
        "mnist": lambda: mnist.grokking(options),
        "imdb": lambda: imdb.free(options, imdb.LARGE),
        "qm9": lambda: qm9.free(options, qm9.LARGE),
        "modular": lambda: modular.free(options),
    }.get(task, lambda: spheres.free(task, options))
    return runs()[:SEEDS]


def by_messiness(options: Options, task: str) -> dict[float, list[RunSpec]]:
    """Runs of a domain by the messiness of its representation; none where that cannot be chosen."""
    return MESSY[task](options) if task in MESSY else {}
