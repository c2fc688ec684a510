"""What a model does beside computing its outputs, found by passes of a model of its own before the first step.

Random numbers, inputs that are changed in place, buffers that an evaluation moves, attributes that a pass leaves: the
trainer treats each of them rightly, and pays for none that the model does not have.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnigrok.blame import blamed
from omnigrok.errors import CannotBatchError, SpecError
from omnigrok.models import draws, in_evaluation
from omnigrok.spec import global_states, keyed
from omnigrok.task import Inputs, Task

Function = Callable[[Callable[..., Any], Inputs, Tensor], dict[str, Tensor]]
Batch = tuple[Inputs, Tensor]
NOT_STATE = frozenset(vars(nn.Module()))
"""What every module has: its tensors, its modules, its hooks and its mode."""
CLOSE = (1e-6, 1e-8)
"""How far a gradient in a batch may lie from the one alone, as a share of it and of all: in float64 rounding
is far below."""
SAME = 1e-6
"""Two passes that agree to this are the same."""


@dataclass(frozen=True)
class Habits:
    """What the passes of a model do.

    Attributes:
        draws: random numbers in training, of a model, a loss.
        draws_in_evaluation: random numbers in evaluation, of metrics too.
        changes_inputs: inputs or targets, in place.
        moves_buffers: in evaluation.
        moves_parameters: in place, in training or evaluation.
        leaves: attributes that are no buffers and on which no number depends (a cache), by their names; what an
            attribute holds is named as in ``cache['h']``.
    """

    draws: bool = False
    draws_in_evaluation: bool = False
    changes_inputs: bool = False
    moves_buffers: bool = False
    moves_parameters: bool = False
    leaves: tuple[str, ...] = ()


def find_habits(
    task: Task, model: nn.Module, training: tuple[Function, Batch], evaluation: tuple[Function, Batch]
) -> Habits:
    """The habits of a fresh model, by what it does with a batch in training and with examples in evaluation.

    Raises:
        SpecError: the model, the loss or the metrics fail: the message shows the line. Or a pass depends on what the
            one before has left in an attribute, which no checkpoint holds; or it replaces a parameter.
    """
    before = _Before(model)

    def evaluate() -> _Pass:
        with torch.no_grad(), in_evaluation(model):
            return _passed(task, model, *evaluation)

    def train() -> _Pass:
        with torch.enable_grad():
            return _passed(task, model, *training)

    evaluated = evaluate()
    before.refuse_replaced(task)
    moves_buffers, moves_parameters = before.moved(), before.changed()
    before.restore()
    trained = train()
    before.refuse_replaced(task)
    moves_parameters |= before.changed()
    leaves = before.left()
    before.restore()
    if leaves:
        again = train()
        before.restore()
        if not (again.same(trained) and evaluate().same(evaluated)):
            raise SpecError(_carried(task, leaves))
    return Habits(
        draws=trained.drew or any(map(draws, model.modules())),
        draws_in_evaluation=evaluated.drew,
        changes_inputs=trained.changed or evaluated.changed,
        moves_buffers=moves_buffers,
        moves_parameters=moves_parameters,
        leaves=leaves,
    )


def _carried(task: Task, leaves: tuple[str, ...]) -> str:
    names = ", ".join(leaves[:3]) + (", ..." if len(leaves) > 3 else "")
    return (
        f"what the model of {task.name} computes depends on what its last pass left in {names}, which no checkpoint "
        "holds: make it a buffer (register_buffer) that has its shape from the start, and draw from torch's global "
        "generator, which is keyed"
    )


def keeps_contract(task: Task, loss: Callable[[Any, Tensor], Tensor]) -> Function:
    """A pass that checks loss and metrics: one number an example, and the thresholds' metric among them."""

    def check(model: Callable[..., Any], inputs: Inputs, targets: Tensor) -> dict[str, Tensor]:
        outputs, examples = model(*inputs), len(targets)
        values = {**task.metrics(outputs, targets), "loss": loss(outputs, targets)}
        for name, x in values.items():
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            if found != (examples,):
                raise SpecError(
                    f"{name} of {task.name} must be one number an example: of {examples} examples a tensor "
                    f"of shape {(examples,)}, got {found}"
                )
            if not x.is_floating_point():
                raise SpecError(f"{name} of {task.name} must be floating point, got {x.dtype}")
        wanted = task.thresholds.metric
        if wanted not in values:
            known = ", ".join(["loss", *(name for name in values if name != "loss")])
            raise SpecError(f"{task.name} has no metric {wanted!r}, which its thresholds name; it has: {known}")
        return values

    return check


def compare_last(
    task: Task,
    model: nn.Module,
    function: Function,
    batch: Batch,
    gradients: dict[str, Tensor],
    buffers: dict[str, Tensor],
) -> None:
    """Raises CannotBatchError where the last run of a batch has other gradients or buffers than a model alone.

    Torch's batched form of an operation may leave out what its plain form does: an embedding's `padding_idx` is that of
    the first run alone.
    """
    with torch.enable_grad():
        loss = function(model, tuple(x.clone() for x in batch[0]), batch[1].clone())["loss"].mean()
        alone = dict(zip(gradients, torch.autograd.grad(loss, [p for _, p in model.named_parameters()]), strict=True))
    statistics = {name: b for name, b in model.named_buffers() if name in buffers and b.is_floating_point()}
    share, least = CLOSE
    for found, expected in ((gradients, alone), (buffers, statistics)):
        size = {name: float(torch.linalg.vector_norm(x)) for name, x in expected.items()}
        whole = math.hypot(*size.values())
        for name, x in expected.items():
            apart = float(torch.linalg.vector_norm(found[name][-1] - x))
            if apart > share * size[name] and apart > least * whole:
                raise CannotBatchError(task.name, f"torch computes other numbers of {name} in a batch")


def place_of(model: nn.Module, name: str) -> tuple[MutableMapping[str, Any], str]:
    """Where a module keeps an attribute of a dotted name: the mapping, and its key."""
    path, _, leaf = name.rpartition(".")
    layer = model.get_submodule(path)
    return (layer._buffers if leaf in layer._buffers else vars(layer)), leaf


@dataclass(frozen=True)
class _Pass:
    values: dict[str, Tensor]
    drew: bool
    changed: bool

    def same(self, other: _Pass) -> bool:
        """Whether it gave the same numbers as another."""
        return all(torch.allclose(x, other.values[name], SAME, 0.0, True) for name, x in self.values.items())


def _passed(task: Task, model: nn.Module, function: Function, batch: Batch) -> _Pass:
    """A pass on copies of a batch, with generators that are keyed."""
    own = (*batch[0], batch[1])
    given = [x.clone() for x in own]
    with keyed("trial"):
        states = global_states()
        with blamed(task, "the model, loss or metrics", advice(model, own)):
            values = function(model, tuple(given[:-1]), given[-1])
        drew = global_states() != states
    changed = any(x._version > 0 or not torch.equal(x, old) for x, old in zip(given, own, strict=True))
    return _Pass({name: x.detach() for name, x in values.items()}, drew, changed)


def advice(model: nn.Module, examples: tuple[Tensor, ...]) -> str:
    """What to say beside an error where examples and parameters differ in their type."""
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    others = [x.dtype for x in examples if x.is_floating_point() and x.dtype != own]
    if own is None or not others:
        return ""
    return (
        f"; its data are {others[0]}, its parameters {own}: have `load` give spec.torch_dtype, or set its spec's dtype"
    )


class _Before:
    """The buffers and attributes of a model before its first pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._buffers = [
            (layer, name, b, b.clone())
            for layer in model.modules()
            for name, b in layer._buffers.items()
            if b is not None
        ]
        self._parameters = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in _parameters(model)}
        self._known = {(layer, name) for layer, name, _, _ in self._buffers}
        self._attributes = self._held()
        self._versions = self._where()

    def refuse_replaced(self, task: Task) -> None:
        """Raises SpecError where a parameter is another tensor now, or elsewhere in memory."""
        now = dict(_parameters(self._model))
        for name, (p, place, _) in self._parameters.items():
            if now.get(name) is not p or p.data_ptr() != place:
                raise SpecError(f"a forward pass of {task.name} replaces parameter {name}: have it change it in place")

    def changed(self) -> bool:
        """Whether a parameter has other numbers now."""
        return not all(_equal(p, value) for p, _, value in self._parameters.values())

    def moved(self) -> bool:
        """Whether a buffer has been assigned, or changed in place."""
        same = all(layer._buffers.get(name) is b for layer, name, b, _ in self._buffers)
        return not same or self._where() != self._versions

    def _where(self) -> list[tuple[int, int]]:
        return [(b._version, b.data_ptr()) for _, _, b, _ in self._buffers]

    def left(self) -> tuple[str, ...]:
        """The attributes that passes have set or changed, buffers that were None among them."""
        now, missing = self._held(), (None, "missing")
        changed = []
        for name in dict.fromkeys([*self._attributes, *now]):
            (old, old_mark), (new, mark) = self._attributes.get(name, missing), now.get(name, missing)
            if new is not old or mark != old_mark:
                changed.append(name)
        return tuple(changed)

    def _held(self) -> dict[str, tuple[object, object]]:
        """What modules hold beside their tensors and modules, by name: the object, and what tells that it changed."""
        found: dict[str, tuple[object, object]] = {}
        for path, layer in self._model.named_modules():
            held = {name: value for name, value in vars(layer).items() if name not in NOT_STATE}
            held |= {name: b for name, b in layer._buffers.items() if (layer, name) not in self._known}
            for name, value in held.items():
                found |= _named(f"{path}.{name}" if path else name, value)
        return found

    @torch.no_grad()
    def restore(self) -> None:
        """Give parameters and buffers the values that they had."""
        for p, _, value in self._parameters.values():
            if not _equal(p, value):  # untouched, its version stays
                p.copy_(value)
        for layer, name, b, value in self._buffers:
            if not _equal(b, value):
                b.data = value.clone()  # its shape may be another now
            layer._buffers[name] = b
        self._versions = self._where()


def _parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return model.named_parameters(remove_duplicate=False)


def _equal(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and not bool(((x != y) & ((x == x) | (y == y))).any())


def _named(name: str, value: object) -> dict[str, tuple[object, object]]:
    """An attribute and, one level deep, what it holds, by name."""
    found = {name: (value, _mark(value))}
    inside: Mapping = {}
    if isinstance(value, Mapping):
        inside = value
    elif isinstance(value, list | tuple | deque):
        inside = dict(enumerate(value))
    elif hasattr(value, "__dict__") and not isinstance(value, Tensor | nn.Module | type) and not callable(value):
        inside = vars(value)
    return found | {f"{name}[{key!r}]": (x, _mark(x)) for key, x in inside.items()}


def _mark(value: object) -> object:
    if isinstance(value, Tensor):
        return None if isinstance(value, nn.Parameter) else value._version
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    return len(value) if isinstance(value, list | tuple | set | deque | Mapping) else None
