"""Probes of kept weights give what they would have logged while the run was trained, and are computed once."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from boxes import Boxes
from normed import Normed

from omnigrok import Store, get_task, run_sweep
from omnigrok import registry as registry_module
from omnigrok.changes import ChangeAt
from omnigrok.errors import OmnigrokError, SpecError
from omnigrok.probes.complexity import ComplexityProbe
from omnigrok.probes.kept import kept_ensembles, measure_kept
from omnigrok.probes.partition_probe import PartitionProbe
from omnigrok.probes.robustness import RobustnessProbe
from omnigrok.store import COLUMNS, run_files

KEEP = (0, 4, 10, 20)
COMPLEXITY = ComplexityProbe(0.3, 4, 20)
ATTACKS = RobustnessProbe(eps=(0.05, 0.2), steps=3, margin_steps=3, examples=30, train=True)
PARTITION = PartitionProbe(margin=0.5)


@pytest.fixture(autouse=True)
def own_tasks(monkeypatch):
    monkeypatch.setattr(registry_module, "_own_tasks", {})


def trained(store, kind=Normed, runs=1, **changes):
    """Finished runs that keep weights."""
    base = get_task(kind).spec.replace(**{"steps": 20, "keep": KEEP, **changes})
    specs = [base.replace(seed=s, alpha=1.0 + s) for s in range(runs)]
    run_sweep(specs, store, runs_per_batch=runs, show_progress=False)
    return specs


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("kind", [Normed, Boxes])
@pytest.mark.parametrize("probe", [COMPLEXITY, ATTACKS, PARTITION], ids=lambda probe: type(probe).__name__)
def test_kept_weights_give_what_was_logged_in_training(tmp_path, kind, probe, runs):
    store = Store(tmp_path)
    specs = trained(store, kind, runs)
    found = measure_kept(specs, probe, store)
    logged = run_sweep(
        [spec.replace(probes=(probe,)) for spec in specs], store, runs_per_batch=runs, show_progress=False
    )
    logged = logged[logged["step"].isin(KEEP) & (logged["split"] == "probe")].reset_index(drop=True)
    assert list(found.columns) == COLUMNS
    assert found["run"].unique().tolist() == [store.path(spec).stem for spec in specs]
    assert set(found["step"]) == set(KEEP)
    rest = [name for name in COLUMNS if name not in ("run", "value")]
    assert found[rest].equals(logged[rest])
    if runs == 1:
        assert found["value"].equals(logged["value"])  # the same bits
    np.testing.assert_allclose(found["value"], logged["value"], rtol=0, atol=1e-12)
    assert found["value"].nunique() > 3


@dataclass(frozen=True)
class Counting:
    """Counts how often it is asked, at some steps answers, and knows the settings of now."""

    first: int = 0
    calls: ClassVar[list[int]] = []

    def __call__(self, ensemble, data):
        self.calls.append(ensemble.step)
        n = torch.tensor([float(spec.n_train) for spec in ensemble.specs])
        return {"norm": ensemble.norm(), "n": n} if ensemble.step >= self.first else {}


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(Counting, "calls", [])
    return Counting.calls


def test_a_second_call_reads_what_the_first_has_computed(tmp_path, calls):
    store = Store(tmp_path)
    specs = trained(store, runs=2)
    before = [store.path(spec).read_bytes() for spec in specs]
    found = measure_kept(specs, Counting(), store)
    assert calls == [*KEEP] * 2
    assert measure_kept(specs, Counting(), Store(tmp_path)).equals(found)
    assert measure_kept(specs[1:], Counting(), store).equals(found[found["seed"] == 1].reset_index(drop=True))
    assert calls == [*KEEP] * 2
    measure_kept(specs[:1], Counting(first=1), store)  # another probe
    assert calls == [*KEEP] * 3
    assert [store.path(spec).read_bytes() for spec in specs] == before  # the runs are as they were
    assert len(run_files(store.root)) == 2


def test_a_metric_that_is_not_given_at_a_step_has_no_row(tmp_path, calls):
    store = Store(tmp_path)
    specs = trained(store, runs=2)
    found = measure_kept(specs, Counting(first=10), store)
    assert found["step"].tolist() == [10, 20] * 4
    assert measure_kept(specs, Counting(first=10), store).equals(found)
    none = measure_kept(specs, Counting(first=50), store)
    assert list(none.columns) == COLUMNS
    assert none.empty


@pytest.mark.parametrize("of_all", [False, True], ids=["file", "weights"])
def test_what_is_damaged_is_said(tmp_path, calls, of_all):
    store = Store(tmp_path)
    [spec] = trained(store)
    found = measure_kept([spec], Counting(), store)
    [path] = store.weights_path(spec).parent.glob("*.probe.pt")
    path.write_bytes(path.read_bytes()[:-1])
    if of_all:
        store.weights_path(spec).write_bytes(b"")
        with (
            pytest.raises(OmnigrokError, match=r"damaged .*--force trains the run again"),
            pytest.warns(UserWarning, match="made"),
        ):
            measure_kept([spec], Counting(), store)
        return
    with pytest.warns(UserWarning, match="is damaged .* it is made again"):
        assert measure_kept([spec], Counting(), store).equals(found)
    assert calls == [*KEEP] * 2


def test_what_was_computed_is_forgotten_with_the_weights(tmp_path, calls):
    store = Store(tmp_path)
    specs = trained(store, runs=2)
    measure_kept(specs, Counting(), store)
    store.delete(specs[:1])
    assert len(list(store.weights_path(specs[0]).parent.glob("*.probe.pt"))) == 1
    store.write_weights(specs[1], store.weights(specs[1]))  # as when its damaged table is computed again
    assert not list(store.weights_path(specs[0]).parent.glob("*.probe.pt"))


def test_settings_are_those_of_the_step(tmp_path, calls):
    store = Store(tmp_path)
    [spec] = trained(store, changes=(ChangeAt(10, n_train=40), ChangeAt(4, n_train=50)))
    found = measure_kept([spec], Counting(), store).query("metric == 'n'").set_index("step")["value"]
    assert found.to_dict() == {0: 64, 4: 64, 10: 50, 20: 40}


def test_a_kept_network_is_the_one_that_was_trained(tmp_path):
    store = Store(tmp_path)
    [spec] = trained(store)
    steps, norms = [], []
    for ensemble in kept_ensembles(spec, store):
        steps.append(ensemble.step)
        norms.append(ensemble.norm().item())
        kept = store.weights(spec)[ensemble.step]
        for name, x in ensemble.model(0).state_dict().items():
            assert torch.equal(x, kept[name])
    assert steps == [*KEEP]
    assert norms == store.read(spec).query("metric == 'weight_norm' and step in @KEEP")["value"].tolist()


@dataclass(frozen=True)
class OfTheTrainer:
    def __call__(self, trainer): ...


@dataclass(frozen=True)
class Wrong:
    def __call__(self, ensemble, data):
        return {"wrong": 1.0}


@pytest.mark.parametrize(
    ("probe", "changes", "message"),
    [
        (COMPLEXITY, {"keep": ()}, "a run of normed keeps no weights: train it with keep"),
        (COMPLEXITY, {"seed": 7}, r"run \w{16} of normed is not finished in .*: run_sweep trains it"),
        (OfTheTrainer(), {}, r"OfTheTrainer takes the trainer.*__call__\(self, ensemble, data\)"),
        (Wrong(), {}, "Wrong must answer with a dict .* at step 0 it gave 'wrong': float"),
        (lambda ensemble, data: {}, {}, "measure_kept takes instances of frozen dataclasses"),
        (dataclasses.replace(COMPLEXITY, points=65), {}, "needs as many training examples"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_leaves_no_file(tmp_path, probe, changes, message):
    store = Store(tmp_path)
    [spec] = trained(store)
    with pytest.raises(OmnigrokError, match=f"^.*{message}") as caught:
        measure_kept([spec, spec.replace(**changes)], probe, store)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.probe.pt"))


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(SpecError, match="needs one run or more"):
        measure_kept([], COMPLEXITY, Store(tmp_path))
