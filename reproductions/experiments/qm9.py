"""QM9: the maps over norm and training-set size, and free runs from a large and the usual init."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec
from reproductions.experiments.spheres import held, log_grid

LARGE, USUAL = 3.0, 1.0  # alpha
SMALL, MOST = 50, 1200  # the paper's slices "100" and "3000" of molecules in all, the second about 2,390
MAP_SEEDS = 3


@dataclass(frozen=True)
class Size:
    """What a preset trains: steps of the free runs, alphas and training-set sizes of the maps."""

    steps: int
    alphas: int
    n_train: tuple[int, ...]


PUBLISHED = (5, 6, 9, 13, 18, 26, 36, 50, 70, 96, 134, 187, 260, 361, 502, 698, 970, 1347, 1873, 2603, 3618, 5000)
SIZES = {
    "quick": Size(200, alphas=3, n_train=(10, SMALL)),
    "default": Size(40_000, alphas=9, n_train=(6, 16, SMALL, 200, MOST)),
    "paper": Size(100_000, alphas=21, n_train=PUBLISHED),
}


def subset(options: Options) -> str:
    return "first" if options.reading == "published" else "shuffled"


def maps(options: Options, sizes: Sequence[int] = ()) -> list[RunSpec]:
    """The runs of the maps, at training-set sizes of the preset or at others; none where the user asks for one size."""
    if options.n_train is not None:
        return []
    size, seeds = SIZES[options.preset], min(MAP_SEEDS, options.seeds)
    alphas = log_grid(0.1, 10, size.alphas)
    return held("qm9", options, alphas, sizes or size.n_train, seeds, subset=subset(options))


def free(options: Options, alpha: float) -> list[RunSpec]:
    base, steps = get_task("qm9").spec, SIZES[options.preset].steps
    base = base.replace(steps=steps, n_train=options.n_train or base.n_train, subset=subset(options), alpha=alpha)
    return [base.replace(seed=seed) for seed in range(options.seeds)]
