"""Models of a user's own: what the trainer takes, alone and in a batch, and what it refuses in one line."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from omnigrok import get_task, run_sweep
from omnigrok import registry as registry_module
from omnigrok.ensemble import scaled_model
from omnigrok.errors import OmnigrokError, SpecError
from omnigrok.gradients import Clip
from omnigrok.loading import run_hash, task_data
from omnigrok.oracle import train
from omnigrok.plan import plan
from omnigrok.store import Store
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


class SharedStatistics(nn.Module):
    """One normalisation in two places: its weights and its buffers have two names."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 5)
        self.norm = self.again = nn.BatchNorm1d(5)

    def forward(self, x):
        return self.last(self.again(torch.tanh(self.norm(self.first(x)))))


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 5)

    def forward(self, x):
        return self.last(x) @ torch.ones(4, 5, dtype=x.dtype)


class Summed(nn.Module):
    """Weights whose gradient is one number, repeated without memory of its own."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 5)
        self.many = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))

    def forward(self, x):
        return torch.tanh(self.last(x)) + self.many.sum()


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
        assert "second.weight" not in trainer.ensemble.params
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(trainer.ensemble.params[name][r], parameter, rtol=0, atol=1e-8)
        model = trainer.ensemble.model(r)
        torch.testing.assert_close(model(data.test_inputs[0]), plain(data.test_inputs[0]), rtol=0, atol=1e-8)
        with torch.random.fork_rng(devices=[]):
            fresh = Shared().double()
        fresh.load_state_dict(trainer.weights()[r][12])
        assert torch.equal(fresh.second.weight, model.first.weight)


@pytest.mark.parametrize("count", [1, 3])
def test_statistics_that_layers_share_are_kept_under_both_names(specs, data, count):
    task = own(SharedStatistics)
    trainer = Trainer(task, [spec.replace(keep=(12,)) for spec in specs[:count]], data)
    trainer.train()
    for r, spec in enumerate(specs[:count]):
        kept, plain = trainer.weights()[r][12], train(task, spec, data).state_dict()
        assert set(kept) == set(plain)
        for name, x in plain.items():
            torch.testing.assert_close(kept[name], x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_of_the_model_says_what_it_said(specs, data, count):
    line = r"of teacher_student failed at .*test_own_models.py:\d+, `return self.last.*`: RuntimeError: "
    with pytest.raises(SpecError, match=line + r".*(cannot be multiplied|size mismatch)"):
        Trainer(own(Failing), specs[:count], data)


@pytest.mark.parametrize("count", [1, 3])
def test_gradients_that_share_their_memory_are_each_runs_own(specs, data, count):
    task = own(Summed)
    trainer = Trainer(task, specs[:count], data)
    trainer.train()
    for r, spec in enumerate(specs[:count]):
        for name, parameter in train(task, spec, data).named_parameters():
            torch.testing.assert_close(trainer.ensemble.params[name][r], parameter, rtol=0, atol=1e-8)


def test_parameters_lie_in_memory_as_their_gradients_come(specs, data):
    """So that no gradient is copied at each step."""
    trainer = Trainer(get_task("teacher_student"), specs, data)
    runs = trainer.ensemble
    losses = trainer.losses(*trainer.batch()[:2])
    gradients = torch.autograd.grad(losses.sum(), list(runs.params.values()))
    assert [p.stride() for p in runs.params.values()] == [g.stride() for g in gradients]
    assert any(not p.is_contiguous() for p in runs.params.values())


@pytest.mark.parametrize("count", [1, 3])
def test_gradients_are_clipped_as_torch_clips_them(specs, data, count):
    """To the last digit also where a gradient is so short that torch's 1e-6 beside its length counts."""
    trainer = Trainer(get_task("teacher_student"), [s.replace(alpha=1e-3) for s in specs[:count]], data)
    runs = trainer.ensemble
    runs.set_gradients(1e-4 * trainer.losses(*trainer.batch()[:2]))
    rows = runs.gradient_rows()
    expected = []
    for r in range(count):
        plain = [nn.Parameter(torch.zeros_like(each[r])) for each in rows]
        for p, each in zip(plain, rows, strict=True):
            p.grad = each[r].clone()
        torch.nn.utils.clip_grad_norm_(plain, 1e-6)
        expected.append([p.grad for p in plain])
    Clip(1e-6)(runs, [], 0)
    for r in range(count):
        torch.testing.assert_close([each[r] for each in rows], expected[r], rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["params", "buffers"])
def test_weights_of_another_shape_are_refused(specs, data, kind):
    runs = Trainer(own(Shared), specs, data).ensemble
    state = runs.state_dict()
    name, x = next(iter(state[kind].items()))
    with pytest.raises(ValueError, match=f"its {kind} have other names or shapes"):
        runs.load_state_dict({**state, kind: {**state[kind], name: x[:1]}})


def test_a_model_is_the_tasks_own_unless_its_plain_form_is_asked_for():
    task = get_task("modular")
    spec = task.spec.replace(n_train=20, options={"operation": "add", "p": 7})
    with torch.random.fork_rng(devices=[]):
        plain = type(task.reference_model(spec))
    assert not isinstance(scaled_model(task, spec), plain)
    assert isinstance(scaled_model(task, spec, reference=True), plain)


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
    for name, p in whole.ensemble.params.items():
        assert torch.equal(p, resumed.ensemble.params[name])
        assert not torch.equal(p, other.ensemble.params[name])


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

    monkeypatch.setattr(registry_module, "_registered", lambda: {"broken": Entry()})
    with pytest.raises(OmnigrokError, match=r"the task 'broken' \(my_package:Broken\) cannot be loaded: No module"):
        get_task("broken")
