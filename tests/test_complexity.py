"""Local complexity against its closed form, and as a probe over runs."""

import itertools

import pytest
import torch
from boxes import boxes
from torch import nn

from omnigrok import OmnigrokError, get_task
from omnigrok.ensemble import scaled_model
from omnigrok.loading import task_data
from omnigrok.probes.complexity import ComplexityProbe, activations, frame, local_complexity, starts_affine
from omnigrok.spec import generator
from omnigrok.trainer import Trainer


def mlp(*widths, seed=0, activation=nn.ReLU):
    layers = []
    draw = generator(seed, "mlp")
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        layer = nn.utils.skip_init(nn.Linear, n, m)
        with torch.no_grad():
            layer.weight.uniform_(-(n**-0.5), n**-0.5, generator=draw)
            layer.bias.uniform_(-(n**-0.5), n**-0.5, generator=draw)
        layers += [layer] + ([activation()] if i < len(widths) - 2 else [])
    return nn.Sequential(*layers)


@pytest.mark.parametrize("directions", [1, 5, 25])
@pytest.mark.parametrize("radius", [0.005, 0.5, 5.0])
def test_the_first_layer_is_the_closed_form(directions, radius):
    model = mlp(30, 40, 20, 3, seed=directions).double()
    points = torch.rand(50, 30, generator=generator(1), dtype=torch.float64)
    found = local_complexity(model, points, radius, directions)
    v = frame((30,), directions, 1.0)[:directions]
    reach = radius * (model[0].weight @ v.T).abs().max(dim=1).values
    expected = (model[0](points).abs() < reach).sum(dim=1)
    assert torch.equal(found.crossings[:, 0], expected)
    assert found.units.tolist() == [40, 20]
    assert torch.equal(found.total, found.crossings.sum(dim=1))


class Opaque(nn.Module):
    """A chain that does not look like one: every vertex goes through every layer."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, x):
        return self.chain(x)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_shared_first_layer_equals_every_vertex_through_it(kind):
    if kind == "linear":
        chain, shape = mlp(12, 30, 20, 10, 3, activation=nn.LeakyReLU), (12,)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            convolution = nn.Conv2d(2, 5, 3)
        chain = nn.Sequential(convolution, nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), mlp(5 * 16, 9, 3))
        shape = (2, 6, 6)
    chain = chain.double()
    points = torch.rand(40, *shape, generator=generator(4), dtype=torch.float64)
    assert starts_affine(chain)
    assert not starts_affine(Opaque(chain))
    fast, plain = (local_complexity(model, points, 0.6, 7) for model in (chain, Opaque(chain)))
    assert torch.equal(fast.crossings, plain.crossings)
    assert torch.equal(fast.dead, plain.dead)
    assert torch.equal(fast.always_on, plain.always_on)
    assert fast.total.max() > 0


def test_a_chain_that_is_not_affine_up_to_its_first_activation_shares_nothing():
    first, act, second, _, last = mlp(12, 30, 20, 3).double()
    chain = nn.Sequential(first, nn.Tanh(), second, act, last)
    points = torch.rand(9, 12, generator=generator(5), dtype=torch.float64)
    assert not starts_affine(chain)
    assert not starts_affine(mlp(3, 3))
    fast, plain = (local_complexity(model, points, 0.6, 7) for model in (chain, Opaque(chain)))
    assert torch.equal(fast.crossings, plain.crossings)


class Functional(nn.Module):
    """The activations of a chain as functions, and in place."""

    def __init__(self, chain):
        super().__init__()
        self.layers = nn.ModuleList(m for m in chain if isinstance(m, nn.Linear))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu_(layer(x))
        return self.layers[-1](x)


def in_place(chain):
    return nn.Sequential(*(nn.ReLU(inplace=True) if isinstance(m, nn.ReLU) else m for m in chain))


def exported(chain):
    example = torch.zeros(2, 12, dtype=torch.float64)
    return torch.export.export(chain, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()


@pytest.mark.parametrize("form", [in_place, Functional, torch.jit.script, exported])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning", "ignore:.*torch.jit.script:DeprecationWarning")
def test_an_activation_is_found_however_it_is_called(form):
    chain = mlp(12, 30, 20, 3).double()
    points = torch.rand(9, 12, generator=generator(5), dtype=torch.float64)
    plain, other = (local_complexity(model, points, 0.6, 7) for model in (chain, form(chain)))
    assert torch.equal(plain.crossings, other.crossings)
    assert torch.equal(plain.dead, other.dead)


def test_one_activation_in_two_places_is_two():
    chain = mlp(12, 30, 20, 3).double()
    first, act, second, _, last = chain
    points = torch.rand(9, 12, generator=generator(5), dtype=torch.float64)
    plain, reused = (
        local_complexity(model, points, 0.6, 7) for model in (chain, torch.nn.Sequential(first, act, second, act, last))
    )
    assert torch.equal(plain.crossings, reused.crossings)


def test_the_frame_is_orthonormal_and_its_own():
    v = frame((4, 5), 7, 2.0, seed=3)
    assert v.shape == (14, 4, 5)
    torch.testing.assert_close(v[:7].flatten(1) @ v[:7].flatten(1).T, 4 * torch.eye(7, dtype=torch.float64))
    assert torch.equal(v[7:], -v[:7])
    assert not torch.equal(frame((4, 5), 7, 2.0, seed=4), v)


def test_memory_hooks_and_mode_are_as_before():
    model = mlp(10, 16, 8, 2).double()
    model.train()
    points = torch.rand(23, 10, generator=generator(2), dtype=torch.float64)
    whole, parts = (local_complexity(model, points, 0.7, 5, memory=m) for m in (2**28, 1_000))
    assert torch.equal(whole.crossings, parts.crossings)
    assert torch.equal(whole.dead, parts.dead)
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 0
    assert model.training


def test_a_call_takes_as_many_points_as_fit_into_memory():
    """Where the first layer is shared, a call holds its points, the directions and the origin."""
    model = mlp(10, 16, 8, 2).double()
    points = torch.rand(23, 10, generator=generator(2), dtype=torch.float64)
    vertices, widest, number = 2 * 5, 16, 8  # of bytes
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    local_complexity(model, points, 0.7, 5, memory=3 * vertices * widest * number)
    calls = [size for size in sizes if size > 3]
    assert calls == [3 + 5 + 1] * 7 + [2 + 5 + 1]
    sizes.clear()
    local_complexity(Opaque(model), points, 0.7, 5, memory=3 * vertices * widest * number)
    assert [size for size in sizes if size > 3] == [3 * vertices] * 7 + [2 * vertices]


def test_scaling_a_unit_and_undoing_it_in_the_next_layer_changes_nothing():
    model = mlp(10, 16, 8, 2).double()
    points = torch.rand(20, 10, generator=generator(3), dtype=torch.float64)
    before = local_complexity(model, points, 0.7, 5)
    with torch.no_grad():
        model[0].weight[4] *= 7.0
        model[0].bias[4] *= 7.0
        model[2].weight[:, 4] /= 7.0
    assert torch.equal(local_complexity(model, points, 0.7, 5).crossings, before.crossings)


def test_dead_and_always_on_units_are_counted():
    model = mlp(6, 5, 2).double()
    with torch.no_grad():
        model[0].weight[4] = model[0].bias[4] = 0.0  # zero everywhere: never positive and never negative
        model[0].bias[:2] = -100.0
        model[0].bias[2:3] = 100.0
    points = torch.rand(9, 6, generator=generator(4), dtype=torch.float64)
    found = local_complexity(model, points, 0.1, 3)
    pre = model[0](points.unsqueeze(1) + frame((6,), 3, 0.1)).flatten(0, 1)
    assert found.dead.tolist() == [(pre <= 0).all(dim=0).sum().item()]
    assert found.always_on.tolist() == [(pre >= 0).all(dim=0).sum().item()]
    assert found.dead.item() >= 3
    assert found.crossings[:, 0].max().item() <= 1


@pytest.mark.parametrize(("radius", "expected"), [(0.05, 3.3), (0.5, 32), (5.0, 284)])
def test_the_values_at_init_of_an_mnist_network(radius, expected):
    """784-200-200-200-10 at the default init, uniform inputs, P = 25, logits counted: a separate numpy computation."""
    found = []
    for seed in range(3):
        model = mlp(784, 200, 200, 200, 10, seed=seed)
        points = torch.rand(300, 784, generator=generator(seed, "points"))
        layers = [*activations(model), nn.Identity()]
        whole = nn.Sequential(*model, layers[-1])
        found.append(local_complexity(whole, points, radius, layers=layers).total.float().mean().item())
    assert sum(found) / 3 == pytest.approx(expected, rel=0.15)


def test_a_convolution_counts_every_channel_and_place():
    with torch.random.fork_rng():
        conv = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 2)).double()
    found = local_complexity(conv, torch.rand(4, 1, 6, 6, generator=generator(5), dtype=torch.float64), 0.5, 10)
    assert found.units.tolist() == [48]


def test_what_cannot_be_measured_is_named():
    with pytest.raises(OmnigrokError, match="no activation"):
        local_complexity(nn.Sequential(), torch.zeros(1, 3), 0.1, 2)
    with pytest.raises(OmnigrokError, match="directions must be 1 to 3"):
        frame((3,), 4, 0.1)
    with pytest.raises(OmnigrokError, match="radius must be above 0"):
        frame((3,), 2, 0.0)


@pytest.mark.parametrize("runs", [1, 3])
def test_the_probe_measures_every_run_as_the_function_does(mnist_data, runs):
    task = get_task("mnist")
    probe = ComplexityProbe(radius=0.5, directions=5, points=12)
    spec = task.spec.replace(dtype="float64", steps=0, n_train=20, batch_size=10, probes=(probe,))
    trainer = Trainer(task, [spec.replace(seed=s, alpha=1.0 + s) for s in range(runs)], mnist_data)
    found = probe(trainer.ensemble, mnist_data)
    for row, each in enumerate(trainer.specs):
        model = scaled_model(task, each)
        expected = local_complexity(model, mnist_data.train_inputs[0][:12], 0.5, 5)
        assert found["lc_train"][row].item() == pytest.approx(expected.total.double().mean().item())
        share = expected.dead.sum() / expected.units.sum()
        assert found["lc_train_dead"][row].item() == pytest.approx(share.item())
    assert set(found) == {"lc_train", "lc_test", "lc_random", "lc_train_dead", "lc_train_always_on"}


def test_a_probe_needs_the_training_examples_that_it_looks_at():
    probe = ComplexityProbe(directions=3, points=60)
    enough, too_few = boxes(1, n_train=60), boxes(1, n_train=59)
    assert probe(enough.ensemble, enough.data)["lc_train"] > 0
    with pytest.raises(OmnigrokError, match="of 60 points needs as many training examples"):
        probe(too_few.ensemble, too_few.data)


def test_the_probe_logs_within_a_run():
    task = get_task("teacher_student")
    spec = task.spec.replace(steps=10, n_train=20)
    data = task_data(spec, "cpu")
    with pytest.raises(OmnigrokError, match="no activation"):  # it has tanh, which is not counted
        ComplexityProbe(directions=3, points=5)(Trainer(task, [spec], data).ensemble, data)
