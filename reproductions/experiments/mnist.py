"""MNIST: the maps over norm and training-set size, and the grokking run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec
from reproductions.experiments.lu import ALPHA_8
from reproductions.experiments.spheres import held, log_grid

LU, UU = 200, 8000  # images with which the landscape is an LU, a UU
FEW = 1000


@dataclass(frozen=True)
class Size:
    """What a preset trains. `few` and `many`: steps of the maps' networks, up to FEW images and above; `density`: of
    their evaluations."""

    steps: int
    few: int
    many: int
    alphas: int
    n_train: tuple[int, ...]
    dtype: str = "float32"
    density: int = 0  # evaluating as often as published would cost as much as training


PUBLISHED = (
    10, 13, 19, 26, 37, 51, 71, 100, 138, 193, LU, 268, 372, 517, 719, 1000, 1389, 1930, 2682, 3727, 5179, 7196, UU,
    10_000, 13_894, 19_306, 26_826, 37_275, 51_794, 60_000,
)  # fmt: skip
SIZES = {
    "quick": Size(300, few=50, many=50, alphas=3, n_train=(LU, UU)),
    "default": Size(60_000, few=3_000, many=10_000, alphas=9, n_train=(10, 20, 50, 100, LU, 500, 1000, UU)),
    "paper": Size(100_000, few=10_000, many=10_000, alphas=21, n_train=PUBLISHED, dtype="float64", density=1),
}


def maps(options: Options, sizes: Sequence[int] = ()) -> list[RunSpec]:
    """The runs of the maps, at training-set sizes of the preset or at others; none where the user asks for one size."""
    if options.n_train is not None:
        return []
    size = SIZES[options.preset]
    cells = held("mnist", options, log_grid(0.1, 10, size.alphas), sizes or size.n_train, options.seeds)
    cells += held("mnist", options, [ALPHA_8], [LU, UU], options.seeds)
    return [
        s.replace(steps=size.few if s.n_train <= FEW else size.many, evaluation_density=size.density) for s in cells
    ]


def grokking(options: Options) -> list[RunSpec]:
    base, size = get_task("mnist").spec, SIZES[options.preset]
    base = base.replace(steps=size.steps, n_train=options.n_train or base.n_train, dtype=size.dtype)
    return [base.replace(seed=seed) for seed in range(options.seeds)]
