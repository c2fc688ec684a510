"""Networks over norm and messiness of the representation: the toy of modular addition, and MNIST with templates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from omnigrok.schedule import Drop
from omnigrok.spec import RunSpec
from omnigrok.sphere import Sphere

PER_SHARE = 5  # the paper's messiness over the share of random embeddings
MAP_PAIRS = 45  # training pairs of the map


@dataclass(frozen=True)
class Size:
    """What a preset trains of the toy. `coarse`, `fine`: alphas and messinesses of the map and of the zooms."""

    steps: int
    pairs: tuple[int, ...]
    coarse: tuple[int, int]
    fine: tuple[int, int]


SIZES = {
    "quick": Size(60, (25, 54), coarse=(3, 2), fine=(3, 2)),
    "default": Size(6_000, (25, 35, 45, 54), coarse=(8, 5), fine=(8, 4)),
    "paper": Size(15_000, (25, 35, 45, 54), coarse=(20, 21), fine=(21, 21)),
}


def toy_map(options: Options) -> dict[float, list[RunSpec]]:
    """The coarse map, by messiness."""
    norms, messes = SIZES[options.preset].coarse
    return _toys(options, MAP_PAIRS, np.linspace(0.45, 9.0, norms), np.linspace(0, 1.0, messes))


def toy_zooms(options: Options) -> dict[int, dict[float, list[RunSpec]]]:
    """The zooms on the contour, by the number of training pairs and by messiness."""
    norms, messes = SIZES[options.preset].fine
    alphas, levels = np.linspace(2.0, 4.5, norms), np.linspace(0, 0.5, messes)
    return {n: _toys(options, n, alphas, levels) for n in SIZES[options.preset].pairs}


def _toys(options: Options, n: int, alphas: np.ndarray, levels: np.ndarray) -> dict[float, list[RunSpec]]:
    steps = SIZES[options.preset].steps
    base = get_task("modular_toy").spec.replace(n_train=n, steps=steps, schedule=(Drop(max(1, steps // 3), 0.2),))
    base = base.replace(sphere=Sphere(first_twice=options.reading == "published"))
    return {
        m: [
            base.replace(alpha=round(float(w), 5), seed=seed, options=(("messiness", round(m / PER_SHARE, 5)),))
            for w in alphas
            for seed in range(options.seeds)
        ]
        for m in levels
    }


@dataclass(frozen=True)
class TemplateSize:
    """What a preset trains of MNIST with templates."""

    n_train: int
    steps: int
    alphas: tuple[float, ...]
    messiness: tuple[float, ...]


TEMPLATE_SIZES = {
    "quick": TemplateSize(200, 30, alphas=(1.0, 4.0), messiness=(0.0, 1.0)),
    "default": TemplateSize(
        10_000, 3_000, alphas=(0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0), messiness=(0.0, 0.33, 0.67, 1.0)
    ),
    "paper": TemplateSize(
        60_000,
        10_000,
        alphas=tuple(float(a) for a in np.linspace(0.5, 10, 20)),
        messiness=tuple(float(m) for m in np.linspace(0, 1, 21).round(3)),
    ),
}


def templates(options: Options) -> dict[float, list[RunSpec]]:
    """MNIST with templates, by messiness."""
    size = TEMPLATE_SIZES[options.preset]
    base = get_task("mnist_templates").spec.replace(
        n_train=options.n_train or size.n_train, steps=size.steps, evaluation_density=1
    )
    return {
        m: [
            base.replace(alpha=alpha, seed=seed, options=(("messiness", m),))
            for alpha in size.alphas
            for seed in range(options.seeds)
        ]
        for m in size.messiness
    }
