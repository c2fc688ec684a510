"""Adversarial attacks on all runs of a batch, as a probe (robust accuracy) and a perturbation (adversarial training).

Humayun et al. 2024 attack with projected gradient descent (PGD, Madry et al. 2018). A network whose loss has
underflowed gives no gradient, and looks robust to an attack that follows it: so every probe also logs the share of
examples with a zero gradient, and the accuracy under an attack on the margin, which does not saturate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from omnigrok.errors import SpecError
from omnigrok.spec import generator
from omnigrok.task import Inputs
from omnigrok.trainer import Trainer, widest_dtype

Objective = Literal["ce", "margin", "dlr"]


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on a loss of the outputs, as logits, within a ball around each input.

    As a perturbation of a run it is adversarial training. The first input of the model is attacked. Decaying steps and
    the objective dlr are taken from APGD (Croce and Hein 2020, sections 3 and 4).

    Attributes:
        eps: radius of the ball, in the units of the input (for images in [0, 1]: of a pixel).
        steps: gradient steps.
        step: length of a step, with `decay` of the first; None: eps / 4, with `decay` 2 eps.
        norm: linf, or l2 over the whole input.
        objective: ce (cross-entropy), margin (largest wrong output less the right one, which does not saturate) or dlr
            (the margin over the largest output less the third: difference of logits ratio).
        restarts: random starts of which each example's worst is kept.
        decay: steps fall linearly to zero and the worst point on the way is kept, not the last. Where the loss is
            rugged, long first steps find what short ones, stuck near their start, miss.
        low, high: the inputs' range, to which an attacked input is clamped.
    """

    eps: float
    steps: int = 10
    step: float | None = None
    norm: Literal["linf", "l2"] = "linf"
    objective: Objective = "ce"
    restarts: int = 1
    decay: bool = False
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (self.eps >= 0 and self.steps >= 0 and self.restarts >= 1):
            raise SpecError("an attack needs eps >= 0, steps >= 0 and restarts >= 1")
        if self.norm not in ("linf", "l2") or self.objective not in ("ce", "margin", "dlr"):
            raise SpecError("an attack's norm is linf or l2, its objective ce, margin or dlr")

    def __call__(self, trainer: Trainer, inputs: Inputs, targets: Tensor) -> Inputs:
        """Attacked training inputs, (runs, batch, ...): the start of a run's attack is keyed by its seed and step."""
        return self.attack(trainer, inputs, targets, f"training step {trainer.step}")

    def attack(self, trainer: Trainer, inputs: Inputs, targets: Tensor, key: str) -> Inputs:
        """The inputs of all runs after the attack; both lead with (runs, batch).

        Raises:
            SpecError: the targets are not classes, or inputs lie outside `low` to `high`, where the clamp alone would
                change them.
        """
        labels = class_labels(targets)
        clean, rest = inputs[0], inputs[1:]
        if ((clean < self.low) | (clean > self.high)).any():
            raise SpecError(
                f"inputs lie outside {self.low:g} to {self.high:g}, to which an attack clamps them: normalise in the "
                "model, or give PGD its low and high"
            )
        worst = clean
        highest = torch.full(clean.shape[:2], float("-inf"), dtype=clean.dtype, device=clean.device)

        def keep(x: Tensor, values: Tensor) -> None:
            nonlocal worst, highest
            worst = torch.where(expand(values > highest, x), x, worst)
            highest = torch.maximum(values, highest)

        for restart in range(self.restarts):
            x = self.project(clean + self._start(trainer, clean, key, restart), clean)
            for i in range(self.steps):
                values, slope = values_and_gradient(trainer, self.objective, (x, *rest), labels)
                if self.decay:
                    keep(x, values)
                x = self.project(x + self._length(i) * self._direction(slope), clean)
            if self.restarts == 1 and not self.decay:
                return (x, *rest)
            with torch.no_grad():
                keep(x, objective_values(trainer, self.objective, (x, *rest), labels))
        return (worst, *rest)

    def project(self, x: Tensor, clean: Tensor) -> Tensor:
        """The nearest point of the ball around the clean inputs, clamped to the inputs' range."""
        change = x - clean
        if self.norm == "linf":
            change = change.clamp(-self.eps, self.eps)
        else:
            length = change.flatten(2).norm(dim=2)
            change = change * expand((self.eps / length.clamp(min=1e-30)).clamp(max=1.0), change)
        return (clean + change).clamp(self.low, self.high).detach()

    def _length(self, i: int) -> float:
        if not self.decay:
            return self.eps / 4 if self.step is None else self.step
        return (2 * self.eps if self.step is None else self.step) * (1 - i / self.steps)

    def _start(self, trainer: Trainer, clean: Tensor, key: str, restart: int) -> Tensor:
        noise = [
            torch.rand(clean.shape[1:], generator=generator(spec.seed, "attack", key, restart)) * 2 - 1
            for spec in trainer.specs
        ]
        start = torch.stack(noise).to(clean)
        if self.norm == "linf":
            return self.eps * start
        return self.eps * start / expand(start.flatten(2).norm(dim=2), start)

    def _direction(self, slope: Tensor) -> Tensor:
        if self.norm == "linf":
            return slope.sign()
        return slope / expand(slope.flatten(2).norm(dim=2).clamp(min=1e-30), slope)


@dataclass(frozen=True)
class GaussianNoise:
    """Training inputs with fresh noise of standard deviation sigma each step, in the units of the input."""

    sigma: float

    def __call__(self, trainer: Trainer, inputs: Inputs, targets: Tensor) -> Inputs:
        noise = [
            torch.randn(inputs[0].shape[1:], generator=generator(spec.seed, "noise", trainer.step))
            for spec in trainer.specs
        ]
        return (inputs[0] + self.sigma * torch.stack(noise).to(inputs[0]), *inputs[1:])


@dataclass(frozen=True)
class RobustnessProbe:
    """Logs accuracy under attack on the first test (and training) examples of all runs.

    Metrics, for every eps: `robust_EPS` under PGD on the cross-entropy, of constant steps of eps / 4 from one random
    start (Humayun et al. 2024 take 100 steps of 4/255 on MNIST), and `margin_EPS` under a stronger one, on the margin
    with decaying steps; `zero_gradient`, the share of clean test examples at which the cross-entropy's gradient is
    exactly zero. Where that is not near zero, or where `margin_EPS` is well below, `robust_EPS` overstates. With
    `train`, `robust_train_EPS`.

    Attributes:
        eps: radii, in the units of the input.
        steps: of PGD on the cross-entropy.
        margin_steps: of the attack on the margin.
        examples: attacked, of the test and of the training set.
        train: attack training examples too.
        chunk: examples attacked at once.
    """

    eps: tuple[float, ...] = (0.1,)
    steps: int = 10
    margin_steps: int = 20
    examples: int = 1000
    train: bool = False
    chunk: int = 250

    def __call__(self, trainer: Trainer) -> dict[str, Float[Tensor, "runs"]]:
        data, result = trainer.data, {}
        test = tuple(x[: self.examples] for x in data.test_inputs), data.test_targets[: self.examples]
        trainer.ensemble.module.eval()
        for eps in self.eps:
            result[f"robust_{eps:g}"] = self._accuracy(trainer, PGD(eps, self.steps), *test)
            strong = PGD(eps, self.margin_steps, objective="margin", decay=True)
            result[f"margin_{eps:g}"] = self._accuracy(trainer, strong, *test)
        result["zero_gradient"] = self._zero_gradients(trainer, *test)
        if self.train:
            if any(spec.n_train < self.examples for spec in trainer.specs):
                raise SpecError(f"a robustness probe of {self.examples} examples needs as many training examples")
            train = tuple(x[: self.examples] for x in data.train_inputs), data.train_targets[: self.examples]
            for eps in self.eps:
                result[f"robust_train_{eps:g}"] = self._accuracy(trainer, PGD(eps, self.steps), *train)
        trainer.ensemble.module.train()
        return result

    def _accuracy(self, trainer: Trainer, attack: PGD, inputs: Inputs, targets: Tensor) -> Float[Tensor, "runs"]:
        right = []
        for x, y in self._chunks(trainer, inputs, targets):
            with torch.enable_grad():
                attacked = attack.attack(trainer, x, y, "evaluation")
            with torch.no_grad():
                right.append(-objective_values(trainer, "margin", attacked, class_labels(y)) > 0)
        return torch.cat(right, dim=1).to(widest_dtype(trainer.device)).mean(dim=1)

    def _zero_gradients(self, trainer: Trainer, inputs: Inputs, targets: Tensor) -> Float[Tensor, "runs"]:
        zero = [
            (values_and_gradient(trainer, "ce", x, class_labels(y))[1].flatten(2) == 0).all(dim=2)
            for x, y in self._chunks(trainer, inputs, targets)
        ]
        return torch.cat(zero, dim=1).to(widest_dtype(trainer.device)).mean(dim=1)

    def _chunks(self, trainer: Trainer, inputs: Inputs, targets: Tensor) -> list[tuple[Inputs, Tensor]]:
        runs = len(trainer.specs)
        return [
            (
                tuple(x[i : i + self.chunk].expand(runs, *x[i : i + self.chunk].shape) for x in inputs),
                targets[i : i + self.chunk].expand(runs, *targets[i : i + self.chunk].shape),
            )
            for i in range(0, len(targets), self.chunk)
        ]


def class_labels(targets: Tensor) -> Int[Tensor, "runs batch"]:
    """Classes of targets that are classes or one-hot.

    Raises:
        SpecError: they are neither.
    """
    if not targets.is_floating_point():
        return targets
    if targets.ndim < 3 or not (((targets == 0) | (targets == 1)).all() and (targets.sum(dim=-1) == 1).all()):
        raise SpecError("only a classification task can be attacked: targets must be classes or one-hot")
    return targets.argmax(dim=-1)


def objective_values(
    trainer: Trainer, objective: Objective, inputs: Inputs, labels: Tensor
) -> Float[Tensor, "runs batch"]:
    """What an attack climbs, for each example of each run."""

    def values(model: Callable[..., Tensor], inputs: Inputs, labels: Tensor) -> Tensor:
        outputs = model(*inputs)
        if objective == "ce":
            return F.cross_entropy(outputs, labels, reduction="none")
        right = outputs.gather(1, labels.unsqueeze(1)).squeeze(1)
        others = outputs.masked_fill(F.one_hot(labels, outputs.shape[1]).bool(), float("-inf"))
        margin = others.max(dim=1).values - right
        if objective == "margin":
            return margin
        if outputs.shape[1] < 3:
            raise SpecError(f"the objective dlr needs three classes or more, the model has {outputs.shape[1]}")
        ordered = outputs.sort(dim=1, descending=True).values
        return margin / (ordered[:, 0] - ordered[:, 2] + 1e-12)

    found: Tensor = trainer.ensemble.map(values, inputs, labels)
    return found


def values_and_gradient(
    trainer: Trainer, objective: Objective, inputs: Inputs, labels: Tensor
) -> tuple[Float[Tensor, "runs batch"], Tensor]:
    """The objective of each example of each run, and its gradient by the first input, (runs, batch, ...)."""
    x = inputs[0].detach().clone().requires_grad_()
    values = objective_values(trainer, objective, (x, *inputs[1:]), labels)
    return values.detach(), torch.autograd.grad(values.sum(), x)[0]


def expand(values: Shaped[Tensor, "runs batch"], like: Tensor) -> Tensor:
    """Values with trailing axes, to multiply examples of any shape."""
    return values.reshape(*values.shape, *[1] * (like.ndim - 2))
