"""The process that the suite is called from: its settings neither enter the numbers nor are they changed."""

import contextlib

import pandas as pd
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from omnigrok import RunSpec, Store, Task, TaskData, run_sweep
from omnigrok.check import check_task
from omnigrok.loading import _loaded, load_data
from omnigrok.models import scaled_model
from omnigrok.oracle import train
from omnigrok.probes.complexity import ComplexityProbe, local_complexity
from omnigrok.probes.kept import measure_kept
from omnigrok.probes.partition import Plane, partition
from omnigrok.task import Thresholds
from omnigrok.trainer import Trainer


class Called(Task):
    """Everything in it takes torch's defaults as they are: dtype, device, gradients."""

    name = "called"
    display_name = "Called"
    citation = "these tests"
    spec = RunSpec(task=name, n_train=64, steps=20, lr=1e-2, keep=(0, 20))
    thresholds = Thresholds(metric="accuracy", train=0.9, test=0.9)
    optional = {"width": 16}  # noqa: RUF012

    def load(self, spec):
        x = torch.rand(128, 8)
        y = x[:, :3].argmax(dim=1)
        x = x.to(spec.torch_dtype)
        return TaskData((x[:64],), y[:64], (x[64:],), y[64:], "generated")

    def model(self, spec):
        return nn.Sequential(nn.Linear(8, spec.option("width", 16)), nn.ReLU(), nn.Linear(16, 3))

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, outputs, targets):
        return {"accuracy": (outputs.argmax(dim=1) == targets).to(outputs.dtype)}


@contextlib.contextmanager
def setting(setter, new, old):
    setter(new)
    try:
        yield
    finally:
        setter(old)


STATES = {
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "device": lambda: setting(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "no gradients": lambda: setting(torch.set_grad_enabled, False, True),
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "precision": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "anomalies": torch.autograd.detect_anomaly,
    "benchmark": lambda: setting(lambda on: setattr(torch.backends.cudnn, "benchmark", on), True, False),
}


def state():
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.is_anomaly_enabled(), torch.backends.cudnn.benchmark,
    )  # fmt: skip


def swept(folder, **changes):
    _loaded.clear()
    spec = Called().spec.replace(task=Called().name, **changes)
    specs = [spec.replace(seed=seed) for seed in range(2)]
    return run_sweep(specs, Store(folder), runs_per_batch=2, show_progress=False)


@pytest.fixture(autouse=True)
def known_task():
    from omnigrok import get_task

    return get_task(Called())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    from omnigrok import get_task

    get_task(Called())
    return swept(tmp_path_factory.mktemp("plain"))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", STATES)
def test_a_run_has_the_same_bits_whatever_the_caller_has_set(name, plain, tmp_path):
    with STATES[name]():
        before = state()
        found = swept(tmp_path)
        assert state() == before
    pd.testing.assert_frame_equal(found, plain, check_exact=True)


def from_outside():
    """What is called beside a sweep, each with numbers to compare."""
    task = Called()
    data = load_data(task, task.spec, "cpu")
    model = scaled_model(task, task.spec)
    trainer = Trainer(task, [task.spec], data)
    trainer.measure()
    trainer.train()
    counts = local_complexity(model, data.test_inputs[0], 0.5, 4).crossings
    length = partition(model, Plane.through(data.test_inputs[0][:3].double())).boundary_length()
    plain = train(task, task.spec.replace(keep=()), data)
    return [
        data.train_inputs[0],
        *trainer.ensemble.theta,
        counts,
        torch.tensor(length, dtype=torch.float64, device="cpu"),
        *plain.parameters(),
    ]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", STATES)
def test_what_is_called_alone_has_its_own_state_too(name, tmp_path):
    wanted = from_outside()
    with STATES[name]():
        before = state()
        found = from_outside()
        assert all(finding.ok for finding in check_task(Called()))
        assert state() == before
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", STATES)
def test_kept_weights_are_measured_in_the_suites_own_state(name, plain, tmp_path):
    swept(tmp_path)
    spec, store = Called().spec, Store(tmp_path)
    probe = ComplexityProbe(directions=4, points=20)
    with STATES[name]():
        found = measure_kept([spec], probe, store)
    for path in tmp_path.rglob("*.probe.pt"):
        path.unlink()
    fresh = measure_kept([spec], probe, store)
    pd.testing.assert_frame_equal(found, fresh, check_exact=True)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", STATES)
def test_the_callers_state_is_back_after_an_error(name, monkeypatch, tmp_path):
    def fails(self, spec):
        raise ValueError("no such file")

    monkeypatch.setattr(Called, "load", fails)
    with STATES[name]():
        before = state()
        with pytest.raises(Exception, match="no such file"):
            swept(tmp_path)
        assert state() == before
