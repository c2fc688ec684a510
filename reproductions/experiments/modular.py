"""Modular addition: the Transformer with its norm free, and held."""

from __future__ import annotations

from dataclasses import dataclass

from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec

BASELINE, CONSTRAINED = 1.0, 0.8  # alpha


@dataclass(frozen=True)
class Size:
    """What a preset trains: steps of the free and of the held runs, and the alphas of these."""

    free: int
    held: int
    alphas: tuple[float, ...]
    dtype: str = "float32"


SIZES = {
    "quick": Size(60, 30, (CONSTRAINED, 1.0)),
    "default": Size(12_000, 600, (0.65, CONSTRAINED, 1.0, 1.25)),
    "paper": Size(15_000, 15_000, (0.5, 0.65, CONSTRAINED, 1.0, 1.25, 1.5), dtype="float64"),
}


def base(options: Options) -> RunSpec:
    spec = get_task("modular").spec
    return spec.replace(n_train=options.n_train or spec.n_train, dtype=SIZES[options.preset].dtype)


def free(options: Options) -> list[RunSpec]:
    spec = base(options).replace(steps=SIZES[options.preset].free)
    return [spec.replace(seed=seed) for seed in range(options.seeds)]


def held(options: Options) -> list[RunSpec]:
    size = SIZES[options.preset]
    spec = base(options).replace(sphere=True, weight_decay=0.0, steps=size.held)
    return [spec.replace(alpha=alpha, seed=seed) for alpha in size.alphas for seed in range(options.seeds)]
