"""CIFAR-10: the published set, the published network, the shared trainer."""

import pytest
import torch
from torch import nn

from omnigrok import DataUnavailableError, get_task
from omnigrok.ensemble import scaled_model
from omnigrok.errors import SpecError
from omnigrok.oracle import train
from omnigrok.probes.complexity import ComplexityProbe, local_complexity
from omnigrok.probes.partition import Plane, partition
from omnigrok.probes.robustness import RobustnessProbe
from omnigrok.task import TaskData
from omnigrok.trainer import Trainer

TASK = get_task("cifar10")
SMALL = TASK.spec.replace(
    n_train=30, steps=20, batch_size=10, dtype="float64", options=(("network", "cnn"), ("width", 2))
)
NORMALISED = SMALL.replace(options=(("batch_norm", True), *SMALL.options))


@pytest.fixture(scope="module")
def data():
    try:
        whole = TASK.load(SMALL)
    except DataUnavailableError as error:
        pytest.skip(str(error))
    assert [x.shape for x in (*whole.train_inputs, *whole.test_inputs)] == [(50_000, 3, 32, 32), (10_000, 3, 32, 32)]
    assert whole.train_targets.bincount().tolist() == [5_000] * 10
    assert whole.test_targets.bincount().tolist() == [1_000] * 10
    assert whole.train_targets[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile
    published = torch.tensor([125.307, 122.961, 113.8575], dtype=torch.float64)
    torch.testing.assert_close(255 * whole.train_inputs[0].mean(dim=(0, 2, 3)), published, rtol=1e-4, atol=0)
    images, labels = whole.train_inputs[0][:40], whole.train_targets[:40]
    return TaskData((images,), labels, (images[30:],), labels[30:], whole.source)


def test_the_residual_network_has_the_published_number_of_weights():
    assert sum(p.numel() for p in scaled_model(TASK, TASK.spec).parameters()) == 699_066


def test_an_unknown_network_is_named():
    with pytest.raises(SpecError, match=r"one of cnn, resnet18, got 'vgg'"):
        TASK.model(SMALL.replace(options=(("network", "vgg"),)))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("base", [SMALL, NORMALISED], ids=["plain", "batch norm"])
def test_cifar10_equals_the_plain_loop(data, base, count):
    specs = [base.replace(seed=seed, alpha=1.0 + seed) for seed in range(count)]
    trainer = Trainer(TASK, specs, data)
    for _ in range(base.steps):
        trainer.update()
    for r, spec in enumerate(specs):
        plain, batched = train(TASK, spec, data), trainer.ensemble.model(r)
        for one, other in zip(plain.state_dict().values(), batched.state_dict().values(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_probes_leave_batch_statistics_alone(data):
    trainer = Trainer(TASK, [NORMALISED], data)
    for _ in range(3):
        trainer.update()
    before = trainer.ensemble.stacked()
    ComplexityProbe(radius=0.1, directions=5, points=10)(trainer.ensemble, data)
    RobustnessProbe(eps=(0.01,), steps=2, examples=10)(trainer.ensemble, data)
    after = trainer.ensemble.stacked()
    assert all(torch.equal(before[name], after[name]) for name in before)
    statistics = [name for name in before if "running_mean" in name]
    assert statistics
    assert all(before[name].abs().sum() > 0 for name in statistics)


@pytest.mark.parametrize("spec", [SMALL, NORMALISED], ids=["plain", "batch norm"])
def test_the_tools_take_the_network(data, spec):
    model = scaled_model(TASK, spec).eval()
    images = data.train_inputs[0][:3]
    found = local_complexity(model, images, radius=0.5, directions=5)
    units = sum(isinstance(module, nn.ReLU) for module in model.modules())
    assert found.crossings.shape == (3, units)
    assert found.total.min() > 0
    plane = Plane.through(images, half_width=0.5)
    regions = partition(model, plane)
    assert regions.area() == pytest.approx(1.0, rel=1e-9)
    for region in regions.regions[:20]:
        centre = region.polygon.mean(axis=0, keepdims=True)
        torch.testing.assert_close(
            torch.from_numpy(region.outputs(centre)), model(plane.at(centre)), rtol=1e-9, atol=1e-9
        )
