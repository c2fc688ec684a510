"""The data of a spec, loaded once a process, and the names that runs have by their spec and data."""

from __future__ import annotations

import hashlib

import torch

from omnigrok.blame import blamed
from omnigrok.data_contract import check_data
from omnigrok.errors import SpecError
from omnigrok.isolation import own_state
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec, keyed
from omnigrok.task import Task, TaskData

DATA_BYTES = 2**30
"""Datasets are kept in memory up to this size; a larger one alone."""


def data_sha256(spec: RunSpec) -> str:
    """The content checksum of a spec's data, part of its run's hash: of the files, the recipe, or what `load` gives."""
    task = get_task(spec.task)
    if task.dataset is not None:
        return task.dataset.sha256
    if task.recipe:
        return hashlib.sha256(task.recipe.encode()).hexdigest()
    return task_data(spec, "cpu").sha256


def as_named(spec: RunSpec) -> RunSpec:
    """A spec without the options that its task lets be left out where they are at their defaults: the same run."""
    task = get_task(spec.task)
    unsaid = {name: v for name, v in task.optional.items() if name not in task.named_at_default}
    said = tuple((name, v) for name, v in spec.options if name not in unsaid or v != unsaid[name])
    return spec if len(said) == len(spec.options) else spec.replace(options=said)


def run_hash(spec: RunSpec) -> str:
    """The name of a run in the store."""
    spec = as_named(spec)
    version, data = get_task(spec.task).version, data_sha256(spec)
    return spec.hash(data if version == 1 else f"{data} {version}")


@own_state()
def load_data(task: Task, spec: RunSpec, device: torch.device | str) -> TaskData:
    """The task's data for a spec, pool in the order that the spec asks for.

    What `load` draws from a global generator, torch's, numpy's or Python's, is keyed by `data_seed`; they are as before
    afterwards.

    Raises:
        SpecError: `load` fails, and the message shows the line; or what it gives cannot be trained on.
        DataUnavailableError: no source delivers its files.
    """
    with keyed(spec.data_seed, "load"):
        data = _loaded_by(task, spec)
    if spec.subset == "shuffled":
        data = data.shuffled(spec.data_seed)
    return data.to(device)


def _loaded_by(task: Task, spec: RunSpec) -> TaskData:
    """What `load` gives, checked; an error says whose data they are."""
    try:
        with blamed(task, "load"):
            data = task.load(spec)
        check_data(data, spec.torch_dtype)
    except SpecError as error:
        raise SpecError(f"data of {task.name}: {error}") from error
    return data


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
