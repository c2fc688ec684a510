import math
import random

import numpy as np
import pytest
import torch

from omnigrok import RunSpec
from omnigrok.errors import SpecError
from omnigrok.robustness import PGD
from omnigrok.schedule import evaluation_steps
from omnigrok.spec import TRAINER_VERSION, generator, global_states, seed_of

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


@pytest.mark.parametrize(
    "good",
    [
        {"n_train": 1},
        {"steps": 0},
        {"weight_decay": 0},
        {"batch_size": 1},
        {"lr_drop": (1, 0.5)},
        {"lr_drop": (1, 2.0)},
        {"evaluation_density": 0},
        {"betas": (0, 0)},
        {"keep": (0, 5)},
        {"alpha": 1e-9},
        {"lr": 1e-9},
        {"gradient_clip": 1e-9},
    ],
)
def test_the_ends_of_what_is_possible_are_taken(good):
    [(name, value)] = good.items()
    assert getattr(RunSpec(**BASE).replace(**good), name) == value


@pytest.mark.parametrize("name", ["alpha", "lr", "weight_decay", "gradient_clip"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1e-9])
def test_numbers_are_finite_and_not_negative(name, value):
    with pytest.raises(SpecError, match=name):
        RunSpec(**{**BASE, name: value})


@pytest.mark.parametrize("keep", [(-1,), (6,), (0, 6)])
def test_kept_steps_lie_in_the_run(keep):
    with pytest.raises(SpecError, match="keep must be steps from 0 to 5"):
        RunSpec(**BASE, keep=keep)


@pytest.mark.parametrize(
    ("drop", "rates"), [(None, [0.1] * 7), ((2, 0.5), [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125])]
)
def test_the_learning_rate_falls_by_the_factor_every_so_many_steps(drop, rates):
    assert [RunSpec(**BASE, lr_drop=drop).lr_at(step) for step in range(7)] == pytest.approx(rates, rel=1e-15)


def test_names_and_seeds_are_what_they_were():
    """Another value here renames or reseeds every run there is: raise TRAINER_VERSION and say why."""
    spec = RunSpec(**BASE)
    assert seed_of(0, "init") == 3953688860265627247
    assert TRAINER_VERSION == 2
    assert spec.hash("data") == "280f85feb7bbb449"
    assert spec.replace(perturbation=PGD(0.1)).canonical()["perturbation"] == {
        "type": "PGD", "eps": 0.1, "steps": 10, "step": None, "norm": "linf", "objective": "ce", "restarts": 1,
        "decay": False, "low": 0.0, "high": 1.0,
    }  # fmt: skip


def test_what_a_spec_leaves_out_is_the_default():
    assert vars(RunSpec(**BASE)) == {
        **BASE, "alpha": 1.0, "seed": 0, "weight_decay": 0.0, "sphere": False, "optimizer": "adamw",
        "betas": (0.9, 0.999), "batch_size": None, "lr_drop": None, "gradient_clip": None, "dtype": "float32",
        "subset": "first", "data_seed": 0, "evaluation_density": 1, "options": (), "probes": (), "perturbation": None,
        "keep": (), "sphere_first_twice": False, "sphere_early": False,
    }  # fmt: skip


def test_options_are_read_with_and_without_a_default():
    spec = RunSpec(**BASE, options={"p": np.int64(7), "name": "x"})
    assert spec.options == (("name", "x"), ("p", 7))
    assert (spec.option("p"), spec.option("q", 3)) == (7, 3)
    with pytest.raises(KeyError):
        spec.option("q")


@pytest.mark.parametrize("which", ["torch", "numpy", "python"])
def test_the_states_of_global_generators_are_seen_to_change(which):
    before = global_states()
    assert before == global_states()
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    {"torch": lambda: torch.rand(1), "numpy": np.random.rand, "python": random.random}[which]()
    assert global_states() != before
    torch.set_rng_state(saved[0])
    np.random.set_state(saved[1])
    random.setstate(saved[2])
    assert global_states() == before


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
