"""What the tests share: small specs, stores in temporary folders, real data where a source delivers them."""

from __future__ import annotations

import pytest
import shapes  # noqa: F401  before omnigrok, whose signatures it has checked

# isort: split
from omnigrok.processor import flush_denormals

# isort: split
import torch  # after omnigrok, which tells its threads how to wait
from threshold import pytest_collection_finish, pytest_deselected  # noqa: F401

from omnigrok import DataUnavailableError, RunSpec, Store, available_tasks, get_task
from omnigrok.loading import _loaded, task_data
from omnigrok.task import TaskData

flush_denormals()  # before anything is computed, so that all threads do
torch.set_num_threads(1)  # as the suite trains; threads that sleep between small matrices cost more than they gain


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def spec() -> RunSpec:
    """A teacher-student run of a few steps."""
    return get_task("teacher_student").spec.replace(steps=30, n_train=40, evaluation_density=1)


@pytest.fixture(scope="session")
def mnist_data() -> TaskData:
    """Real MNIST in float64, from whichever source answers."""
    task = get_task("mnist")
    try:
        return task_data(task.spec.replace(dtype="float64"), "cpu")
    except DataUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def without_data(tmp_path, monkeypatch):
    """An empty cache and no source for any dataset."""
    monkeypatch.setenv("OMNIGROK_DATA", str(tmp_path / "empty"))
    datasets = {id(d): d for d in (get_task(name).dataset for name in available_tasks()) if d is not None}
    sources = {key: dataset.sources for key, dataset in datasets.items()}
    for dataset in datasets.values():
        object.__setattr__(dataset, "sources", ())
    _loaded.clear()
    yield
    for key, dataset in datasets.items():
        object.__setattr__(dataset, "sources", sources[key])


@pytest.fixture(autouse=True)
def global_generator_untouched():
    """Nothing in the suite may draw from torch's global generator."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state())
