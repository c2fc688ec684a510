"""IMDb: the maps over norm and training-set size, and free runs from a large and the usual init."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec
from reproductions.experiments.spheres import held, log_grid

LARGE, USUAL = 6.0, 1.0  # alpha
SLICE = 750  # reviews, 75 % of the published number


@dataclass(frozen=True)
class Size:
    """What a preset trains. `long` and `short`: steps from the large and the usual init; `network`: of these runs."""

    long: int
    short: int
    alphas: int
    n_train: tuple[int, ...]
    lowest: float = 0.1  # alpha of the maps
    network: Mapping[str, int] = field(default_factory=dict)


PUBLISHED = (75, 118, 188, 298, 472, SLICE, 1188, 1883, 2985, 4731, 7500, 11886)  # 75 % of the published numbers
SIZES = {
    "quick": Size(10, 10, alphas=2, n_train=(100,), network={"hidden": 8, "length": 60}),
    "default": Size(  # the smaller network's left wall lies further left
        8_000, 1_000, alphas=6, n_train=(250, SLICE, 3000, 12000), lowest=0.0316, network={"hidden": 64, "length": 200}
    ),
    "paper": Size(75_000, 75_000, alphas=11, n_train=PUBLISHED),
}


def maps(options: Options, sizes: Sequence[int] = ()) -> list[RunSpec]:
    """The runs of the maps, at training-set sizes of the preset or at others; none where the user asks for one size."""
    if options.n_train is not None:
        return []
    size = SIZES[options.preset]
    return held("imdb", options, log_grid(size.lowest, 10, size.alphas), sizes or size.n_train, options.seeds)


def free(options: Options, alpha: float) -> list[RunSpec]:
    """From the large init with weight decay 1, from the usual one without."""
    base, size = get_task("imdb").spec, SIZES[options.preset]
    network = tuple(sorted({**dict(base.options), **size.network}.items()))
    base = base.replace(n_train=options.n_train or base.n_train, options=network, alpha=alpha)
    base = base.replace(steps=size.long) if alpha == LARGE else base.replace(weight_decay=0.0, steps=size.short)
    return [base.replace(seed=seed) for seed in range(options.seeds)]
