"""The exact linear regions of a network on a plane of its input space (Humayun et al. 2023, SplineCam; 2024, Fig. 2).

On every region of the plane the network is one affine map. Regions are convex polygons, so each unit's zero set cuts a
region along one straight segment: the polygons are clipped unit by unit, layer by layer, in float64, without a graph
library. A region carries, for every tensor that is still needed, its affine map of the plane's two coordinates as three
tensors (F_u, F_v, F_o): value = F_u a + F_v b + F_o. Convolutions, pooling, normalisation in eval mode and skip
connections are then ordinary calls on three inputs.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from omnigrok.data import first_line
from omnigrok.errors import OmnigrokError
from omnigrok.isolation import own_state
from omnigrok.models import copied
from omnigrok.probes.finite import NotFiniteError, check_points, check_weights
from omnigrok.probes.polygons import Polygon, clip, decision_segments, distances_to, lengths, polygon_area, with_one
from omnigrok.spec import generator

TOLERANCE = 1e-12
"""Relative to a unit's largest value on a polygon: below it a vertex lies on the unit's zero set."""
BATCH = 2**22
"""Numbers of one tensor that a batch of regions may hold."""
SLIVER = 1e-14
"""Share of the square's area below which a polygon is dropped."""

AFFINE_MODULES = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten,
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Unflatten, nn.ZeroPad2d,
)  # fmt: skip
AFFINE_OPERATORS = {  # of an exported model
    "linear", "conv1d", "conv2d", "batch_norm", "avg_pool2d", "adaptive_avg_pool2d", "flatten", "view", "reshape",
    "mean", "dropout", "constant_pad_nd", "pad",
}  # fmt: skip
TRAINING = {"dropout": 2, "batch_norm": 5}
"""Of these operators, the argument that says whether the model was exported in training mode."""
AFFINE_METHODS = ("flatten", "view", "reshape", "mean", "squeeze", "unsqueeze")
AFFINE_FUNCTIONS = (torch.flatten, F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean)
SUMS = (operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, "add", "sub")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul")
QUOTIENTS = (operator.truediv, torch.div, "div")
"""Affine where the other factor, or the divisor, is a constant."""


@dataclass(frozen=True)
class Plane:
    """Points origin + a u + b v of an input space, u and v orthonormal; |a| and |b| up to half_width."""

    origin: Shaped[Tensor, "..."]
    u: Shaped[Tensor, "..."]
    v: Shaped[Tensor, "..."]
    half_width: float

    @classmethod
    def through(cls, points: Shaped[Tensor, "3 ..."], margin: float = 1.2, half_width: float | None = None) -> Plane:
        """The plane through three points, centred at their mean; wide enough for them times `margin`.

        Raises:
            OmnigrokError: the points lie on a line, or are integers or not finite.
        """
        check_points(points)
        points = points.double()
        origin = points.mean(dim=0)
        first, second = points[0] - origin, points[1] - origin
        u = first / first.norm()
        rest = second - (second * u).sum() * u
        if not rest.norm() > 1e-9 * first.norm():  # not-a-number included
            raise OmnigrokError("the three points of a plane must not lie on a line")
        plane = cls(origin, u, rest / rest.norm(), 1.0)
        reach = float(np.abs(plane.coordinates(points)).max())
        return cls(origin, u, plane.v, margin * reach if half_width is None else half_width)

    def coordinates(self, points: Float[Tensor, "points ..."]) -> NDArray[np.float64]:
        """(a, b) of the points' feet on the plane, shape (points, 2)."""
        rest = (points.double() - self.origin).flatten(1)
        return torch.stack([rest @ self.u.flatten(), rest @ self.v.flatten()], dim=1).numpy()

    def at(self, coordinates: NDArray[np.float64]) -> Float[Tensor, "points ..."]:
        """The points of the input space at (a, b)."""
        weights = torch.from_numpy(np.asarray(coordinates, dtype=np.float64))
        axes = torch.stack([self.u, self.v]).flatten(1)
        return (weights @ axes).view(-1, *self.origin.shape) + self.origin


@dataclass(frozen=True)
class Region:
    """A convex polygon, vertices in order, and the network's affine map on it: outputs = maps . (a, b, 1)."""

    polygon: Polygon
    maps: NDArray[np.float64]  # (3, outputs)
    pattern: bytes

    def outputs(self, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        return with_one(coordinates) @ self.maps


@dataclass(frozen=True)
class Partition:
    """The regions of a network on a plane.

    Attributes:
        boundaries: segments on which a unit changes sign, (segments, 2 ends, 2 coordinates).
        decision: segments on which the largest output changes, the same way.
    """

    plane: Plane
    regions: list[Region]
    boundaries: NDArray[np.float64]
    decision: NDArray[np.float64]

    def area(self) -> float:
        return sum(polygon_area(region.polygon) for region in self.regions)

    def boundary_length(self) -> float:
        """Length of all boundaries, in units of the input."""
        return float(lengths(self.boundaries).sum())

    def distances(self, coordinates: NDArray[np.float64], to: str = "boundaries") -> NDArray[np.float64]:
        """Distance on the plane of points to the nearest boundary, or with `to="decision"` decision boundary."""
        segments = self.boundaries if to == "boundaries" else self.decision
        if len(segments) == 0:
            return np.full(len(coordinates), np.inf)
        chunk = max(1, 2**18 // len(segments))
        parts = [coordinates[i : i + chunk] for i in range(0, len(coordinates), chunk)]
        return np.concatenate([distances_to(segments, part).min(axis=1) for part in parts])

    def share_near_decision(self, within: float) -> float:
        """Share of the boundaries' length that lies within a distance of the decision boundary, by their midpoints."""
        if len(self.decision) == 0 or len(self.boundaries) == 0:
            return 0.0
        near = self.distances(self.boundaries.mean(axis=1), "decision") <= within
        length = lengths(self.boundaries)
        return float(length[near].sum() / length.sum())

    def crowding(self, within: float, seed: int = 0, samples: int = 2000) -> float:
        """Density of boundary length within a distance of the decision boundary, over that on the whole square.

        Above 1 the boundaries crowd around the decision boundary. The area near it is that share of uniform points.
        """
        draw = torch.rand(samples, 2, generator=generator(seed, "crowding"), dtype=torch.float64)
        uniform = self.plane.half_width * (2 * draw.numpy() - 1)
        area = float((self.distances(uniform, "decision") <= within).mean())
        return self.share_near_decision(within) / area if area > 0 else 0.0


@own_state()
def partition(model: nn.Module, plane: Plane) -> Partition:
    """The exact regions of a model on a plane, and its decision boundary where it has several outputs.

    The model is traced with torch.fx and evaluated in float64 and eval mode (one from torch.export is its own graph, in
    the mode that it was exported in); it may hold linear and convolution layers, batch normalisation, average and max
    pooling, flattening, additions (skip connections), ReLU and LeakyReLU.

    Raises:
        OmnigrokError: the model does something else, which the message names; or its weights, or values on the plane,
            are not finite.
    """
    start = torch.stack([plane.u, plane.v, plane.origin]).unsqueeze(1)
    check_points(start, "points of the plane")
    start = start.double()
    check_weights(model)
    model = copied(model).double().cpu()
    try:
        with contextlib.suppress(NotImplementedError):  # one from torch.export has no modes
            model.eval()
        graph = model if isinstance(model, fx.GraphModule) else fx.symbolic_trace(model)
    except Exception as error:
        raise OmnigrokError(f"the model cannot be traced with torch.fx: {first_line(error)}") from error
    square = plane.half_width * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    return _Walk(model, graph.graph, polygon_area(square)).run(plane, square, start)


@dataclass
class _Live:
    """A region on its way through the network: its polygon and the affine maps (3, 1, ...) of the tensors needed."""

    polygon: Polygon
    tensors: dict[str, Tensor]
    pattern: list[bytes] = field(default_factory=list)


class _Walk:
    def __init__(self, model: nn.Module, graph: fx.Graph, area: float) -> None:
        self.modules = dict(model.named_modules())
        self.nodes = [node for node in graph.nodes if node.users or node.op == "output"]
        self.constants = {
            node.name: operator.attrgetter(str(node.target))(model) for node in self.nodes if node.op == "get_attr"
        }
        self.area = area
        self.segments: list[NDArray[np.float64]] = []
        last_use = {arg.name: i for i, node in enumerate(self.nodes) for arg in node.all_input_nodes}
        self.free = [[name for name, i in last_use.items() if i == j] for j in range(len(self.nodes))]

    def run(self, plane: Plane, square: Polygon, start: Tensor) -> Partition:
        [given] = [node for node in self.nodes if node.op == "placeholder"]
        regions = [_Live(square, {given.name: start})]
        for i, node in enumerate(self.nodes):
            if node.op in ("placeholder", "get_attr"):
                continue
            if node.op == "output":
                return self.finish(plane, regions, node.all_input_nodes[0].name)
            slope, pool = self.kink(node)
            if slope is not None:
                regions = [new for region in regions for new in self.rectify(region, node, slope)]
            elif pool is not None:
                regions = [new for region in regions for new in self.pooled(region, node, pool)]
            else:
                self.affine(node, regions)
            for region in regions:
                for name in self.free[i]:
                    region.tensors.pop(name, None)
        raise OmnigrokError("the model has no output")

    def kink(self, node: fx.Node) -> tuple[float | None, nn.MaxPool2d | None]:
        """The negative slope of a ReLU-like node, or the max-pooling module."""
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        exported = operator_name(node)
        in_place = exported.endswith("_") or node.kwargs.get("inplace", False) or getattr(module, "inplace", False)
        if in_place and len(node.all_input_nodes[0].users) > 1:
            raise OmnigrokError(f"{node.name} overwrites a tensor that is used again; take inplace=False")
        if isinstance(module, nn.MaxPool2d):
            return None, plain_pool(module)
        if exported == "max_pool2d":
            names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
            given: dict[str, Any] = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
            return None, plain_pool(nn.MaxPool2d(**{name: value for name, value in given.items() if value != []}))
        if isinstance(module, nn.ReLU) or node.target in (F.relu, torch.relu, "relu") or exported in ("relu", "relu_"):
            return 0.0, None
        if exported in ("leaky_relu", "leaky_relu_"):
            return float(node.args[1]) if len(node.args) > 1 else 0.01, None  # type: ignore[arg-type]
        if isinstance(module, nn.LeakyReLU):
            return float(module.negative_slope), None
        if node.target is F.leaky_relu:
            return float(node.kwargs.get("negative_slope", 0.01)), None  # type: ignore[arg-type]
        return None, None

    def affine(self, node: fx.Node, regions: list[_Live]) -> None:
        """An affine call on the maps of many regions as one batch: its constant part belongs to the third map alone."""
        self.check(node)
        needed = [argument.name for argument in self.variables(node)]
        size = max(regions[0].tensors[name].numel() for name in needed)
        chunk = max(1, BATCH // size)
        for start in range(0, len(regions), chunk):
            part = regions[start : start + chunk]
            values = {name: torch.cat([region.tensors[name][:, 0] for region in part]) for name in needed}
            zero = {name: torch.zeros_like(value[:1]) for name, value in values.items()}
            with torch.no_grad():
                merged = self.call(node, values).unflatten(0, (len(part), 3)).clone()
                merged[:, :2] -= self.call(node, zero)
            for region, maps in zip(part, merged, strict=True):
                region.tensors[node.name] = maps.unsqueeze(1)

    def call(self, node: fx.Node, values: dict[str, Tensor]) -> Tensor:
        """What the node does, on a batch of tensors by name."""

        def value(argument: Any) -> Any:
            return {**self.constants, **values}[argument.name] if isinstance(argument, fx.Node) else argument

        arguments, keywords = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
        result: Tensor
        if node.op == "call_module":
            result = self.modules[str(node.target)](*arguments, **keywords)
        elif node.op == "call_method":
            result = getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
        else:
            result = node.target(*arguments, **keywords)  # type: ignore[operator]
        return result

    def variables(self, node: fx.Node) -> list[fx.Node]:
        """The arguments that depend on the input, one that is given twice (x * x) twice."""
        found: list[fx.Node] = []
        fx.map_arg((node.args, node.kwargs), found.append)
        return [argument for argument in found if argument.name not in self.constants]

    def check(self, node: fx.Node) -> None:
        """Raises OmnigrokError for a call that is not known to be affine."""
        exported, alone = operator_name(node), self.variables(node) == list(node.args[:1])
        if TRAINING.get(exported, len(node.args)) < len(node.args) and node.args[TRAINING[exported]]:
            raise OmnigrokError(f"{node.name} is in training mode; export the model after model.eval()")
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is None:
            raise OmnigrokError(f"{node.name} takes statistics of a batch; give it track_running_stats=True")
        known = (
            node.target in SUMS
            or exported in ("add", "add_", "sub", "sub_")
            or ((node.target in PRODUCTS or exported in ("mul", "mul_")) and len(self.variables(node)) == 1)
            or ((node.target in QUOTIENTS or exported in ("div", "div_") or exported in AFFINE_OPERATORS) and alone)
            or (node.op == "call_module" and isinstance(self.modules[str(node.target)], AFFINE_MODULES))
            or (node.op == "call_method" and node.target in AFFINE_METHODS)
            or (node.op == "call_function" and node.target in AFFINE_FUNCTIONS)
        )
        if not known:
            what = self.modules[str(node.target)] if node.op == "call_module" else node.target
            what = str(what).splitlines()[0].rstrip("(")  # of a module of modules its name
            raise OmnigrokError(
                f"the partition does not know {what}: it takes affine layers, ReLU, LeakyReLU and pooling"
            )

    def rectify(self, region: _Live, node: fx.Node, slope: float) -> Iterator[_Live]:
        """Cut a region along the zero sets of a layer's units; on each piece a unit is scaled by 1 or by the slope."""
        source = region.tensors[node.all_input_nodes[0].name]
        maps = source.reshape(3, -1).numpy()
        for piece in self.cut(region.polygon, maps):
            on = with_one(piece.mean(axis=0, keepdims=True)) @ maps > 0
            scale = torch.from_numpy(np.where(on[0], 1.0, slope)).view(source.shape[1:])
            pattern = [*region.pattern, np.packbits(on).tobytes()]
            yield _Live(piece, {**region.tensors, node.name: source * scale}, pattern)

    def pooled(self, region: _Live, node: fx.Node, pool: nn.MaxPool2d) -> Iterator[_Live]:
        """Cut a region where the largest entry of a window changes, and take the largest on each piece."""
        source = region.tensors[node.all_input_nodes[0].name]
        numbers = torch.arange(source[0].numel(), dtype=torch.float64).view(source.shape[1:]) + 1
        size, stride, padding = map(both, (pool.kernel_size, pool.stride, pool.padding))
        flat = numbers.view(1, *source.shape[-3:])
        padded = F.pad(flat, (padding[1], padding[1], padding[0], padding[0]))
        windows = padded.unfold(2, size[0], stride[0]).unfold(3, size[1], stride[1])
        shape = windows.shape[1:4]
        members = windows.reshape(-1, size[0] * size[1]).long().numpy() - 1  # -1: padding
        maps = source.reshape(3, -1).numpy()
        pieces = [region.polygon]
        values = with_one(region.polygon) @ maps
        for window in members:
            window = window[window >= 0]
            best = values[:, window].min(axis=0).max()
            rivals = window[values[:, window].max(axis=0) >= best]  # others are below one of the window everywhere
            for i, first in enumerate(rivals):
                for second in rivals[i + 1 :]:
                    difference = maps[:, [first]] - maps[:, [second]]
                    pieces = [new for piece in pieces for new in self.cut(piece, difference, record=False)]
        for piece in pieces:
            centre = (with_one(piece.mean(axis=0, keepdims=True)) @ maps)[0]
            chosen = np.array([w[w >= 0][centre[w[w >= 0]].argmax()] for w in members])
            taken = source.reshape(3, -1)[:, torch.from_numpy(chosen)].view(3, *source.shape[1:-3], *shape)
            yield _Live(piece, {**region.tensors, node.name: taken}, [*region.pattern, chosen.tobytes()])

    def cut(self, polygon: Polygon, maps: NDArray[np.float64], record: bool = True) -> list[Polygon]:
        """The pieces of a polygon between the zero sets of some affine functions, (3, functions)."""
        values = with_one(polygon) @ maps
        if not np.isfinite(values).all():
            raise NotFiniteError("values of the model on the plane are not finite: its numbers overflow there")
        scale = TOLERANCE * np.abs(values).max(axis=0)
        crossing = np.flatnonzero((values.max(axis=0) > scale) & (values.min(axis=0) < -scale))
        pieces = [polygon]
        for k in crossing:
            new = []
            for piece in pieces:
                parts, segment = clip(piece, with_one(piece) @ maps[:, k], scale[k])
                new += [part for part in parts if polygon_area(part) > SLIVER * self.area]
                if segment is not None and record:
                    self.segments.append(segment)
            pieces = new
        return pieces

    def finish(self, plane: Plane, live: list[_Live], output: str) -> Partition:
        regions, decision = [], []
        for region in live:
            maps = region.tensors[output].reshape(3, -1).numpy()
            regions.append(Region(region.polygon, maps, b"".join(region.pattern)))
            decision += decision_segments(region.polygon, maps)
        empty = np.empty((0, 2, 2))
        return Partition(
            plane,
            regions,
            np.array(self.segments) if self.segments else empty,
            np.array(decision) if decision else empty,
        )


def plain_pool(pool: nn.MaxPool2d) -> nn.MaxPool2d:
    """Raises OmnigrokError for a pooling whose windows have holes or hang over the edge."""
    if any(step != 1 for step in both(pool.dilation)) or pool.ceil_mode:
        raise OmnigrokError(f"the partition does not know {pool}: it takes no dilation and no ceil_mode")
    return pool


def both(value: int | Sequence[int]) -> tuple[int, int]:
    """Of height and width, where one number stands for both."""
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def operator_name(node: fx.Node) -> str:
    """The name of an exported model's operator: relu of aten.relu.default."""
    target = node.target
    return target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else ""
