"""Local complexity: how many units change sign around a point (Humayun et al. 2024, section 2.2 and Fig. 4).

Around a point x lies the frame { x + r v, x - r v } of P orthonormal directions v. A unit counts where its
pre-activation has not the same sign at all 2P vertices; the vertices go through every layer, so deeper counts are those
of the frame's image. The local complexity is the sum over layers, a density of linear regions that needs no labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from omnigrok.ensemble import Ensemble, widest_dtype
from omnigrok.errors import OmnigrokError
from omnigrok.isolation import own_state
from omnigrok.probes.partition import AFFINE_MODULES
from omnigrok.spec import generator
from omnigrok.task import TaskData

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU)
OPERATORS = {
    getattr(torch.ops.aten, name + suffix)
    for name in ("relu", "leaky_relu", "hardtanh", "elu", "gelu", "silu")
    for suffix in ("", "_")
} | {torch.ops.aten.prelu, torch.ops.aten._prelu_kernel}
Extremes = tuple[Tensor, Tensor]
"""Smallest and largest pre-activation of each unit over the vertices around each point, (points, ...)."""
MEMORY = 64 * 2**20
"""Bytes that the vertices of one call may take."""


@dataclass(frozen=True)
class LocalComplexity:
    """Counts of sign changes.

    Attributes:
        crossings: units that change sign, a row a point, a column a layer.
        units: units of each layer.
        dead: of these, units positive at no vertex of any point.
        always_on: units negative at no vertex of any point.
    """

    crossings: Int[Tensor, "points layers"]
    units: Int[Tensor, "layers"]
    dead: Int[Tensor, "layers"]
    always_on: Int[Tensor, "layers"]

    @property
    def total(self) -> Int[Tensor, "points"]:
        """The local complexity of each point: the sum over layers."""
        return self.crossings.sum(dim=1)


@own_state()
def local_complexity(
    model: nn.Module,
    points: Float[Tensor, "points ..."],
    radius: float,
    directions: int = 25,
    *,
    layers: Sequence[nn.Module] | None = None,
    seed: int = 0,
    memory: int = MEMORY,
) -> LocalComplexity:
    """Local complexity of a model at points of its input space.

    Args:
        points: on the model's device, in its dtype.
        radius: r, in the units of the input.
        directions: P, at most the number of input dimensions. One frame serves all points, as in the official code.
        layers: modules whose input is a pre-activation; None finds every module of ACTIVATIONS, and where one is called
            as a function (in a TorchScript or exported model each is) every call of OPERATORS.
        seed: keys the frame; no global generator is touched.
        memory: bytes that a call's vertices may take.

    Raises:
        OmnigrokError: more directions than dimensions, no activation found, a radius that is not above 0.
    """
    offsets = frame(points[0].shape, directions, radius, seed).to(points)
    training = model.training
    with contextlib.suppress(NotImplementedError):  # an exported model has no modes
        model.eval()
    example = points[:1]
    chosen = layers if layers is not None else activations(model, example)
    shared = layers is None and bool(chosen) and starts_affine(model)
    chunk = chunk_size(model, chosen, example, offsets, shared, memory)
    try:
        with torch.no_grad():
            return counted(extremes(model, chosen, part, offsets, shared) for part in points.split(chunk))
    finally:
        with contextlib.suppress(NotImplementedError):
            model.train(training)


def counted(parts: Iterable[list[Extremes]]) -> LocalComplexity:
    """The counts of all points, from what the pre-activations of some at a time range over."""
    counts, positive, negative = [], [], []
    for found in parts:
        counts.append(torch.stack([changes(low, high) for low, high in found], dim=1))
        positive.append([(high > 0).any(dim=0) for _, high in found])
        negative.append([(low < 0).any(dim=0) for low, _ in found])
    ever_positive, ever_negative = (
        [torch.stack(layer).any(dim=0) for layer in zip(*some, strict=True)] for some in (positive, negative)
    )
    return LocalComplexity(
        torch.cat(counts),
        torch.tensor([units.numel() for units in ever_positive]),
        torch.tensor([int((~units).sum()) for units in ever_positive]),
        torch.tensor([int((~units).sum()) for units in ever_negative]),
    )


@dataclass(frozen=True)
class ComplexityProbe:
    """Logs the mean local complexity of all runs of a batch at training, test and random points.

    Metrics `lc_train`, `lc_test`, `lc_random`, and for the training points `lc_train_dead` and `lc_train_always_on`,
    shares of all units. Random points are uniform in the box of the training inputs.
    """

    radius: float = 0.5
    directions: int = 25
    points: int = 200
    seed: int = 0

    def __call__(self, ensemble: Ensemble, data: TaskData) -> dict[str, Float[Tensor, "runs"]]:
        result: dict[str, Tensor] = {}
        train, test = data.train_inputs[0], data.test_inputs[0]
        if any(spec.n_train < self.points for spec in ensemble.specs):
            raise OmnigrokError(f"a complexity probe of {self.points} points needs as many training examples")
        uniform = torch.rand(self.points, *train.shape[1:], generator=generator(self.seed, "random points"))
        low, high = torch.aminmax(train)
        uniform = uniform.to(train) * (high - low) + low
        offsets = frame(train.shape[1:], self.directions, self.radius, self.seed).to(train)
        for name, points in (
            ("train", train[: self.points]),
            ("test", test[: self.points]),
            ("random", uniform),
        ):
            total, dead, on = self._measure(ensemble, points, offsets)
            result[f"lc_{name}"] = total
            if name == "train":
                result |= {"lc_train_dead": dead, "lc_train_always_on": on}
        return result

    @torch.no_grad()
    def _measure(self, ensemble: Ensemble, points: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        module = ensemble.module
        layers, shared = activations(module), starts_affine(module)

        def count(model: Callable[..., Tensor], inputs: tuple[Tensor, ...], _: Tensor) -> dict[str, Tensor]:
            found = extremes(model, layers, inputs[0], offsets, shared)
            return {
                "total": torch.stack([changes(low, high) for low, high in found]).sum(dim=0),
                "positive": torch.cat([(high > 0).flatten(1) for _, high in found], dim=1),
                "negative": torch.cat([(low < 0).flatten(1) for low, _ in found], dim=1),
            }

        with ensemble.evaluating():
            chunk = chunk_size(module, layers, points[:1], offsets, shared, MEMORY // len(ensemble))
            parts = [ensemble.map(count, (part,), part, shared=True) for part in points.split(chunk)]
        wide = widest_dtype(points.device)
        total = torch.cat([part["total"] for part in parts], dim=1).to(wide).mean(dim=1)
        positive, negative = (
            torch.cat([part[k] for part in parts], dim=1).any(dim=1) for k in ("positive", "negative")
        )
        return total, (~positive).to(wide).mean(dim=1), (~negative).to(wide).mean(dim=1)


def frame(shape: Sequence[int], directions: int, radius: float, seed: int = 0) -> Float[Tensor, "vertices ..."]:
    """Offsets r v and -r v of P orthonormal directions of an input space, float64, shape (2P, *shape)."""
    size = torch.Size(shape).numel()
    if not 1 <= directions <= size:
        raise OmnigrokError(f"directions must be 1 to {size}, the input's dimensions; got {directions}")
    if not radius > 0:
        raise OmnigrokError(f"radius must be above 0, got {radius}")
    draw = torch.randn(size, directions, generator=generator(seed, "frame"), dtype=torch.float64)
    orthonormal = torch.linalg.qr(draw).Q.T
    return radius * torch.cat([orthonormal, -orthonormal]).view(2 * directions, *shape)


def activations(model: nn.Module, example: Tensor | None = None) -> list[nn.Module]:
    """The modules whose input is a pre-activation; none where, on an example, activations are called as functions.

    Raises:
        OmnigrokError: there is none of either.
    """
    found: list[nn.Module] = [module for module in model.modules() if isinstance(module, ACTIVATIONS)]
    if example is not None:
        calls = []
        for layers in (found, []) if found else ([],):
            with torch.no_grad(), recorded(layers, 1) as seen:
                model(example)
            calls.append(len(seen))
        if calls[-1] > (calls[0] if found else 0):
            return []
    if not found:
        names = ", ".join(kind.__name__ for kind in ACTIVATIONS)
        raise OmnigrokError(f"the model has no activation ({names}); name the layers whose input is one")
    return found


def starts_affine(model: nn.Module) -> bool:
    """Whether the model is a chain that is affine up to its first activation, a module that is called there only."""
    if not isinstance(model, nn.Sequential):
        return False
    chain = list(model)
    first = next((i for i, module in enumerate(chain) if isinstance(module, ACTIVATIONS)), None)
    if first is None or not all(isinstance(module, AFFINE_MODULES) for module in chain[:first]):
        return False
    uses = [module for _, module in model.named_modules(remove_duplicate=False) if module is chain[first]]
    return len(uses) == 1


def extremes(
    model: Callable[..., Tensor],
    layers: Sequence[nn.Module],
    points: Tensor,
    offsets: Tensor,
    shared: bool,
) -> list[Extremes]:
    """The smallest and the largest of each pre-activation over the vertices around each point, layer by layer.

    With `shared`, the affine start of a chain (`starts_affine`) is computed once a point and once a direction instead
    of once a vertex, W (x + r v) + b = (W x + b) + r W v: the same numbers to rounding, most of the work saved.
    """
    if shared:
        inputs = torch.cat([points, offsets[: len(offsets) // 2], torch.zeros_like(points[:1])])
    else:
        inputs = (points.unsqueeze(1) + offsets).flatten(0, 1)

    def vertices(pre: Tensor) -> Tensor:
        along = pre[len(points) : -1] - pre[-1:]
        return (pre[: len(points)].unsqueeze(1) + torch.cat([along, -along])).flatten(0, 1)

    with recorded(layers, len(offsets), vertices if shared else None) as seen:
        model(inputs)
    return seen


def chunk_size(
    model: nn.Module, layers: Sequence[nn.Module], point: Tensor, offsets: Tensor, shared: bool, memory: int
) -> int:
    """How many points' vertices fit into some bytes where they are widest: at a pre-activation or at the input."""
    with torch.no_grad(), recorded(layers, 1) as seen:
        model(point.to(next(model.parameters(), point).device))  # of a batch of runs, meta: shapes without work
    widest = max([low.numel() for low, _ in seen] + [0 if shared else point.numel()])
    return max(1, memory // (len(offsets) * widest * offsets.element_size()))


def changes(low: Float[Tensor, "points ..."], high: Float[Tensor, "points ..."]) -> Int[Tensor, "points"]:
    """Units of a layer whose sign (-1, 0, 1) is not the same at all vertices."""
    return (low.sign() != high.sign()).flatten(1).sum(dim=1)


@contextlib.contextmanager
def recorded(
    layers: Sequence[nn.Module], vertices: int, replace_first: Callable[[Tensor], Tensor] | None = None
) -> Iterator[list[Extremes]]:
    """What the inputs of some modules, or of all activations' operators where there are no modules, range over.

    Smallest and largest of every group of `vertices` examples, in the order of the calls of the block, taken at once
    because an activation may overwrite its input. Hooks are removed after. `replace_first` gives the first module
    another input, which is what is recorded.
    """
    seen: list[Extremes] = []
    hooks = []
    if replace_first is not None:
        hooks.append(layers[0].register_forward_pre_hook(lambda _, inputs: (replace_first(inputs[0]),)))
    hooks += [
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(extremes_of(inputs[0], vertices)))
        for layer in layers
    ]
    try:
        with contextlib.nullcontext() if layers else _Operators(seen, vertices):
            yield seen
    finally:
        for hook in hooks:
            hook.remove()


def extremes_of(pre: Tensor, vertices: int) -> Extremes:
    grouped = pre.unflatten(0, (-1, vertices))
    return grouped.amin(dim=1), grouped.amax(dim=1)


class _Operators(TorchDispatchMode):
    """Records what the input of every activation ranges over, however it is called."""

    def __init__(self, seen: list[Extremes], vertices: int) -> None:
        super().__init__()
        self.seen, self.vertices = seen, vertices

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in OPERATORS:
            self.seen.append(extremes_of(args[0], self.vertices))
        return function(*args, **(kwargs or {}))
