"""What the tools for a model ask of points and weights before they measure: floats, and finite ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omnigrok.errors import OmnigrokError


class NotFiniteError(OmnigrokError):
    """A network has weights or values that are not finite: it has diverged."""


def check_points(points: Tensor, what: str = "points") -> None:
    """Raises OmnigrokError where there are no points, or they are not finite floating-point numbers."""
    if points.ndim == 0 or len(points) == 0:
        raise OmnigrokError(f"there are no {what}: give one or more, examples first")
    if not points.is_floating_point():
        kind = str(points.dtype).removeprefix("torch.")
        raise OmnigrokError(f"the {what} are {kind}: give floats in the units of the network's inputs, as images / 255")
    if not points.isfinite().all():
        raise OmnigrokError(f"some {what} are not finite: take out those with nan or inf")


def check_weights(model: nn.Module) -> None:
    """Raises OmnigrokError where a weight or a buffer is not finite; a buffer may hold -inf, as masks do."""
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        numbers = x if isinstance(x, nn.Parameter) else x.masked_fill(x == -torch.inf, 0)
        if x.is_floating_point() and not numbers.isfinite().all():
            raise NotFiniteError(f"{name} of the model is not finite: it has diverged; take weights of an earlier step")
