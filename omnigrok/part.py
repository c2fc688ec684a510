"""Parts: what a run is composed of beside its numbers. A part is a frozen dataclass; its fields identify the run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar

from omnigrok.errors import SpecError
from omnigrok.values import normalise


@dataclass(frozen=True)
class Part:
    """Something that a run is trained with: an optimizer, a schedule, a change of the gradient, a sphere, a loss.

    What differs from the defaults enters the run's hash, with the class's name, for a class outside the engine its
    module, and above 1 its `version`. So a field may be added with a default that changes nothing. Subclasses are
    frozen dataclasses, which Python sees to.
    """

    version: ClassVar[int] = 1

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Have a subclass check its fields once their values are Python's own."""
        super().__init_subclass__(**arguments)
        check = cls.__dict__.get("__post_init__")
        if check is not None:

            def checked(self: Part) -> None:
                normalise(self)
                check(self)

            cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        normalise(self)

    def canonical(self) -> dict[str, Any]:
        """What enters the hash, ready for JSON."""
        changed = {
            f.name: plain(value) for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default
        }
        return {**identity(type(self)), **changed}


ADDED = {"omnigrok.added": True}
"""Metadata of a field that a class that is no `Part` got after runs had been named with it: left out at its default."""


def identity(kind: type) -> dict[str, Any]:
    """The name of a class, with its module where it is not the engine's own, and its version above 1."""
    own = kind.__module__.partition(".")[0] == __package__
    version = getattr(kind, "version", 1)
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__  # a program's, in its workers
    name = kind.__qualname__ if own else f"{module}.{kind.__qualname__}"
    return {"type": name} if version == 1 else {"type": name, "version": version}


def plain(value: Any) -> Any:
    """A field's value ready for JSON. Dataclasses that are no `Part` enter with all their fields; see `ADDED`."""
    if isinstance(value, Part):
        return value.canonical()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata == ADDED and getattr(value, f.name) == f.default)
        }
        return {**identity(type(value)), **fields}
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    return value


def check_part(name: str, part: Any, kind: type[Part] | None = None) -> None:
    """Raises SpecError for what cannot be a part of a run: its fields identify the run, so they must not change."""
    own = type(part)
    frozen = dataclasses.is_dataclass(part) and own is not type and own.__dataclass_params__.frozen
    if not (frozen and callable(part) if kind is None else isinstance(part, kind)):
        wanted = "frozen dataclasses with a __call__ (@dataclass(frozen=True))" if kind is None else kind.__name__
        raise SpecError(f"{name} takes instances of {wanted}, got {part!r}")
    fields = {field.name for field in dataclasses.fields(part)}
    forgotten = [each for each in vars(own).get("__annotations__", {}) if each not in fields and each != "version"]
    if forgotten and "__dataclass_fields__" not in vars(own):
        raise SpecError(f"{own.__name__} must be a dataclass itself (@dataclass(frozen=True)): it has {forgotten[0]!r}")
    try:
        hash(part)
        json.dumps(plain(part))
    except TypeError as error:
        raise SpecError(f"the fields of {part!r} must be numbers, text, or tuples of them: {error}") from error
