"""Optimizers, gradient parts, losses, spheres and changes on the way: each against torch or its definition written
plainly, alone and in a batch, and killed and resumed."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from boxes import Boxes, boxes
from torch import nn

from omnigrok import Store, run_sweep
from omnigrok.analysis import grokking_times
from omnigrok.changes import ChangeAt, Stop
from omnigrok.ensemble import scaled_model
from omnigrok.errors import SpecError
from omnigrok.gradients import (
    Clip,
    GradientNoise,
    Grokfast,
    GrokfastWindow,
    OrthogonalGradient,
    WeightNoise,
)
from omnigrok.losses import CrossEntropy, SquaredError, StableMax, Temperature
from omnigrok.optimizers import SAM, SGD, Adam, AdamW, Muon, orthogonal
from omnigrok.oracle import Stream
from omnigrok.schedule import Cosine, Drop, Warmup
from omnigrok.spec import generator
from omnigrok.sphere import Sphere
from omnigrok.trainer import Trainer

STEPS = 12


class Embedded(Boxes):
    """A table of vectors, matrices that are tall and wide, and vectors."""

    name = "embedded"

    def load(self, spec):
        data = super().load(spec)
        words = [(x[:, :4] * 10).long() for x in (data.train_inputs[0], data.test_inputs[0])]
        return dataclasses.replace(data, train_inputs=(words[0],), test_inputs=(words[1],))

    def model(self, spec):
        double = {"dtype": torch.float64}
        return nn.Sequential(
            nn.Embedding(10, 3, **double),
            nn.Flatten(),
            nn.Linear(12, 5, **double),
            nn.Tanh(),
            nn.Linear(5, 3, **double),
        )


def trained(task=None, runs=3, steps=STEPS, **changes):
    """Runs that differ in seed, alpha and weight decay, after some steps."""
    task = task or Boxes()
    spec = task.spec.replace(n_train=40, batch_size=16, steps=steps, lr=1e-2, **changes)
    specs = [spec.replace(seed=s, alpha=1.0 + s, weight_decay=0.1 * s) for s in range(runs)]
    trainer = Trainer(task, specs, task.load(spec))
    trainer.train()
    return trainer


MECHANISMS = {
    "adam": {"optimizer": Adam((0.8, 0.9))},
    "adam to init": {"optimizer": Adam(decay_to="init")},
    "adamw": {"optimizer": AdamW()},
    "adamw to init": {"optimizer": AdamW(decay_to="init")},
    "sgd": {"optimizer": SGD()},
    "momentum": {"optimizer": SGD(momentum=0.9)},
    "nesterov": {"optimizer": SGD(momentum=0.9, nesterov=True)},
    "muon": {"optimizer": Muon()},
    "muon, plain momentum": {"optimizer": Muon(nesterov=False, steps=3)},
    "sam": {"optimizer": SAM()},
    "sam over adam": {"optimizer": SAM(0.1, Adam())},
    "warm-up": {"schedule": Warmup(5)},
    "warm-up, cosine": {"schedule": (Warmup(3), Cosine(floor=0.1))},
    "drop": {"schedule": Drop(4, 0.5)},
    "clip": {"gradient": Clip(0.05)},
    "gradient noise": {"gradient": GradientNoise(0.05)},
    "noise, then clip, then grokfast": {"gradient": (GradientNoise(0.05), Clip(0.1), Grokfast())},
    "grokfast": {"gradient": Grokfast(0.8, 1.5)},
    "grokfast, window": {"gradient": GrokfastWindow(4, 2.0)},
    "orthogonal gradient": {"gradient": OrthogonalGradient()},
    "orthogonal gradient, same length": {"gradient": OrthogonalGradient(same_length=True)},
    "weight noise": {"weight_noise": WeightNoise(0.1)},
    "squared error": {"loss": SquaredError()},
    "label smoothing": {"loss": CrossEntropy(smoothing=0.1)},
    "stablemax": {"loss": StableMax()},
    "temperature": {"loss": Temperature(3.0)},
    "sphere of weights": {"sphere": Sphere(of="weights")},
    "sphere, doubled": {"sphere": Sphere(scale=2.0)},
    "sphere, absolute": {"sphere": Sphere(norm=5.0)},
    "sphere, late": {"sphere": Sphere(start=5)},
    "sphere, late and halved": {"sphere": Sphere(start=5, scale=0.5, of="weights")},
    "other rate": {"changes": ChangeAt(6, lr=1e-3)},
    "other decay": {"changes": ChangeAt(6, weight_decay=2.0)},
    "more data": {"changes": (ChangeAt(4, n_train=60), ChangeAt(8, n_train=30, lr=1e-3))},
}


def forget_neighbours(trainer, r):
    return {name: p[r] for name, p in trainer.ensemble.params.items()}


@pytest.mark.parametrize("task", [Boxes(), Embedded()], ids=["boxes", "embedded"])
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_run_is_the_same_alone_and_in_a_batch(name, task):
    together = trained(task, **MECHANISMS[name])
    for r, spec in enumerate(together.specs):
        original = task.spec.replace(n_train=40, batch_size=16, steps=STEPS, lr=1e-2, **MECHANISMS[name]).replace(
            seed=spec.seed, alpha=spec.alpha, weight_decay=0.1 * r
        )
        alone = Trainer(task, [original], task.load(original))
        alone.train()
        for parameter, p in alone.ensemble.params.items():
            torch.testing.assert_close(together.ensemble.params[parameter][r], p[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_mechanism_changes_the_run(name):
    plain, changed = trained(), trained(**MECHANISMS[name])
    moved = max((a - b).abs().max() for a, b in zip(plain.ensemble.theta, changed.ensemble.theta, strict=True))
    assert (moved > 1e-6) == (name != "adamw")


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_resumed_run_ends_with_the_same_bits(name, runs):
    """From a checkpoint at every step."""
    states = []
    task = Embedded()
    spec = task.spec.replace(n_train=40, batch_size=16, steps=STEPS, lr=1e-2, **MECHANISMS[name])
    specs = [spec.replace(seed=s, weight_decay=0.1 * s) for s in range(runs)]
    data = task.load(spec)
    whole = Trainer(task, specs, data)
    whole.train(checkpoint=lambda: states.append(copy.deepcopy(whole.state_dict())), checkpoint_seconds=-1)
    for state in states[::3]:
        resumed = Trainer(task, specs, data)
        resumed.load_state_dict(state)
        resumed.train()
        for a, b in zip(whole.ensemble.theta, resumed.ensemble.theta, strict=True):
            assert torch.equal(a, b)
        for a, b in zip(whole.frames(), resumed.frames(), strict=True):
            assert a.equals(b)


class Loop:
    """One run written plainly: a module, its batches, and the definitions below."""

    def __init__(self, task, seed=1, **changes):
        self.spec = task.spec.replace(
            n_train=40, batch_size=16, steps=STEPS, lr=1e-2, seed=seed, alpha=1.0 + seed, weight_decay=0.1 * seed
        ).replace(**changes)
        self.task, self.data = task, task.load(self.spec)
        self.model = scaled_model(task, self.spec)
        self.parameters = list(self.model.parameters())
        self.init = [p.detach().clone() for p in self.parameters]
        self.order = list(Stream(self.spec))
        self.step = 0

    def gradients(self, loss=None):
        index = self.order[16 * self.step : 16 * (self.step + 1)]
        outputs = self.model(self.data.train_inputs[0][index])
        losses = (loss or self.task.loss)(outputs, self.data.train_targets[index])
        return list(torch.autograd.grad(losses.mean(), self.parameters))

    @torch.no_grad()
    def move(self, by):
        for p, d in zip(self.parameters, by, strict=True):
            p.add_(d)


def of_torch(optimizer):
    def train(loop):
        steps = optimizer(loop.parameters, loop.spec)
        for loop.step in range(STEPS):
            for p, g in zip(loop.parameters, loop.gradients(), strict=True):
                p.grad = g
            steps.step()

    return train


def decayed_to_init(decoupled):
    """AdamW and Adam whose weight decay pulls to the init: the pull is taken off, or added to the gradient, by hand."""

    def train(loop):
        steps = torch.optim.Adam(loop.parameters, lr=loop.spec.lr)
        wd, lr = loop.spec.weight_decay, loop.spec.lr
        for loop.step in range(STEPS):
            away = [p.detach() - w for p, w in zip(loop.parameters, loop.init, strict=True)]
            for p, g, a in zip(loop.parameters, loop.gradients(), away, strict=True):
                p.grad = g if decoupled else g + wd * a
            if decoupled:
                loop.move([-lr * wd * a for a in away])
            steps.step()

    return train


def with_gradients(change, optimizer=None):
    def train(loop):
        steps = (
            optimizer(loop)
            if optimizer
            else torch.optim.AdamW(loop.parameters, lr=loop.spec.lr, weight_decay=loop.spec.weight_decay)
        )
        memory = {}
        for loop.step in range(STEPS):
            for p, g in zip(loop.parameters, change(loop, loop.gradients(), memory), strict=True):
                p.grad = g
            steps.step()

    return train


def muon(nesterov, count):
    def train(loop):
        named = dict(loop.model.named_parameters())
        tables = {"0.weight"} if isinstance(loop.model[0], nn.Embedding) else set()
        matrices = {n: torch.zeros_like(p) for n, p in named.items() if p.ndim == 2 and n not in tables}
        others = [p for n, p in named.items() if n not in matrices]
        adam = torch.optim.Adam(others, lr=loop.spec.lr)
        lr, wd = loop.spec.lr, loop.spec.weight_decay
        for loop.step in range(STEPS):
            gradients = dict(zip(named, loop.gradients(), strict=True))
            with torch.no_grad():
                for name, p in named.items():
                    p.sub_(lr * wd * p)
                    p.grad = gradients[name]
                    if name in matrices:
                        matrices[name] = 0.95 * matrices[name] + gradients[name]
                        ahead = gradients[name] + 0.95 * matrices[name] if nesterov else matrices[name]
                        x = ahead / (ahead.norm() + 1e-7)
                        for _ in range(count):
                            a = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
                            poly = -4.7750 * a + 2.0315 * a @ a
                            x = 3.4445 * x + (poly @ x if x.shape[0] <= x.shape[1] else x @ poly)
                        p.sub_(lr * max(1, p.shape[0] / p.shape[1]) ** 0.5 * x)
            adam.step()

    return train


def sam(rho, optimizer):
    def train(loop):
        steps = optimizer(loop)
        for loop.step in range(STEPS):
            up = loop.gradients()
            length = math.sqrt(sum(float(g.square().sum()) for g in up))
            before = [p.detach().clone() for p in loop.parameters]
            loop.move([rho * g / (length + 1e-12) for g in up])
            gradients = loop.gradients()
            with torch.no_grad():
                for p, w, g in zip(loop.parameters, before, gradients, strict=True):
                    p.copy_(w)
                    p.grad = g
            steps.step()

    return train


def grokfast(loop, gradients, memory):
    memory["m"] = [0.8 * m + 0.2 * g for m, g in zip(memory.get("m", [0.0] * 9), gradients, strict=False)]
    return [g + 1.5 * m for g, m in zip(gradients, memory["m"], strict=True)]


def windowed(loop, gradients, memory):
    last = memory.setdefault("last", [])
    last.append(gradients)
    if len(last) < 4:
        return gradients
    return [g + 2.0 * sum(each[i] for each in last[-4:]) / 4 for i, g in enumerate(gradients)]


def orthogonalised(loop, gradients, memory):
    return [g - (g * p).sum() / (p * p).sum() * p.detach() for g, p in zip(gradients, loop.parameters, strict=True)]


def noisy(loop, gradients, memory):
    seed = loop.spec.seed
    return [
        g + 0.05 * torch.randn(g.shape, generator=generator(seed, "gradient noise", loop.step, i)).double()
        for i, g in enumerate(gradients)
    ]


def clipped(loop, gradients, memory):
    length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    return [g * min(1.0, 0.05 / (length + 1e-6)) for g in gradients]


def weight_noise(loop):
    steps = torch.optim.AdamW(loop.parameters, lr=loop.spec.lr, weight_decay=loop.spec.weight_decay)
    for loop.step in range(STEPS):
        noise = [
            0.1 * torch.randn(p.shape, generator=generator(loop.spec.seed, "weight noise", loop.step, i)).double()
            for i, p in enumerate(loop.parameters)
        ]
        before = [p.detach().clone() for p in loop.parameters]
        loop.move(noise)
        gradients = loop.gradients()
        with torch.no_grad():
            for p, w, g in zip(loop.parameters, before, gradients, strict=True):
                p.copy_(w)
                p.grad = g
        steps.step()


def with_loss(loss):
    def train(loop):
        steps = torch.optim.AdamW(loop.parameters, lr=loop.spec.lr, weight_decay=loop.spec.weight_decay)
        for loop.step in range(STEPS):
            for p, g in zip(loop.parameters, loop.gradients(loss), strict=True):
                p.grad = g
            steps.step()

    return train


def stablemax(outputs, targets):
    s = torch.where(outputs >= 0, outputs + 1, 1 / (1 - torch.where(outputs >= 0, 0.0, outputs)))
    return -(s[torch.arange(len(s)), targets] / s.sum(dim=1)).log()


def with_schedule(schedule):
    def train(loop):
        steps = torch.optim.AdamW(loop.parameters, lr=loop.spec.lr, weight_decay=loop.spec.weight_decay)
        rates = schedule(steps)
        for loop.step in range(STEPS):
            for p, g in zip(loop.parameters, loop.gradients(), strict=True):
                p.grad = g
            steps.step()
            rates.step()

    return train


def on_sphere(radius, weights=False, start=0, at_once=True):
    """`radius(norm)` of the norm at the start."""

    def train(loop):
        steps = torch.optim.AdamW(loop.parameters, lr=loop.spec.lr, weight_decay=loop.spec.weight_decay)
        held = [p for p in loop.parameters if p.ndim > 1 or not weights]

        def norm():
            return math.sqrt(sum(float(p.detach().square().sum()) for p in held))

        @torch.no_grad()
        def project():
            factor = target / norm()
            for p in held:
                p.mul_(factor)

        for loop.step in range(STEPS):
            if loop.step == start:
                target = radius(norm())
                project()
            for p, g in zip(loop.parameters, loop.gradients(), strict=True):
                p.grad = g
            steps.step()
            if loop.step >= start:
                project()

    return train


def adamw(loop):
    return torch.optim.AdamW(loop.parameters, lr=loop.spec.lr, weight_decay=loop.spec.weight_decay)


def sgd(momentum, nesterov=False):
    return lambda parameters, spec: torch.optim.SGD(
        parameters, lr=spec.lr, weight_decay=spec.weight_decay, momentum=momentum, nesterov=nesterov
    )


def changing(loop):
    steps = torch.optim.AdamW(loop.parameters, lr=1e-2, weight_decay=loop.spec.weight_decay)
    orders = {n: list(Stream(loop.spec.replace(n_train=n, changes=()))) for n in (40, 60, 30)}
    for loop.step in range(STEPS):
        loop.order = orders[40 if loop.step < 4 else 60 if loop.step < 8 else 30]
        for group in steps.param_groups:
            group["lr"] = 1e-2 if loop.step < 8 else 1e-3
        for p, g in zip(loop.parameters, loop.gradients(), strict=True):
            p.grad = g
        steps.step()


def decaying(loop):
    steps = torch.optim.AdamW(loop.parameters, lr=1e-2)
    for loop.step in range(STEPS):
        for group in steps.param_groups:
            group["weight_decay"] = loop.spec.weight_decay if loop.step < 6 else 2.0
        for p, g in zip(loop.parameters, loop.gradients(), strict=True):
            p.grad = g
        steps.step()


PLAIN = {
    "adam": of_torch(lambda p, s: torch.optim.Adam(p, lr=s.lr, betas=(0.8, 0.9), weight_decay=s.weight_decay)),
    "adam to init": decayed_to_init(decoupled=False),
    "adamw": of_torch(lambda p, s: torch.optim.AdamW(p, lr=s.lr, weight_decay=s.weight_decay)),
    "adamw to init": decayed_to_init(decoupled=True),
    "sgd": of_torch(sgd(0.0)),
    "momentum": of_torch(sgd(0.9)),
    "nesterov": of_torch(sgd(0.9, nesterov=True)),
    "muon": muon(nesterov=True, count=5),
    "muon, plain momentum": muon(nesterov=False, count=3),
    "sam": sam(0.05, adamw),
    "sam over adam": sam(
        0.1, lambda loop: torch.optim.Adam(loop.parameters, lr=loop.spec.lr, weight_decay=loop.spec.weight_decay)
    ),
    "warm-up": with_schedule(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / 5, 1.0, total_iters=4)),
    "drop": with_schedule(lambda o: torch.optim.lr_scheduler.StepLR(o, 4, 0.5)),
    "clip": with_gradients(clipped),
    "gradient noise": with_gradients(noisy),
    "grokfast": with_gradients(grokfast),
    "grokfast, window": with_gradients(windowed),
    "orthogonal gradient": with_gradients(orthogonalised),
    "weight noise": weight_noise,
    "squared error": with_loss(lambda z, y: (z - F.one_hot(y, 3)).square().mean(dim=1)),
    "label smoothing": with_loss(nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)),
    "stablemax": with_loss(stablemax),
    "temperature": with_loss(lambda z, y: F.cross_entropy(z / 3.0, y, reduction="none")),
    "sphere of weights": on_sphere(lambda norm: norm, weights=True),
    "sphere, doubled": on_sphere(lambda norm: 2.0 * norm),
    "sphere, absolute": on_sphere(lambda norm: 5.0),
    "sphere, late": on_sphere(lambda norm: norm, start=5),
    "sphere, late and halved": on_sphere(lambda norm: 0.5 * norm, start=5, weights=True),
    "other decay": decaying,
    "more data": changing,
}


@pytest.mark.parametrize("task", [Boxes(), Embedded()], ids=["boxes", "embedded"])
@pytest.mark.parametrize("name", PLAIN)
def test_a_mechanism_is_its_definition(name, task):
    loop = Loop(task, **MECHANISMS[name])
    PLAIN[name](loop)
    trainer = trained(task, **MECHANISMS[name])
    for (parameter, rows), p in zip(trainer.ensemble.params.items(), loop.parameters, strict=True):
        torch.testing.assert_close(rows[1], p.detach(), rtol=0, atol=1e-8, msg=lambda m, n=parameter: f"{n}: {m}")


def test_a_cosine_is_torchs():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=0.25)
    for step in range(9):
        assert Cosine(8, floor=0.25)(step, 99) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()
    assert Cosine(8, floor=0.25)(20, 99) == 0.25


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_newton_schulz_brings_all_singular_values_near_one(shape):
    draw = torch.randn(2, *shape, generator=generator(0, "matrix"), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonal(draw, 5))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_stablemax_has_a_gradient_where_softmax_has_none():
    outputs = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], requires_grad=True)
    classes = torch.tensor([0, 1])
    StableMax()(outputs, classes).sum().backward()
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad[0] != 0).all()
    assert StableMax()(outputs, classes)[1].item() == pytest.approx(math.log(3))
    assert torch.equal(StableMax()(outputs, F.one_hot(classes, 3).float()), StableMax()(outputs, classes))


def test_a_loss_by_choice_needs_classes():
    with pytest.raises(SpecError, match="targets that are classes or one-hot"):
        SquaredError().check(torch.full((5, 3), 0.2))
    with pytest.raises(SpecError, match=r"takes logits of shape \(examples, classes\), got \(5,\)"):
        SquaredError().check_logits(torch.zeros(5))
    CrossEntropy().check(F.one_hot(torch.tensor([0, 2]), 3).double())


def test_a_chosen_loss_is_what_is_logged():
    frame = trained(runs=1, loss=Temperature(5.0)).frames()[0].query("split == 'test' and metric == 'loss'")
    other = trained(runs=1).frames()[0].query("split == 'test' and metric == 'loss'")
    assert frame["value"].iloc[0] != other["value"].iloc[0]
    spec = Boxes.spec.replace(n_train=40, seed=0, alpha=1.0)
    data = Boxes().load(spec)
    with torch.no_grad():
        logits = scaled_model(Boxes(), spec)(data.test_inputs[0])
    expected = F.cross_entropy(logits / 5, data.test_targets).item()
    assert frame["value"].iloc[0] == pytest.approx(expected, rel=1e-12)


def test_measurements_are_without_the_noise_of_the_weights():
    noisy = trained(runs=1, steps=0, weight_noise=WeightNoise(1.0)).frames()[0]
    assert noisy.equals(trained(runs=1, steps=0).frames()[0])


def test_weight_noise_under_an_early_sphere_is_refused():
    with pytest.raises(SpecError, match="undone with an early sphere"):
        Boxes.spec.replace(weight_noise=WeightNoise(0.1), sphere=Sphere(early=True))


def test_spheres_of_all_kinds_share_a_batch():
    kinds = [None, Sphere(), Sphere(norm=4.0), Sphere(start=3, scale=0.5), Sphere(early=True), Sphere(of="weights")]
    task = Boxes()
    spec = task.spec.replace(n_train=40, batch_size=16, steps=8)
    specs = [spec.replace(sphere=kind, seed=seed) for seed, kind in enumerate(kinds)]
    data = task.load(spec)
    together = Trainer(task, specs, data)
    together.train()
    for r, each in enumerate(specs):
        alone = Trainer(task, [each], data)
        alone.train()
        for name, p in alone.ensemble.params.items():
            torch.testing.assert_close(together.ensemble.params[name][r], p[0], rtol=0, atol=1e-12)
    norms = [f.query("metric == 'weight_norm'").set_index("step")["value"] for f in together.frames()]
    assert np.ptp(norms[0]) > 1e-3
    assert np.ptp(norms[1]) < 1e-12
    assert norms[2].to_numpy() == pytest.approx(4.0)
    assert norms[3][8] == pytest.approx(0.5 * norms[3][3])


def test_training_metrics_are_of_the_new_size_after_a_change():
    trainer = trained(runs=1, changes=ChangeAt(4, n_train=601))
    values = trainer.frames()[0].query("split == 'train' and metric == 'accuracy'").set_index("step")["value"]
    assert all(round(values[step] * 40, 9) % 1 == 0 for step in range(5))
    assert all(round(values[step] * 601, 9) % 1 == 0 for step in range(5, 10))
    assert any(round(values[step] * 40, 9) % 1 != 0 for step in range(5, 10))


def test_a_change_to_more_examples_than_there_are_is_refused():
    with pytest.raises(SpecError, match="n_train 5000 is more than"):
        boxes(changes=ChangeAt(1, n_train=5000))
    with pytest.raises(SpecError, match="lr must be a finite number above 0"):
        boxes(changes=ChangeAt(1, lr=-1.0))


def test_a_run_ends_once_it_has_generalised(tmp_path):
    task = Boxes()
    base = task.spec.replace(n_train=1_000, batch_size=None, steps=400, lr=3e-2, evaluation_density=4)
    data = task.load(base)
    specs = [base.replace(seed=s, stop=Stop(hold=2)) for s in range(3)]
    together, free = (Trainer(task, each, data) for each in (specs, [s.replace(stop=None) for s in specs]))
    together.train()
    free.train()
    assert together.step < free.step
    ends = []
    for r, (frame, whole) in enumerate(zip(together.frames(), free.frames(), strict=True)):
        said = frame[frame["split"] == "run"]
        assert (said["metric"].tolist(), said["value"].tolist()) == (["stopped"], [1.0])
        end = said["step"].item()
        ends.append(end)
        assert frame["step"].max() == end
        kept = whole[whole["step"] <= end].reset_index(drop=True)
        assert frame[frame["split"] != "run"].reset_index(drop=True).equals(kept)
        values = kept.query("split == 'test' and metric == 'accuracy'")["value"].to_numpy()
        assert (values[-3:] >= 0.9).all()
        assert not any((values[i : i + 3] >= 0.9).all() for i in range(len(values) - 3))
        alone = Trainer(task, [specs[r]], data)
        alone.train()
        assert alone.step == end
    assert len(set(ends)) > 1
    assert together.step == max(ends)


@pytest.mark.parametrize("hold", [0, 5])
def test_a_stopped_run_is_stored_and_has_its_time(tmp_path, hold):
    from omnigrok import get_task

    spec = get_task("teacher_student").spec.replace(steps=2_000, n_train=400, alpha=0.5, lr=3e-3, stop=Stop(hold))
    stopped = run_sweep([spec], Store(tmp_path), show_progress=False)
    whole = run_sweep([spec.replace(stop=None)], Store(tmp_path), show_progress=False)
    assert stopped["step"].max() < whole["step"].max()
    thresholds = get_task("teacher_student").thresholds
    for column in ("t_gen", "t_mem", "delay", "gen_censored"):
        assert grokking_times(stopped, thresholds)[column].equals(grokking_times(whole, thresholds)[column])
