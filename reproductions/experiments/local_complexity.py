"""The MNIST network of `robust`, one setting of it changed at a time."""

from __future__ import annotations

from collections.abc import Callable

from omnigrok.figures.figure import Options
from omnigrok.spec import RunSpec
from reproductions.experiments.robust import SIZES, mnist

STEPS = {"quick": 20, "default": 10_000, "paper": 100_000}
VARIED: dict[str, dict[float, Callable[[RunSpec], RunSpec]]] = {
    "depth": {v: lambda s, v=v: with_option(s, "depth", v) for v in (3, 4, 6)},  # type: ignore[misc]
    "width": {v: lambda s, v=v: with_option(s, "width", v) for v in (50, 200, 500)},  # type: ignore[misc]
    "weight decay": {v: lambda s, v=v: s.replace(weight_decay=v) for v in (0.0, 0.01, 0.1, 1.0)},  # type: ignore[misc]
    "label noise": {v: lambda s, v=v: with_option(s, "label_noise", v) for v in (0.0, 0.5, 1.0)},  # type: ignore[misc]
    "training images": {v: lambda s, v=v: s.replace(n_train=v) for v in (250, 1000, 4000)},  # type: ignore[misc]
    "init scale": {v: lambda s, v=v: s.replace(alpha=v) for v in (1.0, 4.0)},  # type: ignore[misc]
}


def with_option(spec: RunSpec, name: str, value: float) -> RunSpec:
    default = {"depth": 4, "width": 200, "label_noise": 0.0}[name]
    if value == default:  # one name for one run
        return spec
    return spec.replace(options=tuple(sorted({**dict(spec.options), name: value}.items())))


def runs(options: Options) -> dict[str, dict[float, list[RunSpec]]]:
    """Runs by what is varied and its value."""
    base = mnist(options).replace(steps=STEPS[options.preset], probes=(SIZES[options.preset].complexity,))
    return {
        what: {v: [vary(base).replace(seed=seed) for seed in range(options.seeds)] for v, vary in values.items()}
        for what, values in VARIED.items()
    }
