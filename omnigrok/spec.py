"""RunSpec: the fields that identify one training run, their validation and their content hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from omnigrok.errors import SpecError

if TYPE_CHECKING:
    from omnigrok.trainer import Perturbation, Probe

TRAINER_VERSION = 1
"""Part of every run's hash. Raise it when a change to the engine changes numbers."""

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
        def need(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise SpecError(f"{name} must be {rule}, got {getattr(self, name)!r}")

        need(is_number(self.alpha) and self.alpha > 0, "alpha", "a finite number above 0")
        need(is_number(self.lr) and self.lr > 0, "lr", "a finite number above 0")
        need(is_number(self.weight_decay) and self.weight_decay >= 0, "weight_decay", "a finite number, 0 or more")
        need(self.n_train >= 1, "n_train", "1 or more")
        need(self.steps >= 0, "steps", "0 or more")
        need(self.batch_size is None or self.batch_size >= 1, "batch_size", "1 or more, or none for the full batch")
        need(
            self.lr_drop is None or (self.lr_drop[0] >= 1 and is_number(self.lr_drop[1]) and self.lr_drop[1] > 0),
            "lr_drop",
            "(1 or more steps, a factor above 0), or none",
        )
        need(
            self.gradient_clip is None or (is_number(self.gradient_clip) and self.gradient_clip > 0),
            "gradient_clip",
            "a finite number above 0, or none",
        )
        need(self.evaluation_density >= 0, "evaluation_density", "0 or more")
        need(self.optimizer in ("adam", "adamw"), "optimizer", "adam or adamw")
        need(self.dtype in DTYPES, "dtype", "float32 or float64")
        need(self.subset in ("first", "shuffled"), "subset", "first or shuffled")
        need(all(0 <= b < 1 for b in self.betas), "betas", "two numbers in [0, 1)")
        need(all(0 <= step <= self.steps for step in self.keep), "keep", f"steps from 0 to {self.steps}")

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
        and perturbations enter with all of their fields: one that is added to them renames the runs that have them.
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


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on its key alone, so that no draw depends on what was drawn elsewhere."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: int | str) -> int:
    """The 63-bit seed that belongs to a key such as ``(seed, "init")``."""
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big") >> 1


def is_number(value: float) -> bool:
    return math.isfinite(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__qualname__, **{k: _plain(v) for k, v in vars(value).items()}}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value
