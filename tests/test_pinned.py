"""Alarms: names of runs, claims and numbers are what they were. `tests/pin.py` says how they are pinned anew."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pin
import pytest

from omnigrok import DataUnavailableError, available_tasks, get_task
from omnigrok.loading import task_data
from omnigrok.optimizers import AdamW
from reproductions.all import figures

FIGURES = Path(__file__).parent.parent / "figures"
REDRAW = "the committed figure is of another sweep: draw it again, or raise the trainer's or the task's version"
RESTATE = "the committed figure states another claim: draw it again"
NUMBERS = (
    "numbers have changed: raise TRAINER_VERSION (omnigrok/spec.py) or the task's or probe's `version`, say why, and "
    "pin them anew with `python tests/pin.py losses` (or `probes`)"
)
RELATIVE = 1e-4
"""Torch draws an init in float32, which other instructions (ATEN_CPU_CAPABILITY=default) round otherwise: that moves
the losses of three steps by up to 2e-5. A learning rate that is wrong by a hundredth moves them by more than this."""


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: figure.name)
def test_committed_figures_have_todays_runs_and_claims(figure):
    sidecar = json.loads((FIGURES / f"{figure.name}.json").read_text())
    trainer = sidecar.get("trainer", 1)
    assert set(pin.names(figure, "default", "published", trainer)) == set(sidecar["runs"]), REDRAW
    assert figure.paper == sidecar["paper"], RESTATE
    stated = [
        {
            "id": claim.id,
            "statement": claim.statement,
            "source": claim.source,
            "expected": {**claim.expect.as_json(), "text": str(claim.expect)},
        }
        for claim in figure.claims_for(pin.options_of(figure, "default", "published"))
    ]
    committed = [{name: claim[name] for name in stated[0]} for claim in sidecar["claims"]]
    assert stated == committed, RESTATE


def test_all_figures_have_the_names_that_they_had():
    """At every preset and reading, so that nobody's finished runs are trained again for nothing."""
    pd.testing.assert_frame_equal(pin.digests(), pd.read_csv(pin.NAMES), obj=REDRAW)


def compared(task, specs):
    """What is measured now beside what is pinned."""
    try:
        found = pin.losses(specs)
    except DataUnavailableError as error:
        pytest.skip(str(error))
    pinned = pd.read_csv(pin.LOSSES).query("task == @task")
    keys = ["task", "variant", "step", "split", "metric"]
    both = found.merge(pinned, on=keys, how="outer", suffixes=("", "_pinned"))
    return both[both["variant"].isin(specs)]


@pytest.mark.parametrize("task", available_tasks())
def test_losses_of_the_first_steps_are_what_they_were(task):
    both = compared(task, pin.pinned_specs(task))
    assert len(both) == 4 * 3 * len(pin.pinned_specs(task))
    np.testing.assert_allclose(both["value"], both["value_pinned"], rtol=RELATIVE, err_msg=NUMBERS)


def test_probes_and_attacks_measure_what_they_did():
    """On a task whose numbers do not depend on the processor; only the noise is drawn in float32."""
    found, pinned = pin.probes(), pd.read_csv(pin.PROBES)
    pd.testing.assert_frame_equal(found.drop(columns="value"), pinned.drop(columns="value"))
    np.testing.assert_allclose(found["value"], pinned["value"], rtol=1e-6, atol=1e-9, err_msg=NUMBERS)


FAULTS = {
    "learning rate": {"lr": 1.01},
    "init": {"alpha": 1.001},
    "random stream": {"seed": 1},
    "batch size": {"batch_size": 7},
    "first moment": {"optimizer": AdamW((0.89, 0.999))},
    "weight decay": {"weight_decay": 0.9},
    "another order of the pool": {"subset": "shuffled"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_pinned_losses_notice(fault):
    spec = pin.pinned_specs("teacher_student")["adamw"]
    factors = ("lr", "alpha")
    changes = {k: v * getattr(spec, k) if k in factors else v for k, v in FAULTS[fault].items()}
    both = compared("teacher_student", {"adamw": spec.replace(**changes)})
    last = both[both["step"] == 3]
    assert not np.allclose(last["value"], last["value_pinned"], rtol=RELATIVE)


def test_the_pinned_losses_notice_other_data(monkeypatch):
    spec = pin.pinned_specs("teacher_student")["adamw"]
    data = task_data(spec, "cpu")
    other = dataclasses.replace(data, train_inputs=(data.train_inputs[0] + 1e-2,))
    monkeypatch.setattr(pin, "task_data", lambda *_: other)
    both = compared("teacher_student", {"adamw": spec})
    assert not np.allclose(both["value"], both["value_pinned"], rtol=RELATIVE)


@pytest.mark.parametrize("task", ["mnist", "teacher_student"])
def test_every_mechanism_changes_the_numbers(task):
    """A mechanism that does nothing would be pinned as such."""
    pinned = pd.read_csv(pin.LOSSES).query("task == @task and step == 3 and metric == 'loss' and split == 'test'")
    assert pinned["value"].nunique() == len(pinned) == len(pin.pinned_specs(task))


def test_the_tasks_defaults_are_the_published_ones():
    assert {name: get_task(name).spec.lr for name in available_tasks()} == {
        "algorithmic": 1e-3, "cifar10": 1e-3, "imdb": 3e-4, "mnist": 1e-3, "mnist_templates": 1e-3, "modular": 1e-3,
        "modular_toy": 1e-2, "qm9": 1e-3, "teacher_student": 3e-4,
    }  # fmt: skip
