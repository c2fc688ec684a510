"""Local complexity: how many units change sign around a point (Humayun et al. 2024, section 2.2 and Fig. 4).

Around a point x lies the frame { x + r v, x - r v } of P orthonormal directions v. A unit counts where its
pre-activation has not the same sign at all 2P vertices; the vertices go through every layer, so deeper counts are those
of the frame's image. The local complexity is the sum over layers, a density of linear regions that needs no labels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, fx, nn

from omnigrok.ensemble import Ensemble, widest_dtype
from omnigrok.errors import OmnigrokError
from omnigrok.isolation import own_state
from omnigrok.models import in_evaluation
from omnigrok.probes.activations import ACTIVATIONS, Layers, Place, find_layers, watched
from omnigrok.probes.finite import NotFiniteError, check_points, check_weights
from omnigrok.probes.partition import AFFINE_MODULES
from omnigrok.spec import generator
from omnigrok.task import TaskData

Extremes = tuple[Tensor, Tensor]
"""Smallest and largest pre-activation of each unit over the vertices around each point, (points, units)."""
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
        layers: what each layer is, in the order of the calls, as ("relu", "gelu"): all that is counted.
    """

    crossings: Int[Tensor, "points layers"]
    units: Int[Tensor, "layers"]
    dead: Int[Tensor, "layers"]
    always_on: Int[Tensor, "layers"]
    layers: tuple[str, ...]

    @property
    def total(self) -> Int[Tensor, "points"]:
        """The local complexity of each point: the sum over layers."""
        return self.crossings.sum(dim=1)


@own_state()
def local_complexity(
    model: nn.Module,
    points: Shaped[Tensor, "..."],
    radius: float,
    directions: int = 25,
    *,
    layers: Sequence[nn.Module] | None = None,
    seed: int = 0,
    memory: int = MEMORY,
) -> LocalComplexity:
    """Local complexity of a model at points of its input space.

    Args:
        points: floats; they go to the model's device and dtype.
        radius: r, in the units of the input.
        directions: P, at most the number of input dimensions. One frame serves all points, as in the official code.
        layers: modules whose input is a pre-activation; None finds the activations of `activations.ACTIVATIONS`, called
            as modules, functions or methods, clamping at zero from below and the maximum with zero. Tanh, sigmoid,
            GLU and softmax have no part in it.
        seed: keys the frame; no global generator is touched.
        memory: bytes that a call's vertices may take.

    Raises:
        OmnigrokError: no points, or points of integers; more directions than dimensions, a radius that is not above 0;
            no activation found, or one that cannot be seen; a model in training mode that `eval()` does not end, as an
            exported one; weights, points or pre-activations that are not finite.
    """
    check_points(points)
    check_weights(model)
    weight = next((p for p in model.parameters() if p.is_floating_point()), points)
    points = points.to(weight)
    offsets = frame(points[0].shape, directions, radius, seed).to(points)
    with torch.no_grad(), untouched(model):
        found = find_layers(model, examples_of(points, offsets), layers)
        shared = shares_start(model, found)
        chunk = chunk_size(found, points, offsets, shared, memory)
        parts = (extremes(model, found, part, offsets, shared) for part in points.split(chunk))
        return counted(found.names, parts)


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode within, where it has modes; modes and buffers are as before afterwards.

    Raises:
        OmnigrokError: a program (TorchScript, torch.export) moves its buffers, as in training.
    """
    buffers = [(layer, name, b, b.clone()) for layer in model.modules() for name, b in own_buffers(layer).items()]
    program = isinstance(model, fx.GraphModule | torch.jit.ScriptModule)
    moved = []
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotImplementedError, AttributeError):  # an exported model has no modes
            stack.enter_context(in_evaluation(model))
        try:
            yield
        finally:
            for layer, name, b, before in buffers:
                if own_buffers(layer).get(name) is not b and not program:
                    setattr(layer, name, b)
                if not ((b == before) | (b.isnan() & before.isnan())).all():
                    moved.append(name)
                    b.copy_(before)
    if moved and program:
        raise OmnigrokError(
            f"the model is in training mode: a pass changes its buffer {moved[0]}; export it from net.eval()"
        )


def own_buffers(layer: nn.Module) -> dict[str, Tensor]:
    return dict(layer.named_buffers(recurse=False))


def examples_of(points: Tensor, offsets: Tensor) -> Tensor:
    """Three examples, two of them the same, as `find_layers` takes them."""
    return torch.stack([points[0], points[0], points[0] + offsets[0]])


def counted(names: tuple[str, ...], parts: Iterable[list[Extremes]]) -> LocalComplexity:
    """The counts of all points, from what the pre-activations of some at a time range over.

    Raises:
        OmnigrokError: a pre-activation is not finite.
    """
    counts, positive, negative = [], [], []
    for found in parts:
        for i, (name, bounds) in enumerate(zip(names, found, strict=True)):
            if not all(bound.isfinite().all() for bound in bounds):
                raise NotFiniteError(
                    f"pre-activations of layer {i + 1} ({name}) are not finite: the network has diverged, or its "
                    "numbers overflow at these points"
                )
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
        names,
    )


@dataclass(frozen=True)
class ComplexityProbe:
    """Logs the mean local complexity of all runs of a batch at training, test and random points.

    Metrics `lc_train`, `lc_test`, `lc_random`, and for the training points `lc_train_dead` and `lc_train_always_on`,
    shares of all units. Random points are uniform in the box of the training inputs. What is counted is what
    `local_complexity` counts. A run that has diverged, with weights or pre-activations that are not finite, has nan in
    its row; its neighbours keep their numbers.
    """

    radius: float = 0.5
    directions: int = 25
    points: int = 200
    seed: int = 0

    def __call__(self, ensemble: Ensemble, data: TaskData) -> dict[str, Float[Tensor, "runs"]]:
        result: dict[str, Tensor] = {}
        train, test = data.train_inputs[0], data.test_inputs[0]
        for name, inputs in (("training points", train), ("test points", test)):
            check_points(inputs[: self.points], name)
        if len(data.train_inputs) > 1:
            raise OmnigrokError(f"a complexity probe takes models of one input; {ensemble.task.name} has more")
        if any(spec.n_train < self.points for spec in ensemble.specs):
            raise OmnigrokError(f"a complexity probe of {self.points} points needs as many training examples")
        uniform = torch.rand(self.points, *train.shape[1:], generator=generator(self.seed, "random points"))
        low, high = torch.aminmax(train)
        uniform = uniform.to(train) * (high - low) + low
        offsets = frame(train.shape[1:], self.directions, self.radius, self.seed).to(train)
        layers, shared = self._layers(ensemble, train, offsets)
        for name, points in (
            ("train", train[: self.points]),
            ("test", test[: self.points]),
            ("random", uniform),
        ):
            total, dead, on = self._measure(ensemble, layers, points, offsets, shared)
            result[f"lc_{name}"] = total
            if name == "train":
                result |= {"lc_train_dead": dead, "lc_train_always_on": on}
        return result

    @torch.no_grad()
    def _layers(self, ensemble: Ensemble, points: Tensor, offsets: Tensor) -> tuple[Layers, bool]:
        """What is counted, found in the first run's model, and whether the start of a pass is shared."""
        with ensemble.evaluating():
            module = ensemble.module if len(ensemble) == 1 else ensemble.model(0)
            with untouched(module):
                layers = find_layers(module, examples_of(points, offsets).to(next(module.parameters()).device))
        if layers.operators and len(ensemble) > 1:
            raise OmnigrokError(
                f"activations of {ensemble.task.name} cannot be seen in a batch (TorchScript, nn.RNN); train it with "
                "batchable = False"
            )
        return layers, shares_start(module, layers)

    @torch.no_grad()
    def _measure(
        self, ensemble: Ensemble, layers: Layers, points: Tensor, offsets: Tensor, shared: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        def measure(model: Callable[..., Tensor], inputs: tuple[Tensor, ...], _: Tensor) -> dict[str, Tensor]:
            found = extremes(model, layers, inputs[0], offsets, shared)
            return {
                "total": torch.stack([changes(low, high) for low, high in found]).sum(dim=0),
                "positive": torch.cat([high > 0 for _, high in found], dim=1),
                "negative": torch.cat([low < 0 for low, _ in found], dim=1),
                "finite": torch.stack([(low.isfinite() & high.isfinite()).all() for low, high in found]).all(),
            }

        with ensemble.evaluating():
            chunk = chunk_size(layers, points, offsets, shared, MEMORY // len(ensemble))
            parts = [ensemble.map(measure, (part,), part, shared=True) for part in points.split(chunk)]
        wide = widest_dtype(points.device)
        finite = torch.stack([finite_rows(ensemble), *(part["finite"] for part in parts)]).all(dim=0)
        total = torch.cat([part["total"] for part in parts], dim=1).to(wide).mean(dim=1)
        positive, negative = (
            torch.cat([part[k] for part in parts], dim=1).any(dim=1) for k in ("positive", "negative")
        )
        shares = [(~ever).to(wide).mean(dim=1) for ever in (positive, negative)]
        total, dead, on = (x.where(finite, math.nan) for x in (total, *shares))
        return total, dead, on


def finite_rows(ensemble: Ensemble) -> Tensor:
    """Of each run, whether its parameters and buffers are finite; a buffer may hold -inf, as masks do."""
    tensors = [x.isfinite() for x in ensemble.params.values()]
    tensors += [x.isfinite() | (x == -math.inf) for x in ensemble.buffers.values()]
    return torch.stack([x.reshape(len(ensemble), -1).all(dim=1) for x in tensors]).all(dim=0)


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


def activations(model: nn.Module) -> list[nn.Module]:
    """The modules of a model whose input is a pre-activation.

    Raises:
        OmnigrokError: there is none.
    """
    found: list[nn.Module] = [module for module in model.modules() if isinstance(module, ACTIVATIONS)]
    if not found:
        names = ", ".join(kind.__name__ for kind in ACTIVATIONS)
        raise OmnigrokError(f"the model has no activation ({names}); name the layers whose input is one")
    return found


def shares_start(model: nn.Module, layers: Layers) -> bool:
    """Whether what comes before the first activation is computed once for all vertices, as in `extremes`."""
    plain = layers.modules is None and not layers.operators and layers.places[0] == Place(0)
    return plain and starts_affine(model)


def starts_affine(model: nn.Module) -> bool:
    """Whether the model is a chain that is affine up to its first activation, a module that is called there only."""
    if type(model).forward is not nn.Sequential.forward or not isinstance(model, nn.Sequential):
        return False
    chain = list(model)
    first = next((i for i, module in enumerate(chain) if type(module) in ACTIVATIONS), None)
    if first is None or not all(type(module) in AFFINE_MODULES for module in chain[:first]):
        return False
    uses = [module for _, module in model.named_modules(remove_duplicate=False) if module is chain[first]]
    return len(uses) == 1


def extremes(
    model: Callable[..., Tensor],
    layers: Layers,
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

    seen: list[Extremes] = []
    places = iter(layers.places)

    def see(_: str, pre: Tensor) -> Tensor:
        try:
            place = next(places)
        except StopIteration:
            raise other_calls(layers) from None
        if place is None:
            return pre
        if shared and not seen:
            pre = vertices(pre)
        rows = place.examples_first(pre)
        grouped = rows.reshape(len(rows) // len(offsets), len(offsets), -1)
        seen.append((grouped.amin(dim=1), grouped.amax(dim=1)))  # at once: an activation may overwrite its input
        return pre

    with watched(see, layers.modules, layers.operators):
        model(inputs)
    if next(places, layers) is not layers:
        raise other_calls(layers)
    return seen


def other_calls(layers: Layers) -> OmnigrokError:
    first = f"{len(layers.places)} ({', '.join(layers.names)})"
    return OmnigrokError(
        f"the model shows other activations than the {first} of its first pass: "
        "they must be the same at all points; in a batch, those in a torch.autograd.Function do not show"
    )


def chunk_size(layers: Layers, points: Tensor, offsets: Tensor, shared: bool, memory: int) -> int:
    """How many points' vertices fit into some bytes where they are widest: at a pre-activation or at the input."""
    widest = max(layers.widest, 0 if shared else points[0].numel())
    return max(1, memory // (len(offsets) * widest * offsets.element_size()))


def changes(low: Float[Tensor, "points units"], high: Float[Tensor, "points units"]) -> Int[Tensor, "points"]:
    """Units of a layer whose sign (-1, 0, 1) is not the same at all vertices."""
    return (low.sign() != high.sign()).sum(dim=1)
