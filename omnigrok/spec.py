"""RunSpec: the fields that identify one training run, their validation and their content hash."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import operator
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from omnigrok.changes import ChangeAt, Stop
from omnigrok.errors import SpecError
from omnigrok.gradients import Clip, GradientPart, WeightNoise
from omnigrok.losses import Loss
from omnigrok.optimizers import OPTIMIZERS, AdamW, Optimizer
from omnigrok.part import Part, check_part, plain
from omnigrok.schedule import Drop, Schedule
from omnigrok.sphere import Sphere
from omnigrok.values import as_python

if TYPE_CHECKING:
    from omnigrok.trainer import Perturbation, Probe

TRAINER_VERSION = 2
"""Part of every run's hash. Raise it when a change to the engine changes numbers. 2: denormal numbers are flushed."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, completely: same spec and same data, same numbers (up to floating-point rounding).

    Numbers are fields; mechanisms are parts (`omnigrok.part.Part`): an optimizer, factors of its learning rate, changes
    of the gradient, a sphere, a loss.

    >>> from omnigrok.optimizers import Muon
    >>> from omnigrok.schedule import Cosine
    >>> spec = RunSpec(n_train=100, steps=1_000, lr=0.1, optimizer=Muon(), schedule=(Cosine(floor=0.1),))
    >>> spec.replace(sphere=True).sphere
    Sphere(first_twice=False, early=False, of='parameters', scale=1.0, norm=None, start=0)

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
    sphere: Sphere | None = field(default=None, metadata={"help": "hold the weight norm at its initial value"})
    """True stands for the usual one, False for none."""
    optimizer: Optimizer = field(default=AdamW(), metadata={"help": "one of: " + ", ".join(OPTIMIZERS)})
    """A name stands for the optimizer with its defaults."""
    schedule: tuple[Schedule, ...] = ()
    """Factors of the learning rate."""
    gradient: tuple[GradientPart, ...] = ()
    """What changes the gradients before the step, in order."""
    weight_noise: WeightNoise | None = None
    loss: Loss | None = None
    """Instead of the task's own."""
    changes: tuple[ChangeAt, ...] = ()
    stop: Stop | None = None
    batch_size: int | None = field(default=None, metadata={"help": "examples a step; none: the full batch"})
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

    def __post_init__(self) -> None:
        for name, (convert, rule) in FIELDS.items():  # 8, 8.0 and numpy's 8 are the same run
            value = getattr(self, name)
            if value is None and name == "batch_size":
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
        need(self.evaluation_density >= 0, "evaluation_density", "0 or more")
        need(self.dtype in DTYPES, "dtype", "float32 or float64")
        need(self.subset in ("first", "shuffled"), "subset", "first or shuffled")
        need(all(0 <= step <= self.steps for step in self.keep), "keep", f"steps from 0 to {self.steps}")
        for name, kind in PARTS.items():
            object.__setattr__(self, name, as_python(getattr(self, name)))
            value = getattr(self, name)
            if value is None and name != "optimizer":
                continue
            for part in value if isinstance(value, tuple) else (value,):
                check_part(name, part, kind)
        if self.weight_noise is not None and self.sphere is not None and self.sphere.early:
            raise SpecError("weight_noise would be undone with an early sphere, which moves the weights under it")

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
        """The learning rate of the update that follows `step` updates."""
        rate = self.lr
        for part in self.schedule:
            rate *= part(step, self.steps)
        return rate

    @property
    def effective_batch_size(self) -> int:
        """Examples a step: never more than the training set has."""
        return self.n_train if self.batch_size is None else min(self.batch_size, self.n_train)

    def canonical(self) -> dict[str, Any]:
        """The fields that differ from their default, ready for JSON.

        A default is left out so that a field added later does not change the hash of the runs made before it. Probes
        and perturbations that are no `Part` enter with all of their fields, so that one that is added renames the runs
        that have them. What had a field of its own before it was a part has that field's key, and its runs their names.
        """
        result: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.default is not dataclasses.MISSING and value == f.default:
                continue
            if f.name in ("optimizer", "sphere"):
                result |= value.canonical()
            elif f.name in ("schedule", "gradient") and len(value) == 1 and type(value[0]) in KEYS:
                result |= KEYS[type(value[0])](value[0])
            else:
                result[f.name] = plain(value)
        return result

    def hash(self, data_sha256: str) -> str:
        """Content hash of the run: 16 hex digits over the canonical fields, the data and the trainer version."""
        content = {"spec": self.canonical(), "data": data_sha256, "trainer": TRAINER_VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


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


@contextlib.contextmanager
def keyed(*key: int | str) -> Iterator[None]:
    """What is drawn within from the generators that all code shares depends on the key; they are as before afterwards.

    Torch's, numpy's and Python's.
    """
    seed = seed_of(*key)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            if torch.backends.mps.is_available():
                torch.mps.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _named(value: Any) -> Any:
    return OPTIMIZERS[value]() if isinstance(value, str) else value


def _sphere(value: Any) -> Any:
    return value if value is None or isinstance(value, Part) else {False: None, True: Sphere()}[value]


def _parts(value: Any) -> tuple:
    return (value,) if isinstance(value, Part) else tuple(value)


def _options(value: Any) -> tuple[tuple[str, Any], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple(sorted({str(name): as_python(v) for name, v in pairs}.items()))


def _number(value: Any) -> float:
    return float(as_python(value, float))


def _whole(value: Any) -> int:
    return int(operator.index(value))


FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys(
        ("n_train", "steps", "seed", "data_seed", "batch_size", "evaluation_density"),
        (_whole, "a whole number"),
    ),
    **dict.fromkeys(("alpha", "lr", "weight_decay"), (_number, "a number")),
    "optimizer": (_named, f"an optimizer or the name of one ({', '.join(OPTIMIZERS)})"),
    "sphere": (_sphere, "true, false or a Sphere"),
    **dict.fromkeys(("schedule", "gradient", "changes"), (_parts, "a tuple of parts")),
    "keep": (lambda steps: tuple(map(_whole, steps)), "whole numbers"),
    "options": (_options, "pairs of name and value"),
    "probes": (tuple, "a tuple of probes"),
}
"""What a field's value is turned into, and what to call it where that fails."""
PARTS: dict[str, type[Part] | None] = {
    "optimizer": Optimizer, "schedule": Schedule, "gradient": GradientPart, "weight_noise": WeightNoise,
    "sphere": Sphere, "loss": Loss, "changes": ChangeAt, "stop": Stop, "probes": None, "perturbation": None,
}  # fmt: skip
"""The fields that hold parts, and of which kind; None: anything frozen that can be called."""
KEYS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Drop: lambda part: {"lr_drop": [part.every, part.factor]},
    Clip: lambda part: {"gradient_clip": part.limit},
}
"""Parts that were fields of the spec, alone in theirs: the keys that name their runs."""
