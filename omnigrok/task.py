"""The Task contract and the registry over the entry-point group ``omnigrok.tasks``.

A task is one file: data, model, loss, metrics, default spec, citation. Subclass `Task`, register the class under
the entry-point group, and every figure and command that is not tied to one dataset takes it by name.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnigrok.data import first_line
from omnigrok.errors import OmnigrokError, SpecError
from omnigrok.spec import RunSpec, generator, seed_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omnigrok.data import Dataset

Inputs = tuple[Tensor, ...]
ENTRY_POINT_GROUP = "omnigrok.tasks"
DATA_BYTES = 2**30
"""Datasets are kept in memory up to this size; a larger one alone."""


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
                    f"{name}_targets a tensor; got {kinds(inputs)} and {kinds(targets)}"
                )
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


@dataclass(frozen=True)
class PublishedEvaluation:
    """An evaluation of the published code: every so many steps, on so many training and test examples."""

    every: int = 100
    train: int = 0
    test: int = 0


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
    published_evaluation: ClassVar[PublishedEvaluation] = PublishedEvaluation()
    """What the published code evaluates and how often, for `omnigrok bench`."""
    data_depends_on_n_train: ClassVar[bool] = False
    """True when `load` looks at n_train (a vocabulary of the training part, say): runs of another size load again."""
    evaluation_chunk: ClassVar[int] = 500
    """Examples evaluated in one call; few enough that the activations of all runs stay near the processor's cache."""
    batchable: ClassVar[bool] = True
    """False when the model cannot be batched over runs (dropout), or is slower batched (nn.LSTM on a CPU)."""
    version: ClassVar[int] = 1
    """Part of every run's hash above 1. Raise it when a change to the task's code changes numbers."""

    optional: ClassVar[dict[str, object]] = {}
    """Options that a spec may leave out, with their defaults."""

    @abstractmethod
    def load(self, spec: RunSpec) -> TaskData:
        """Train pool as published and test set, on the CPU, in ``spec.torch_dtype``. Independent of n_train and seed.

        Raises:
            DataUnavailableError: no source delivers the files.
        """

    @abstractmethod
    def model(self, spec: RunSpec) -> nn.Module:
        """The network with the library's default initialisation. The trainer scales it by alpha.

        Every parameter is trained; what is fixed is a buffer. With dropout (as modules) the task is not `batchable`.
        """

    def reference_model(self, spec: RunSpec) -> nn.Module:
        """The plain form of a model that has an exact fast form: same parameters, same names. The oracle trains it."""
        return self.model(spec)

    @abstractmethod
    def loss(self, outputs: Float[Tensor, "batch ..."], targets: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch"]:
        """The loss of each example; the trainer minimises its mean."""

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Float[Tensor, "batch"]]:
        """Further numbers per example, averaged over the split; the loss is always there."""
        return {}

    def landscape(self, preset: str) -> RunSpec | None:
        """The L/U experiment at alpha = 1 on the norm sphere, for preset quick, default or paper; None: it has none."""
        return None

    def configuration(self, spec: RunSpec) -> str:
        """What a figure's title says of the problem's size beside N; empty when there is nothing to say."""
        return ""

    def published_loader(self, spec: RunSpec, split: str, n: int, generator: torch.Generator) -> Iterable | None:
        """The first n examples of a split (train, test) behind the published code's own loader, for `omnigrok bench`.

        Iterating it gives an epoch of batches ``(*inputs, targets)`` for the reference model. None: a DataLoader over
        single examples.
        """
        return None


def data_sha256(spec: RunSpec) -> str:
    """The content checksum of a spec's data, part of its run's hash: of the files, the recipe, or what `load` gives."""
    task = get_task(spec.task)
    if task.dataset is not None:
        return task.dataset.sha256
    if task.recipe:
        return hashlib.sha256(task.recipe.encode()).hexdigest()
    return task_data(spec, "cpu").sha256


def run_hash(spec: RunSpec) -> str:
    """The name of a run in the store."""
    version, data = get_task(spec.task).version, data_sha256(spec)
    return spec.hash(data if version == 1 else f"{data} {version}")


def load_data(task: Task, spec: RunSpec, device: torch.device | str) -> TaskData:
    """The task's data for a spec, pool in the order that the spec asks for.

    What `load` draws from torch's global generator is keyed by `data_seed`, and that generator is as before afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed_of(spec.data_seed, "load"))
        data = task.load(spec)
    if spec.subset == "shuffled":
        data = data.shuffled(spec.data_seed)
    return data.to(device)


_loaded: dict[tuple[RunSpec, str], TaskData] = {}  # the latest used last


def task_data(spec: RunSpec, device: str) -> TaskData:
    """The data of a spec, loaded once a process as long as they fit into DATA_BYTES with those used after them."""
    task = get_task(spec.task)
    kept = {name: getattr(spec, name) for name in ("dtype", "subset", "data_seed", "options")}
    if task.data_depends_on_n_train:
        kept["n_train"] = spec.n_train
    key = task.spec.replace(**kept), device
    data = _loaded.pop(key, None)
    if data is None:
        data = load_data(task, key[0], device)
        while _loaded and data.nbytes + sum(other.nbytes for other in _loaded.values()) > DATA_BYTES:
            del _loaded[next(iter(_loaded))]
    _loaded[key] = data
    return data


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


def installed_tasks() -> list[Task]:
    """The registered tasks; one that cannot be loaded is named in a warning and left out: it harms no other's use."""
    found = []
    for name in available_tasks():
        try:
            found.append(get_task(name))
        except OmnigrokError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    return found


def available_tasks() -> list[str]:
    """Names of the registered tasks, in alphabetical order. Imports none of them."""
    return sorted(_registered())


def get_task(which: str | type[Task] | Task) -> Task:
    """The task of a name, of an import path such as ``my_file:MyTask``, or a class or instance itself.

    A task that is not installed goes by its own name from then on, in this process and in the workers that it starts.

    Raises:
        OmnigrokError: no such task; the message lists those there are. Or it cannot be imported, or is no task, or has
            an installed one's name.
    """
    if not isinstance(which, str):
        return _own(which() if isinstance(which, type) else which, None, again=isinstance(which, type))
    if ":" in which:
        return _imported(which)
    return _own_tasks[which][0] if which in _own_tasks else _installed(which)


_own_tasks: dict[str, tuple[Task, str | None]] = {}  # by name: the task, and where another process can import it


def _own(task: Task, place: str | None, *, again: bool) -> Task:
    """Let a task go by its name; `again`: an instance of its class that does already is taken instead."""
    kind = type(task)
    missing = [each for each in ("name", "display_name", "citation", "spec", "thresholds") if not hasattr(task, each)]
    if not isinstance(task, Task) or missing:
        what = f"it lacks {', '.join(missing)}" if isinstance(task, Task) else "it is no subclass of omnigrok.Task"
        raise OmnigrokError(f"{kind.__qualname__} is no task: {what}")
    if task.name in _registered():
        if type(_installed(task.name)) is kind:
            return _installed(task.name)
        raise OmnigrokError(f"{kind.__qualname__} has the name of an installed task, {task.name!r}: give it another")
    if task.spec.task != task.name:
        raise OmnigrokError(
            f"the spec of {kind.__qualname__} must be RunSpec(task={task.name!r}, ...), as its name says"
        )
    known = _own_tasks.get(task.name)
    if known is None or type(known[0]) is not kind or not again:
        _own_tasks[task.name] = task, place
    elif place is not None:
        _own_tasks[task.name] = known[0], place
    return _own_tasks[task.name][0]


def _imported(path: str) -> Task:
    """The task of an import path; its module may lie in the working folder."""
    module, _, attribute = path.partition(":")
    module = module.removesuffix(".py").replace("/", ".")
    folder = os.getcwd()
    try:
        _look_in(folder)
        found = importlib.import_module(module)
    except Exception as error:
        raise OmnigrokError(f"{module!r} of {path} cannot be imported: {first_line(error)}") from error
    if not hasattr(found, attribute):
        raise OmnigrokError(f"there is no {attribute!r} in {module} ({found.__file__})")
    which = getattr(found, attribute)
    try:
        task = which() if isinstance(which, type) else which
    except Exception as error:
        raise OmnigrokError(f"{attribute} of {module} cannot be made: {first_line(error)}") from error
    return _own(task, f"{folder}:{module}:{attribute}", again=True)


def _look_in(folder: str) -> None:
    """Let modules of a folder be imported, now and by what they import later."""
    if folder not in sys.path:
        sys.path.append(folder)  # last: what is installed is not hidden by a file of its name


def own_places(names: Iterable[str]) -> tuple[str, ...]:
    """Where other processes find those of the tasks that are not installed; for `import_places`.

    Raises:
        OmnigrokError: one was given as a class: other processes cannot import it.
    """
    places = []
    for name in sorted(set(names) & set(_own_tasks)):
        task, place = _own_tasks[name]
        if place is None:
            raise OmnigrokError(
                f"other processes cannot import {type(task).__qualname__}: train with workers=1, or put it into a file "
                f"and name it my_file:{type(task).__qualname__}"
            )
        places.append(place)
    return tuple(places)


def import_places(places: Iterable[str]) -> None:
    """Make the tasks of another process known to this one."""
    for place in places:
        folder, module, attribute = place.rsplit(":", 2)
        _look_in(folder)
        _imported(f"{module}:{attribute}")


@cache
def _installed(name: str) -> Task:
    try:
        entry = _registered()[name]
    except KeyError:
        known = ", ".join([*available_tasks(), *sorted(_own_tasks)])
        raise OmnigrokError(f"unknown task {name!r}; there are: {known}, or your own as my_file:MyTask") from None
    try:
        task: Task = entry.load()()
    except Exception as error:
        raise OmnigrokError(
            f"the task {name!r} ({entry.value}) cannot be loaded: {first_line(error)}{_hidden(entry.value)}"
        ) from error
    return task


def _hidden(value: str) -> str:
    """What to add where a file or folder of the working folder is imported in the place of an entry point's package."""
    package = value.partition(":")[0].partition(".")[0]
    module = sys.modules.get(package)
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
    if "." not in value.partition(":")[0] or not any(
        os.path.dirname(os.path.abspath(place)) == os.getcwd() for place in places if place
    ):
        return ""
    return f"; {package!r} in the working folder hides the package of that name: rename it, or run from another folder"


@cache
def _registered() -> dict:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
