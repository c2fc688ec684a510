"""Every domain at several training-set sizes: held on norm spheres, and free."""

from __future__ import annotations

from dataclasses import dataclass

from omnigrok.figure import Options
from omnigrok.spec import RunSpec
from reproductions.experiments import imdb, mnist, qm9, spheres, weight_decay
from reproductions.experiments.lu import ALPHA_8

SEEDS = 3  # of the free runs
ALPHAS = {"quick": 3, "default": 11, "paper": 11}  # of domains without maps of their own
FREE_DECAY = {"teacher_student": 0.05, "mnist": 0.03}
OWN_MAPS = {"mnist": mnist.maps, "imdb": imdb.maps, "qm9": qm9.maps}


@dataclass(frozen=True)
class Sizes:
    """Training-set sizes of a domain's landscape, of its free runs, and of both at the quick preset."""

    landscape: tuple[int, ...]
    free: tuple[int, ...]
    quick: tuple[int, ...]


SIZES = {
    "teacher_student": Sizes((25, 50, 100, 400), free=(50, 100, 400), quick=(50, 100)),
    "mnist": Sizes(mnist.SIZES["default"].n_train, free=(300, 1000, 3000), quick=(100, 200)),
    "imdb": Sizes(imdb.SIZES["default"].n_train, free=(), quick=(100,)),
    "qm9": Sizes(qm9.SIZES["default"].n_train, free=(16, 50, 200), quick=(10, 50)),
    "modular": Sizes((300, 480, 660), free=(), quick=(40, 60)),
}


def landscape(options: Options, task: str) -> list[RunSpec]:
    """The runs of the domain's own maps, and at other sizes runs like them."""
    quick = options.preset == "quick"
    sizes = options.sizes or (SIZES[task].quick if quick else SIZES[task].landscape)
    if task in OWN_MAPS and options.preset != "paper":
        return [spec for spec in OWN_MAPS[task](options, sizes) if spec.alpha != ALPHA_8]  # which is off the grid
    return spheres.held(task, options, spheres.log_grid(0.1, 10, ALPHAS[options.preset]), sizes, options.seeds)


def free(options: Options, task: str) -> list[RunSpec]:
    """The free runs of QM9 and of one weight decay, at several sizes; none of domains without."""
    if not SIZES[task].free:
        return []
    known = qm9.free(options, qm9.LARGE) if task == "qm9" else weight_decay.at(options, task, FREE_DECAY[task])
    sizes = options.sizes or (SIZES[task].quick if options.preset == "quick" else SIZES[task].free)
    return [spec.replace(n_train=n) for n in sizes for spec in known[:SEEDS]]
