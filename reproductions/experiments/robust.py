"""The networks of the robustness figures (Humayun et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omnigrok.complexity import ComplexityProbe
from omnigrok.figure import Options
from omnigrok.partition_probe import PartitionProbe
from omnigrok.robustness import PGD, RobustnessProbe
from omnigrok.spec import RunSpec
from omnigrok.task import get_task

DEPTH, EXAMPLES = 4, 500
EPS = (0.06, 0.1, 0.2)  # pixels in [0, 1]
MAIN = 0.1  # the radius that the claims are about
CIFAR_EPS = (0.0063, 0.0392)  # 8/255 and 50/255 of the published code's normalised inputs, 5 times as large as pixels
ALPHA, ATTACK_STEPS = 4.0, 5  # of adversarial training
DENSITY = 2  # of MNIST's evaluations: at 9 a decade two seeds' second descent and late rise fall together


@dataclass(frozen=True)
class Size:
    """What a preset trains: steps of each experiment, and the steps whose partition is shown."""

    delayed: int
    cifar: int
    adversarial: int
    partition: int
    pictures: tuple[int, ...]
    margin: float = 1.2  # of the partition's plane


SIZES = {
    "quick": Size(40, cifar=3, adversarial=20, partition=20, pictures=(0, 20), margin=0.2),
    "default": Size(60_000, cifar=3_000, adversarial=6_000, partition=60_000, pictures=(0, 100, 1_000, 10_000, 60_000)),
    "paper": Size(
        1_000_000, cifar=500_000, adversarial=100_000, partition=1_000_000, pictures=(0, 100, 1_000, 10_000, 1_000_000)
    ),
}


def mnist(quick: bool) -> RunSpec:
    """1,000 images, ReLU network 784-200-200-200-10, squared error, AdamW, lr 1e-3, weight decay 0.01, batch 200."""
    return get_task("mnist").spec.replace(
        alpha=1.0, n_train=200 if quick else 1000, evaluation_density=1, options=(("depth", DEPTH),)
    )


def cifar10(preset: str) -> RunSpec:
    """CIFAR-10 with Humayun et al.'s ResNet18 and all images, or what 2 cores can train: 1,000 images, a small CNN.

    The published radius of local complexity, 0.005 of normalised inputs, crosses few of the small network's 10,000
    units; it has 0.005 of a pixel.
    """
    published = preset == "paper"
    base = get_task("cifar10").spec
    if not published:
        base = base.replace(n_train=200 if preset == "quick" else 1000, batch_size=100, options=(("network", "cnn"),))
    complexity = ComplexityProbe(radius=0.001 if published else 0.005, points=1024 if published else 50)
    attack = RobustnessProbe(eps=CIFAR_EPS, examples=10_000 if published else 200)
    if preset == "quick":
        complexity = ComplexityProbe(radius=0.005, directions=5, points=10)
        attack = RobustnessProbe(eps=CIFAR_EPS, steps=2, margin_steps=3, examples=20)
    return base.replace(probes=(complexity, attack))


def complexity_probe(quick: bool) -> ComplexityProbe:
    """Radius 0.5, 25 directions. The paper states 0.005, which crosses hardly a unit of this network, and its counts on
    MNIST (Fig. 2, 10, 29, 32) are those of 0.05.
    """
    return ComplexityProbe(radius=0.5, directions=5 if quick else 25, points=20 if quick else 200)


def robustness_probe(quick: bool, eps: Sequence[float] = EPS) -> RobustnessProbe:
    if quick:
        return RobustnessProbe(eps=tuple(eps), steps=3, margin_steps=3, examples=50)
    return RobustnessProbe(eps=tuple(eps), examples=EXAMPLES)


def delayed(options: Options, task: str) -> list[RunSpec]:
    """Ordinary training from the usual init, for long."""
    quick, size = options.preset == "quick", SIZES[options.preset]
    if task == "mnist":
        base = mnist(quick).replace(steps=size.delayed, evaluation_density=DENSITY)
        base = base.replace(probes=(complexity_probe(quick), robustness_probe(quick)))
    else:
        base = cifar10(options.preset).replace(steps=size.cifar)
    return _seeds(options, base)


def ordinary(options: Options) -> list[RunSpec]:
    """Ordinary training from the large init."""
    quick = options.preset == "quick"
    probes = (complexity_probe(quick), robustness_probe(quick, (MAIN,)))
    return _seeds(options, mnist(quick).replace(alpha=ALPHA, steps=SIZES[options.preset].adversarial, probes=probes))


def adversarial(options: Options) -> list[RunSpec]:
    """Adversarial training from the large init."""
    return [spec.replace(perturbation=PGD(MAIN, ATTACK_STEPS)) for spec in ordinary(options)]


def partitioned(options: Options) -> list[RunSpec]:
    """The network of `delayed`, looked at on a plane; the weights of the steps that are shown are kept."""
    size, base = SIZES[options.preset], mnist(options.preset == "quick")
    base = base.replace(steps=size.partition, evaluation_density=0, keep=size.pictures)
    return _seeds(options, base.replace(probes=(PartitionProbe(margin=size.margin),)))


def _seeds(options: Options, base: RunSpec) -> list[RunSpec]:
    base = base.replace(n_train=options.n_train or base.n_train)
    return [base.replace(seed=seed) for seed in range(options.seeds)]
