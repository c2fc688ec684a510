"""Every activation is counted once, however it is called, alike by the function and by the probe over runs."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from boxes import FEATURES, Boxes, boxes
from torch import nn

from omnigrok import OmnigrokError
from omnigrok.probes.complexity import ComplexityProbe, frame, local_complexity
from omnigrok.spec import generator

ZERO = torch.zeros((), dtype=torch.float64)
FORMS = {
    "nn.ReLU": (nn.ReLU(), "relu"),
    "nn.ReLU in place": (nn.ReLU(inplace=True), "relu"),
    "F.relu": (F.relu, "relu"),
    "F.relu in place": (lambda x: F.relu(x, inplace=True), "relu"),
    "F.relu by keyword": (lambda x: F.relu(input=x), "relu"),
    "torch.relu": (torch.relu, "relu"),
    "torch.relu_": (torch.relu_, "relu"),
    "x.relu()": (lambda x: x.relu(), "relu"),
    "x.relu_()": (lambda x: x.relu_(), "relu"),
    "aten.relu": (torch.ops.aten.relu.default, "relu"),
    "F.relu6": (F.relu6, "relu6"),
    "nn.ReLU6": (nn.ReLU6(), "relu6"),
    "F.hardtanh": (lambda x: F.hardtanh(x, 0.0, 6.0), "relu6"),
    "nn.LeakyReLU": (nn.LeakyReLU(0.3), "leaky_relu"),
    "F.leaky_relu_": (lambda x: F.leaky_relu_(x, 0.2), "leaky_relu"),
    "F.prelu": (lambda x: F.prelu(x, ZERO.reshape(1) + 0.1), "prelu"),
    "x.prelu": (lambda x: x.prelu(ZERO.reshape(1) + 0.1), "prelu"),
    "nn.RReLU": (nn.RReLU(), "rrelu"),
    "F.rrelu": (F.rrelu, "rrelu"),
    "F.elu": (F.elu, "elu"),
    "nn.ELU in place": (nn.ELU(inplace=True), "elu"),
    "nn.SELU": (nn.SELU(), "selu"),
    "torch.selu": (torch.selu, "selu"),
    "F.celu": (F.celu, "celu"),
    "F.gelu": (lambda x: F.gelu(x, approximate="tanh"), "gelu"),
    "nn.GELU": (nn.GELU(), "gelu"),
    "F.silu": (F.silu, "silu"),
    "nn.SiLU in place": (nn.SiLU(inplace=True), "silu"),
    "nn.Mish": (nn.Mish(), "mish"),
    "F.softplus": (F.softplus, "softplus"),
    "nn.Hardswish": (nn.Hardswish(), "hardswish"),
    "F.threshold": (lambda x: F.threshold(x, 0.0, 0.0), "threshold"),
    "clamp(min=0)": (lambda x: x.clamp(min=0), "clamp"),
    "torch.clamp_min": (lambda x: torch.clamp_min(x, 0), "clamp"),
    "clamp_min_": (lambda x: x.clamp_min_(0.0), "clamp"),
    "clip(0)": (lambda x: x.clip(0), "clamp"),
    "torch.maximum": (lambda x: torch.maximum(x, ZERO), "maximum"),
    "torch.max, zeros first": (lambda x: torch.max(torch.zeros_like(x), x), "maximum"),
}


class Two(nn.Module):
    """Two layers with an activation each: one as it is given, one an nn.ReLU."""

    def __init__(self, act):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(FEATURES, 12), nn.Linear(12, 10), nn.Linear(10, 3)
        self.act, self.plain = act, nn.ReLU()

    def pre(self, x):
        first = self.first(x)
        return [first, self.second(self.act(first.clone()))]

    def forward(self, x):
        return self.last(self.plain(self.second(self.act(self.first(x)))))


def drawn(make, *arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*arguments).double().eval()


POINTS = torch.rand(7, FEATURES, generator=generator(0, "activations"), dtype=torch.float64)


def by_hand(pre, points=POINTS, radius=0.5, directions=5):
    """The counts from all pre-activations at all vertices, of a function that gives them a list, examples first."""
    vertices = points.unsqueeze(1) + frame(points.shape[1:], directions, radius)
    with torch.no_grad():
        found = [x.unflatten(0, (len(points), -1)).sign() for x in pre(vertices.flatten(0, 1))]
    return torch.stack([(x.amin(1) != x.amax(1)).flatten(1).sum(1) for x in found], dim=1)


@pytest.mark.parametrize(("act", "name"), FORMS.values(), ids=FORMS)
def test_an_activation_is_counted_once_however_it_is_called(act, name):
    model = drawn(Two, act)
    found = local_complexity(model, POINTS, 0.5, 5)
    assert found.layers == (name, "relu")
    assert found.units.tolist() == [12, 10]
    assert torch.equal(found.crossings, by_hand(model.pre))
    assert found.total.sum() > 0


class OwnModel(Boxes):
    name = "own_model"
    spec = Boxes.spec.replace(task=name, n_train=40, batch_size=10)

    def __init__(self, make):
        self.make = make

    def model(self, spec):
        return self.make()


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(("act", "name"), [FORMS[n] for n in FORMS if n not in ("nn.RReLU", "F.rrelu")],
                         ids=[n for n in FORMS if n not in ("nn.RReLU", "F.rrelu")])  # fmt: skip
def test_the_probe_counts_what_the_function_counts(act, name, runs):
    trainer = boxes(runs, OwnModel(lambda: Two(act)))
    probe = ComplexityProbe(directions=5, points=8)
    found = probe(trainer.ensemble, trainer.data)["lc_train"]
    points = trainer.data.train_inputs[0][:8]
    for r in range(runs):
        model = trainer.ensemble.model(r).eval()
        assert found[r] == local_complexity(model, points, 0.5, 5).total.double().mean()
        assert found[r] == by_hand(model.pre, points).sum(dim=1).double().mean()


@pytest.mark.parametrize(
    "what",
    [torch.tanh, torch.sigmoid, lambda x: F.glu(torch.cat([x, x], 1)), lambda x: x.clamp(min=-1),
     lambda x: x.clamp(max=0), lambda x: x / x.norm(dim=1, keepdim=True).clamp_min(1e-6),
     lambda x: x + x.max(0).values[0] * 0],
    ids=["tanh", "sigmoid", "glu", "clamp below zero", "clamp above", "clamp of a norm", "max along an axis"],
)  # fmt: skip
def test_what_is_no_activation_is_not_counted(what):
    assert local_complexity(drawn(Two, what), POINTS, 0.5, 5).layers == ("relu",)


class Tokens(nn.Module):
    """An encoder over tokens, before it an activation as a module."""

    def __init__(self, first, activation):
        super().__init__()
        self.embed, self.act = nn.Linear(1, 8), nn.ReLU()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=first, activation=activation, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.first, self.head = first, nn.Linear(8, 3)

    def forward(self, x):
        x = self.act(self.embed(x[:, :6, None]))
        x = self.encoder(x if self.first else x.transpose(0, 1))
        return self.head(x if self.first else x.transpose(0, 1)).mean(dim=1)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("activation", ["relu", F.gelu, nn.SiLU()])
@pytest.mark.parametrize("first", [True, False], ids=["examples first", "tokens first"])
def test_a_transformer_encoder_hides_nothing(first, activation, runs):
    def make():
        return Tokens(first, copy.copy(activation))

    model = drawn(make)
    found = local_complexity(model, POINTS, 0.5, 5)
    assert found.units.tolist() == [6 * 8, 6 * 16, 6 * 16]

    def pre(x):
        with torch.enable_grad():  # torch takes its fast path without gradients alone
            seen = []
            hooks = [
                layer.linear1.register_forward_hook(lambda *a: seen.append(a[2])) for layer in model.encoder.layers
            ]
            hooks.append(model.embed.register_forward_hook(lambda *a: seen.append(a[2])))
            model(x)
            for hook in hooks:
                hook.remove()
        return [x.detach() if first or i == 0 else x.detach().transpose(0, 1) for i, x in enumerate(seen)]

    assert torch.equal(found.crossings, by_hand(pre))
    assert torch.backends.mha.get_fastpath_enabled()
    trainer = boxes(runs, OwnModel(make))
    probe = ComplexityProbe(directions=5, points=8)(trainer.ensemble, trainer.data)["lc_train"]
    points = trainer.data.train_inputs[0][:8]
    for r in range(runs):
        assert probe[r] == local_complexity(trainer.ensemble.model(r), points, 0.5, 5).total.double().mean()


class Merged(nn.Module):
    """Tokens as further examples, in either order, and a scale that is positive by an activation of its own."""

    def __init__(self, major):
        super().__init__()
        self.layer, self.head, self.major = nn.Linear(5, 8), nn.Linear(8, 3), major
        self.scale = nn.Parameter(torch.rand(7))

    def forward(self, x):
        x = x.unflatten(1, (6, 5))
        x = (x if self.major else x.transpose(0, 1)).flatten(0, 1)
        h = F.relu(self.layer(x)) * F.softplus(self.scale).mean()
        h = h.unflatten(0, (-1, 6) if self.major else (6, -1)).mean(1 if self.major else 0)
        return self.head(h)


@pytest.mark.parametrize("major", [True, False])
def test_examples_are_found_where_they_share_an_axis(major):
    model = drawn(Merged, major)
    found = local_complexity(model, POINTS, 0.5, 5)
    assert found.layers == ("relu",)
    assert found.units.tolist() == [6 * 8]
    assert torch.equal(found.crossings, by_hand(lambda x: [model.layer(x.unflatten(1, (6, 5)))]))
    trainer = boxes(2, OwnModel(lambda: Merged(major)))
    probe = ComplexityProbe(directions=5, points=8)(trainer.ensemble, trainer.data)["lc_train"]
    points = trainer.data.train_inputs[0][:8]
    for r in range(2):
        assert probe[r] == local_complexity(trainer.ensemble.model(r), points, 0.5, 5).total.double().mean()


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.RNN(5, 4, nonlinearity="relu", batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.rnn(x.unflatten(1, (6, 5)))[0][:, -1]))


@torch.jit.script
def scripted_relu(x):
    return torch.relu(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "units"),
    [(Recurrent, [4] * 7), (lambda: Two(lambda x: scripted_relu(x)), [12, 10]),
     (lambda: nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(FEATURES, 5), nn.ReLU())), nn.ReLU()), [5, 5])],
    ids=["nn.RNN", "a scripted function", "a scripted part"],
)  # fmt: skip
def test_what_only_operators_show_is_counted(make, units):
    found = local_complexity(drawn(make), POINTS, 0.5, 5)
    assert found.units.tolist() == units
    assert found.total.sum() > 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_the_probe_refuses_what_it_cannot_see_in_a_batch():
    trainer = boxes(2, OwnModel(lambda: Two(lambda x: scripted_relu(x))))
    with pytest.raises(OmnigrokError, match="cannot be seen in a batch"):
        ComplexityProbe(directions=5, points=8)(trainer.ensemble, trainer.data)
    alone = boxes(1, OwnModel(lambda: Two(lambda x: scripted_relu(x))))
    plain = boxes(1, OwnModel(lambda: Two(torch.relu)))
    probe = ComplexityProbe(directions=5, points=8)
    first, second = (probe(t.ensemble, t.data)["lc_train"] for t in (alone, plain))
    assert torch.equal(first, second)


@pytest.mark.parametrize("runs", [1, 2])
def test_one_unit_and_a_chain_that_takes_examples_apart(runs):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = nn.Linear(FEATURES, 1), nn.Linear(1, 3)

        def forward(self, x):
            return self.last(F.relu(self.layer(x).squeeze(1)).unsqueeze(1))

    def apart():
        return nn.Sequential(
            nn.Unflatten(1, (5, 6)), nn.Flatten(0, 1), nn.Linear(6, 4), nn.ReLU(), nn.Unflatten(0, (-1, 5)),
            nn.Flatten(), nn.Linear(20, 3),
        )  # fmt: skip

    probe = ComplexityProbe(directions=5, points=8)
    for make, pre in (
        (One, lambda model, x: model.layer(x)), (apart, lambda model, x: model[2](x.unflatten(1, (5, 6))))
    ):  # fmt: skip
        trainer = boxes(runs, OwnModel(make))
        found = probe(trainer.ensemble, trainer.data)["lc_train"]
        points = trainer.data.train_inputs[0][:8]
        for r in range(runs):
            model = trainer.ensemble.model(r).eval()
            expected = by_hand(lambda x, model=model, pre=pre: [pre(model, x)], points)
            assert torch.equal(local_complexity(model, points, 0.5, 5).crossings, expected)
            assert found[r] == expected.sum(dim=1).double().mean()


class Residual(nn.Sequential):
    """A chain whose pass is more than the chain's."""

    def forward(self, x):
        return super().forward((x - 0.5).abs())


def test_a_chain_with_a_pass_of_its_own_shares_nothing():
    model = drawn(lambda: Residual(nn.Linear(FEATURES, 6), nn.ReLU()))
    expected = by_hand(lambda x: [model[0]((x - 0.5).abs())])
    assert torch.equal(local_complexity(model, POINTS, 0.5, 5).crossings, expected)


def exported(model):
    return torch.export.export(model, (POINTS,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()


def traced(model):
    return torch.jit.trace(model, (POINTS,), check_trace=False)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning", "ignore:Convert"
)
@pytest.mark.parametrize("form", [exported, traced])
@pytest.mark.parametrize("make", [lambda: Tokens(True, "gelu"), lambda: Tokens(False, "relu"), Recurrent])
def test_programs_count_what_their_modules_do(make, form):
    model = drawn(make)
    plain, program = (local_complexity(m, POINTS, 0.5, 5) for m in (model, form(model)))
    assert plain.layers == program.layers
    assert torch.equal(plain.crossings, program.crossings)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_fused_code_is_refused():
    model = torch.jit.script(drawn(Tokens, True, "gelu"))
    with pytest.raises(OmnigrokError, match="may hide an activation"):
        local_complexity(model, POINTS, 0.5, 5)
    assert torch.backends.mha.get_fastpath_enabled()


def test_activations_that_come_and_go_are_refused():
    class Sometimes(Two):
        def forward(self, x):
            return super().forward(x) if len(x) < 9 else super().forward(x).relu()

    with pytest.raises(OmnigrokError, match="shows other activations than the 2"):
        local_complexity(drawn(Sometimes, nn.ReLU()), POINTS, 0.5, 5)
