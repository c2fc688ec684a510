"""RunSpec: the fields that identify one training run, their validation and their content hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from omnigrok.errors import SpecError

if TYPE_CHECKING:
    from omnigrok.trainer import Perturbation, Probe

TRAINER_VERSION = 2
"""Part of every run's hash. Raise it when a change to the engine changes numbers. 2: denormal numbers are flushed."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, completely: same spec and same data, same numbers (up to floating-point rounding).

    Raises:
        SpecError: a field has a value that no run can have.
    """

    task: str = ""
    n_train: int = field(metadata={"help": "training examples: the first N of the task's pool"})
    steps: int = field(metadata={"help": "optimizer steps"})
    lr: float = field(metadata={"help": "learning rate"})
    alpha: float = field(default=1.0, metadata={"help": "init scale: every parameter is multiplied by it"})
    seed: int = field(default=0, metadata={"help": "keys the initialisation and the batch order"})
    weight_decay: float = field(
        default=0.0, metadata={"help": "decoupled with adamw (theta *= 1 - lr * wd), an L2 gradient with adam"}
    )
    sphere: bool = field(default=False, metadata={"help": "hold the weight norm at its initial value"})
    optimizer: Literal["adam", "adamw"] = field(default="adamw", metadata={"help": "adam or adamw"})
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int | None = field(default=None, metadata={"help": "examples a step; none: the full batch"})
    lr_drop: tuple[int, float] | None = field(
        default=None, metadata={"help": "(steps, factor): lr times factor every so many steps"}
    )
    gradient_clip: float | None = field(
        default=None, metadata={"help": "largest gradient norm of a run; none: no limit"}
    )
    dtype: Literal["float32", "float64"] = field(default="float32", metadata={"help": "float32 or float64"})
    subset: Literal["first", "shuffled"] = field(
        default="first", metadata={"help": "order of the pool: as published, or shuffled by data_seed"}
    )
    data_seed: int = field(default=0, metadata={"help": "keys generated data and the shuffled pool"})
    evaluation_density: int = field(
        default=1, metadata={"help": "evaluations: 9 x this number a decade of steps; 0: powers of ten"}
    )
    options: tuple[tuple[str, Any], ...] = ()
    probes: tuple[Probe, ...] = ()
    perturbation: Perturbation | None = None
    keep: tuple[int, ...] = ()
    """Steps whose weights are kept beside the run's table: `Store.weights`."""
    sphere_first_twice: bool = False
    """The sphere's norm counts the first weight matrix twice, as two published notebooks do."""
    sphere_early: bool = False
    """Back on the sphere between forward and backward pass, as one published notebook does, not after the step."""

    def __post_init__(self) -> None:
        for name, (convert, rule) in FIELDS.items():  # 8, 8.0 and numpy's 8 are the same run
            value = getattr(self, name)
            if value is None and name in ("batch_size", "lr_drop", "gradient_clip"):
                continue
            try:
                object.__setattr__(self, name, convert(value))
            except (TypeError, ValueError, KeyError):
                raise SpecError(f"{name} must be {rule}, got {value!r}") from None

        def need(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise SpecError(f"{name} must be {rule}, got {getattr(self, name)!r}")

        need(0 < self.alpha < math.inf, "alpha", "a finite number above 0")
        need(0 < self.lr < math.inf, "lr", "a finite number above 0")
        need(0 <= self.weight_decay < math.inf, "weight_decay", "a finite number, 0 or more")
        need(self.n_train >= 1, "n_train", "1 or more")
        need(self.steps >= 0, "steps", "0 or more")
        need(self.batch_size is None or self.batch_size >= 1, "batch_size", "1 or more, or none for the full batch")
        need(
            self.lr_drop is None or (self.lr_drop[0] >= 1 and 0 < self.lr_drop[1] < math.inf),
            "lr_drop",
            "(1 or more steps, a factor above 0), or none",
        )
        need(
            self.gradient_clip is None or 0 < self.gradient_clip < math.inf,
            "gradient_clip",
            "a finite number above 0, or none",
        )
        need(self.evaluation_density >= 0, "evaluation_density", "0 or more")
        need(self.optimizer in ("adam", "adamw"), "optimizer", "adam or adamw")
        need(self.dtype in DTYPES, "dtype", "float32 or float64")
        need(self.subset in ("first", "shuffled"), "subset", "first or shuffled")
        need(all(0 <= b < 1 for b in self.betas), "betas", "two numbers in [0, 1)")
        need(all(0 <= step <= self.steps for step in self.keep), "keep", f"steps from 0 to {self.steps}")
        for name, parts in (("probes", self.probes), ("perturbation", (self.perturbation,))):
            for part in parts:
                if part is not None or name == "probes":
                    check_part(name, part)

    def replace(self, **changes: Any) -> RunSpec:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def option(self, name: str, *default: Any) -> Any:
        """The value of one of the task's own options; a default is for one that a spec may leave out."""
        return dict(self.options).get(name, *default) if default else dict(self.options)[name]

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def lr_at(self, step: int) -> float:
        """The learning rate of the update that follows a step."""
        if self.lr_drop is None:
            return self.lr
        every, factor = self.lr_drop
        return self.lr * factor ** (step // every)

    @property
    def effective_batch_size(self) -> int:
        """Examples a step: never more than the training set has."""
        return self.n_train if self.batch_size is None else min(self.batch_size, self.n_train)

    def canonical(self) -> dict[str, Any]:
        """The fields that differ from their default, ready for JSON.

        A default is left out so that a field added later does not change the hash of the runs made before it. Probes
        and perturbations enter with all of their fields, and with their class's `version` where it is above 1: a field
        that is added renames the runs that have them.
        """
        result = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.default is dataclasses.MISSING or value != f.default:
                result[f.name] = _plain(value)
        return result

    def hash(self, data_sha256: str) -> str:
        """Content hash of the run: 16 hex digits over the canonical fields, the data and the trainer version."""
        content = {"spec": self.canonical(), "data": data_sha256, "trainer": TRAINER_VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def check_part(name: str, part: Any) -> None:
    """Raises SpecError for what cannot be a part of a run: its fields identify the run, so they must not change."""
    kind = type(part)
    frozen = dataclasses.is_dataclass(part) and kind is not type and kind.__dataclass_params__.frozen
    if not (frozen and callable(part)):
        raise SpecError(
            f"{name} takes instances of frozen dataclasses with a __call__ (@dataclass(frozen=True)), got {part!r}"
        )
    try:
        hash(part)
        json.dumps(_plain(part))
    except TypeError as error:
        raise SpecError(f"the fields of {part!r} must be numbers, text, or tuples of them: {error}") from error


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on its key alone, so that no draw depends on what was drawn elsewhere."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: int | str) -> int:
    """The 63-bit seed that belongs to a key such as ``(seed, "init")``."""
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big") >> 1


def global_states() -> tuple[object, ...]:
    """The states of the generators that all code of a process shares: torch's, numpy's and Python's."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]
    numpy_state = [np.asarray(part).tobytes() for part in np.random.get_state(legacy=True)]
    return (*(state.numpy().tobytes() for state in states), *numpy_state, random.getstate())


def _truth(value: Any) -> bool:
    return {False: False, True: True}[value]


def _pair(first: Callable, second: Callable) -> Callable[[Any], tuple]:
    def convert(value: Any) -> tuple:
        a, b = value
        return first(a), second(b)

    return convert


def _options(value: Any) -> tuple[tuple[str, Any], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in pairs}
    return tuple(sorted(plain.items()))


FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys(
        ("n_train", "steps", "seed", "data_seed", "batch_size", "evaluation_density"),
        (operator.index, "a whole number"),
    ),
    **dict.fromkeys(("alpha", "lr", "weight_decay", "gradient_clip"), (float, "a number")),
    **dict.fromkeys(("sphere", "sphere_first_twice", "sphere_early"), (_truth, "true or false")),
    "betas": (_pair(float, float), "two numbers in [0, 1)"),
    "lr_drop": (_pair(operator.index, float), "(1 or more steps, a factor above 0), or none"),
    "keep": (lambda steps: tuple(map(operator.index, steps)), "whole numbers"),
    "options": (_options, "pairs of name and value"),
    "probes": (tuple, "a tuple of probes"),
}
"""What a field's value is turned into, and what to call it where that fails."""


def _plain(value: Any) -> Any:
    """A field's value ready for JSON. The engine's own parts go by their class's name, others by their module, too."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        own = kind.__module__.partition(".")[0] == __package__
        return {
            "type": kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}",
            **({} if (version := getattr(kind, "version", 1)) == 1 else {"version": version}),
            **{field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)},
        }
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value
