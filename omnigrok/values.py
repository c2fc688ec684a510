"""Values as Python's own: a number of numpy or torch, a list, a whole number for a float name the same run."""

from __future__ import annotations

import copy
import dataclasses
import types
import typing
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


def normalised(part: T) -> T:
    """A dataclass with its fields' values as Python's own, of the types that the fields are annotated with."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return part
    new = copy.copy(part)
    return new if normalise(new) else part


def normalise(part: Any) -> bool:
    """Do so to a dataclass that is being made; whether a value has changed."""
    kind: Any = type(part)
    hints, changed = _hints(kind), False
    for field in dataclasses.fields(part):
        before = getattr(part, field.name)
        after = as_python(before, hints.get(field.name, Any))
        if after is not before:
            object.__setattr__(part, field.name, after)  # it is frozen
            changed = True
    return changed


def as_python(value: Any, hint: Any = Any) -> Any:
    """A value without numpy, torch and lists, of an annotated type where it can be: what it was, where it is that.

    A number of fewer digits is the one that it is written as.

    >>> as_python(np.float32(0.1)), as_python(1, float), as_python([1, 2], tuple[float, ...])
    (0.1, 1.0, (1.0, 2.0))
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()  # numpy has none
    if isinstance(value, np.ndarray):
        value = value[()] if value.ndim == 0 else list(value)
    if isinstance(value, np.generic):
        value = float(str(value)) if isinstance(value, np.floating) else value.item()
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    rows = [kind for kind in kinds if kind is tuple or typing.get_origin(kind) is tuple]
    if rows and isinstance(value, (int, float)):
        value = (value,)
    if isinstance(value, (list, tuple)):
        return _row(value, typing.get_args(rows[0]) if rows else ())
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and float in kinds and int not in kinds:
        return float(value)
    if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
        return int(value)
    return normalised(value)


def _row(values: list | tuple, hints: tuple[Any, ...]) -> tuple:
    """A tuple of values; itself where nothing changes."""
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(values)
    if len(hints) != len(values):
        hints = (Any,) * len(values)
    found = tuple(as_python(value, hint) for value, hint in zip(values, hints, strict=True))
    same = type(values) is tuple and all(a is b for a, b in zip(found, values, strict=True))
    return values if same else found  # type: ignore[return-value]


@cache
def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except Exception:  # a name that is there for a type checker alone
        return {}
