"""Exact partitions: they tile the square, and the network is affine on every piece."""

import itertools
import time

import numpy as np
import pytest
import torch
from torch import nn

from omnigrok import OmnigrokError, get_task
from omnigrok.probes.partition import Partition, Plane, partition
from omnigrok.probes.partition_probe import PartitionProbe
from omnigrok.probes.polygons import distances_to, polygon_area
from omnigrok.spec import generator
from omnigrok.trainer import Trainer


def built(make, seed=0):
    """A module with weights that depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double().eval()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(4 * 9, 3)

    def forward(self, x):
        x = self.first(x)
        x = x + self.second(self.act(self.norm(x)))
        return self.head(self.pool(torch.relu(x)).flatten(1))


def small_mlp():
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.LeakyReLU(0.2), nn.Linear(10, 4))


def pooled_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 4, 3),
    )  # fmt: skip


def padded_pool():
    """Windows that overlap, hang over the edge, and are as high as they are not wide; activations in place."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d((2, 3), stride=(2, 1), padding=(1, 0), dilation=[1, 1]),
        nn.Flatten(), nn.Linear(2 * 3 * 2, 3),
    )  # fmt: skip


MODELS = {
    "mlp": (small_mlp, (8,)), "cnn": (pooled_cnn, (1, 6, 6)), "residual": (Residual, (2, 6, 6)),
    "padded": (padded_pool, (1, 6, 6)),
}  # fmt: skip


def plane_for(shape, seed=1, half_width=2.0):
    points = torch.randn(3, *shape, generator=generator(seed, "plane"), dtype=torch.float64)
    return Plane.through(points, half_width=half_width)


@pytest.mark.parametrize("name", MODELS)
def test_the_regions_tile_the_square_and_the_network_is_affine_on_each(name):
    make, shape = MODELS[name]
    model = built(make)
    if name == "residual":
        with torch.no_grad():
            model.norm.running_mean.uniform_(-0.5, 0.5, generator=generator(7))
            model.norm.running_var.uniform_(0.5, 2.0, generator=generator(8))
    plane = plane_for(shape)
    found = partition(model, plane)
    assert len(found.regions) > 20
    assert found.area() == pytest.approx((2 * plane.half_width) ** 2, rel=1e-9)
    rng = np.random.default_rng(0)
    for region in found.regions:
        weights = rng.dirichlet(np.ones(len(region.polygon)), size=2)
        inside = weights @ region.polygon
        with torch.no_grad():
            expected = model(plane.at(inside)).numpy()
        np.testing.assert_allclose(region.outputs(inside), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_activation_patterns_are_distinct(name):
    make, shape = MODELS[name]
    patterns = [region.pattern for region in partition(built(make), plane_for(shape)).regions]
    assert len(set(patterns)) == len(patterns)


def test_one_layer_has_as_many_regions_as_its_lines_make():
    """1 + lines + crossings inside the square, for lines in general position."""
    model = built(lambda: nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 2)), seed=5)
    plane = Plane(torch.zeros(2).double(), *torch.eye(2).double(), half_width=1.5)
    lines = [(w.numpy(), b.item()) for w, b in zip(model[0].weight.detach(), model[0].bias.detach(), strict=True)]
    corners = 1.5 * np.array(list(itertools.product([-1, 1], repeat=2)))
    inside = [(w, b) for w, b in lines if (corners @ w + b).max() > 0 > (corners @ w + b).min()]
    crossings = 0
    for (w1, b1), (w2, b2) in itertools.combinations(inside, 2):
        crossings += bool((np.abs(np.linalg.solve(np.array([w1, w2]), [-b1, -b2])) < 1.5).all())
    found = partition(model, plane)
    assert len(found.regions) == 1 + len(inside) + crossings
    assert crossings > 3


def test_the_decision_boundary_is_where_the_largest_output_changes():
    model = built(small_mlp)
    plane = plane_for((8,))
    found = partition(model, plane)
    assert len(found.decision) > 3
    middles = found.decision.mean(axis=1)
    with torch.no_grad():
        top = model(plane.at(middles)).topk(2, dim=1).values
    assert (top[:, 0] - top[:, 1]).max().item() < 1e-9
    grid = np.stack(np.meshgrid(*[np.linspace(-2, 2, 60)] * 2), axis=-1).reshape(-1, 2)
    with torch.no_grad():
        classes = model(plane.at(grid)).argmax(dim=1).numpy().reshape(60, 60)
    edges = np.argwhere(classes[:, 1:] != classes[:, :-1])
    points = grid.reshape(60, 60, 2)[edges[:, 0], edges[:, 1]]
    assert found.distances(points, "decision").max() < 4 / 59  # a boundary within every grid step that changes class


def test_a_single_output_is_decided_by_its_sign():
    model = built(lambda: nn.Sequential(nn.Linear(2, 1)))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        model[0].bias.fill_(-0.5)
    found = partition(model, unit_square())
    assert len(found.regions) == 1
    np.testing.assert_allclose(np.sort(found.decision[0], axis=0), [[0.5, -1], [0.5, 1]])


def test_an_affine_network_has_nothing_near_its_decision_boundary():
    found = partition(built(lambda: nn.Sequential(nn.Linear(2, 2, bias=False))), unit_square())
    assert len(found.decision) == 1
    assert len(found.boundaries) == 0
    assert found.share_near_decision(0.5) == found.crowding(0.5) == 0.0
    assert (found.distances(np.zeros((2, 2))) == np.inf).all()


def test_numbers_of_migration():
    model = built(lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.copy_(torch.tensor([0.0, -0.5]))
        model[2].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        model[2].bias.copy_(torch.tensor([-0.9, 0.0]))  # decided at x = 0.9
    found = partition(model, unit_square())
    assert len(found.regions) == 4
    assert found.boundary_length() == pytest.approx(4.0)  # x = 0 and y = 0.5
    np.testing.assert_allclose(found.distances(np.array([[0.3, 0.0], [-0.4, 0.4]])), [0.3, 0.1])
    np.testing.assert_allclose(found.distances(np.array([[0.3, 0.0]]), "decision"), [0.6])
    assert 0 < found.share_near_decision(0.5) < 1


def test_a_plane_has_its_points_on_it():
    points = torch.randn(3, 1, 5, 5, generator=generator(2), dtype=torch.float64)
    plane = Plane.through(points)
    torch.testing.assert_close(plane.at(plane.coordinates(points)), points)
    assert np.abs(plane.coordinates(points)).max() * 1.2 == pytest.approx(plane.half_width)
    with pytest.raises(OmnigrokError, match="on a line"):
        Plane.through(torch.stack([points[0], 2 * points[0], 3 * points[0]]))


class Written(nn.Module):
    """A layer, then something written by hand."""

    def __init__(self, what):
        super().__init__()
        self.layer, self.what = nn.Linear(2, 2), what

    def forward(self, x):
        return self.what(self.layer(x))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (nn.Tanh(), "does not know Tanh"),
        (lambda x: x * x, "does not know"),
        (lambda x: x / x, "does not know"),
        (lambda x: nn.functional.relu(x, inplace=True) + x, "overwrites a tensor that is used again"),
        (nn.Sequential(nn.Unflatten(1, (1, 1, 2)), nn.MaxPool2d(2, ceil_mode=True)), "no ceil_mode"),
        (nn.Sequential(nn.Unflatten(1, (1, 1, 2)), nn.MaxPool2d((1, 2), dilation=2)), "no dilation"),
        (nn.Sequential(nn.Unflatten(1, (1, 1, 2)), nn.MaxPool2d((1, 2), dilation=(1, 2))), "no dilation"),
        (lambda x: x.sigmoid(), "does not know sigmoid"),
        (lambda x: 1 / x, "does not know"),
    ],
)
def test_what_is_not_piecewise_affine_is_named(what, message):
    with pytest.raises(OmnigrokError, match=message):
        partition(built(lambda: Written(what)), unit_square())


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(2)])
def test_a_model_exported_in_training_mode_is_refused(layer):
    model = built(lambda: nn.Sequential(nn.Linear(2, 2), layer, nn.ReLU())).double().train()
    exported = torch.export.export(model, (torch.zeros(3, 2).double(),)).module()
    with pytest.raises(OmnigrokError, match="training mode"):
        partition(exported, unit_square())


def unit_square():
    return Plane(torch.zeros(2).double(), *torch.eye(2).double(), half_width=1.0)


def test_an_mnist_network_takes_seconds_and_has_thousands_of_regions():
    model = built(
        lambda: nn.Sequential(
            nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(),
            nn.Linear(200, 10),
        )
    )  # fmt: skip
    start = time.perf_counter()
    found = partition(model, plane_for((784,), half_width=4.0))
    assert 4_000 < len(found.regions) < 12_000
    assert sum(polygon_area(region.polygon) for region in found.regions) == pytest.approx(64.0, rel=1e-9)
    print(f"{time.perf_counter() - start:.1f} s")


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_has_the_partition_of_its_module(name):
    make, shape = MODELS[name]
    model = built(make)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (torch.zeros(2, *shape, dtype=torch.float64),), dynamic_shapes=batch)
    first, second = (partition(m, plane_for(shape)) for m in (model, program.module()))
    assert len(first.regions) == len(second.regions) > 10
    for one, other in zip(first.regions, second.regions, strict=True):
        np.testing.assert_allclose(one.polygon, other.polygon, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.maps, other.maps, rtol=0, atol=1e-12)


def test_distance_to_a_segment():
    segment = np.array([[[0.0, 0.0], [2.0, 0.0]]])
    points = np.array([[1.0, 1.0], [-3.0, 4.0], [2.0, 0.5]])
    assert distances_to(segment, points)[:, 0] == pytest.approx([1.0, 5.0, 0.5])


def test_crowding_is_one_for_even_lines_and_more_where_they_gather():
    plane = Plane(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 1.0)

    def lines(heights):
        return np.array([[[x, y], [x + 0.01, y]] for y in heights for x in np.arange(-1, 1, 0.01)])

    decision = lines([0.0])
    even = Partition(plane, [], lines(np.linspace(-0.99, 0.99, 199)), decision)
    gathered = Partition(plane, [], lines(np.linspace(-0.09, 0.09, 19)), decision)
    assert even.crowding(0.1) == pytest.approx(1.0, abs=0.15)
    assert gathered.crowding(0.1) == pytest.approx(10.0, rel=0.15)


@pytest.mark.parametrize("count", [1, 2])
def test_the_probe_says_of_each_run_what_its_own_partition_is(mnist_data, count):
    task = get_task("mnist")
    spec = task.spec.replace(dtype="float64", n_train=20, steps=3, options=(("depth", 3), ("width", 12)))
    trainer = Trainer(task, [spec.replace(seed=s) for s in range(count)], mnist_data)
    trainer.update()
    probe = PartitionProbe()
    logged = probe(trainer.ensemble, mnist_data)
    for r in range(count):
        found = partition(trainer.ensemble.model(r), probe.plane(mnist_data))
        assert logged["regions"][r] == len(found.regions)
        assert logged["boundary_length"][r] == pytest.approx(found.boundary_length())
    assert count == 1 or logged["boundary_length"][0] != logged["boundary_length"][1]
