import pytest
import torch

from omnigrok import OmnigrokError, available_tasks, get_task
from omnigrok import registry as registry_module
from omnigrok.ensemble import scaled_model
from omnigrok.loading import task_data
from tasks.teacher_student import TeacherStudent


@pytest.mark.parametrize("name", available_tasks())
def test_contract(name):
    task = get_task(name)
    assert task.name == name == task.spec.task
    assert task.citation
    assert task.display_name
    model = scaled_model(task, task.spec)
    assert sum(p.numel() for p in model.parameters()) > 0
    for preset in ("quick", "default", "paper"):
        landscape = task.landscape(preset)
        assert landscape is None or (landscape.alpha == 1.0 and landscape.sphere and landscape.weight_decay == 0)


def test_unknown_task_lists_those_there_are():
    with pytest.raises(OmnigrokError, match=r"unknown task 'mnits'; there are: .*mnist"):
        get_task("mnits")


def test_a_third_party_task_is_found_by_its_entry_point(monkeypatch):
    class Entry:
        name = "mine"

        def load(self):
            return type("Mine", (TeacherStudent,), {"name": "mine"})

    registry_module._registered.cache_clear()
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [Entry()] if group == "omnigrok.tasks" else [])
    try:
        assert available_tasks() == ["mine"]
        assert get_task("mine").name == "mine"
    finally:
        registry_module._registered.cache_clear()


def test_teacher_student_is_noiseless_and_keyed_by_the_data_seed():
    task = get_task("teacher_student")
    spec = task.spec.replace(dtype="float64")
    first, again, other = task.load(spec), task.load(spec), task.load(spec.replace(data_seed=1))
    assert torch.equal(first.train_targets, again.train_targets)
    assert not torch.equal(first.train_inputs[0], other.train_inputs[0])
    single = task.load(spec.replace(dtype="float32"))
    torch.testing.assert_close(single.train_targets.double(), first.train_targets, rtol=1e-6, atol=1e-6)
    assert first.train_inputs[0].mean().abs() < 0.02
    assert first.train_inputs[0].std().item() == pytest.approx(1, abs=0.02)


def test_a_shuffled_pool_holds_the_same_examples():
    spec = get_task("teacher_student").spec
    first, shuffled = task_data(spec, "cpu"), task_data(spec.replace(subset="shuffled"), "cpu")
    assert not torch.equal(first.train_inputs[0], shuffled.train_inputs[0])
    assert torch.equal(first.train_targets.sort(dim=0).values, shuffled.train_targets.sort(dim=0).values)
    assert torch.equal(first.test_targets, shuffled.test_targets)


def test_mnist_is_the_published_set(mnist_data):
    (images,), labels = mnist_data.train_inputs, mnist_data.train_targets
    assert images.shape == (60_000, 784)
    assert mnist_data.test_inputs[0].shape == (10_000, 784)
    assert images.min() == 0
    assert images.max() == 1
    assert labels.sum(dim=1).unique().tolist() == [1.0]
    assert labels[:10].argmax(dim=1).tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert labels.sum(dim=0).long().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist_data.test_targets.sum(dim=0).long().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_as_published_serves_the_same_pixels(mnist_data):
    task = get_task("mnist")
    for split, inputs, targets in (
        ("train", mnist_data.train_inputs[0], mnist_data.train_targets),
        ("test", mnist_data.test_inputs[0], mnist_data.test_targets),
    ):
        loader = task.published.loader(task.spec, split, 50, torch.Generator())
        assert len(loader.dataset) == 50
        image, target = loader.dataset[7]
        torch.testing.assert_close(image.double(), inputs[7], rtol=0, atol=1e-7)
        assert torch.equal(target.double(), targets[7])
