"""What a task, a probe or a perturbation of a user's own must be: checked before the first step, in one line."""

import dataclasses
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from omnigrok import RunSpec, Store, Task, TaskData, get_task, run_sweep
from omnigrok import loading as loading_module
from omnigrok import registry as registry_module
from omnigrok.errors import OmnigrokError, SpecError
from omnigrok.loading import run_hash, task_data
from omnigrok.probes.robustness import PGD
from omnigrok.task import Thresholds
from omnigrok.trainer import Trainer

FEATURES, CLASSES, EXAMPLES = 8, 3, 64


class Mine(Task):
    """A user's first task: three classes of points, data in the code, no files, no recipe."""

    name = "mine"
    display_name = "Mine"
    citation = "Me 2026"
    spec = RunSpec(task=name, n_train=EXAMPLES, steps=6, lr=1e-2, dtype="float64", batch_size=16)
    thresholds = Thresholds(metric="accuracy", train=0.9, test=0.9)
    label_noise: ClassVar[int] = 0

    def load(self, spec):
        draw = torch.Generator().manual_seed(1)
        x = torch.rand(2 * EXAMPLES, FEATURES, generator=draw, dtype=spec.torch_dtype)
        y = x[:, :CLASSES].argmax(dim=1).roll(self.label_noise)
        return TaskData((x[:EXAMPLES],), y[:EXAMPLES], (x[EXAMPLES:],), y[EXAMPLES:], "generated")

    def model(self, spec):
        return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, outputs, targets):
        return {"accuracy": (outputs.argmax(dim=1) == targets).double()}


@pytest.fixture
def register(monkeypatch):
    """Make a task the registered one of its name, as a new process would find it."""

    def as_registered(kind):
        class Entry:
            name, value = kind.name, f"my_package:{kind.__name__}"

            def load(self):
                return kind

        known = {**registry_module._registered(), kind.name: Entry()}
        monkeypatch.setattr(registry_module, "_registered", lambda: known)
        monkeypatch.setattr(loading_module, "_loaded", {})
        registry_module._installed.cache_clear()
        return kind.spec

    yield as_registered
    registry_module._installed.cache_clear()


def changed(**attributes):
    return type("Mine", (Mine,), attributes)


class Relabelled(Mine):
    label_noise = 1


class Rescaled(Mine):
    def load(self, spec):
        data = super().load(spec)
        return dataclasses.replace(data, train_inputs=(2 * data.train_inputs[0],))


class OtherTest(Mine):
    def load(self, spec):
        data = super().load(spec)
        return dataclasses.replace(data, test_targets=data.test_targets.flip(0))


@pytest.mark.parametrize("other", [Relabelled, Rescaled, OtherTest])
def test_generated_data_are_known_by_their_content(tmp_path, register, other):
    """Changed data, same task: another run, not the old numbers out of the store."""
    store = Store(tmp_path)
    spec = register(Mine)
    name, first = run_hash(spec), run_sweep([spec], store, show_progress=False)
    register(Mine)
    assert run_hash(spec) == name  # a new process finds its run again
    register(other)
    assert run_hash(spec) != name
    second = run_sweep([spec], store, show_progress=False)
    assert not np.allclose(first["value"], second["value"])
    assert get_task("teacher_student").recipe  # the suite's own generated data have a name


def test_what_load_draws_from_torchs_generator_is_keyed(register):
    class Drawing(Mine):
        def load(self, spec):
            data = super().load(spec)
            order = torch.randperm(EXAMPLES)
            return dataclasses.replace(
                data, train_inputs=(data.train_inputs[0][order],), train_targets=data.train_targets[order]
            )

    spec = register(Drawing)
    names = []
    for _ in range(2):
        register(Drawing)
        names.append(run_hash(spec))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(names))
            names.append(run_hash(spec))
    assert len(set(names)) == 1
    assert run_hash(spec.replace(data_seed=1)) != names[0]


def test_runs_from_the_store_are_said_to_be(tmp_path, register, capsys):
    spec = register(Mine)
    run_sweep([spec], Store(tmp_path))
    assert "from the store" not in capsys.readouterr().err
    run_sweep([spec, spec.replace(seed=1)], Store(tmp_path))
    assert "1 of 2 runs are from the store" in capsys.readouterr().err


LOSSES = {
    "of the batch": lambda o, y: F.cross_entropy(o, y),
    "of shape (batch, 1)": lambda o, y: F.cross_entropy(o, y, reduction="none")[:, None],
    "of shape (batch, classes)": lambda o, y: (o - F.one_hot(y, CLASSES)).square(),
    "broadcast": lambda o, y: (o[:, :1] - y).square(),
    "of whole numbers": lambda o, y: (o.argmax(dim=1) - y).square(),
    "a number": lambda o, y: 0.5,
}
METRICS = {
    "of the batch": lambda o, y: (o.argmax(dim=1) == y).double().mean(),
    "of shape (batch, 1)": lambda o, y: (o.argmax(dim=1) == y).double()[:, None],
    "of truth values": lambda o, y: o.argmax(dim=1) == y,
    "a number": lambda o, y: 1.0,
}


@pytest.mark.parametrize("runs_per_batch", [1, 2])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_that_is_not_one_number_an_example_is_named_before_the_first_step(
    tmp_path, register, loss, runs_per_batch
):
    store = Store(tmp_path)
    spec = register(changed(loss=lambda self, o, y: loss(o, y)))
    with pytest.raises(SpecError, match="loss of mine must be"):
        run_sweep([spec, spec.replace(seed=1)], store, runs_per_batch=runs_per_batch, show_progress=False)
    assert not list(tmp_path.glob("*/checkpoints/*"))
    register(Mine)  # mended: the same command goes on
    assert len(run_sweep([spec], store, show_progress=False))


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_metric_that_is_not_one_number_an_example_is_named(register, metric, runs):
    spec = register(changed(metrics=lambda self, o, y: {"accuracy": metric(o, y)}))
    with pytest.raises(SpecError, match="accuracy of mine must be"):
        Trainer(get_task("mine"), [spec.replace(seed=s) for s in range(runs)], task_data(spec, "cpu"))


def test_a_threshold_on_a_metric_that_is_not_there_is_named_before_the_first_step(register):
    spec = register(changed(metrics=lambda self, o, y: {"hits": (o.argmax(dim=1) == y).double()}))
    with pytest.raises(SpecError, match="no metric 'accuracy', which its thresholds name; it has: loss, hits"):
        Trainer(get_task("mine"), [spec], task_data(spec, "cpu"))


X, Y = torch.rand(10, FEATURES), torch.zeros(10, dtype=torch.long)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((X, Y, (X,), Y), "train_inputs must be a tuple of tensors.*got Tensor"),
        (((X,), Y, X, Y), "test_inputs must be a tuple of tensors.*got Tensor"),
        (([X], Y, (X,), Y), "train_inputs must be a tuple of tensors.*got a list of Tensor"),
        (((X.numpy(),), Y, (X,), Y), "a tuple of ndarray"),
        (((X,), Y.tolist(), (X,), Y), "a list of int"),
        (((), Y, (X,), Y), "a tuple of nothing"),
        (((X,), Y[:9], (X,), Y), "same number of examples.*got 10 and 9"),
        (((X,), Y, (X, X[:3]), Y), "test_inputs and test_targets.*got 10, 3 and 10"),
        (((X,), Y, (X[:0],), Y[:0]), "at least one; got 0 and 0"),
        (((X,), torch.tensor(1.0), (X,), Y), "got 10 and 0"),
    ],
)
def test_data_that_cannot_be_trained_on_are_named_when_they_are_made(parts, message):
    with pytest.raises(SpecError, match=message):
        TaskData(*parts, source="generated")


@dataclass(frozen=True)
class Noise:
    """Draws from a generator that all share."""

    source: str

    def __call__(self, ensemble, *batch):
        draw = {"torch": lambda: torch.rand(1), "numpy": lambda: np.random.rand(), "python": random.random}
        value = float(draw[self.source]())
        if isinstance(batch[0], TaskData):
            return {"noise": torch.full((len(ensemble),), value)}
        return tuple(x + value for x in batch[0])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
@pytest.mark.parametrize("place", ["perturbation", "probes"])
def test_a_part_that_draws_from_a_global_generator_is_refused(register, place, source, count):
    spec = register(Mine).replace(**{place: Noise(source) if place == "perturbation" else (Noise(source),)})
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        with pytest.raises(SpecError, match="Noise draws from a global random generator"):
            Trainer(get_task("mine"), [spec.replace(seed=s) for s in range(count)], task_data(spec, "cpu")).train()
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@dataclass
class Unfrozen:
    def __call__(self, ensemble, data): ...


class Plain:
    def __call__(self, ensemble, data): ...


@dataclass(frozen=True)
class NotCalled:
    by: float = 1.0


@dataclass(frozen=True)
class Listing:
    eps: object

    def __call__(self, ensemble, data): ...


@pytest.mark.parametrize("place", ["perturbation", "probes"])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Unfrozen(), "frozen dataclass"),
        (Plain(), "frozen dataclass"),
        (NotCalled(), "with a __call__"),
        (PGD, "takes instances"),
        (lambda trainer: {}, "frozen dataclass"),
        (3, "frozen dataclass"),
        ("PGD", "frozen dataclass"),
        (Listing(lambda: 1), "must be numbers, text, or tuples"),
    ],
)
def test_what_cannot_be_part_of_a_run_is_refused_when_the_spec_is_made(place, part, message):
    with pytest.raises(SpecError, match=message):
        Mine.spec.replace(**{place: part if place == "perturbation" else (part,)})


def test_none_is_no_probe():
    with pytest.raises(SpecError, match="frozen dataclass"):
        Mine.spec.replace(probes=(None,))


def own_part(module):
    """A class named as one of the suite's, from a module."""

    @dataclass(frozen=True)
    class Own:
        eps: float

        def __call__(self, ensemble, inputs, targets):
            return inputs

    Own.__qualname__, Own.__module__ = "PGD", module
    return Own(0.1)


def test_parts_of_one_name_from_two_modules_are_two_runs():
    parts = [own_part("omnigrok_attacks"), own_part("my_package.parts"), own_part("omnigrok.probes.robustness")]
    assert len({Mine.spec.replace(perturbation=part).hash("") for part in parts}) == 3


def test_a_part_with_a_new_version_is_another_run():
    @dataclass(frozen=True)
    class Scale:
        by: float
        version: ClassVar[int] = 1

        def __call__(self, ensemble, inputs, targets):
            return inputs

    before = Mine.spec.replace(perturbation=Scale(2.0)).hash("")
    Scale.version = 2
    assert Mine.spec.replace(perturbation=Scale(2.0)).hash("") != before


def test_a_refused_part_is_one_line(register):
    with pytest.raises(OmnigrokError) as caught:
        register(Mine).replace(probes=3.5)
    assert "\n" not in str(caught.value)
