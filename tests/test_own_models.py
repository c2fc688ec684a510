"""Models of a user's own: what the trainer takes, alone and in a batch, and what it refuses in one line."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from omnigrok import get_task, run_sweep
from omnigrok import task as task_module
from omnigrok.errors import OmnigrokError, SpecError
from omnigrok.oracle import train
from omnigrok.store import Store
from omnigrok.sweep import plan
from omnigrok.task import run_hash, task_data
from omnigrok.trainer import Trainer
from tasks.teacher_student import TeacherStudent


class Shared(nn.Module):
    """One weight in two layers, and a buffer that no state_dict holds."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.full((5,), 0.5), persistent=False)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))) + self.shift)


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.fixed, self.last = nn.Linear(5, 5), nn.Linear(5, 5)
        self.fixed.weight.requires_grad_(False)

    def forward(self, x):
        return self.last(self.fixed(x))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        return self.used(x)


class Dropping(nn.Module):
    """Dropout as a function."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 5)

    def forward(self, x):
        return F.dropout(self.last(x), 0.3, self.training)


def with_dropout():
    return nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.3), nn.Linear(40, 5))


def own(make):
    """A task like teacher-student with another network."""

    class Own(TeacherStudent):
        def model(self, spec):
            return make()

    return Own()


@pytest.fixture
def specs():
    base = get_task("teacher_student").spec.replace(steps=12, n_train=40, dtype="float64", batch_size=8)
    return [base.replace(seed=seed, alpha=1.0 + seed) for seed in range(3)]


@pytest.fixture
def data(specs):
    return task_data(specs[0], "cpu")


@pytest.mark.parametrize("count", [1, 3])
def test_a_weight_that_layers_share_is_one_weight(specs, data, count):
    task = own(Shared)
    specs = [spec.replace(keep=(0, 12)) for spec in specs[:count]]
    trainer = Trainer(task, specs, data)
    trainer.train()
    for r, spec in enumerate(specs):
        plain = train(task, spec, data)
        assert "second.weight" not in trainer.runs.params
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(trainer.runs.params[name][r], parameter, rtol=0, atol=1e-8)
        model = trainer.runs.model(r)
        torch.testing.assert_close(model(data.test_inputs[0]), plain(data.test_inputs[0]), rtol=0, atol=1e-8)
        with torch.random.fork_rng(devices=[]):
            fresh = Shared().double()
        fresh.load_state_dict(trainer.weights()[r][12])
        assert torch.equal(fresh.second.weight, model.first.weight)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Frozen, "parameter fixed.weight of teacher_student is frozen"),
        (Unused, "of teacher_student do not enter the loss: spare.weight, spare.bias"),
    ],
)
def test_a_parameter_that_cannot_be_trained_is_named(specs, data, make, message, count):
    with pytest.raises(SpecError, match=message):
        Trainer(own(make), specs[:count], data).train()


@pytest.mark.parametrize("make", [with_dropout, Dropping])
def test_dropout_in_a_batch_is_refused(specs, data, make):
    with pytest.raises(SpecError, match="set batchable = False"):
        Trainer(own(make), specs, data).train()


def test_dropout_depends_on_seed_and_step_alone(specs, data):
    task = own(with_dropout)
    whole = Trainer(task, specs[:1], data)
    states = []
    whole.train(checkpoint=lambda: states.append(copy.deepcopy(whole.state_dict())), checkpoint_seconds=0)
    [state] = [state for state in states if state["step"] == 5]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        resumed = Trainer(task, specs[:1], data)
        resumed.load_state_dict(state)
        resumed.train()
    other = Trainer(task, [specs[0].replace(seed=7)], data)
    other.train()
    for name, p in whole.runs.params.items():
        assert torch.equal(p, resumed.runs.params[name])
        assert not torch.equal(p, other.runs.params[name])


def test_a_checkpoint_of_another_model_is_not_gone_on_from(tmp_path, specs, data):
    store, spec = Store(tmp_path), specs[0]
    store.save_checkpoint([spec], Trainer(own(with_dropout), [spec], data).state_dict(), 0.0)
    with pytest.warns(UserWarning, match="is of another model .* starting again"):
        run_sweep([spec], store, runs_per_batch=1, show_progress=False)
    assert store.finished(spec)


def test_a_task_with_another_version_has_other_runs(specs, monkeypatch):
    before = run_hash(specs[0])
    monkeypatch.setattr(TeacherStudent, "version", 2)
    assert run_hash(specs[0]) != before


def test_options_that_a_task_does_not_know_or_lacks_are_named(tmp_path, specs):
    modular = get_task("modular").spec
    for spec, message in (
        (specs[0].replace(options={"widht": 50}), "unknown option 'widht' of teacher_student; there are: none"),
        (modular.replace(options={"p": 7}), "modular needs the option 'operation'"),
    ):
        with pytest.raises(SpecError, match=message):
            plan([spec], Store(tmp_path), "cpu")


def test_a_task_that_cannot_be_imported_is_named(monkeypatch):
    class Entry:
        name, value = "broken", "my_package:Broken"

        def load(self):
            raise ImportError("No module named 'my_package'")

    monkeypatch.setattr(task_module, "_registered", lambda: {"broken": Entry()})
    with pytest.raises(OmnigrokError, match=r"the task 'broken' \(my_package:Broken\) cannot be loaded: No module"):
        get_task("broken")
