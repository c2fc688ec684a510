import math

import numpy as np
import pytest
import torch

from omnigrok import RunSpec
from omnigrok.errors import SpecError
from omnigrok.schedule import evaluation_steps
from omnigrok.spec import generator

BASE = {"task": "t", "n_train": 10, "steps": 5, "lr": 0.1}


@pytest.mark.parametrize(
    "bad",
    [
        {"alpha": 0},
        {"alpha": -1},
        {"alpha": math.nan},
        {"alpha": math.inf},
        {"n_train": 0},
        {"steps": -1},
        {"lr": 0},
        {"lr_drop": (0, 0.5)},
        {"gradient_clip": 0},
        {"weight_decay": -0.1},
        {"batch_size": 0},
        {"optimizer": "sgd"},
        {"dtype": "float16"},
        {"subset": "last"},
        {"betas": (0.9, 1.0)},
        {"evaluation_density": -1},
        {"n_train": 10.0},
        {"seed": "one"},
        {"lr": "fast"},
        {"sphere": "false"},
        {"betas": (0.9,)},
        {"keep": 5},
        {"options": 5},
    ],
)
def test_impossible_specs_are_refused_in_one_line_that_names_the_field(bad):
    with pytest.raises(SpecError, match=next(iter(bad))) as error:
        RunSpec(**{**BASE, **bad})
    assert "\n" not in str(error.value)


def test_hash_depends_on_every_field_and_on_the_data():
    spec = RunSpec(**BASE)
    variants = [
        spec.replace(alpha=2.0),
        spec.replace(seed=1),
        spec.replace(n_train=11),
        spec.replace(weight_decay=0.1),
        spec.replace(sphere=True),
        spec.replace(dtype="float64"),
        spec.replace(options=(("p", 113),)),
    ]
    hashes = {s.hash("data") for s in [spec, *variants]} | {spec.hash("other data")}
    assert len(hashes) == len(variants) + 2
    assert spec.hash("data") == RunSpec(**BASE).hash("data")


def test_the_same_value_in_another_type_is_the_same_run():
    plain = RunSpec(**BASE, alpha=8.0, betas=(0.5, 0.9), keep=(0, 5), options=(("p", 7), ("q", 1)))
    other = RunSpec(
        **{**BASE, "n_train": np.int64(10), "lr": "0.1"},
        alpha=8,
        betas=[0.5, 0.9],
        keep=[0, np.int32(5)],
        options={"q": np.int64(1), "p": 7},
    )
    assert other == plain
    assert other.hash("data") == plain.hash("data")


def test_hash_leaves_out_defaults_so_that_new_fields_keep_old_runs():
    assert RunSpec(**BASE).canonical() == BASE
    assert RunSpec(**BASE).replace(seed=3).canonical() == {**BASE, "seed": 3}


def test_generators_depend_on_their_key_alone():
    first = torch.rand(3, generator=generator(1, "init"))
    torch.rand(5, generator=generator(1, "order"))
    assert torch.equal(first, torch.rand(3, generator=generator(1, "init")))
    assert not torch.equal(first, torch.rand(3, generator=generator(2, "init")))


def test_evaluation_steps_are_log_spaced_and_hold_round_steps():
    steps = evaluation_steps(12_345)
    assert steps[:11] == list(range(11))
    assert {20, 300, 6_000, 10_000, 12_345} <= set(steps)
    assert steps == sorted(set(steps))
    assert steps[-1] == 12_345
    dense = evaluation_steps(12_345, density=3)
    assert set(steps) < set(dense)
    assert evaluation_steps(0) == [0]
    assert evaluation_steps(300, density=0) == [0, 1, 10, 100, 300]


def test_effective_batch_size():
    assert RunSpec(**BASE).effective_batch_size == 10
    assert RunSpec(**BASE, batch_size=4).effective_batch_size == 4
    assert RunSpec(**BASE, batch_size=40).effective_batch_size == 10
