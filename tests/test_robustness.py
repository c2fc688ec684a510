"""Attacks stay in their ball, are the same alone and together, and do not take a masked gradient for robustness."""

import copy
import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from boxes import Boxes, boxes
from normed import Normed
from torch import nn

from omnigrok import get_task
from omnigrok.ensemble import scaled_model
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
    return (objective_values(trainer.ensemble, "margin", inputs, class_labels(targets)) < 0).double().mean(dim=1)


@pytest.mark.parametrize("objective", ["ce", "margin", "dlr"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.5)])
def test_an_attack_stays_in_its_ball_and_in_range_and_climbs(trainer, norm, eps, objective):
    inputs, targets = batch(trainer)
    attacked = PGD(eps, norm=norm, objective=objective).attack(trainer.ensemble, inputs, targets, "test")
    change = attacked[0] - inputs[0]
    size = change.abs().amax(dim=2) if norm == "linf" else change.norm(dim=2)
    assert size.max().item() <= eps * (1 + 1e-12)
    assert attacked[0].min() >= 0
    assert attacked[0].max() <= 1
    labels = class_labels(targets)
    before, after = (objective_values(trainer.ensemble, objective, x, labels) for x in (inputs, attacked))
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


IMPOSSIBLE = [
    {"steps": -1}, {"norm": "l1"}, {"step": 0.0}, {"step": -0.1}, {"step": math.inf}, {"step": math.nan},
    {"low": 1.0, "high": 1.0}, {"low": 2.0}, {"high": -1.0}, {"high": math.nan},
]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [*IMPOSSIBLE, {"eps": -0.1}, {"eps": math.inf}, {"eps": math.nan}, {"restarts": 0}, {"objective": "cw"}],
    ids=str,
)
def test_impossible_attacks_are_refused(changes):
    with pytest.raises(SpecError, match="attack") as caught:
        PGD(**{"eps": 0.1, **changes})
    assert "\n" not in str(caught.value)
    assert PGD(eps=0.0, steps=0, restarts=1, step=1e-9, low=-math.inf, high=math.inf)


@pytest.mark.parametrize("changes", [*IMPOSSIBLE, {"margin_steps": -1}, {"examples": 0}, {"chunk": 0}], ids=str)
def test_a_probe_of_an_impossible_attack_is_refused_when_it_is_made(changes):
    with pytest.raises(SpecError, match="attack"):
        RobustnessProbe(**changes)


def test_a_probe_attacks_as_it_is_told():
    """With the range, norm and step of PGD; the stronger attack keeps its own steps."""
    trainer = boxes()
    n, settings = 60, {"low": -1.0, "high": 0.9, "norm": "l2"}
    inputs, targets = batch(trainer, n)
    probe = RobustnessProbe(eps=(0.2,), steps=4, margin_steps=5, examples=n, step=0.03, **settings)
    found = probe(trainer.ensemble, trainer.data)
    for name, attack in {
        "robust_0.2": PGD(0.2, 4, step=0.03, **settings),
        "margin_0.2": PGD(0.2, 5, objective="margin", decay=True, **settings),
    }.items():
        attacked = attack.attack(trainer.ensemble, inputs, targets, "evaluation")
        assert found[name].tolist() == accuracy(trainer, attacked, targets).tolist()
    plain = RobustnessProbe(eps=(0.2,), steps=4, margin_steps=5, examples=n)(trainer.ensemble, trainer.data)
    assert found["robust_0.2"].tolist() != plain["robust_0.2"].tolist()


def test_the_advice_of_a_probe_can_be_followed():
    class Centred(Boxes):
        def load(self, spec):
            data = super().load(spec)
            return dataclasses.replace(
                data,
                train_inputs=(2 * data.train_inputs[0] - 1,),
                test_inputs=(2 * data.test_inputs[0] - 1,),
            )

    trainer = boxes(task=Centred())
    with pytest.raises(SpecError, match=r"outside 0 to 1.*give the attack \(PGD, RobustnessProbe\) its low and high"):
        RobustnessProbe(examples=20)(trainer.ensemble, trainer.data)
    assert RobustnessProbe(examples=20, low=-1.0)(trainer.ensemble, trainer.data)


def test_a_probes_range_names_runs_only_where_it_is_not_the_usual_one():
    spec = get_task("mnist").spec
    plain = RobustnessProbe(eps=(0.06, 0.1), steps=5)
    [said] = spec.replace(probes=(plain,)).canonical()["probes"]
    assert said == {
        "type": "RobustnessProbe", "eps": [0.06, 0.1], "steps": 5, "margin_steps": 20, "examples": 1000, "train": False,
        "chunk": 250,
    }  # fmt: skip
    others = [{"low": -1.0}, {"high": 2.0}, {"norm": "l2"}, {"step": 0.1}]
    probes = [plain, *(dataclasses.replace(plain, **each) for each in others)]
    assert len({spec.replace(probes=(probe,)).hash("") for probe in probes}) == 5
    same = dataclasses.replace(plain, low=0, high=1, norm="linf", step=None)
    assert spec.replace(probes=(same,)).hash("") == spec.replace(probes=(plain,)).hash("")


def test_no_radius_changes_nothing_and_a_larger_one_is_stronger(trainer):
    inputs, targets = batch(trainer, 100)
    assert torch.equal(PGD(0.0).attack(trainer.ensemble, inputs, targets, "t")[0], inputs[0])
    found = [
        accuracy(trainer, PGD(e).attack(trainer.ensemble, inputs, targets, "t"), targets).mean()
        for e in (0.02, 0.1, 0.3)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] + 0.2


def test_restarts_keep_each_examples_worst(trainer):
    inputs, targets = batch(trainer)
    labels = class_labels(targets)
    one, four = (
        objective_values(
            trainer.ensemble, "ce", PGD(0.1, restarts=n).attack(trainer.ensemble, inputs, targets, "t"), labels
        )
        for n in (1, 4)
    )
    assert (four >= one - 1e-12).all()
    assert (four > one).any()


def test_decaying_steps_keep_the_worst_point_on_the_way(trainer):
    inputs, targets = batch(trainer, 100)
    labels = class_labels(targets)
    attacks = [PGD(0.1, 10, objective="margin", decay=decay, step=0.2) for decay in (False, True)]
    last, worst = (a.attack(trainer.ensemble, inputs, targets, "t") for a in attacks)
    assert (worst[0] - inputs[0]).abs().max().item() <= 0.1 * (1 + 1e-12)
    values = [objective_values(trainer.ensemble, "margin", x, labels) for x in (last, worst)]
    assert values[1].mean() > values[0].mean()  # steps of twice the radius, undiminished, leap from corner to corner
    start = PGD(0.1, 0, objective="margin").attack(trainer.ensemble, inputs, targets, "t")
    assert (values[1] >= objective_values(trainer.ensemble, "margin", start, labels)).all()  # the start is on the way


def test_the_gradient_is_autograds(trainer):
    inputs, targets = batch(trainer, 5)
    labels = class_labels(targets)
    values, found = values_and_gradient(trainer.ensemble, "ce", inputs, labels)
    assert torch.equal(values, objective_values(trainer.ensemble, "ce", inputs, labels))
    step = 1e-6 * torch.sign(found)
    up, down = (objective_values(trainer.ensemble, "ce", (inputs[0] + s,), labels) for s in (step, -step))
    torch.testing.assert_close((up - down) / 2e-6, found.abs().sum(dim=2), rtol=1e-4, atol=1e-7)


def test_adversarial_training_is_the_same_alone_and_in_a_batch(mnist_data):
    attack = PGD(0.1, steps=2)
    together, alone = (trained(mnist_data, runs, perturbation=attack) for runs in (2, 1))
    for name, parameter in alone.ensemble.params.items():
        torch.testing.assert_close(together.ensemble.params[name][0], parameter[0], rtol=0, atol=1e-8)


def test_noise_has_its_size_and_is_fresh_each_step(trainer):
    inputs, targets = batch(trainer)
    noise = GaussianNoise(0.3)
    first = noise(trainer.ensemble, inputs, targets)[0] - inputs[0]
    assert first.std().item() == pytest.approx(0.3, rel=0.02)
    assert torch.equal(noise(trainer.ensemble, inputs, targets)[0] - inputs[0], first)
    trainer.step += 1
    assert not torch.equal(noise(trainer.ensemble, inputs, targets)[0] - inputs[0], first)


def test_a_masked_gradient_is_flagged(trainer):
    probe = RobustnessProbe(eps=(0.2,), examples=100)
    honest = probe(trainer.ensemble, trainer.data)
    with torch.no_grad():
        for name, parameter in trainer.ensemble.params.items():
            if name.startswith("4."):  # the last layer: logits so large that the softmax saturates
                parameter.mul_(1e6)
    masked = probe(trainer.ensemble, trainer.data)
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
    attacked = PGD(0.1).attack(trainer.ensemble, inputs, targets, "test")
    assert len(attacked) == 2
    assert attacked[1] is inputs[1]
    assert not torch.equal(attacked[0], inputs[0])
    noisy = GaussianNoise(0.1)(trainer.ensemble, inputs, targets)
    assert len(noisy) == 2
    assert noisy[1] is inputs[1]
    assert not torch.equal(noisy[0], inputs[0])
    before, after = (objective_values(trainer.ensemble, "ce", x, targets) for x in (inputs, attacked))
    assert after.mean() > before.mean()
    assert set(RobustnessProbe(examples=50, train=True)(trainer.ensemble, trainer.data)) == {
        "robust_0.1", "margin_0.1", "zero_gradient", "robust_train_0.1"
    }  # fmt: skip


def test_a_probe_needs_the_training_examples_that_it_attacks():
    trainer = boxes(1, n_train=70)
    RobustnessProbe(examples=70, train=True)(trainer.ensemble, trainer.data)
    with pytest.raises(SpecError, match="of 71 examples needs as many training examples"):
        RobustnessProbe(examples=71, train=True)(trainer.ensemble, trainer.data)


CLASSES = torch.tensor([[1, 0, 2, 1], [0, 0, 1, 2]])
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32]
ANY = [*WHOLE, torch.bool, torch.float64, torch.float32, torch.float16]


@pytest.mark.parametrize(
    "targets",
    [CLASSES.to(kind) for kind in WHOLE]
    + [CLASSES.to(kind).unsqueeze(2) for kind in WHOLE]
    + [torch.nn.functional.one_hot(CLASSES).to(kind) for kind in ANY],
    ids=lambda x: f"{x.dtype} {tuple(x.shape)}",
)
def test_labels_of_any_kind_are_classes(targets):
    found = class_labels(targets)
    assert found.dtype == torch.int64
    assert torch.equal(found, CLASSES)
    if targets.is_floating_point() or targets.ndim == 2:
        return
    binary = (CLASSES > 0).to(torch.bool)
    assert torch.equal(class_labels(binary), binary.long())
    assert torch.equal(class_labels(binary.unsqueeze(2)), binary.long())


@pytest.mark.parametrize(
    "targets",
    [
        torch.zeros(2, 5),
        torch.ones(2, 5, 1),
        torch.full((1, 2, 5), 0.2),
        torch.tensor([[1, -1]]),
        torch.tensor([[[1], [-100]]]),
        torch.zeros(1, 2, 3, dtype=torch.int64),
        torch.tensor([[[1, 1, 0]]]),
        torch.tensor([[[0, 2, -1]]]),
        torch.ones(1, 2, 3, dtype=torch.bool),
        torch.zeros(1, 2, 3, 4),
        torch.zeros(1, 2, dtype=torch.complex64),
    ],
    ids=lambda x: f"{x.dtype} {tuple(x.shape)}",
)
def test_what_is_no_class_is_one_line(targets):
    with pytest.raises(SpecError, match="targets must be classes or one-hot") as caught:
        class_labels(targets)
    assert "\n" not in str(caught.value)


class Relabelled(Boxes):
    """The boxes with other targets of the same classes, which no step is trained on."""

    def __init__(self, change):
        self.change = change

    def load(self, spec):
        data = super().load(spec)
        return dataclasses.replace(
            data, train_targets=self.change(data.train_targets), test_targets=self.change(data.test_targets)
        )

    def loss(self, outputs, targets):
        return outputs.mean(dim=1)

    def metrics(self, outputs, targets):
        return {"accuracy": torch.zeros(len(targets)).double()}


@pytest.mark.parametrize(
    "change",
    [lambda y: y.to(torch.uint8), lambda y: y.int()[:, None], torch.nn.functional.one_hot],
    ids=["uint8", "a column", "one-hot"],
)
def test_attacks_do_not_depend_on_how_classes_are_written(change):
    probe = RobustnessProbe(steps=3, margin_steps=3, examples=40)
    trainers = [boxes(task=task) for task in (Boxes(), Relabelled(change))]
    for name, values in probe(trainers[0].ensemble, trainers[0].data).items():
        assert torch.equal(probe(trainers[1].ensemble, trainers[1].data)[name], values), name


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("attack", [PGD(0.1, 1), PGD(0.0, 0), GaussianNoise(0.1)], ids=str)
def test_inputs_of_whole_numbers_are_refused(attack, kind, runs):
    trainer = boxes(runs)
    (x,), targets = batch(trainer)
    with pytest.raises(SpecError, match=rf"inputs of {kind} cannot .* make them floats"):
        attack(trainer.ensemble, (x.round().to(kind),), targets)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("objective", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("last", [nn.Linear(10, 1), nn.Unflatten(1, (2, 5)), nn.Flatten(0)], ids=str)
def test_outputs_that_are_no_classes_are_one_line(objective, last, runs):
    class Other(Boxes):
        def model(self, spec):
            return super().model(spec)[:4].append(copy.deepcopy(last)).double()

        def loss(self, outputs, targets):
            return outputs.view(len(targets), -1).mean(dim=1)

        def metrics(self, outputs, targets):
            return {"accuracy": torch.zeros(len(targets)).double()}

    trainer = boxes(runs, task=Other())
    inputs, targets = batch(trainer)
    with pytest.raises(SpecError, match=r"needs logits \(batch, classes\) of two classes or more"):
        PGD(0.1, 1, objective=objective).attack(trainer.ensemble, inputs, targets, "test")


@dataclass(frozen=True)
class SignStep:
    """An attack of one's own, of one step, that minds no buffers."""

    eps: float

    def __call__(self, ensemble, inputs, targets):
        _, slope = values_and_gradient(ensemble, "ce", inputs, targets)
        return ((inputs[0] + self.eps * slope.sign()).clamp(0, 1), *inputs[1:])


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("attack", [PGD(0.05, 3), PGD(0.3, 2, norm="l2", restarts=2), SignStep(0.05)], ids=str)
def test_an_attack_does_not_move_running_statistics(attack, runs):
    """They are those of a plain loop whose attack is computed on a copy of the model."""
    task, steps = Normed(), 6
    specs = [task.spec.replace(seed=s, alpha=1.0 + s, perturbation=attack, steps=steps) for s in range(runs)]
    trainer, copied = (Trainer(task, specs, task.load(task.spec)) for _ in range(2))
    models = [scaled_model(task, spec) for spec in specs]
    optimizers = [
        spec.optimizer.plain(model.parameters(), spec.lr, 0.0) for spec, model in zip(specs, models, strict=True)
    ]
    for _ in range(steps):
        inputs, targets, _ = trainer.batch()
        copied.load_state_dict(copy.deepcopy(trainer.state_dict()))
        attacked = attack(copied.ensemble, inputs, targets)[0]
        for r, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            optimizer.zero_grad()
            task.loss(model(attacked[r]), targets[r]).mean().backward()
            optimizer.step()
        trainer.update()
    for r, model in enumerate(models):
        found = trainer.ensemble.model(r).state_dict()
        for name, x in model.state_dict().items():
            torch.testing.assert_close(found[name], x, rtol=0, atol=1e-9)
        assert found["1.num_batches_tracked"] == steps
    before = trainer.ensemble.stacked()
    if isinstance(attack, PGD):  # also where it is called by hand
        attack.attack(trainer.ensemble, inputs, targets, "by hand")
        assert all(torch.equal(x, before[name]) for name, x in trainer.ensemble.stacked().items())


def test_settings_of_an_attack_are_named():
    with pytest.raises(SpecError, match="eps >= 0"):
        PGD(-0.1)
    with pytest.raises(SpecError, match="linf or l2"):
        PGD(0.1, norm="l1")
    with pytest.raises(SpecError, match="ce, margin or dlr"):
        PGD(0.1, objective="hinge")


def test_inputs_that_the_clamp_would_change_are_refused(trainer):
    (images, *rest), targets = batch(trainer)
    with pytest.raises(SpecError, match="inputs lie outside 0 to 1"):
        PGD(0.1).attack(trainer.ensemble, (images * 2 - 1, *rest), targets, "evaluation")
    PGD(0.1, steps=1, low=-1.0).attack(trainer.ensemble, (images * 2 - 1, *rest), targets, "evaluation")


def test_the_ratio_of_logits_does_not_depend_on_their_scale(trainer):
    """dlr = (z_wrong - z_right) / (z_1 - z_3), by hand from the outputs."""
    inputs, targets = batch(trainer)
    labels = class_labels(targets)
    found = objective_values(trainer.ensemble, "dlr", inputs, labels)
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
    torch.testing.assert_close(objective_values(trainer.ensemble, "dlr", inputs, labels), found)


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
    ours = RobustnessProbe(eps=(eps,), steps=40, examples=n)(trainer.ensemble, trainer.data)
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
