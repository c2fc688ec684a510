"""Losses by choice: parts that replace a task's own, in training and in what is logged as `loss`.

For tasks whose targets are classes or one-hot. Outputs are logits, a column a class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from omnigrok.errors import SpecError
from omnigrok.part import Part


@dataclass(frozen=True)
class Loss(Part):
    """A loss per example, of logits and classes."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each example, of logits (batch, classes) and classes (batch,) or one-hot (batch, classes)."""
        self.check_logits(outputs)
        return self.of_classes(outputs, targets if targets.ndim == 1 else targets.argmax(dim=1))

    def check(self, targets: Tensor) -> None:
        """Raises SpecError where a dataset's targets are neither classes nor one-hot."""
        if not targets.is_floating_point() and targets.ndim == 1:
            return
        hot = targets.ndim == 2 and bool(((targets == 0) | (targets == 1)).all() and (targets.sum(dim=1) == 1).all())
        if not hot:
            raise SpecError(f"{type(self).__name__} needs targets that are classes or one-hot: leave loss out")

    def check_logits(self, outputs: Tensor) -> None:
        """Raises SpecError where a model's outputs are no logits."""
        if outputs.ndim != 2:
            name, shape = type(self).__name__, tuple(outputs.shape)
            raise SpecError(f"{name} takes logits of shape (examples, classes), got {shape}")

    def of_classes(
        self, outputs: Float[Tensor, "batch classes"], classes: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        raise NotImplementedError


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy, with `smoothing` of the target spread over all classes (Szegedy et al. 2016, section 7)."""

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing <= 1:
            raise SpecError(f"smoothing must be from 0 to 1, got {self.smoothing!r}")

    def of_classes(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(outputs, classes, reduction="none", label_smoothing=self.smoothing)


@dataclass(frozen=True)
class SquaredError(Loss):
    """Squared distance of the outputs to the one-hot target, mean over the classes (Liu et al. 2023, MNIST)."""

    def of_classes(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return (outputs - F.one_hot(classes, outputs.shape[1])).square().mean(dim=1)


@dataclass(frozen=True)
class StableMax(Loss):
    """Cross-entropy of s(z) / sum s(z), with s(z) = z + 1 for z >= 0 and 1 / (1 - z) below (Prieto et al. 2025).

    It grows linearly, not exponentially, so float32 does not round the loss of a confident network to zero.
    """

    def of_classes(self, outputs: Tensor, classes: Tensor) -> Tensor:
        zero = outputs.new_zeros(())  # log s is smooth at 0, where torch gives clamp and abs the slope 0
        above, below = torch.where(outputs >= 0, outputs, zero), torch.where(outputs < 0, -outputs, zero)
        log = above.log1p() - below.log1p()
        return log.logsumexp(dim=1) - log.gather(1, classes.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class Temperature(Loss):
    """Another loss of the logits over tau: above 1 softer, below 1 sharper."""

    tau: float
    loss: Loss = field(default=CrossEntropy())

    def __post_init__(self) -> None:
        if not 0 < self.tau < math.inf:
            raise SpecError(f"tau must be a finite number above 0, got {self.tau!r}")

    def of_classes(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return self.loss.of_classes(outputs / self.tau, classes)
