import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from omnigrok import RunSpec
from omnigrok.changes import ChangeAt, Stop
from omnigrok.errors import SpecError
from omnigrok.gradients import Clip, GradientNoise, Grokfast, GrokfastWindow, WeightNoise
from omnigrok.losses import CrossEntropy, SquaredError, Temperature
from omnigrok.optimizers import SAM, Adam, AdamW, Muon
from omnigrok.probes.robustness import PGD
from omnigrok.schedule import Cosine, Drop, Schedule, evaluation_steps
from omnigrok.spec import TRAINER_VERSION, generator, global_states, seed_of
from omnigrok.sphere import Sphere

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
        {"schedule": (1, 0.5)},
        {"gradient": Drop(1, 0.5)},
        {"loss": SquaredError},
        {"stop": 3},
        {"weight_decay": -0.1},
        {"batch_size": 0},
        {"optimizer": "sgdw"},
        {"optimizer": None},
        {"dtype": "float16"},
        {"subset": "last"},
        {"evaluation_density": -1},
        {"n_train": 10.0},
        {"seed": "one"},
        {"lr": "fast"},
        {"sphere": "false"},
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
        {"schedule": (Drop(1, 0.5), Cosine())},
        {"optimizer": Muon(nesterov=False)},
        {"evaluation_density": 0},
        {"keep": (0, 5)},
        {"alpha": 1e-9},
        {"lr": 1e-9},
        {"gradient": (Clip(1e-9),)},
    ],
)
def test_the_ends_of_what_is_possible_are_taken(good):
    [(name, value)] = good.items()
    assert getattr(RunSpec(**BASE).replace(**good), name) == value


@pytest.mark.parametrize("name", ["alpha", "lr", "weight_decay"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1e-9])
def test_numbers_are_finite_and_not_negative(name, value):
    with pytest.raises(SpecError, match=name):
        RunSpec(**{**BASE, name: value})


@pytest.mark.parametrize("keep", [(-1,), (6,), (0, 6)])
def test_kept_steps_lie_in_the_run(keep):
    with pytest.raises(SpecError, match="keep must be steps from 0 to 5"):
        RunSpec(**BASE, keep=keep)


@pytest.mark.parametrize(
    ("parts", "rates"), [((), [0.1] * 7), (Drop(2, 0.5), [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125])]
)
def test_the_learning_rate_falls_by_the_factor_every_so_many_steps(parts, rates):
    assert [RunSpec(**BASE, schedule=parts).lr_at(step) for step in range(7)] == pytest.approx(rates, rel=1e-15)


def test_what_was_a_field_before_it_was_a_part_keeps_its_runs_names():
    spec = RunSpec(**BASE)
    for changes, canonical in (
        ({"optimizer": "adam"}, {"optimizer": "adam"}),
        ({"optimizer": AdamW((0.5, 0.9))}, {"betas": [0.5, 0.9]}),
        ({"optimizer": Adam((0.5, 0.9))}, {"optimizer": "adam", "betas": [0.5, 0.9]}),
        ({"sphere": True}, {"sphere": True}),
        ({"sphere": Sphere(True, True)}, {"sphere": True, "sphere_first_twice": True, "sphere_early": True}),
        ({"schedule": Drop(5, 0.2)}, {"lr_drop": [5, 0.2]}),
        ({"gradient": Clip(1)}, {"gradient_clip": 1.0}),
    ):
        assert spec.replace(**changes).canonical() == {**BASE, **canonical}


def test_parts_enter_with_what_differs_from_their_defaults_and_in_their_order():
    spec, noise = RunSpec(**BASE), GradientNoise(0.1)
    both = [{"type": "Clip", "limit": 1.0}, {"type": "GradientNoise", "sigma": 0.1}]
    for changes, canonical in (
        ({"optimizer": Muon()}, {"optimizer": {"type": "Muon"}}),
        ({"optimizer": AdamW(decay_to="init")}, {"optimizer": {"type": "AdamW", "decay_to": "init"}}),
        ({"sphere": Sphere(norm=3.0)}, {"sphere": {"type": "Sphere", "norm": 3.0}}),
        ({"gradient": (Clip(1), noise)}, {"gradient": both}),
        ({"loss": Temperature(2.0)}, {"loss": {"type": "Temperature", "tau": 2.0}}),
    ):
        assert spec.replace(**changes).canonical() == {**BASE, **canonical}
    assert spec.replace(gradient=(noise, Clip(1))).hash("") != spec.replace(gradient=(Clip(1), noise)).hash("")


def test_a_part_is_a_frozen_dataclass():
    with pytest.raises(TypeError, match="cannot inherit non-frozen"):

        @dataclass
        class Loose(Schedule):
            length: int = 3

    class Undecorated(Schedule):
        length: int = 3

        def __call__(self, step, steps):
            return 1.0

    with pytest.raises(SpecError, match="Undecorated must be a dataclass itself"):
        RunSpec(**BASE, schedule=Undecorated())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adam((0.9, 1.0)), lambda: AdamW((0.9,)), lambda: AdamW(decay_to="one"), lambda: Muon(1.0),
        lambda: Muon(steps=0), lambda: SAM(0.0), lambda: Drop(0, 0.5),
        lambda: Drop(1, 0.0), lambda: Cosine(0), lambda: Cosine(floor=1.5), lambda: Clip(0),
        lambda: Clip(math.nan), lambda: GradientNoise(-1.0), lambda: Grokfast(1.0), lambda: GrokfastWindow(0),
        lambda: WeightNoise(math.inf), lambda: Sphere(of="biases"), lambda: Sphere(scale=0.0),
        lambda: Sphere(norm=-1.0), lambda: Sphere(start=-1), lambda: Sphere(scale=2.0, norm=1.0),
        lambda: CrossEntropy(1.5), lambda: Temperature(0.0),
        lambda: ChangeAt(5), lambda: ChangeAt(-1, lr=1.0), lambda: Stop(-1),
    ],
)  # fmt: skip
def test_impossible_parts_are_refused_when_they_are_made(make):
    with pytest.raises(SpecError):
        make()


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
        **BASE, "alpha": 1.0, "seed": 0, "weight_decay": 0.0, "sphere": None, "optimizer": AdamW(),
        "batch_size": None, "schedule": (), "gradient": (), "weight_noise": None, "loss": None, "changes": (),
        "stop": None, "dtype": "float32",
        "subset": "first", "data_seed": 0, "evaluation_density": 1, "options": (), "probes": (), "perturbation": None,
        "keep": (),
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
    plain = RunSpec(**BASE, alpha=8.0, optimizer=AdamW((0.5, 0.9)), keep=(0, 5), options=(("p", 7), ("q", 1)))
    other = RunSpec(
        **{**BASE, "n_train": np.int64(10), "lr": "0.1"},
        alpha=8,
        optimizer=AdamW([0.5, 0.9]),
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


@pytest.mark.parametrize("value", [False, None])
def test_false_is_no_sphere(value):
    base = RunSpec(n_train=1, steps=1, lr=0.1, sphere=True)
    assert base.replace(sphere=value).sphere is None
    assert base.replace(sphere=value) == RunSpec(n_train=1, steps=1, lr=0.1)


def test_weight_noise_and_an_early_sphere_exclude_each_other():
    base = RunSpec(n_train=1, steps=1, lr=0.1, weight_noise=WeightNoise(0.1))
    base.replace(sphere=Sphere())
    with pytest.raises(SpecError, match="weight_noise would be undone"):
        base.replace(sphere=Sphere(early=True))
