"""The trainer against the plain loop, in float64, and its extension points."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from omnigrok import RunSpec, Store, get_task, run_sweep
from omnigrok.ensemble import scaled_model
from omnigrok.errors import SpecError
from omnigrok.gradients import Clip
from omnigrok.loading import run_hash, task_data
from omnigrok.oracle import train, weight_norm
from omnigrok.order import BatchOrder
from omnigrok.plan import plan
from omnigrok.schedule import Drop
from omnigrok.sphere import Sphere
from omnigrok.trainer import Trainer

TOLERANCE = 1e-8
"""Rounding differs from processor to processor. Adam divides a gradient by its own size, so a rounding of 1e-16 of one
near 1e-8 moves a weight by 1e-8 of a step: 1e-11 a step. A fault changes a share of a step, seldom less than 1e-3.
"""


def assert_equals_oracle(task, specs, data):
    trainer = Trainer(task, specs, data)
    trainer.train()
    for row, spec in enumerate(specs):
        oracle = train(task, spec, data)
        for name, parameter in oracle.named_parameters():
            torch.testing.assert_close(trainer.ensemble.params[name][row], parameter, rtol=0, atol=TOLERANCE)
    return trainer


def rows(base, **common):
    """Runs of one batch that differ in alpha, seed, weight decay and norm sphere."""
    base = base.replace(dtype="float64", steps=20, **common)
    return [
        base,
        base.replace(seed=1, alpha=0.5, weight_decay=0.3),
        base.replace(seed=2, alpha=3.0, weight_decay=0.0, sphere=True),
        base.replace(seed=3, weight_decay=2.0, sphere=True),
    ]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_teacher_student_equals_the_plain_loop(optimizer, batch_size):
    task = get_task("teacher_student")
    specs = rows(task.spec, optimizer=optimizer, batch_size=batch_size)
    if batch_size is not None:
        specs[1] = specs[1].replace(n_train=30)
    data = task_data(specs[0], "cpu")
    assert_equals_oracle(task, specs, data)
    assert_equals_oracle(task, specs[1:2], data)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_clipped_gradient_equals_the_plain_loops(optimizer):
    """Limits that clip every step, some steps and none."""
    task = get_task("teacher_student")
    data = task_data(task.spec.replace(dtype="float64"), "cpu")
    norms = []
    for limit in (1e-4, 0.3, 1e3):
        specs = rows(task.spec, optimizer=optimizer, gradient=(Clip(limit),), batch_size=10)
        norms.append(assert_equals_oracle(task, specs, data).ensemble.norm()[0].item())
        assert_equals_oracle(task, specs[1:2], data)
    assert norms[0] != pytest.approx(norms[2], rel=1e-9)


@pytest.mark.parametrize(
    "fault", [{"lr": 1.001}, {"weight_decay": 1.001}, {"alpha": 1 + 1e-6}], ids=["lr", "weight decay", "init"]
)
def test_a_small_fault_is_larger_than_the_tolerance(fault):
    task = get_task("teacher_student")
    spec = task.spec.replace(dtype="float64", steps=20, weight_decay=0.3)
    changed = spec.replace(**{name: factor * getattr(spec, name) for name, factor in fault.items()})
    right, wrong = (train(task, each, task_data(spec, "cpu")).parameters() for each in (spec, changed))
    assert max((a - b).abs().max() for a, b in zip(right, wrong, strict=True)) > 10 * TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Halving(RunSpec):
    """A spec with a field that nothing but its schedule knows."""

    halve_at: int = 10**9

    def lr_at(self, step):
        return super().lr_at(step) / (2 if step >= self.halve_at else 1)


def test_a_new_field_that_only_the_schedule_knows_is_trained_right(tmp_path):
    """Forgotten everywhere else, it must not be trained in a batch with runs of another value."""
    fields = vars(get_task("teacher_student").spec) | {"dtype": "float64", "steps": 20, "weight_decay": 0.1}
    specs = [Halving(**fields | {"halve_at": at, "seed": seed}) for seed in range(2) for at in (10**9, 5, 10)]
    assert len({run_hash(spec) for spec in specs}) == 6
    assert sorted(len(batch.specs) for batch in plan(specs, Store(tmp_path), "cpu", 6)) == [2, 2, 2]
    curves = run_sweep(specs, Store(tmp_path), runs_per_batch=6, show_progress=False)
    task, data = get_task("teacher_student"), task_data(specs[0], "cpu")
    ends = curves.query("metric == 'weight_norm' and step == 20").set_index("run")["value"]
    for spec in specs:
        assert ends[run_hash(spec)] == pytest.approx(weight_norm(train(task, spec, data)), rel=1e-9)
    assert len(set(ends.round(6))) == 6


def test_the_schedule_drops_as_torchs_does():
    spec = get_task("teacher_student").spec.replace(lr=0.1, schedule=(Drop(3, 0.5),))
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    for step in range(10):
        assert spec.lr_at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.slow
def test_mnist_equals_the_plain_loop(mnist_data):
    task = get_task("mnist")
    specs = rows(task.spec)
    specs[1] = specs[1].replace(n_train=450)  # not a multiple of the batch size
    assert_equals_oracle(task, specs, mnist_data)
    assert_equals_oracle(task, specs[2:3], mnist_data)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("name", ["teacher_student", "modular_toy"])
def test_published_spheres_equal_the_plain_loop(name, batch_size):
    task = get_task(name)
    base = task.spec.replace(
        dtype="float64", steps=20, sphere=True, optimizer="adam", weight_decay=0.0, batch_size=batch_size, alpha=2.0
    )
    specs = [
        base.replace(sphere=Sphere(first_twice=True, early=True)),
        base.replace(seed=1, sphere=Sphere(first_twice=True)),
        base.replace(seed=2, sphere=Sphere(early=True)),
        base.replace(seed=3),
        base.replace(seed=4, sphere=False),
    ]
    data = task_data(base, "cpu")
    trainer = assert_equals_oracle(task, specs, data)
    for spec in specs[:3]:
        assert_equals_oracle(task, [spec], data)
    first, rest = trainer.ensemble.theta[0], trainer.ensemble.theta[1:]
    once = sum(matrix.square().sum(dim=1) for matrix in (first, *rest)).sqrt()
    twice = (once**2 + first.square().sum(dim=1)).sqrt()
    assert abs(twice[1] / trainer.spheres.radius[1] - 1) < 1e-12 < abs(once[1] / trainer.spheres.radius[1] - 1)
    assert 1e-8 < abs(once[2] / trainer.spheres.radius[2] - 1) < 0.1  # the last step left the sphere
    kinds = [base, base.replace(sphere=Sphere(first_twice=True)), base.replace(sphere=Sphere(early=True))]
    ends = [train(task, spec, data).state_dict()["0.weight"] for spec in kinds]
    assert all(not torch.allclose(a, b, atol=1e-6) for a, b in ((ends[0], ends[1]), (ends[0], ends[2])))


def test_projected_norm_is_constant():
    task = get_task("teacher_student")
    specs = rows(task.spec)
    trainer = Trainer(task, specs, task_data(specs[0], "cpu"))
    trainer.train()
    drift = (trainer.ensemble.norm() / trainer.spheres.radius - 1).abs()
    assert drift[2:].max() < 1e-12
    assert drift[0] > 1e-6  # the free runs do move


@pytest.mark.slow
def test_a_run_does_not_depend_on_its_neighbours():
    task = get_task("teacher_student")
    specs = [s.replace(steps=200) for s in rows(task.spec)]
    data = task_data(specs[0], "cpu")
    together = Trainer(task, specs, data)
    together.train()
    for row, spec in enumerate(specs):
        alone = Trainer(task, [spec], data)
        alone.train()
        for name, p in alone.ensemble.params.items():
            torch.testing.assert_close(together.ensemble.params[name][row], p[0], rtol=0, atol=10 * TOLERANCE)


def test_alpha_scales_every_parameter():
    task = get_task("teacher_student")
    spec = task.spec.replace(dtype="float64")
    one, three = (dict(scaled_model(task, spec.replace(alpha=a)).named_parameters()) for a in (1.0, 3.0))
    assert len(one) == 6
    for name in one:
        torch.testing.assert_close(three[name], 3 * one[name])


def test_norm_counts_every_tensor_once():
    task = get_task("teacher_student")
    spec = task.spec.replace(alpha=1.0, dtype="float64")
    trainer = Trainer(task, [spec, spec.replace(seed=1)], task_data(spec, "cpu"))
    assert trainer.ensemble.norm()[0].item() == pytest.approx(weight_norm(scaled_model(task, spec)), rel=1e-12)
    assert trainer.ensemble.norm()[0].item() == pytest.approx(8.68, abs=0.15)  # its expectation at torch's default init


def test_every_epoch_of_the_batch_order_is_a_permutation(spec):
    spec = spec.replace(n_train=10, batch_size=4)
    order = BatchOrder([spec, spec.replace(seed=1, n_train=7)], torch.device("cpu"))
    indices = torch.cat([order(step) for step in range(300)], dim=1)
    for row, n in ((0, 10), (1, 7)):
        epochs = indices[row, : 1190 // n * n].view(-1, n)
        assert torch.equal(epochs.sort(dim=1).values, torch.arange(n).expand_as(epochs))
        assert len({tuple(epoch.tolist()) for epoch in epochs}) > 50
    assert torch.equal(order(5), BatchOrder([spec, spec.replace(seed=1, n_train=7)], torch.device("cpu"))(5))


def test_what_is_measured_is_what_the_model_gives(spec):
    spec = spec.replace(dtype="float64", batch_size=8)
    task = get_task("teacher_student")
    specs = [spec, spec.replace(seed=1, n_train=25)]
    data = task_data(spec, "cpu")
    trainer = Trainer(task, specs, data)
    trainer.train()
    for run, frame in zip(specs, trainer.frames(), strict=True):
        model = train(task, run, data)
        values = frame[frame["step"] == run.steps].set_index(["split", "metric"])["value"]
        with torch.no_grad():
            for split, x, y in (
                ("train", data.train_inputs[0][: run.n_train], data.train_targets[: run.n_train]),
                ("test", data.test_inputs[0], data.test_targets),
            ):
                squares = (model(x) - y).square().mean(dim=1)
                assert values[split, "loss"] == pytest.approx(squares.mean().item(), rel=1e-9)
                assert values[split, "accuracy"] == (squares < 1e-3).double().mean().item()
        assert values["parameters", "weight_norm"] == pytest.approx(weight_norm(model), rel=1e-9)


def test_a_metrics_name_may_hold_a_slash(spec):
    @dataclass(frozen=True)
    class Slashed:
        def __call__(self, ensemble, data):
            return {"a/b/c": ensemble.norm()}

    task, data = get_task("teacher_student"), task_data(spec, "cpu")
    first, second = (Trainer(task, [spec.replace(probes=(Slashed(),))], data) for _ in range(2))
    first.train()
    second.load_state_dict(first.state_dict())
    [table] = second.frames()
    assert first.frames()[0].equals(table)
    assert "a/b/c" in set(table["metric"])
    assert table.index.equals(pd.RangeIndex(len(table)))


@pytest.mark.parametrize("count", [1, 3])
def test_a_resumed_trainer_ends_with_the_same_bits(spec, count):
    task, data = get_task("teacher_student"), task_data(spec, "cpu")
    specs = [spec.replace(seed=s, batch_size=8, weight_decay=0.1 * s) for s in range(count)]
    whole, first, second = (Trainer(task, specs, data) for _ in range(3))
    whole.train()
    while first.step < 11:
        if first.step <= 10:  # all of them are logged steps
            first.measure()
        first.update()
    second.load_state_dict(first.state_dict())
    second.train()
    for name, p in whole.ensemble.params.items():
        assert torch.equal(p, second.ensemble.params[name])
    for a, b in zip(whole.frames(), second.frames(), strict=True):
        assert a.equals(b)


def test_specs_that_cannot_share_a_batch_are_refused(spec):
    task, data = get_task("teacher_student"), task_data(spec, "cpu")
    with pytest.raises(ValueError, match="must agree"):
        Trainer(task, [spec, spec.replace(lr=0.1)], data)
    with pytest.raises(SpecError, match="more than the 10000"):
        Trainer(task, [spec.replace(n_train=10_001)], data)


@dataclass(frozen=True)
class Shift:
    """A perturbation: adds a constant to the inputs."""

    by: float

    def __call__(self, ensemble, inputs, targets):
        assert inputs[0].shape[:2] == targets.shape[:2] == (len(ensemble), 40)
        return tuple(x + self.by for x in inputs)


@dataclass(frozen=True)
class InputGradient:
    """A probe: mean gradient of the loss with respect to the test inputs."""

    examples: int

    def __call__(self, ensemble, data):
        x = data.test_inputs[0][: self.examples].expand(len(ensemble), -1, -1).clone().requires_grad_()
        targets = data.test_targets[: self.examples].expand(len(ensemble), -1, -1)
        (gradient,) = torch.autograd.grad(ensemble.losses((x,), targets).sum(), x)
        return {"input_gradient": gradient.flatten(1).norm(dim=1)}


@pytest.mark.parametrize("count", [1, 2])
def test_probes_and_perturbation_reach_the_run_and_its_hash(spec, count):
    changed = spec.replace(probes=(InputGradient(5),), perturbation=Shift(0.5), dtype="float64")
    task, data = get_task("teacher_student"), task_data(changed, "cpu")
    zero = changed.replace(perturbation=Shift(0.0))
    trainers = {}
    for s in (changed, zero, zero.replace(perturbation=None, probes=())):
        trainer = trainers[s] = Trainer(task, [s.replace(seed=r) for r in range(count)], data)
        trainer.train()
    moved, unmoved, plain = ([p.detach() for p in t.ensemble.params.values()] for t in trainers.values())
    assert all(torch.allclose(a, b, rtol=0, atol=TOLERANCE) for a, b in zip(unmoved, plain, strict=True))
    assert not any(torch.allclose(a, b, atol=1e-6) for a, b in zip(moved, plain, strict=True))
    frame = trainers[changed].frames()[0]
    probed = frame[frame["metric"] == "input_gradient"]
    assert len(probed) == frame["step"].nunique()
    assert (probed["value"] > 0).all()
    assert len({s.hash("") for s in trainers}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["teacher_student", "mnist"])
def test_a_run_has_the_same_curves_alone_and_in_a_batch(name, mnist_data):
    """500 steps, so a verdict cannot depend on which runs happened to share a batch."""
    task = get_task(name)
    spec = task.spec.replace(dtype="float64", steps=500, n_train=60, batch_size=20, alpha=2.0, evaluation_density=1)
    data = mnist_data if name == "mnist" else task_data(spec, "cpu")
    if name == "mnist":  # 200 test images are enough
        data = dataclasses.replace(data, test_inputs=(data.test_inputs[0][:200],), test_targets=data.test_targets[:200])
    alone = Trainer(task, [spec], data)
    others = [spec.replace(seed=1, alpha=0.5), spec, spec.replace(seed=2, weight_decay=1.0, sphere=True, n_train=40)]
    together = Trainer(task, others, data)
    for trainer in (alone, together):
        trainer.train()
    expected, found = alone.frames()[0], together.frames()[1]
    assert expected["step"].max() == 500
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-6, atol=1e-9)
