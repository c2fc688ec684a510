"""What a forward pass of a user's model may do: trained right alone and in a batch, or run by run, or refused."""

import copy
import dataclasses
import random
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from omnigrok import RunSpec, Store, Task, TaskData, get_task, run_sweep
from omnigrok.batching import why_alone
from omnigrok.ensemble import scaled_model
from omnigrok.errors import CannotBatchError, SpecError
from omnigrok.loading import load_data
from omnigrok.optimizers import SGD
from omnigrok.oracle import train
from omnigrok.plan import plan
from omnigrok.probes.robustness import PGD, RobustnessProbe
from omnigrok.spec import global_states
from omnigrok.task import Thresholds
from omnigrok.trainer import Trainer

FEATURES, CLASSES, EXAMPLES = 8, 3, 64
STEPS = 12


class Users(Task):
    """Three classes of points in a box."""

    name = "users"
    display_name = "Users"
    citation = "these tests"
    # not Adam, which makes a rounding large where the gradient is zero, of a bias before a batch norm say
    spec = RunSpec(
        task=name, n_train=EXAMPLES, steps=STEPS, lr=0.1, optimizer=SGD(momentum=0.9), dtype="float64", keep=(0, STEPS)
    )
    thresholds = Thresholds(metric="accuracy", train=0.9, test=0.9)

    def __init__(self, make=None, **methods):
        self.make = make
        for name, method in methods.items():
            setattr(self, name, method)

    def load(self, spec):
        x = torch.rand(2 * EXAMPLES, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        y = x[:, :CLASSES].argmax(dim=1)
        x = x.to(spec.torch_dtype)
        return TaskData((x[:EXAMPLES],), y[:EXAMPLES], (x[EXAMPLES:],), y[EXAMPLES:], "generated")

    def model(self, spec):
        return net() if self.make is None else self.make()

    def loss(self, outputs, targets):
        return F.cross_entropy(self.logits(outputs), targets, reduction="none")

    def metrics(self, outputs, targets):
        return {"accuracy": (self.logits(outputs).argmax(dim=1) == targets).double()}


def net(inputs=FEATURES):
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, CLASSES))


class Around(nn.Module):
    """A network, and what the kinds below do around it."""

    def __init__(self, **buffers):
        super().__init__()
        self.net = net()
        for name, x in buffers.items():
            self.register_buffer(name, x)


def runs(task, count=1, **changes):
    spec = task.spec.replace(**changes)
    return [spec.replace(seed=seed, alpha=1.0 + seed) for seed in range(count)]


def trained(task, specs, data=None):
    trainer = Trainer(task, specs, task.load(specs[0]) if data is None else data)
    trainer.train()
    return trainer


def tensors(trainer, r=0):
    ensemble = trainer.ensemble
    return {name: x[r].detach() for name, x in {**ensemble.params, **ensemble.buffers}.items()}


def assert_close(found, expected, atol=1e-12):
    assert set(found) == set(expected)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def assert_alone_as_in_a_batch(task, batch_size):
    specs, data = runs(task, 3, batch_size=batch_size), task.load(task.spec)
    together = trained(task, specs, data)
    for r, spec in enumerate(specs):
        alone = trained(task, [spec], data)
        assert_close(tensors(together, r), tensors(alone))
        np.testing.assert_allclose(together.frames()[r]["value"], alone.frames()[0]["value"], rtol=0, atol=1e-12)
        assert_close(together.weights()[r][STEPS], alone.weights()[0][STEPS])
    return together


def assert_resumed_bit_for_bit(task, specs):
    whole, states = Trainer(task, specs, task.load(specs[0])), []
    whole.train(checkpoint=lambda: states.append(copy.deepcopy(whole.state_dict())), checkpoint_seconds=0)
    [state] = [state for state in states if state["step"] == 5]
    resumed = Trainer(task, specs, task.load(specs[0]))
    resumed.load_state_dict(state)
    resumed.train()
    for r in range(len(specs)):
        assert_close(tensors(resumed, r), tensors(whole, r), atol=0)
        assert whole.frames()[r].equals(resumed.frames()[r])


def assert_as_a_plain_loop(task, trainer):
    for r, spec in enumerate(trainer.specs):
        plain = train(task, spec, task.load(spec))
        kept = trainer.weights()[r][STEPS]
        assert_close(kept, plain.state_dict(), atol=1e-9)
        assert_close(trainer.ensemble.model(r).state_dict(), plain.state_dict(), atol=1e-9)


class Scaled(Around):
    """The old value divides, and is needed by the backward pass; a whole number counts."""

    def __init__(self):
        super().__init__(scale=torch.ones(FEATURES), seen=torch.zeros((), dtype=torch.long))

    def forward(self, x):
        h = self.net(x / self.scale)
        if self.training:
            self.scale = 0.8 * self.scale + 0.2 * x.detach().square().mean(dim=0).sqrt()
            self.seen = self.seen + 1
        return h


class Teacher(Around):
    """Weights of the run's own, averaged into a buffer of a layer below that two attributes hold."""

    def __init__(self):
        super().__init__()
        self.one = self.two = Around(mean=torch.zeros(CLASSES, 16))
        del self.one.net

    def forward(self, x):
        if self.training:
            self.two.mean = torch.lerp(self.one.mean, self.net[2].weight.detach(), 0.3)
        return self.net(x) + 0.1 * F.linear(torch.tanh(self.net[0](x)), self.two.mean)


class InEvaluationToo(Around):
    """What it follows moves in every pass: measuring it leaves no trace."""

    def __init__(self):
        super().__init__(mean=torch.zeros(FEATURES), passes=torch.zeros(1))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(dim=0).detach()
        self.passes += 1
        return self.net(x - self.mean) * (1 + 0.01 * self.passes)


class Aliased(Around):
    """The buffer is a view of the batch."""

    def __init__(self):
        super().__init__(first=torch.zeros(FEATURES))

    def forward(self, x):
        h = self.net(x - 0.1 * self.first)
        if self.training:
            self.first = x[0]
        return h


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("make", [Scaled, Teacher, InEvaluationToo, Aliased])
def test_a_buffer_that_is_assigned_is_the_runs_own(make, batch_size):
    task = Users(make)
    together = assert_alone_as_in_a_batch(task, batch_size)
    assert_as_a_plain_loop(task, together)
    assert_resumed_bit_for_bit(task, runs(task, 1, batch_size=batch_size))
    assert_resumed_bit_for_bit(task, runs(task, 2, batch_size=batch_size))


class ByItsData(Around):
    """Torch batches no model that does so."""

    def __init__(self):
        super().__init__(mean=torch.zeros(FEATURES))

    def forward(self, x):
        self.mean.data = 0.9 * self.mean + 0.1 * x.mean(dim=0)
        return self.net(x - self.mean)


def test_a_buffer_whose_data_are_assigned_is_read_back():
    task = Users(ByItsData)
    alone = trained(task, runs(task))
    assert_as_a_plain_loop(task, alone)
    assert_resumed_bit_for_bit(task, runs(task))
    assert "data" in why_alone(task, task.spec, task.load(task.spec), "cpu")


@pytest.mark.parametrize("count", [1, 2])
def test_a_parameter_that_a_pass_replaces_is_named(count):
    class Clipping(Around):
        def forward(self, x):
            self.net[2].weight.data = self.net[2].weight.data.clamp(-0.1, 0.1)
            return self.net(x)

    task = Users(Clipping)
    with pytest.raises(SpecError, match=r"replaces parameter net\.2\.weight: have it change it in place"):
        Trainer(task, runs(task, count), task.load(task.spec))


class Decaying(Around):
    """In evaluation too: measuring leaves no trace."""

    def forward(self, x):
        with torch.no_grad():
            self.net[2].weight.mul_(0.9).clamp_(-0.1, 0.1)
        return self.net(x)


class Renormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(6, 4, max_norm=0.5), nn.Linear(4 * FEATURES, CLASSES)

    def forward(self, x):
        return self.last(self.table((5 * x).long()).flatten(1))


@pytest.mark.parametrize("make", [Decaying, Renormed])
def test_a_parameter_that_a_pass_changes_in_place_is_trained_as_a_plain_loop(make):
    task = Users(make)
    assert_as_a_plain_loop(task, assert_alone_as_in_a_batch(task, 16))
    assert_resumed_bit_for_bit(task, runs(task, 2))


@pytest.mark.parametrize("count", [1, 2])
def test_a_buffer_that_changes_its_shape_or_type_is_named(count):
    class Growing(Around):
        def __init__(self, by):
            super().__init__(seen=torch.zeros(1, dtype=torch.long))
            self.by = by

        def forward(self, x):
            self.seen = self.by(self.seen)
            return self.net(x)

    for by in (lambda b: torch.cat([b, b]), lambda b: b + 0.5):
        task = Users(lambda by=by: Growing(by))
        with pytest.raises(SpecError, match=r"makes buffer seen .* it was torch.int64 of shape \(1,\)"):
            trained(task, runs(task, count))


class Following(Around):
    """A tensor that is no buffer goes from pass to pass."""

    def __init__(self):
        super().__init__()
        self.running = torch.zeros(FEATURES, dtype=torch.float64)

    def forward(self, x):
        if self.training:
            self.running = 0.9 * self.running + 0.1 * x.mean(dim=0).detach()
        return self.net(x - self.running)


class Counting(Around):
    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return self.net(x) / self.passes


class NoneAtFirst(Around):
    def __init__(self):
        super().__init__(running=None)

    def forward(self, x):
        self.running = x.mean(0) if self.running is None else 0.5 * (self.running + x[:5].mean(dim=0)).detach()
        return self.net(x - self.running)


class InADictionary(Around):
    def __init__(self):
        super().__init__()
        self.carried = {"h": torch.zeros(FEATURES)}

    def forward(self, x):
        self.carried["h"] = 0.9 * self.carried["h"] + 0.1 * x.mean(dim=0).detach()
        return self.net(x - self.carried["h"])


class OwnGenerator(Around):
    def __init__(self):
        super().__init__()
        self.draw = torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.net(x + 0.1 * torch.randn(x.shape, generator=self.draw, dtype=x.dtype))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Following, "running"),
        (Counting, "passes"),
        (NoneAtFirst, "running"),
        (InADictionary, r"carried\['h'\]"),
        (OwnGenerator, "draw"),
    ],
)
def test_what_goes_from_pass_to_pass_and_is_no_buffer_is_named(make, name, count):
    task = Users(make)
    with pytest.raises(SpecError, match=f"of users computes depends on what its last pass left in {name}, which no"):
        Trainer(task, runs(task, count), task.load(task.spec))


class Caching(Around):
    """Attributes on which no number depends: a mask made once, the last features, a count."""

    def __init__(self):
        super().__init__(mask=None)
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        if self.mask is None:
            self.mask = torch.arange(FEATURES, dtype=x.dtype) / FEATURES
        self.features = self.net[1](self.net[0](x * self.mask))
        return self.net[2](self.features)


def weight_normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old form is deprecated, and used
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(FEATURES, 16)), nn.Tanh(), nn.Linear(16, CLASSES))


def test_features_that_are_kept_in_a_list_are_trained_run_by_run():
    class Keeping(Around):
        def __init__(self):
            super().__init__()
            self.features = []

        def forward(self, x):
            self.features[:] = [self.net[:2](x)]
            return self.net[2](self.features[0])

    task = Users(Keeping)
    assert why_alone(task, task.spec, task.load(task.spec), "cpu") == "its passes leave something in features[0]"
    assert_as_a_plain_loop(task, trained(task, runs(task)))


@pytest.mark.parametrize("make", [Caching, weight_normed])
def test_attributes_on_which_nothing_depends_are_let_be(make):
    task = Users(make)
    together = assert_alone_as_in_a_batch(task, None)
    x = task.load(task.spec).test_inputs[0]
    for r in range(2):
        plain = train(task, together.specs[r], task.load(task.spec))
        alone = trained(task, [together.specs[r]])
        for model in (together.ensemble.model(r), alone.ensemble.model(0)):
            torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-9)
    assert_resumed_bit_for_bit(task, runs(task, 2))


class ZeroingOut(Around):
    """In a batch of runs the value differs from run to run, and the examples do not."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.full((FEATURES,), 0.2))

    def forward(self, x):
        x[:, 0] = 0.0
        return self.net(x.add_(self.shift))


class BehindTheVersion(Around):
    def forward(self, x):
        x.data.mul_(0.9)
        return self.net(x)


class OnlyInEvaluation(Around):
    def forward(self, x):
        return self.net(x if self.training else x.flatten(1).clamp_(max=0.7).mul_(0.9))


def softened(self):
    """A loss that changes the targets, as floating-point ones."""

    def loss(outputs, targets):
        return (outputs.softmax(dim=1)[:, 0] - targets.mul_(0.5).add_(0.1)).square()

    def load(spec):
        data = Users.load(self, spec)
        train_targets, test_targets = (y.to(spec.torch_dtype) for y in (data.train_targets, data.test_targets))
        return dataclasses.replace(data, train_targets=train_targets, test_targets=test_targets)

    self.loss, self.load = loss, load
    self.metrics = lambda outputs, targets: {"accuracy": targets.neg_()}
    return self


CHANGING = {
    "a column, and by a weight": lambda: Users(ZeroingOut),
    "data of the tensor": lambda: Users(BehindTheVersion),
    "in evaluation alone": lambda: Users(OnlyInEvaluation),
    "targets": lambda: softened(Users()),
}


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("kind", CHANGING)
def test_examples_that_a_pass_changes_are_copies(kind, batch_size):
    task = CHANGING[kind]()
    data = task.load(task.spec)
    trainer = trained(task, runs(task, batch_size=batch_size), data)
    assert data.sha256 == task.load(task.spec).sha256
    if why_alone(task, task.spec, data, "cpu"):
        assert_as_a_plain_loop(task, trainer)
        assert_resumed_bit_for_bit(task, runs(task, batch_size=batch_size))
    else:
        assert_as_a_plain_loop(task, assert_alone_as_in_a_batch(task, batch_size))
        assert_resumed_bit_for_bit(task, runs(task, 2, batch_size=batch_size))
    model, last = trainer.ensemble.model(0).eval(), trainer.frames()[0].query(f"step == {STEPS} and split == 'test'")
    with torch.no_grad():
        loss = task.loss(model(data.test_inputs[0].clone()), data.test_targets.clone()).mean().item()
    assert last.set_index("metric")["value"]["loss"] == pytest.approx(loss, rel=1e-12)


def test_data_that_are_changed_only_later_are_noticed():
    class Later(Around):
        def __init__(self):
            super().__init__(passes=torch.zeros((), dtype=torch.long))

        def forward(self, x):
            if self.training:
                self.passes += 1
            return self.net(x.sub_(0.05) if self.passes > 3 else x)

    task = Users(Later)
    with pytest.raises(SpecError, match="data of users were changed in place"):
        trained(task, runs(task))


class Layerdrop(Around):
    """Python's generator."""

    def forward(self, x):
        h = self.net[:2](x)
        return self.net[2](h if not self.training or random.random() < 0.7 else 2 * h)


class Numpy(Around):
    def forward(self, x):
        return self.net(x + 0.1 * float(np.random.randn()) if self.training else x)


class Bernoulli(Around):
    def forward(self, x):
        return self.net(x * torch.bernoulli(torch.full_like(x, 0.7)) if self.training else x)


class MonteCarlo(Around):
    """Dropout in evaluation too."""

    def forward(self, x):
        return self.net(F.dropout(x, 0.2, training=True))


def noisy_loss():
    task = Users()
    task.loss = lambda outputs, targets: Users.loss(task, outputs + 0.1 * torch.randn_like(outputs), targets)
    return task


def noisy_metric():
    task = Users()
    task.metrics = lambda outputs, targets: {"accuracy": torch.rand(len(targets), dtype=torch.float64)}
    return task


DRAWING = {
    "layerdrop": lambda: Users(Layerdrop),
    "numpy": lambda: Users(Numpy),
    "bernoulli": lambda: Users(Bernoulli),
    "monte carlo": lambda: Users(MonteCarlo),
    "loss": noisy_loss,
    "metric": noisy_metric,
    "module": lambda: Users(lambda: nn.Sequential(net(), nn.AlphaDropout(0.2))),
}


@pytest.fixture
def other_generators():
    """Generators of the process that are elsewhere at each call, and the caller's again in the end."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seeds = iter(range(100, 200))

    def move():
        seed = next(seeds)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        return global_states()

    yield move
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    random.setstate(python_state)


@pytest.mark.parametrize("kind", DRAWING)
def test_what_a_pass_draws_depends_on_seed_and_step_alone(kind, other_generators):
    task, ends = DRAWING[kind](), []
    for _ in range(2):
        states = other_generators()
        ends.append(trained(task, runs(task)))
        assert global_states() == states
    assert_close(tensors(ends[1]), tensors(ends[0]), atol=0)
    assert ends[0].frames()[0].equals(ends[1].frames()[0])
    assert_resumed_bit_for_bit(task, runs(task))
    other = trained(task, [task.spec.replace(seed=7)])
    assert not other.frames()[0].equals(ends[0].frames()[0])
    with pytest.raises(CannotBatchError, match="draws random numbers"):
        Trainer(task, runs(task, 2), task.load(task.spec))


def test_what_load_and_model_draw_is_keyed(other_generators):
    def permuted(spec):
        data = Users.load(task, spec)
        order = np.random.permutation(EXAMPLES)
        random.shuffle(order)
        order = torch.from_numpy(order)
        inputs, targets = data.train_inputs[0][order], data.train_targets[order]
        return dataclasses.replace(data, train_inputs=(inputs,), train_targets=targets)

    def drawn():
        made = net()
        with torch.no_grad():
            made[0].weight.copy_(torch.from_numpy(np.random.randn(16, FEATURES)))
            made[2].bias.fill_(random.random())
        return made

    task = Users(drawn, load=permuted)
    found = []
    for _ in range(2):
        states = other_generators()
        found.append((load_data(task, task.spec, "cpu").sha256, scaled_model(task, task.spec).state_dict()))
        assert global_states() == states
    assert found[0][0] == found[1][0] != load_data(task, task.spec.replace(data_seed=1), "cpu").sha256
    assert_close(found[0][1], found[1][1], atol=0)
    other = scaled_model(task, task.spec.replace(seed=1))
    assert not torch.equal(other[0].weight, found[0][1]["0.weight"])
    assert not torch.equal(other[2].bias, found[0][1]["2.bias"])


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.cell, self.last = kind(FEATURES // 2, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.last(self.cell(x.unflatten(1, (2, -1)))[0][:, -1])


class Halving(Around):
    """A loop that ends by a tensor's value."""

    def forward(self, x):
        h = self.net(x)
        while h.abs().max() > 0.5:
            h = h / 2
        return h


class ByItem(Around):
    def forward(self, x):
        return self.net(x) / (1 + abs(self.net[0].bias.mean().item()))


class Selecting(Around):
    """A shape that depends on the numbers."""

    def forward(self, x):
        h = self.net(x)
        return h + h[h > 0].mean()


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class OwnFunction(Around):
    def forward(self, x):
        return Doubled.apply(self.net(x))


def spectral():
    return nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(FEATURES, 16)), nn.Tanh(), nn.Linear(16, CLASSES)
    )


ALONE = {
    "lstm": Recurrent,
    "rnn": lambda: Recurrent(nn.RNN),
    "loop": Halving,
    "item": ByItem,
    "shape": Selecting,
    "function": OwnFunction,
    "spectral": spectral,
}


@pytest.mark.parametrize("kind", ALONE)
def test_what_torch_cannot_batch_is_trained_run_by_run_and_said(kind, tmp_path):
    class Mine(Users):
        name = f"cannot_{kind}"
        spec = Users.spec.replace(task=name)

        def model(self, spec):
            return ALONE[kind]()

    task = get_task(Mine)
    specs, data = runs(task, 2), task.load(task.spec)
    assert_as_a_plain_loop(task, trained(task, specs[:1]))
    assert_resumed_bit_for_bit(task, specs[:1])
    reason = why_alone(task, task.spec, data, "cpu")
    if kind == "spectral" and not reason:  # where torch has learnt to
        assert_alone_as_in_a_batch(task, None)
        return
    assert "torch cannot batch its model" in reason
    assert "\n" not in reason
    with pytest.warns(UserWarning, match=f"the runs of {task.name} are trained one by one: torch cannot batch"):
        batches = plan(specs, Store(tmp_path), "cpu", 2)
    assert [len(batch.specs) for batch in batches] == [1, 1]


class Padded(nn.Module):
    """Torch's batched embedding leaves the padding's row to the first run alone, without a word."""

    def __init__(self, kind):
        super().__init__()
        self.table = kind(6, 4, padding_idx=0)
        self.last = nn.Linear(4 * FEATURES if kind is nn.Embedding else 4, CLASSES)

    def forward(self, x):
        return self.last(self.table((5 * x).long()).flatten(1))


class Straight(torch.autograd.Function):
    """A gradient that depends on the first run's place in a batch: what torch is told of batches is wrong."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output): ...

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def vmap(info, in_dims, x):
        return x * (1 + torch.arange(len(x), dtype=x.dtype).view(-1, 1, 1)), in_dims[0]


class WronglyBatched(Around):
    def forward(self, x):
        return Straight.apply(self.net(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [lambda: Padded(nn.Embedding), WronglyBatched])
def test_what_torch_batches_wrongly_is_trained_run_by_run(make, dtype):
    task = Users(make)
    spec = task.spec.replace(batch_size=16, dtype=dtype)
    assert "torch computes other numbers of" in why_alone(task, spec, task.load(spec), "cpu")
    assert_as_a_plain_loop(task, trained(task, runs(task, batch_size=16)))


@pytest.mark.parametrize("runs_per_batch", [None, 2])
def test_a_sweep_of_a_model_that_draws_needs_no_flag(tmp_path, runs_per_batch):
    class Mine(Users):
        name = f"dropping_{runs_per_batch}"
        spec = Users.spec.replace(task=name, keep=())

        def model(self, spec):
            return Bernoulli()

    task = get_task(Mine)
    with pytest.warns(UserWarning, match="are trained one by one: its model draws random numbers") as said:
        table = run_sweep(runs(task, 2), Store(tmp_path), runs_per_batch=runs_per_batch, show_progress=False)
    assert len(said) == 1
    assert len(table) == 2 * len(trained(task, runs(task)).frames()[0])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(FEATURES, 2, batch_first=True)
        self.net = net()

    def forward(self, x):
        h = x.unsqueeze(1).expand(-1, 3, -1)
        return self.net(self.attention(h, h, h, need_weights=False)[0][:, 0])


def parametrized():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(FEATURES, 16))
    return nn.Sequential(layer, nn.Tanh(), nn.utils.parametrizations.orthogonal(nn.Linear(16, CLASSES)))


class Bagged(Around):
    """Goes by one operation that torch takes run by run, and would tell."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, FEATURES))

    def forward(self, x):
        index = (x[:, :2] * 4).long()
        return self.net(x + F.embedding_bag(index, self.table, mode="sum"))


@pytest.mark.parametrize("make", [weight_normed, parametrized, Attending, Bagged])
def test_torchs_own_warnings_of_slow_batches_do_not_reach_the_user(make):
    task = Users(make)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert why_alone(task, task.spec, task.load(task.spec), "cpu") == ""
        assert_alone_as_in_a_batch(task, None)


def lazy():
    return nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(CLASSES))


def lazy_convolution():
    return nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.LazyConv1d(5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES, bias=False)
    )


@pytest.mark.parametrize("make", [lazy, lazy_convolution])
def test_lazy_modules_are_given_their_shapes_by_the_data(make, other_generators):
    task = Users(make)
    other_generators()
    made = [scaled_model(task, task.spec.replace(dtype=dtype)) for dtype in ("float64", "float32")]
    for one, two in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert torch.equal(one, two.double())  # the same init in each dtype, whatever was drawn before
    for name, b in made[0].named_buffers():
        torch.testing.assert_close(b, torch.full_like(b, "var" in name))
    assert_as_a_plain_loop(task, assert_alone_as_in_a_batch(task, None))
    assert_resumed_bit_for_bit(task, runs(task, 2))


def test_a_lazy_module_that_no_pass_reaches_is_named():
    class Spare(Around):
        def __init__(self):
            super().__init__()
            self.spare = nn.LazyLinear(3)

        def forward(self, x):
            return self.net(x)

    task = Users(Spare)
    with pytest.raises(SpecError, match=r"are lazy, and no forward pass gives them a shape: spare.weight, spare.bias"):
        Trainer(task, runs(task), task.load(task.spec))


@dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor


class Several(Around):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        features = self.net[:2](x)
        return self.form(self.net[2](features), features)


FORMS = {
    "dict": (lambda z, h: {"logits": z, "features": h}, lambda outputs: outputs["logits"]),
    "tuple": (lambda z, h: (h, z), lambda outputs: outputs[1]),
    "dataclass": (Output, lambda outputs: outputs.logits),
    "one logit": (lambda z, h: z[:, 0], lambda z: torch.stack([-z / 2, z / 2, torch.zeros_like(z)], dim=1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_outputs_of_any_form_are_trained_and_attacked_by_their_logits(form):
    make, logits = FORMS[form]
    task = Users(lambda: Several(make), logits=logits)
    together = assert_alone_as_in_a_batch(task, None)
    if form != "one logit":  # the plain model gives the logits at once
        plain = Users(lambda: Several(lambda z, h: z))
        changes = {"probes": (RobustnessProbe(examples=10, steps=2, margin_steps=2),), "perturbation": PGD(0.05, 2)}
        found, expected = (trained(each, runs(each, 2, **changes)) for each in (task, plain))
        for a, b in zip(found.frames(), expected.frames(), strict=True):
            assert a.equals(b)
    assert len(together.frames()) == 3


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("form", [lambda z, h: z[:, 0], lambda z, h: z[:, :1], lambda z, h: {"logits": z}])
def test_an_attack_without_logits_says_how_they_are_given(form, count):
    task = Users(
        lambda: Several(form),
        loss=lambda outputs, targets: first(outputs).square(),
        metrics=lambda outputs, targets: {"accuracy": first(outputs)},
    )
    trained(task, runs(task, count))
    with pytest.raises(SpecError, match=r"needs logits .* have its `logits` give them"):
        trained(task, runs(task, count, perturbation=PGD(0.05, 1)))


def first(outputs):
    return outputs["logits"][:, 0] if isinstance(outputs, dict) else outputs.reshape(len(outputs), -1)[:, 0]


class Kinds(Around):
    """Buffers and parameters of many types."""

    def __init__(self):
        super().__init__(
            phase=torch.tensor([1 + 2j, 0.5j]), on=torch.ones(FEATURES, dtype=torch.bool),
            order=torch.arange(FEATURES).flip(0), byte=torch.tensor([3], dtype=torch.uint8),
        )  # fmt: skip
        self.net.double()

    def forward(self, x):
        x = torch.where(self.on, x, 0.0)[:, self.order]
        return self.net(x) * (self.phase.abs().sum() / self.byte)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_is_cast_to_the_runs_dtype_and_buffers_keep_their_kind(dtype):
    task = Users(Kinds)
    data = task.load(task.spec.replace(dtype=dtype))
    specs = runs(task, 2, dtype=dtype)
    state = trained(task, specs, data).weights()[1][STEPS]
    assert {state[f"net.{i}.weight"].dtype for i in (0, 2)} == {specs[0].torch_dtype}
    wide = dtype == "float64"
    kinds = {"phase": torch.complex128 if wide else torch.complex64, "on": torch.bool, "byte": torch.uint8}
    assert {name: state[name].dtype for name in kinds} == kinds
    assert torch.equal(state["phase"].imag, torch.tensor([2.0, 0.5], dtype=specs[0].torch_dtype))
    assert torch.equal(state["order"], torch.arange(FEATURES).flip(0))


def test_a_complex_parameter_is_named():
    class Complex(Around):
        def __init__(self):
            super().__init__()
            self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex64))

        def forward(self, x):
            return self.net(x) * self.turn.real

    with pytest.raises(SpecError, match="parameter turn of users is complex"):
        Trainer(Users(Complex), runs(Users()), Users().load(Users.spec))


def failing(where):
    def fail(*arguments):
        raise KeyError(f"no {where}")

    if where == "loss":
        return Users(loss=lambda outputs, targets: fail())
    if where == "metrics":
        return Users(metrics=lambda outputs, targets: fail())

    class Failing(Around):
        def __init__(self):
            super().__init__(passes=torch.zeros(1))
            if where == "model":
                fail()

        def forward(self, x):
            if self.training:
                self.passes += 1
            return self.net(fail(x) if where == "forward" or (where == "later" and bool(self.passes > 3)) else x)

    return Users(Failing)


@pytest.mark.parametrize("where", ["loss", "metrics", "model", "forward", "later"])
def test_an_error_of_the_users_code_names_the_task_and_shows_the_line(where):
    task = failing(where)
    line = rf"of users failed at .*test_what_models_do.py:\d+, `raise KeyError\(.*\)`: KeyError: 'no {where}'$"
    with pytest.raises(SpecError, match=line) as caught:
        trained(task, runs(task))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_without_a_line_of_the_users_names_the_task():
    task = Users(lambda: net(FEATURES - 1))
    with pytest.raises(SpecError, match="of users failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied"):
        Trainer(task, runs(task), task.load(task.spec))


@pytest.mark.parametrize("count", [1, 2])
def test_data_of_another_dtype_than_the_parameters_are_told_where_they_fail(count):
    task = Users(lambda: net().double(), load=lambda spec: Users.load(task, Users.spec))
    with pytest.raises(SpecError, match=r"its data are torch.float64, its parameters torch.float32: have `load` give"):
        Trainer(task, runs(task, count, dtype="float32"), task.load(task.spec))


@pytest.mark.parametrize("what", ["raises", "returns"])
def test_an_error_of_load_names_the_task(what):
    def load(spec):
        return torch.load("no such file") if what == "raises" else (torch.ones(3), torch.ones(3))

    messages = {
        "raises": r"load of users failed at .*`return torch.load.*FileNotFound",
        "returns": "must return a TaskData",
    }
    with pytest.raises(SpecError, match=messages[what]):
        load_data(Users(load=load), Users.spec, "cpu")


def frozen_dropout():
    made = nn.Sequential(net(), nn.Dropout(0.4))
    made[1].eval()
    return made


class HoldsItsNorm(Around):
    """A layer's statistics are frozen, in a layer below another that trains its own."""

    def __init__(self):
        super().__init__()
        self.free, self.held = nn.BatchNorm1d(FEATURES), nn.BatchNorm1d(16)
        self.held.running_mean.fill_(0.3)
        self.held.eval()

    def forward(self, x):
        return self.net[2](torch.tanh(self.held(self.net[0](self.free(x)))))


def all_frozen():
    return HoldsItsNorm().eval()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("make", [HoldsItsNorm, all_frozen])
def test_the_users_modes_are_kept_module_by_module(make, count):
    task = Users(make)
    trainer = trained(task, runs(task, count))
    with torch.random.fork_rng(devices=[]):
        modes = [layer.training for layer in make().modules()]
    assert [layer.training for layer in trainer.ensemble.module.modules()] == modes
    assert not all(modes)
    for r in range(count):
        assert torch.equal(tensors(trainer, r)["held.running_mean"], torch.full((16,), 0.3).double())
        assert trainer.ensemble.buffers["free.num_batches_tracked"][r] == (STEPS if make is HoldsItsNorm else 0)
    assert_as_a_plain_loop(task, trainer)


def test_a_dropout_that_is_frozen_stays_so():
    task = Users(frozen_dropout)
    frozen, without = trained(task, runs(task)), trained(Users(lambda: nn.Sequential(net())), runs(task))
    assert_close(tensors(frozen), tensors(without), atol=0)


def test_a_batch_that_cannot_be_trained_after_all_is_trained_run_by_run(tmp_path, monkeypatch):
    """Where the plan has tried other settings: nothing is lost."""
    spec = get_task("teacher_student").spec.replace(steps=5, n_train=20)
    specs = [spec.replace(seed=seed) for seed in range(3)]
    begun = Trainer._begun

    def refused(self):
        if len(self.specs) > 1:
            raise CannotBatchError(self.task.name, "of these settings")
        return begun(self)

    monkeypatch.setattr("omnigrok.plan.why_alone", lambda *_: "")
    monkeypatch.setattr(Trainer, "_begun", refused)
    with pytest.warns(UserWarning, match="trained one by one: of these settings"):
        found = run_sweep(specs, Store(tmp_path), runs_per_batch=3, show_progress=False)
    assert found["run"].nunique() == 3
