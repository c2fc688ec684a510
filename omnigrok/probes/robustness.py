"""Adversarial attacks on all runs of a batch, as a probe (robust accuracy) and a perturbation (adversarial training).

Humayun et al. 2024 attack with projected gradient descent (PGD, Madry et al. 2018). A network whose loss has
underflowed gives no gradient, and looks robust to an attack that follows it: so every probe also logs the share of
examples with a zero gradient, and the accuracy under an attack on the margin, which does not saturate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from omnigrok.ensemble import Ensemble, widest_dtype
from omnigrok.errors import SpecError
from omnigrok.part import ADDED
from omnigrok.spec import generator
from omnigrok.task import Inputs, TaskData

Norm = Literal["linf", "l2"]
Objective = Literal["ce", "margin", "dlr"]


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on a loss of the outputs, as logits, within a ball around each input.

    As a perturbation of a run it is adversarial training: the model is attacked in the mode that it trains in, but its
    buffers (batch norm's running statistics) are as before the attack, and only the step's own forward pass moves them.
    The first input of the model is attacked. Decaying steps and the objective dlr are taken from APGD (Croce and Hein
    2020, sections 3 and 4).

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

    Raises:
        SpecError: no attack has these settings.
    """

    eps: float
    steps: int = 10
    step: float | None = None
    norm: Norm = "linf"
    objective: Objective = "ce"
    restarts: int = 1
    decay: bool = False
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.eps < math.inf and self.steps >= 0 and self.restarts >= 1):
            raise SpecError("an attack needs a finite eps >= 0, steps >= 0 and restarts >= 1")
        if self.step is not None and not 0 < self.step < math.inf:
            raise SpecError(f"an attack's step must be a finite length above 0, or None for its own; got {self.step!r}")
        if not self.low < self.high:
            raise SpecError(f"an attack needs low < high, the inputs' range; got {self.low!r} and {self.high!r}")
        if self.norm not in ("linf", "l2") or self.objective not in ("ce", "margin", "dlr"):
            raise SpecError("an attack's norm is linf or l2, its objective ce, margin or dlr")

    def __call__(self, ensemble: Ensemble, inputs: Inputs, targets: Tensor) -> Inputs:
        """Attacked training inputs, (runs, batch, ...): the start of a run's attack is keyed by its seed and step."""
        return self.attack(ensemble, inputs, targets, f"training step {ensemble.step}")

    def attack(self, ensemble: Ensemble, inputs: Inputs, targets: Tensor, key: str) -> Inputs:
        """The inputs of all runs after the attack; both lead with (runs, batch).

        The model's buffers are as before afterwards.

        Raises:
            SpecError: the targets are not classes, the inputs are not floating point, or they lie outside `low` to
                `high`, where the clamp alone would change them.
        """
        labels = class_labels(targets)
        check_float(inputs[0])
        if not ((inputs[0] >= self.low) & (inputs[0] <= self.high)).all():  # not-a-number included
            raise SpecError(
                f"inputs lie outside {self.low:g} to {self.high:g}, to which an attack clamps them: normalise in the "
                "model, or give the attack (PGD, RobustnessProbe) its low and high"
            )
        with ensemble.buffers_kept():
            return self._climb(ensemble, inputs, labels, key)

    def _climb(self, ensemble: Ensemble, inputs: Inputs, labels: Int[Tensor, "runs batch"], key: str) -> Inputs:
        clean, rest = inputs[0], inputs[1:]
        worst = clean
        highest = torch.full(clean.shape[:2], float("-inf"), dtype=clean.dtype, device=clean.device)

        def keep(x: Tensor, values: Tensor) -> None:
            nonlocal worst, highest
            worst = torch.where(expand(values > highest, x), x, worst)
            highest = torch.maximum(values, highest)

        for restart in range(self.restarts):
            x = self.project(clean + self._start(ensemble, clean, key, restart), clean)
            for i in range(self.steps):
                values, slope = values_and_gradient(ensemble, self.objective, (x, *rest), labels)
                if self.decay:
                    keep(x, values)
                x = self.project(x + self._length(i) * self._direction(slope), clean)
            if self.restarts == 1 and not self.decay:
                return (x, *rest)
            with torch.no_grad():
                keep(x, objective_values(ensemble, self.objective, (x, *rest), labels))
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

    def _start(self, ensemble: Ensemble, clean: Tensor, key: str, restart: int) -> Tensor:
        noise = [
            torch.rand(clean.shape[1:], generator=generator(spec.seed, "attack", key, restart)) * 2 - 1
            for spec in ensemble.specs
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

    def __call__(self, ensemble: Ensemble, inputs: Inputs, targets: Tensor) -> Inputs:
        check_float(inputs[0])
        noise = [
            torch.randn(inputs[0].shape[1:], generator=generator(spec.seed, "noise", ensemble.step))
            for spec in ensemble.specs
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
        low, high: the inputs' range, to which an attacked input is clamped.
        norm: of all attacks: linf, or l2 over the whole input.
        step: length of a step of PGD on the cross-entropy; None: eps / 4.

    Raises:
        SpecError: no attack has these settings.
    """

    eps: tuple[float, ...] = (0.1,)
    steps: int = 10
    margin_steps: int = 20
    examples: int = 1000
    train: bool = False
    chunk: int = 250
    low: float = field(default=0.0, metadata=ADDED)
    high: float = field(default=1.0, metadata=ADDED)
    norm: Norm = field(default="linf", metadata=ADDED)
    step: float | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        self._attacks(0.0)  # each refuses what it cannot be
        if not (self.examples >= 1 and self.chunk >= 1):
            raise SpecError(f"an attack needs examples >= 1 and chunk >= 1, got {self.examples!r} and {self.chunk!r}")

    def __call__(self, ensemble: Ensemble, data: TaskData) -> dict[str, Float[Tensor, "runs"]]:
        if self.train and any(spec.n_train < self.examples for spec in ensemble.specs):
            raise SpecError(f"a robustness probe of {self.examples} examples needs as many training examples")
        result: dict[str, Tensor] = {}
        test, train = (
            (tuple(x[: self.examples] for x in inputs), targets[: self.examples])
            for inputs, targets in ((data.test_inputs, data.test_targets), (data.train_inputs, data.train_targets))
        )
        with ensemble.evaluating():
            for eps in self.eps:
                plain, strong = self._attacks(eps)
                result[f"robust_{eps:g}"] = self._accuracy(ensemble, plain, *test)
                result[f"margin_{eps:g}"] = self._accuracy(ensemble, strong, *test)
            result["zero_gradient"] = self._zero_gradients(ensemble, *test)
            for eps in self.eps if self.train else ():
                result[f"robust_train_{eps:g}"] = self._accuracy(ensemble, self._attacks(eps)[0], *train)
        return result

    def _attacks(self, eps: float) -> tuple[PGD, PGD]:
        """The attack on the cross-entropy and the one on the margin."""
        plain = PGD(eps, self.steps, step=self.step, norm=self.norm, low=self.low, high=self.high)
        return plain, replace(plain, steps=self.margin_steps, step=None, objective="margin", decay=True)

    def _accuracy(self, ensemble: Ensemble, attack: PGD, inputs: Inputs, targets: Tensor) -> Float[Tensor, "runs"]:
        right = []
        for x, y in self._chunks(ensemble, inputs, targets):
            with torch.enable_grad():
                attacked = attack.attack(ensemble, x, y, "evaluation")
            with torch.no_grad():
                right.append(-objective_values(ensemble, "margin", attacked, class_labels(y)) > 0)
        return torch.cat(right, dim=1).to(widest_dtype(ensemble.device)).mean(dim=1)

    def _zero_gradients(self, ensemble: Ensemble, inputs: Inputs, targets: Tensor) -> Float[Tensor, "runs"]:
        zero = [
            (values_and_gradient(ensemble, "ce", x, class_labels(y))[1].flatten(2) == 0).all(dim=2)
            for x, y in self._chunks(ensemble, inputs, targets)
        ]
        return torch.cat(zero, dim=1).to(widest_dtype(ensemble.device)).mean(dim=1)

    def _chunks(self, ensemble: Ensemble, inputs: Inputs, targets: Tensor) -> list[tuple[Inputs, Tensor]]:
        runs = len(ensemble)
        return [
            (
                tuple(x[i : i + self.chunk].expand(runs, *x[i : i + self.chunk].shape) for x in inputs),
                targets[i : i + self.chunk].expand(runs, *targets[i : i + self.chunk].shape),
            )
            for i in range(0, len(targets), self.chunk)
        ]


def check_float(x: Tensor) -> None:
    """Raises SpecError for inputs of whole numbers, between which nothing lies."""
    if not x.is_floating_point():
        raise SpecError(
            f"inputs of {x.dtype} cannot be changed a little, as an attack or noise does: make them floats in the "
            "task's `load`, images as in images.to(spec.torch_dtype) / 255"
        )


def class_labels(targets: Shaped[Tensor, "runs batch ..."]) -> Int[Tensor, "runs batch"]:
    """Classes of targets that are classes (of any integer type, or truth values) or one-hot (of any type).

    Raises:
        SpecError: they are neither.
    """
    whole = not (targets.is_floating_point() or targets.is_complex())
    values = targets.long() if whole else targets
    if whole and values.ndim == 3 and values.shape[2] == 1:
        values = values.squeeze(2)
    if whole and values.ndim == 2 and not (values < 0).any():
        return values
    binary = values.ndim == 3 and values.shape[2] > 1 and ((values == 0) | (values == 1)).all()
    if binary and (values.sum(dim=2) == 1).all():
        return values.argmax(dim=2)
    raise SpecError(
        "only a classification task can be attacked: targets must be classes or one-hot, that is, whole numbers from 0 "
        f"or a 1 among zeros; got {tuple(targets.shape[1:])} {targets.dtype}"
    )


def objective_values(
    ensemble: Ensemble, objective: Objective, inputs: Inputs, labels: Tensor
) -> Float[Tensor, "runs batch"]:
    """What an attack climbs, for each example of each run."""

    def values(model: Callable[..., Tensor], inputs: Inputs, labels: Tensor) -> Tensor:
        outputs = ensemble.task.logits(model(*inputs))
        if not (isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] > 1):
            given = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
            raise SpecError(
                f"an attack on {ensemble.task.name} needs logits (batch, classes) of two classes or more, got {given}: "
                "have its `logits` give them, for one logit z torch.stack([-z / 2, z / 2], dim=1)"
            )
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

    found: Tensor = ensemble.map(values, inputs, labels)
    return found


def values_and_gradient(
    ensemble: Ensemble, objective: Objective, inputs: Inputs, labels: Tensor
) -> tuple[Float[Tensor, "runs batch"], Tensor]:
    """The objective of each example of each run, and its gradient by the first input, (runs, batch, ...)."""
    x = inputs[0].detach().clone().requires_grad_()
    values = objective_values(ensemble, objective, (x, *inputs[1:]), labels)
    return values.detach(), torch.autograd.grad(values.sum(), x)[0]


def expand(values: Shaped[Tensor, "runs batch"], like: Tensor) -> Tensor:
    """Values with trailing axes, to multiply examples of any shape."""
    return values.reshape(*values.shape, *[1] * (like.ndim - 2))
