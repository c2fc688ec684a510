"""What has no local complexity or partition is refused in one line; what is measured is left as it was."""

import contextlib
import itertools
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from boxes import boxes
from click.testing import CliRunner
from torch import nn

from omnigrok import OmnigrokError
from omnigrok.cli import cli
from omnigrok.exported import ANYWAY
from omnigrok.probes.complexity import ComplexityProbe, local_complexity
from omnigrok.probes.partition import Plane, partition
from omnigrok.probes.partition_probe import PartitionProbe
from omnigrok.spec import generator
from omnigrok.task import TaskData

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")


def drawn(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def linear(*sizes):
    return drawn(lambda: nn.Linear(*sizes))


def chain(*middle):
    return drawn(lambda: nn.Sequential(nn.Linear(4, 6), *middle, nn.ReLU(), nn.Linear(6, 3)))


POINTS = torch.rand(5, 4, generator=generator(0, "points"))


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int32, torch.int8, torch.bool, torch.complex64])
def test_points_are_floats(dtype, tmp_path, monkeypatch):
    points = (255 * POINTS).to(dtype)
    for measure in (lambda: local_complexity(chain(), points, 0.5, 3), lambda: Plane.through(points[:3])):
        with pytest.raises(OmnigrokError, match="give floats in the units of the network's inputs, as images / 255"):
            measure()
    plane = Plane(points[0], points[1], points[2], 1.0)
    with pytest.raises(OmnigrokError, match="give floats"):
        partition(chain(), plane)
    monkeypatch.chdir(tmp_path)
    np.save("points.npy", points.numpy())
    torch.save(points, "points.pt")
    torch.export.save(torch.export.export(chain(), (POINTS,)), "net.pt2")
    for command in ("complexity", "partition"):
        for data in ("points.npy", "points.pt"):
            result = CliRunner().invoke(cli, [command, "net.pt2", "--data", data])
            assert isinstance(result.exception, OmnigrokError)
            assert f"the points in {data} are" in str(result.exception)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
@pytest.mark.parametrize("probe", [ComplexityProbe(directions=3, points=5), PartitionProbe()])
def test_probes_ask_for_floats(probe, dtype):
    trainer = boxes(2)
    data = trainer.data
    inputs = (255 * data.train_inputs[0]).to(dtype)
    whole = TaskData((inputs,), data.train_targets, (inputs,), data.train_targets, "generated")
    with pytest.raises(OmnigrokError, match="give floats"):
        probe(trainer.ensemble, whole)


@pytest.mark.parametrize("points", [torch.zeros(0, 4), torch.zeros(()), torch.zeros(0)])
def test_no_points_are_named(points):
    with pytest.raises(OmnigrokError, match="there are no points"):
        local_complexity(chain(), points, 0.5, 3)


def with_points(value):
    points = POINTS.clone()
    points[3, 1] = value
    return chain(), points


def with_weight(value, which):
    net = chain(nn.BatchNorm1d(6)).eval()
    with torch.no_grad():
        net.get_parameter(which)[0] = value
    return net, POINTS


def with_buffer(value):
    net = chain(nn.BatchNorm1d(6)).eval()
    net[1].running_mean[2] = value
    return net, POINTS


BROKEN = {
    "a point": lambda: with_points(math.nan),
    "a point out of range": lambda: with_points(math.inf),
    "a weight": lambda: with_weight(math.nan, "0.weight"),
    "a weight of the last layer": lambda: with_weight(math.inf, "3.weight"),
    "a bias": lambda: with_weight(-math.inf, "0.bias"),
    "a buffer": lambda: with_buffer(math.nan),
    "a variance": lambda: with_buffer(math.inf),
}


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_numbers_that_are_not_finite_are_refused(case, tmp_path, monkeypatch):
    net, points = case()
    with pytest.raises(OmnigrokError, match="not finite") as error:
        local_complexity(net, points, 0.5, 3)
    assert one_line(error)
    with pytest.raises(OmnigrokError, match="not finite"):
        partition(net, Plane(points[3], *torch.eye(4)[:2], 1.0))
    monkeypatch.chdir(tmp_path)
    torch.save(points, "points.pt")
    torch.export.save(torch.export.export(net, (POINTS,), dynamic_shapes=({0: torch.export.Dim("batch")},)), "net.pt2")
    for command in ("complexity", "partition"):
        result = CliRunner().invoke(cli, [command, "net.pt2", "--data", "points.pt"])
        assert "not finite" in str(result.exception)


def test_pre_activations_that_overflow_are_refused():
    net = chain(nn.ReLU(), linear(6, 6))
    with torch.no_grad():
        net[0].weight.fill_(1e30)
        net[2].weight.fill_(1e30)
    with pytest.raises(OmnigrokError, match=r"pre-activations of layer 2 \(relu\) are not finite"):
        local_complexity(net, POINTS, 0.5, 3)
    with torch.no_grad():
        net.double()[0].weight.fill_(1e300)
        net[2].weight.fill_(1e300)
    with pytest.raises(OmnigrokError, match="not finite"):
        partition(net, Plane.through(POINTS[:3]))


def test_a_mask_of_minus_infinity_is_no_diverged_network():
    net = chain()
    net.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
    assert local_complexity(net, POINTS, 0.5, 3).units.tolist() == [6]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("probe", [ComplexityProbe(directions=3, points=5), PartitionProbe()])
def test_a_run_that_has_diverged_has_nan_and_its_neighbours_their_numbers(probe, value):
    trainer = boxes(3)
    before = probe(trainer.ensemble, trainer.data)
    with torch.no_grad():
        list(trainer.ensemble.params.values())[-1][1, 0] = value
    after = probe(trainer.ensemble, trainer.data)
    for name, numbers in before.items():
        assert after[name][1].isnan()
        assert torch.equal(after[name][[0, 2]], numbers[[0, 2]])
    alone = boxes(1)
    with torch.no_grad():
        next(iter(alone.ensemble.params.values()))[0, 0] = value
    assert all(numbers.isnan().all() for numbers in probe(alone.ensemble, alone.data).values())


class Noisy(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.layer, self.what = nn.Linear(4, 6), what

    def forward(self, x):
        return F.relu(self.what(self.layer(x)))


class Counting(nn.Module):
    """A running mean by hand, which only training moves."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return x - self.mean


def exported(net, _):
    return torch.export.export(net.train(), (POINTS,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()


def traced(net, folder):
    torch.jit.trace(net.train(), (POINTS,), check_trace=False).save(folder / "traced.pt")
    return torch.jit.load(folder / "traced.pt").eval()


def frozen(net, _):
    return torch.jit.freeze(torch.jit.trace(net.train(), (POINTS,), check_trace=False).eval())


TRAINING = {
    "dropout": lambda: chain(nn.Dropout(0.5)), "batch norm": lambda: chain(nn.BatchNorm1d(6)),
    "F.dropout": lambda: Noisy(F.dropout), "noise": lambda: Noisy(lambda x: x + torch.randn_like(x)),
    "alpha dropout": lambda: chain(nn.AlphaDropout(0.2)), "rrelu": lambda: chain(nn.RReLU()),
    "a buffer by hand": lambda: chain(Counting()),
}  # fmt: skip
FORMS = list(itertools.product(TRAINING, (exported, traced, frozen)))
FORMS.remove(("batch norm", frozen))  # torch folds it with its running statistics, as in evaluation


@pytest.mark.parametrize(("what", "form"), FORMS)
def test_a_model_saved_in_training_mode_is_refused_and_left_alone(what, form, tmp_path):
    with torch.random.fork_rng():  # torch runs a pass to export it
        model = form(TRAINING[what](), tmp_path)
    before = {name: b.clone() for name, b in model.named_buffers()}
    state = torch.get_rng_state()
    with pytest.raises(OmnigrokError, match=r"training mode.*export it from net\.eval\(\)") as error:
        local_complexity(model, POINTS, 0.5, 3)
    assert one_line(error)
    assert all(torch.equal(before[name], b) for name, b in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "what",
    [F.dropout, nn.BatchNorm1d(6, track_running_stats=False), lambda x: F.batch_norm(x, None, None, training=True)],
)
def test_what_draws_or_mixes_in_evaluation_is_refused(what):
    with pytest.raises(OmnigrokError, match="training mode"):
        local_complexity(drawn(lambda: Noisy(what)), POINTS, 0.5, 3)


@pytest.mark.parametrize(
    "layer", [nn.InstanceNorm1d(6), nn.GroupNorm(2, 6), nn.LayerNorm(6), nn.Dropout(0.5), nn.RReLU()]
)
def test_what_is_of_each_example_is_taken(layer):
    def shaped(x):
        return layer(x.unsqueeze(-1).expand(-1, -1, 2)).mean(-1) if isinstance(layer, nn.InstanceNorm1d) else layer(x)

    net = drawn(lambda: Noisy(layer)) if not isinstance(layer, nn.InstanceNorm1d) else drawn(lambda: Noisy(shaped))
    assert local_complexity(net, POINTS, 0.5, 3).units.sum() >= 6


def test_partition_refuses_statistics_of_a_batch():
    with pytest.raises(OmnigrokError, match="statistics of a batch"):
        partition(chain(nn.BatchNorm1d(6, track_running_stats=False)), Plane.through(POINTS[:3]))


def test_partition_takes_a_traced_model_in_evaluation():
    net = chain(nn.Dropout(0.5)).train()
    traced_too = torch.fx.symbolic_trace(net)
    first, second = (partition(m, Plane.through(POINTS[:3])) for m in (net, traced_too))
    assert first.boundary_length() == second.boundary_length() > 0
    assert net.training
    assert traced_too.training


@pytest.mark.parametrize("fails", [False, True])
def test_modes_hooks_buffers_and_points_are_as_before(fails):
    net = chain(nn.BatchNorm1d(6), nn.Dropout(0.5), Counting(), nn.ReLU(), linear(6, 6)).train()
    net[1].eval()
    net[5].eval()
    points, modes = POINTS.clone(), [m.training for m in net.modules()]
    buffers = [b.clone() for b in net.buffers()]
    if fails:
        points = points[:, :3]
    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
        local_complexity(net, points, 0.5, 3)
    assert [m.training for m in net.modules()] == modes
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), buffers, strict=True))
    assert torch.backends.mha.get_fastpath_enabled()


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls = self.calls + 1
        return F.relu(self.layer(x.sub_(0.05)))


def test_points_are_not_changed_by_a_model_that_changes_them():
    net, points = drawn(InPlace), POINTS.clone()
    found = local_complexity(net, points, 0.5, 3)
    assert torch.equal(points, POINTS)
    assert net.calls == 0
    shifted = nn.Sequential(net.layer, nn.ReLU())
    assert torch.equal(found.crossings, local_complexity(shifted, points - 0.05, 0.5, 3).crossings)


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_points_of_another_float_dtype_are_converted(model_dtype, dtype):
    net, points = chain().to(model_dtype), POINTS.to(dtype)
    found = local_complexity(net, points, 0.5, 3)
    assert torch.equal(found.crossings, local_complexity(net, points.to(model_dtype), 0.5, 3).crossings)


def test_the_old_weight_norm_and_what_it_computes():
    with pytest.warns(FutureWarning):
        net = drawn(lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)))
    net(POINTS)  # leaves a weight of a pass
    plane = Plane.through(POINTS[:3])
    found = partition(net, plane)
    for region in found.regions:
        centre = region.polygon.mean(axis=0, keepdims=True)
        with torch.no_grad():
            expected = net(plane.at(centre).float())
        torch.testing.assert_close(torch.from_numpy(region.outputs(centre)).float(), expected, rtol=1e-4, atol=1e-5)
    assert len(found.regions) > 1


def test_a_probe_of_several_inputs_is_named():
    trainer = boxes(1)
    data = trainer.data
    twice = TaskData(data.train_inputs * 2, data.train_targets, data.test_inputs * 2, data.test_targets, "generated")
    with pytest.raises(OmnigrokError, match="takes models of one input"):
        ComplexityProbe(directions=3, points=5)(trainer.ensemble, twice)


@pytest.mark.parametrize("command", ["complexity", "partition"])
def test_files_of_torch_export_from_training_mode(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(POINTS, "points.pt")
    options = ["--directions", "3"] if command == "complexity" else []
    for layer in (nn.BatchNorm1d(6), nn.Dropout(0.5)):
        with torch.random.fork_rng():
            batch = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(chain(layer).train(), (POINTS,), dynamic_shapes=batch)
        torch.export.save(program, "net.pt2")
        for trust in ([], [ANYWAY]):
            with torch.random.fork_rng():  # whether the model takes the points is tried by a pass
                result = CliRunner().invoke(cli, [command, "net.pt2", "--data", "points.pt", *options, *trust])
            assert isinstance(result.exception, OmnigrokError)
            assert re.search(r"training mode.*export.*\.eval\(\)", str(result.exception))
