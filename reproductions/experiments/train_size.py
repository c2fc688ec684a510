"""Every domain at several training-set sizes: held on norm spheres, and free."""

from __future__ import annotations

from dataclasses import dataclass

from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
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


def sizes(task: str) -> Sizes:
    """The sizes of a task; of one that is not the paper's, shares of its published one."""
    if task in SIZES:
        return SIZES[task]
    n = get_task(task).spec.n_train
    shares = tuple(sorted({max(1, n // k) for k in (8, 4, 2, 1)}))
    return Sizes(shares, free=shares, quick=(shares[0], shares[-1]))


def landscape(options: Options, task: str) -> list[RunSpec]:
    """The runs of the domain's own maps, and at other sizes runs like them."""
    quick = options.preset == "quick"
    chosen = options.sizes or (sizes(task).quick if quick else sizes(task).landscape)
    if task in OWN_MAPS and options.preset != "paper":
        return [spec for spec in OWN_MAPS[task](options, chosen) if spec.alpha != ALPHA_8]  # which is off the grid
    return spheres.held(task, options, spheres.log_grid(0.1, 10, ALPHAS[options.preset]), chosen, options.seeds)


def free(options: Options, task: str) -> list[RunSpec]:
    """The free runs of QM9, of one weight decay and of other tasks' own, at several sizes; none of domains without."""
    if not sizes(task).free:
        return []
    if task == "qm9":
        known = qm9.free(options, qm9.LARGE)
    elif task in FREE_DECAY:
        known = weight_decay.at(options, task, FREE_DECAY[task])
    else:
        known = spheres.free(task, options)
    chosen = options.sizes or (sizes(task).quick if options.preset == "quick" else sizes(task).free)
    return [spec.replace(n_train=n) for n in chosen for spec in known[:SEEDS]]
