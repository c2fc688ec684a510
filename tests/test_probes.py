"""How probes are asked, what their answers must be, and what becomes of those that are not there at every step."""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from normed import Normed

from omnigrok import Store, get_task, run_sweep
from omnigrok import registry as registry_module
from omnigrok.changes import ChangeAt, Stop
from omnigrok.errors import SpecError
from omnigrok.estimate import _probe_seconds
from omnigrok.loading import task_data
from omnigrok.probes.complexity import ComplexityProbe
from omnigrok.probes.partition_probe import PartitionProbe
from omnigrok.probes.robustness import RobustnessProbe
from omnigrok.task import Thresholds
from omnigrok.trainer import Trainer

STEPS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20]


@pytest.fixture
def base(monkeypatch):
    """The spec of a small task of one's own."""
    monkeypatch.setattr(registry_module, "_own_tasks", {})
    return get_task(Normed).spec


def trainer_of(spec, runs=2, task=None):
    task = task or get_task(spec.task)
    return Trainer(task, [spec.replace(seed=s) for s in range(runs)], task.load(spec))


@dataclass(frozen=True)
class Answers:
    """Gives what it is told, by name: the fields of a probe are numbers and text."""

    what: str

    def __call__(self, ensemble, data):
        return ANSWERS[self.what](len(ensemble))


ANSWERS = {
    "nothing": lambda runs: None,
    "a list": lambda runs: [torch.zeros(runs)],
    "a tensor": torch.zeros,
    "a number": lambda runs: {"a": 1.0},
    "numbers in a list": lambda runs: {"a": [1.0] * runs},
    "an array": lambda runs: {"a": np.zeros(runs)},
    "one for all": lambda runs: {"a": torch.tensor(1.0)},
    "a column": lambda runs: {"fine": torch.zeros(runs), "a": torch.zeros(runs, 1)},
    "too many": lambda runs: {"a": torch.zeros(runs + 1)},
    "whole numbers": lambda runs: {"a": torch.zeros(runs, dtype=torch.int64)},
    "truth values": lambda runs: {"a": torch.zeros(runs, dtype=torch.bool)},
    "a number for a name": lambda runs: {3: torch.zeros(runs)},
}


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_that_is_not_a_number_a_run_is_named_before_the_first_step(tmp_path, base, what, runs):
    spec = base.replace(probes=(Answers(what),))
    with pytest.raises(SpecError, match=rf"^Answers must answer .* shape \({runs},\); at step 0 it gave .+$"):
        run_sweep(
            [spec.replace(seed=s) for s in range(runs)], Store(tmp_path), runs_per_batch=2, show_progress=False,
            checkpoint_seconds=0,
        )  # fmt: skip
    assert not list(tmp_path.glob("*/checkpoints/*"))


@dataclass(frozen=True)
class Sometimes:
    """The weight norm at some of the steps."""

    first: int
    last: int = 10**9
    only: bool = False
    """Whether it answers with nothing else."""

    def __call__(self, ensemble, data):
        always = {} if self.only else {"always": ensemble.norm()}
        now = self.first <= ensemble.step <= self.last and ensemble.step != 6
        return always | ({"norm": ensemble.norm()} if now else {})


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(
    "probe",
    [Sometimes(10), Sometimes(0, 5), Sometimes(3, 9), Sometimes(20, only=True), Sometimes(30, only=True)],
    ids=str,
)
def test_a_metric_has_rows_at_the_steps_at_which_it_is_given(tmp_path, base, probe, runs):
    specs = [base.replace(seed=s, probes=(probe,)) for s in range(runs)]
    store = Store(tmp_path)
    table = run_sweep(specs, store, runs_per_batch=2, show_progress=False)
    norms = table.query("metric == 'weight_norm'").set_index(["seed", "step"])["value"]
    given = [s for s in STEPS if probe.first <= s <= probe.last and s != 6]
    for metric, steps in (("norm", given), ("always", [] if probe.only else STEPS)):
        rows = table[(table["split"] == "probe") & (table["metric"] == metric)]
        found = rows.set_index(["seed", "step"])["value"]
        assert found.index.tolist() == [(s.seed, step) for s in specs for step in steps] or not steps
        assert len(found) == runs * len(steps)
        assert (found == norms[found.index]).all()
    assert not list(tmp_path.glob("*/checkpoints/*"))
    assert run_sweep(specs, store, show_progress=False).equals(table)


def test_a_run_goes_on_from_any_checkpoint_with_a_metric_that_is_not_always_there(base):
    spec = base.replace(probes=(Sometimes(3, 9), InThree()))
    whole, first = trainer_of(spec), trainer_of(spec)
    whole.train()
    for step in (2, 7, 10, 15, 20):
        while first.step < step:
            if first.step in STEPS:
                first.measure()
            first.update()
        resumed = trainer_of(spec)
        resumed.load_state_dict(copy.deepcopy(first.state_dict()))
        resumed.train()
        for one, other in zip(whole.frames(), resumed.frames(), strict=True):
            assert one.equals(other)


@dataclass(frozen=True)
class InThree:
    """Another dtype from one step to the next."""

    def __call__(self, ensemble, data):
        kinds = (torch.float64, torch.float32, torch.float16)
        return {"three": ensemble.norm().round().to(kinds[ensemble.step % 3])}


@dataclass(frozen=True)
class Breaks:
    """Its answer turns wrong at a step, until it is mended."""

    at: int

    def __call__(self, ensemble, data):
        broken = ensemble.step >= self.at and not MENDED
        return {"norm": ensemble.norm()[:, None] if broken else ensemble.norm()}


MENDED: list[int] = []


@pytest.mark.parametrize("at", [1, 10, 20])
def test_an_answer_that_turns_wrong_is_named_and_the_run_goes_on_once_it_is_mended(tmp_path, base, at, monkeypatch):
    monkeypatch.setattr("test_probes.MENDED", [])
    specs, store = [base.replace(seed=s, probes=(Breaks(at),)) for s in range(2)], Store(tmp_path)
    arguments = {"runs_per_batch": 2, "show_progress": False, "checkpoint_seconds": 0}
    for _ in range(2):
        with pytest.raises(SpecError, match=rf"^Breaks must answer .*; at step {at} it gave 'norm': .*\(2, 1\).*$"):
            run_sweep(specs, store, **arguments)
    monkeypatch.setattr("test_probes.MENDED", [at])
    begun = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self: (begun.append(self.step), update(self))[1])
    table = run_sweep(specs, store, **arguments)
    assert begun == list(range(at, 20))  # from the checkpoint on
    assert table.query("metric == 'norm'")["step"].tolist() == STEPS * 2


def without_steps(state, wrong=None):
    """A checkpoint as it was before it said at which steps a metric was measured."""
    old = {name: value for name, value in state.items() if name != "log_steps"}
    if wrong is not None:
        old["log"] = {name: wrong(x) if name == "probe/norm" else x for name, x in state["log"].items()}
    return old


@pytest.mark.parametrize("stopped_at", [7, 20])
@pytest.mark.parametrize(
    "wrong",
    [None, lambda x: x[2:], lambda x: x[:, :1], lambda x: torch.cat([x, x])],
    ids=["whole", "late", "one", "twice"],
)
def test_a_checkpoint_of_before_goes_on_or_is_said_to_start_again(tmp_path, base, wrong, stopped_at, recwarn):
    specs = [base.replace(seed=s, probes=(Breaks(100),)) for s in range(2)]
    expected = run_sweep(specs, Store(tmp_path / "a"), runs_per_batch=2, show_progress=False)
    trainer = Trainer(get_task("normed"), specs, task_data(specs[0], "cpu"))
    while trainer.step < stopped_at:
        if trainer.step in STEPS:
            trainer.measure()
        trainer.update()
    if stopped_at == STEPS[-1]:
        trainer.measure()
    store = Store(tmp_path / "b")
    store.save_checkpoint(specs, without_steps(trainer.state_dict(), wrong), 1.0)
    found = run_sweep(specs, store, runs_per_batch=2, show_progress=False)
    assert found.equals(expected)
    said = [str(w.message) for w in recwarn if "starting again" in str(w.message)]
    assert len(said) == (wrong is not None)
    assert all("probe/norm" in each and "\n" not in each for each in said)


@pytest.mark.parametrize(
    "probes",
    [
        (ComplexityProbe(0.5, 3, 10), ComplexityProbe(0.05, 3, 10)),
        (Sometimes(0), ComplexityProbe(0.5, 3, 10), Sometimes(0, only=True)),
    ],
    ids=["of one kind", "of two"],
)
def test_two_probes_with_one_metric_are_named_before_the_first_step(base, probes):
    trainer = trainer_of(base.replace(probes=probes))
    with pytest.raises(SpecError, match=rf"^{type(probes[-1]).__name__} answers with (lc_random|norm).* another probe"):
        trainer.train()
    assert trainer.step == 0


@dataclass(frozen=True)
class OfTheTrainer:
    """As all probes were once."""

    def __call__(self, trainer):
        inputs, targets = trainer.data.train_inputs[0][:5], trainer.data.train_targets[:5]
        return {"looked_at": trainer.losses((inputs,), targets, shared=True)}


@dataclass(frozen=True)
class OfTheEnsemble:
    def __call__(self, ensemble, data):
        return {"looked_at": ensemble.losses((data.train_inputs[0][:5],), data.train_targets[:5], shared=True)}


@dataclass(frozen=True)
class WithADefault(OfTheEnsemble):
    def __call__(self, ensemble, data=None, *, wide=True):
        return super().__call__(ensemble, data)


@dataclass(frozen=True)
class WithAny(OfTheEnsemble):
    def __call__(self, *both):
        return super().__call__(*both)


@dataclass(frozen=True)
class WithAKeyword(OfTheTrainer):
    def __call__(self, trainer, /, *, wide=True):
        return super().__call__(trainer)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("probe", [OfTheTrainer(), OfTheEnsemble(), WithADefault(), WithAny(), WithAKeyword()], ids=str)
def test_a_probe_looks_at_an_ensemble_or_with_one_argument_at_the_trainer(tmp_path, base, probe, runs):
    specs = [base.replace(seed=s, probes=(probe,)) for s in range(runs)]
    table = run_sweep(specs, Store(tmp_path), runs_per_batch=2, show_progress=False)
    probed = table.query("metric == 'looked_at'").set_index(["seed", "step"])["value"]
    plain = run_sweep([s.replace(probes=()) for s in specs], Store(tmp_path), runs_per_batch=2, show_progress=False)
    assert probed.index.tolist() == [(s, step) for s in range(runs) for step in STEPS]
    assert probed.gt(0).all()
    rest = table.query("split != 'probe'").drop(columns="run").reset_index(drop=True)
    assert rest.equals(plain.drop(columns="run"))
    assert _probe_seconds(specs[0], "cpu") > 0


@dataclass(frozen=True)
class OfNothing:
    def __call__(self): ...


@dataclass(frozen=True)
class OfThree:
    def __call__(self, ensemble, data, more): ...


@dataclass(frozen=True)
class OfTwo:
    def __call__(self, ensemble, inputs): ...


@pytest.mark.parametrize(
    ("part", "place"),
    [(OfNothing(), "probes"), (OfThree(), "probes"), (OfTwo(), "perturbation"), (OfNothing(), "perturbation")],
)
def test_a_part_that_cannot_be_called_as_it_will_be_is_named(base, part, place):
    spec = base.replace(**{place: (part,) if place == "probes" else part})
    what = "probe" if place == "probes" else "perturbation"
    with pytest.raises(
        SpecError, match=rf"^{type(part).__name__} cannot be called as a {what} is: __call__\(self, ens"
    ):
        trainer_of(spec)


@dataclass(frozen=True)
class Settings:
    """What an ensemble says of its runs."""

    def __call__(self, ensemble, data):
        assert ensemble.device.type == "cpu"
        assert ensemble.task is get_task(ensemble.specs[0].task)
        said = [(float(ensemble.step), s.n_train, s.weight_decay, s.seed) for s in ensemble.specs]
        return dict(zip(("step", "n", "decay", "seed"), torch.tensor(said, dtype=torch.float64).T, strict=True))


def test_an_ensemble_says_its_step_and_the_settings_of_now(base):
    change = ChangeAt(4, n_train=48), ChangeAt(8, weight_decay=0.5)
    trainer = trainer_of(base.replace(probes=(Settings(),), changes=change, batch_size=16))
    trainer.train()
    for seed, table in enumerate(trainer.frames()):
        found = table.query("split == 'probe'").pivot(index="step", columns="metric", values="value")
        assert (found["seed"] == seed).all()
        assert found["n"].tolist() == [64 if step <= 4 else 48 for step in STEPS]
        assert found["decay"].tolist() == [0.0 if step <= 8 else 0.5 for step in STEPS]
    resumed = trainer_of(base.replace(probes=(Settings(),), changes=change, batch_size=16))
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.ensemble.step == 20
    assert resumed.ensemble.specs == trainer.ensemble.specs


def test_a_stopped_run_keeps_no_weights_of_steps_that_it_did_not_train(base):
    class Easy(Normed):
        thresholds = Thresholds("accuracy", train=0.9, test=0.6)

    spec = base.replace(stop=Stop(hold=1), keep=tuple(range(101)), steps=100)
    trainer = trainer_of(spec, runs=3, task=Easy())
    trainer.train()
    ends = [int(table.query("metric == 'stopped'")["step"].iloc[0]) for table in trainer.frames()]
    assert len(set(ends)) > 1  # some runs end while others go on
    assert [sorted(kept) for kept in trainer.weights()] == [list(range(end + 1)) for end in ends]


class HalfEvaluated(Normed):
    """One batch norm is meant to be in evaluation mode."""

    name = "half_evaluated"
    spec = Normed.spec.replace(task=name)

    def model(self, spec):
        net = super().model(spec)
        net[1].eval()
        return net


@dataclass(frozen=True)
class Careless:
    """Runs the model in training mode and leaves it in another."""

    def __call__(self, ensemble, data):
        ensemble.module.train()
        losses = ensemble.losses((data.train_inputs[0][:20] + 3,), data.train_targets[:20], shared=True)
        ensemble.module.eval()
        return {"careless": losses.detach()}


PROBES = (
    ComplexityProbe(0.5, 3, 10),
    RobustnessProbe(steps=2, margin_steps=2, examples=10, train=True),
    PartitionProbe(),
    Careless(),
)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: type(probe).__name__)
def test_a_probe_leaves_modes_buffers_and_training_as_they_were(monkeypatch, probe, runs):
    monkeypatch.setattr(registry_module, "_own_tasks", {})
    spec = get_task(HalfEvaluated).spec
    plain, probed = (trainer_of(spec.replace(probes=probes), runs) for probes in ((), (probe,)))
    modes = [module.training for module in probed.ensemble.module.modules()]
    assert modes.count(False) == 1
    for trainer in (plain, probed):
        trainer.train()
        assert [module.training for module in trainer.ensemble.module.modules()] == modes
    for name, x in plain.ensemble.stacked().items():
        assert torch.equal(x, probed.ensemble.stacked()[name]), name
    statistics = plain.ensemble.buffers
    assert (statistics["1.running_mean"] == 0).all()  # it stayed in evaluation mode
    assert (statistics["4.running_mean"] != 0).any()
    if not isinstance(probe, Careless):  # also where it is called by hand
        before = probed.ensemble.stacked()
        probe(probed.ensemble, probed.data)
        assert [module.training for module in probed.ensemble.module.modules()] == modes
        assert all(torch.equal(x, before[name]) for name, x in probed.ensemble.stacked().items())


def test_modes_come_back_when_an_evaluation_fails(monkeypatch):
    monkeypatch.setattr(registry_module, "_own_tasks", {})
    trainer = trainer_of(get_task(HalfEvaluated).spec)
    modes = [module.training for module in trainer.ensemble.module.modules()]
    with trainer.ensemble.evaluating():
        assert not any(module.training for module in trainer.ensemble.module.modules())
    assert [module.training for module in trainer.ensemble.module.modules()] == modes
    with pytest.raises(ZeroDivisionError), trainer.ensemble.evaluating():
        raise ZeroDivisionError
    assert [module.training for module in trainer.ensemble.module.modules()] == modes
