"""Attacks stay in their ball, are the same alone and together, and do not take a masked gradient for robustness."""

import dataclasses

import numpy as np
import pytest
import torch
from boxes import Boxes, boxes
from torch import nn

from omnigrok import get_task
from omnigrok.errors import SpecError
from omnigrok.probes.robustness import (
    PGD,
    GaussianNoise,
    RobustnessProbe,
    class_labels,
    objective_values,
    values_and_gradient,
)
from omnigrok.trainer import Trainer


@pytest.fixture
def trainer(mnist_data):
    """Two small MNIST runs after a few steps."""
    return trained(mnist_data, runs=2)


def trained(data, runs, **changes):
    task = get_task("mnist")
    base = task.spec.replace(dtype="float64", steps=60, n_train=100, batch_size=50, alpha=1.0, **changes)
    trainer = Trainer(task, [base.replace(seed=s) for s in range(runs)], data)
    while trainer.step < 60:
        trainer.update()
    return trainer


def batch(trainer, n=40):
    data, runs = trainer.data, len(trainer.specs)
    x, y = data.test_inputs[0][:n], data.test_targets[:n]
    return (x.expand(runs, *x.shape),), y.expand(runs, *y.shape)


def accuracy(trainer, inputs, targets):
    return (objective_values(trainer, "margin", inputs, class_labels(targets)) < 0).double().mean(dim=1)


@pytest.mark.parametrize("objective", ["ce", "margin", "dlr"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.5)])
def test_an_attack_stays_in_its_ball_and_in_range_and_climbs(trainer, norm, eps, objective):
    inputs, targets = batch(trainer)
    attacked = PGD(eps, norm=norm, objective=objective).attack(trainer, inputs, targets, "test")
    change = attacked[0] - inputs[0]
    size = change.abs().amax(dim=2) if norm == "linf" else change.norm(dim=2)
    assert size.max().item() <= eps * (1 + 1e-12)
    assert attacked[0].min() >= 0
    assert attacked[0].max() <= 1
    labels = class_labels(targets)
    before, after = (objective_values(trainer, objective, x, labels) for x in (inputs, attacked))
    assert (after.mean(dim=1) > before.mean(dim=1)).all()
    assert (accuracy(trainer, attacked, targets) <= accuracy(trainer, inputs, targets) + 0.05).all()


def test_the_lengths_of_an_attacks_steps():
    """A quarter of the radius each, or twice the radius falling linearly to zero."""
    assert PGD(0.1).steps == RobustnessProbe().steps == 10
    assert RobustnessProbe().margin_steps == 20
    assert [PGD(0.1)._length(i) for i in range(3)] == pytest.approx([0.025] * 3)
    assert [PGD(0.1, step=0.3)._length(i) for i in range(3)] == pytest.approx([0.3] * 3)
    falling = [0.2, 0.16, 0.12, 0.08, 0.04]
    assert [PGD(0.1, 5, decay=True)._length(i) for i in range(5)] == pytest.approx(falling)
    assert [PGD(0.1, 5, step=1.0, decay=True)._length(i) for i in range(5)] == pytest.approx([5 * x for x in falling])


@pytest.mark.parametrize(
    "changes", [{"eps": -0.1}, {"steps": -1}, {"restarts": 0}, {"norm": "l1"}, {"objective": "cw"}]
)
def test_impossible_attacks_are_refused(changes):
    with pytest.raises(SpecError, match="attack"):
        PGD(**{"eps": 0.1, **changes})
    assert PGD(eps=0.0, steps=0, restarts=1)


def test_no_radius_changes_nothing_and_a_larger_one_is_stronger(trainer):
    inputs, targets = batch(trainer, 100)
    assert torch.equal(PGD(0.0).attack(trainer, inputs, targets, "t")[0], inputs[0])
    found = [accuracy(trainer, PGD(e).attack(trainer, inputs, targets, "t"), targets).mean() for e in (0.02, 0.1, 0.3)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] + 0.2


def test_restarts_keep_each_examples_worst(trainer):
    inputs, targets = batch(trainer)
    labels = class_labels(targets)
    one, four = (
        objective_values(trainer, "ce", PGD(0.1, restarts=n).attack(trainer, inputs, targets, "t"), labels)
        for n in (1, 4)
    )
    assert (four >= one - 1e-12).all()
    assert (four > one).any()


def test_decaying_steps_keep_the_worst_point_on_the_way(trainer):
    inputs, targets = batch(trainer, 100)
    labels = class_labels(targets)
    attacks = [PGD(0.1, 10, objective="margin", decay=decay, step=0.2) for decay in (False, True)]
    last, worst = (a.attack(trainer, inputs, targets, "t") for a in attacks)
    assert (worst[0] - inputs[0]).abs().max().item() <= 0.1 * (1 + 1e-12)
    values = [objective_values(trainer, "margin", x, labels) for x in (last, worst)]
    assert values[1].mean() > values[0].mean()  # steps of twice the radius, undiminished, leap from corner to corner
    start = PGD(0.1, 0, objective="margin").attack(trainer, inputs, targets, "t")
    assert (values[1] >= objective_values(trainer, "margin", start, labels)).all()  # the start is on the way


def test_the_gradient_is_autograds(trainer):
    inputs, targets = batch(trainer, 5)
    labels = class_labels(targets)
    values, found = values_and_gradient(trainer, "ce", inputs, labels)
    assert torch.equal(values, objective_values(trainer, "ce", inputs, labels))
    step = 1e-6 * torch.sign(found)
    up, down = (objective_values(trainer, "ce", (inputs[0] + s,), labels) for s in (step, -step))
    torch.testing.assert_close((up - down) / 2e-6, found.abs().sum(dim=2), rtol=1e-4, atol=1e-7)


def test_adversarial_training_is_the_same_alone_and_in_a_batch(mnist_data):
    attack = PGD(0.1, steps=2)
    together, alone = (trained(mnist_data, runs, perturbation=attack) for runs in (2, 1))
    for name, parameter in alone.ensemble.params.items():
        torch.testing.assert_close(together.ensemble.params[name][0], parameter[0], rtol=0, atol=1e-8)


def test_noise_has_its_size_and_is_fresh_each_step(trainer):
    inputs, targets = batch(trainer)
    noise = GaussianNoise(0.3)
    first = noise(trainer, inputs, targets)[0] - inputs[0]
    assert first.std().item() == pytest.approx(0.3, rel=0.02)
    assert torch.equal(noise(trainer, inputs, targets)[0] - inputs[0], first)
    trainer.step += 1
    assert not torch.equal(noise(trainer, inputs, targets)[0] - inputs[0], first)


def test_a_masked_gradient_is_flagged(trainer):
    probe = RobustnessProbe(eps=(0.2,), examples=100)
    honest = probe(trainer)
    with torch.no_grad():
        for name, parameter in trainer.ensemble.params.items():
            if name.startswith("4."):  # the last layer: logits so large that the softmax saturates
                parameter.mul_(1e6)
    masked = probe(trainer)
    assert honest["zero_gradient"].max() == 0
    assert masked["zero_gradient"].min() > 0.5
    assert (masked["robust_0.2"] > honest["robust_0.2"] + 0.1).all()  # it only looks robust
    torch.testing.assert_close(masked["margin_0.2"], honest["margin_0.2"], rtol=0, atol=0.03)


def test_only_the_first_input_is_attacked():
    class Two(Boxes):
        def load(self, spec):
            data = super().load(spec)
            return dataclasses.replace(
                data,
                train_inputs=(*data.train_inputs, data.train_inputs[0] + 1),
                test_inputs=(*data.test_inputs, data.test_inputs[0] + 1),
            )

        def model(self, spec):
            return Product(super().model(spec))

    class Product(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, factor):
            return self.net(x * factor)

    trainer = boxes(task=Two())
    inputs, targets = batch(trainer)[0], batch(trainer)[1]
    inputs = (*inputs, trainer.data.test_inputs[1][:40].expand(2, 40, -1))
    attacked = PGD(0.1).attack(trainer, inputs, targets, "test")
    assert len(attacked) == 2
    assert attacked[1] is inputs[1]
    assert not torch.equal(attacked[0], inputs[0])
    noisy = GaussianNoise(0.1)(trainer, inputs, targets)
    assert len(noisy) == 2
    assert noisy[1] is inputs[1]
    assert not torch.equal(noisy[0], inputs[0])
    before, after = (objective_values(trainer, "ce", x, targets) for x in (inputs, attacked))
    assert after.mean() > before.mean()
    assert set(RobustnessProbe(examples=50, train=True)(trainer)) == {
        "robust_0.1", "margin_0.1", "zero_gradient", "robust_train_0.1"
    }  # fmt: skip


def test_a_probe_needs_the_training_examples_that_it_attacks():
    RobustnessProbe(examples=70, train=True)(boxes(1, n_train=70))
    with pytest.raises(SpecError, match="of 71 examples needs as many training examples"):
        RobustnessProbe(examples=71, train=True)(boxes(1, n_train=70))


def test_only_classes_can_be_attacked():
    with pytest.raises(SpecError, match="classes or one-hot"):
        class_labels(torch.zeros(2, 5))
    with pytest.raises(SpecError, match="classes or one-hot"):
        class_labels(torch.full((1, 2, 5), 0.2))
    assert class_labels(torch.tensor([[1, 2]])).tolist() == [[1, 2]]
    with pytest.raises(SpecError, match="eps >= 0"):
        PGD(-0.1)
    with pytest.raises(SpecError, match="linf or l2"):
        PGD(0.1, norm="l1")
    with pytest.raises(SpecError, match="ce, margin or dlr"):
        PGD(0.1, objective="hinge")


def test_inputs_that_the_clamp_would_change_are_refused(trainer):
    (images, *rest), targets = batch(trainer)
    with pytest.raises(SpecError, match="inputs lie outside 0 to 1"):
        PGD(0.1).attack(trainer, (images * 2 - 1, *rest), targets, "evaluation")
    PGD(0.1, steps=1, low=-1.0).attack(trainer, (images * 2 - 1, *rest), targets, "evaluation")


def test_the_ratio_of_logits_does_not_depend_on_their_scale(trainer):
    """dlr = (z_wrong - z_right) / (z_1 - z_3), by hand from the outputs."""
    inputs, targets = batch(trainer)
    labels = class_labels(targets)
    found = objective_values(trainer, "dlr", inputs, labels)
    with torch.no_grad():
        z = trainer.ensemble.model(0)(inputs[0][0])
    order = z.argsort(dim=1, descending=True)
    for i, label in enumerate(labels[0].tolist()):
        wrong = max(z[i, j].item() for j in range(10) if j != label)
        span = (z[i, order[i, 0]] - z[i, order[i, 2]]).item()
        assert found[0, i].item() == pytest.approx((wrong - z[i, label].item()) / span)
    with torch.no_grad():
        for name, parameter in trainer.ensemble.params.items():
            if name.startswith("4."):  # the last layer
                parameter.mul_(1e3)
    torch.testing.assert_close(objective_values(trainer, "dlr", inputs, labels), found)


def test_the_attack_is_part_of_a_runs_identity():
    spec = get_task("mnist").spec
    hashes = {s.hash("data") for s in (spec, spec.replace(perturbation=PGD(0.1)), spec.replace(perturbation=PGD(0.2)))}
    assert len(hashes) == 3


@pytest.mark.slow
def test_a_librarys_attacks_agree(mnist_data):
    """The accuracy that `RobustnessProbe` logs against APGD and Square of the Adversarial Robustness Toolbox.

    No attack of the library may find 3 points less than the worse of ours, and its APGD must find as much.
    """
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
    from art.estimators.classification import PyTorchClassifier

    eps, n = 0.1, 200
    task = get_task("mnist")
    spec = task.spec.replace(alpha=1.0, steps=300, options=(("depth", 4),))
    data = mnist_data.to(torch.float32)
    trainer = Trainer(task, [spec], data)
    for _ in range(spec.steps):
        trainer.update()
    ours = RobustnessProbe(eps=(eps,), steps=40, examples=n)(trainer)
    best = min(ours[f"robust_{eps}"].item(), ours[f"margin_{eps}"].item())

    images, labels = data.test_inputs[0][:n].view(n, 1, 28, 28).numpy(), data.test_targets[:n].numpy()
    model = torch.nn.Sequential(torch.nn.Flatten(), trainer.ensemble.model(0)).eval()
    shared = {"norm": float("inf"), "eps": eps, "batch_size": n, "verbose": False}
    with torch.random.fork_rng():  # the library draws from the global generators
        torch.manual_seed(0)
        np.random.seed(0)
        classifier = PyTorchClassifier(
            model, torch.nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0.0, 1.0), device_type="cpu"
        )
        attacks = [
            AutoProjectedGradientDescent(
                classifier, eps_step=2 * eps, max_iter=40, nb_random_init=1, loss_type=loss, **shared
            )
            for loss in ("cross_entropy", "difference_logits_ratio")
        ]
        attacks.append(SquareAttack(classifier, max_iter=300, nb_restarts=1, **shared))
        found = [classifier.predict(attack.generate(images, labels)) for attack in attacks]
    first, second, square = ((f.argmax(axis=1) == labels.argmax(axis=1)).mean() for f in found)
    assert min(first, second) == pytest.approx(best, abs=0.03)
    assert square >= best - 0.03
    assert best < accuracy(trainer, *batch(trainer, n)).item() - 0.1  # there was something to find
