"""The networks of the robustness figures (Humayun et al. 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omnigrok.figures.figure import Options
from omnigrok.probes.complexity import ComplexityProbe
from omnigrok.probes.partition_probe import PartitionProbe
from omnigrok.probes.robustness import PGD, RobustnessProbe
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec

EPS = (0.06, 0.1, 0.2)  # pixels in [0, 1]
MAIN = 0.1  # the radius that the claims are about
CIFAR_EPS = (0.0063, 0.0392)  # 8/255 and 50/255 of the published code's normalised inputs, 5 times as large as pixels
ALPHA, ATTACK_STEPS = 4.0, 5  # of adversarial training
DENSITY = 2  # of MNIST's evaluations: at 9 a decade two seeds' second descent and late rise fall together


@dataclass(frozen=True)
class Size:
    """What a preset trains on MNIST: steps of each experiment, the steps whose partition is shown, and the probes.

    Local complexity has radius 0.5 and 25 directions. The paper states 0.005, which crosses hardly a unit of this
    network, and its counts on MNIST (Fig. 2, 10, 29, 32) are those of 0.05.
    """

    delayed: int
    adversarial: int
    partition: int
    pictures: tuple[int, ...]
    n_train: int = 1000
    complexity: ComplexityProbe = field(default_factory=lambda: ComplexityProbe(radius=0.5, directions=25, points=200))
    attack: RobustnessProbe = field(default_factory=lambda: RobustnessProbe(eps=EPS, examples=500))
    plane: PartitionProbe = field(default_factory=PartitionProbe)


SIZES = {
    "quick": Size(
        40, adversarial=20, partition=20, pictures=(0, 20), n_train=200,
        complexity=ComplexityProbe(radius=0.5, directions=5, points=20),
        attack=RobustnessProbe(eps=EPS, steps=3, margin_steps=3, examples=50),
        plane=PartitionProbe(margin=0.2),
    ),
    "default": Size(60_000, adversarial=6_000, partition=60_000, pictures=(0, 100, 1_000, 10_000, 60_000)),
    "paper": Size(1_000_000, adversarial=100_000, partition=1_000_000, pictures=(0, 100, 1_000, 10_000, 1_000_000)),
}  # fmt: skip


@dataclass(frozen=True)
class CifarSize:
    """What a preset trains on CIFAR-10: Humayun et al.'s ResNet18 and all images, or what 2 cores can train.

    The published radius of local complexity, 0.005 of normalised inputs, crosses few of the small network's 10,000
    units; it has 0.005 of a pixel.
    """

    steps: int
    complexity: ComplexityProbe
    attack: RobustnessProbe
    changes: Mapping[str, Any] = field(default_factory=dict)


CNN = {"batch_size": 100, "options": (("network", "cnn"),)}
CIFAR_SIZES = {
    "quick": CifarSize(
        3, ComplexityProbe(radius=0.005, directions=5, points=10),
        RobustnessProbe(eps=CIFAR_EPS, steps=2, margin_steps=3, examples=20), {"n_train": 200, **CNN},
    ),
    "default": CifarSize(
        3_000, ComplexityProbe(radius=0.005, points=50), RobustnessProbe(eps=CIFAR_EPS, examples=200),
        {"n_train": 1000, **CNN},
    ),
    "paper": CifarSize(
        500_000, ComplexityProbe(radius=0.001, points=1024), RobustnessProbe(eps=CIFAR_EPS, examples=10_000)
    ),
}  # fmt: skip


def mnist(options: Options) -> RunSpec:
    """1,000 images, ReLU network 784-200-200-200-10, squared error, AdamW, lr 1e-3, weight decay 0.01, batch 200."""
    return get_task("mnist").spec.replace(
        alpha=1.0, n_train=SIZES[options.preset].n_train, evaluation_density=1, options=(("depth", 4),)
    )


def delayed(options: Options, task: str) -> list[RunSpec]:
    """Ordinary training from the usual init, for long."""
    if task == "mnist":
        size = SIZES[options.preset]
        base = mnist(options).replace(steps=size.delayed, evaluation_density=DENSITY)
        return _seeds(options, base.replace(probes=(size.complexity, size.attack)))
    cifar = CIFAR_SIZES[options.preset]
    base = get_task("cifar10").spec.replace(**cifar.changes)
    return _seeds(options, base.replace(steps=cifar.steps, probes=(cifar.complexity, cifar.attack)))


def ordinary(options: Options) -> list[RunSpec]:
    """Ordinary training from the large init."""
    size = SIZES[options.preset]
    probes = (size.complexity, dataclasses.replace(size.attack, eps=(MAIN,)))
    return _seeds(options, mnist(options).replace(alpha=ALPHA, steps=size.adversarial, probes=probes))


def adversarial(options: Options) -> list[RunSpec]:
    """Adversarial training from the large init."""
    return [spec.replace(perturbation=PGD(MAIN, ATTACK_STEPS)) for spec in ordinary(options)]


def partitioned(options: Options) -> list[RunSpec]:
    """The network of `delayed`, looked at on a plane; the weights of the steps that are shown are kept."""
    size = SIZES[options.preset]
    base = mnist(options).replace(steps=size.partition, evaluation_density=0, keep=size.pictures)
    return _seeds(options, base.replace(probes=(size.plane,)))


def _seeds(options: Options, base: RunSpec) -> list[RunSpec]:
    base = base.replace(n_train=options.n_train or base.n_train)
    return [base.replace(seed=seed) for seed in range(options.seeds)]
