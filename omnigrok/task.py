"""The Task contract.

A task is one file: data, model, loss, metrics, default spec, citation. Subclass `Task`, and every figure and command
that is not tied to one dataset takes the class by its import path, or by its name where a package registers it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnigrok.errors import SpecError
from omnigrok.published import Published
from omnigrok.spec import RunSpec, generator

if TYPE_CHECKING:
    from omnigrok.data import Dataset

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class TaskData:
    """A training pool and a test set, on one device, examples first.

    Run r trains on the first ``n_train`` examples of the pool, so training sets of different size are nested.
    `train_inputs` and `test_inputs` are tuples: the model is called as ``model(*inputs)``.
    """

    train_inputs: Inputs
    train_targets: Tensor
    test_inputs: Inputs
    test_targets: Tensor
    source: str

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            inputs, targets = getattr(self, f"{name}_inputs"), getattr(self, f"{name}_targets")
            if (
                not isinstance(inputs, tuple)
                or not inputs
                or not all(isinstance(x, Tensor) for x in (*inputs, targets))
            ):
                raise SpecError(
                    f"{name}_inputs must be a tuple of tensors, one for each argument of the model, as in (x,), and "
                    f"{name}_targets a tensor (torch.as_tensor); got {kinds(inputs)} and {kinds(targets)}"
                )
            if any(x.is_nested for x in (*inputs, targets)):  # it has no shape
                raise SpecError(f"{name}_inputs or {name}_targets are nested: use torch.nested.to_padded_tensor(x, 0)")
            lengths = [x.shape[0] if x.ndim else 0 for x in (*inputs, targets)]
            if len(set(lengths)) != 1 or not lengths[0]:
                raise SpecError(
                    f"{name}_inputs and {name}_targets must have the same number of examples, and at least one; "
                    f"got {', '.join(map(str, lengths[:-1]))} and {lengths[-1]}"
                )

    @property
    def pool_size(self) -> int:
        return len(self.train_targets)

    @cached_property
    def sha256(self) -> str:
        """Checksum of all tensors, their types and shapes."""
        digest = hashlib.sha256()
        for x in (*self.train_inputs, self.train_targets, *self.test_inputs, self.test_targets):
            digest.update(f"{x.dtype} {tuple(x.shape)} ".encode())
            digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def versions(self) -> list[int]:
        """What moves when a tensor is changed in place."""
        tensors = (*self.train_inputs, self.train_targets, *self.test_inputs, self.test_targets)
        return [x._version for x in tensors]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (*self.train_inputs, self.train_targets, *self.test_inputs, self.test_targets))

    def to(self, device: torch.device | str) -> TaskData:
        return TaskData(
            tuple(x.to(device) for x in self.train_inputs),
            self.train_targets.to(device),
            tuple(x.to(device) for x in self.test_inputs),
            self.test_targets.to(device),
            self.source,
        )

    def shuffled(self, data_seed: int) -> TaskData:
        """The same data with the pool in a random order that `data_seed` keys."""
        order = torch.randperm(self.pool_size, generator=generator(data_seed, "pool"))
        return TaskData(
            tuple(x[order] for x in self.train_inputs),
            self.train_targets[order],
            self.test_inputs,
            self.test_targets,
            self.source,
        )


def kinds(value: object) -> str:
    """What a value is, in a word or two."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(sorted({type(x).__name__ for x in value})) or 'nothing'}"
    return type(value).__name__


@dataclass(frozen=True)
class Thresholds:
    """When a run counts as having memorised (train) and as having generalised (test), by which metric."""

    metric: str
    train: float
    test: float


class Task(ABC):
    """One experiment of a paper: what is learned, by which model, from which data."""

    name: ClassVar[str]
    display_name: ClassVar[str]
    citation: ClassVar[str]
    """A key of CITATION.cff's references, or a full reference."""
    spec: ClassVar[RunSpec]
    """The published grokking run."""
    thresholds: ClassVar[Thresholds]
    dataset: ClassVar[Dataset | None] = None
    """The files that the task reads; None when it generates its data."""
    recipe: ClassVar[str] = ""
    """For generated data: a name and version that stand for it in the run's hash. Without, the data's content does."""
    published: ClassVar[Published] = Published()
    """How the published code serves and evaluates its examples, for `omnigrok bench`."""
    data_depends_on_n_train: ClassVar[bool] = False
    """True when `load` looks at n_train (a vocabulary of the training part, say): runs of another size load again."""
    evaluation_chunk: ClassVar[int] = 500
    """Examples evaluated in one call; few enough that the activations of all runs stay near the processor's cache."""
    batchable: ClassVar[bool] = True
    """False when the model is slower batched over runs. One that cannot be batched (dropout, nn.GRU) is found to be."""
    version: ClassVar[int] = 1
    """Part of every run's hash above 1. Raise it when a change to the task's code changes numbers."""

    optional: ClassVar[dict[str, object]] = {}
    """Options that a spec may leave out, with their defaults. One given at its default is as one left out."""
    named_at_default: ClassVar[frozenset[str]] = frozenset()
    """Of these, those that name a run at their default too, where they are given: of runs from before that rule."""

    @abstractmethod
    def load(self, spec: RunSpec) -> TaskData:
        """Train pool as published and test set, on the CPU, in ``spec.torch_dtype``. Independent of n_train and seed.

        Raises:
            DataUnavailableError: no source delivers the files.
        """

    @abstractmethod
    def model(self, spec: RunSpec) -> nn.Module:
        """The network with the library's default initialisation. The trainer scales it by alpha.

        Every parameter is trained; what is fixed is a buffer, and so is what a pass leaves to the next. Random numbers
        come from the global generators, which are keyed by the run's seed, here and in each pass.
        """

    def reference_model(self, spec: RunSpec) -> nn.Module:
        """The plain form of a model that has an exact fast form: same parameters, same names. The oracle trains it."""
        return self.model(spec)

    @abstractmethod
    def loss(self, outputs: Float[Tensor, "batch ..."], targets: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch"]:
        """The loss of each example; the trainer minimises its mean."""

    def logits(self, outputs: Any) -> Tensor:
        """What attacks and a spec's loss read off the model's outputs: (batch, classes); by default these themselves.

        For a model whose outputs are a dictionary, say; for one logit z it may be ``torch.stack([-z / 2, z / 2], 1)``.
        """
        logits: Tensor = outputs
        return logits

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Float[Tensor, "batch"]]:
        """Further numbers per example, averaged over the split; the loss is always there."""
        return {}

    def landscape(self, preset: str) -> RunSpec | None:
        """The L/U experiment at alpha = 1 on the norm sphere, for preset quick, default or paper; None: it has none."""
        return None

    def configuration(self, spec: RunSpec) -> str:
        """What a figure's title says of the problem's size beside N; empty when there is nothing to say."""
        return ""


def check_options(task: Task, spec: RunSpec) -> None:
    """Raises SpecError when a spec has an option that the task does not know, or lacks one that it needs."""
    needed, given = set(dict(task.spec.options)), set(dict(spec.options))
    for name in given - needed - set(task.optional):
        known = ", ".join(sorted({*needed, *task.optional})) or "none"
        raise SpecError(f"unknown option {name!r} of {task.name}; there are: {known}")
    for name in needed - given:
        raise SpecError(f"{task.name} needs the option {name!r}: start from get_task({task.name!r}).spec.replace(...)")


def check_size(task: Task, spec: RunSpec, data: TaskData) -> None:
    """Raises SpecError when a spec wants more training examples than there are."""
    if spec.n_train > data.pool_size:
        raise SpecError(f"n_train {spec.n_train} is more than the {data.pool_size} training examples of {task.name}")
