"""Data of a user's own: those that cannot be trained on are named in one line, before anything is trained."""

import dataclasses
import warnings

import numpy as np
import pytest
import test_contract
import torch
import torch.nn.functional as F  # noqa: N812
from test_contract import CLASSES, EXAMPLES, FEATURES, Mine

from omnigrok import Store, TaskData, get_task, run_sweep
from omnigrok.check import check_task
from omnigrok.errors import SpecError
from omnigrok.loading import load_data
from omnigrok.trainer import Trainer

register = test_contract.register  # a fixture


def changed(**parts):
    """The task's data with what functions make of its tensors."""

    def load(self, spec):
        data = Mine.load(self, spec)
        given = {name: getattr(data, name) for name in TaskData.__dataclass_fields__}
        for name, change in parts.items():
            old = given[name]
            given[name] = tuple(map(change, old)) if isinstance(old, tuple) else change(old)
        return TaskData(**given)

    return load


def returned(value):
    return lambda self, spec: value


def twice(change):
    """Data of a model with two inputs, of which the second is changed."""

    def load(self, spec):
        data = Mine.load(self, spec)
        (x,), (test,) = data.train_inputs, data.test_inputs
        return dataclasses.replace(data, train_inputs=(x, change(x)), test_inputs=(test, test.clone()))

    return load


def fewer_tested(self, spec):
    data = Mine.load(self, spec)
    return dataclasses.replace(data, train_inputs=data.train_inputs * 2)


def at(value, example=3):
    def change(x):
        x = x.clone()
        x[example] = value
        return x

    return change


def in_inference_mode(x):
    with torch.inference_mode():
        return x + 0


def nested(x):
    return torch.nested.nested_tensor(list(x))


WRONG = {
    "too few targets": (changed(train_targets=lambda y: y[:-4]), "train_inputs and train_targets must .* 64 and 60"),
    "too few of one input": (twice(lambda x: x[:-4]), "must have the same number of examples.* 64, 60 and 64"),
    "too many test targets": (changed(test_targets=lambda y: y.repeat(2)), "test_inputs and test_targets.*64 and 128"),
    "no test set": (changed(test_inputs=lambda x: x[:0], test_targets=lambda y: y[:0]), "at least one; got 0 and 0"),
    "no pool": (changed(train_inputs=lambda x: x[:0], train_targets=lambda y: y[:0]), "at least one; got 0 and 0"),
    "no features": (changed(train_inputs=lambda x: x[:, :0]), r"train_inputs\[0\] holds no numbers.*\(64, 0\)"),
    "not a number": (changed(train_inputs=at(torch.nan)), r"train_inputs\[0\] .* not finite in 1 examples, first in 3"),
    "infinite": (changed(test_inputs=at(-torch.inf, slice(2, 7))), r"test_inputs\[0\] .* in 5 examples, first in 2"),
    "an answer that is none": (
        changed(train_targets=lambda y: at(torch.nan)(y.double()), test_targets=lambda y: y.double()),
        "train_targets holds numbers that are not finite in 1 examples, first in 3",
    ),
    "nan in the second input": (twice(at(torch.nan)), r"train_inputs\[1\] holds numbers that are not finite"),
    "single precision": (changed(train_inputs=torch.Tensor.float), r"inputs\[0\] .* gave torch.float32: use .to\("),
    "half precision": (changed(test_inputs=torch.Tensor.half), r"test_inputs\[0\] .* gave torch.float16"),
    "answers in single precision": (changed(test_targets=torch.Tensor.float), "test_targets .* gave torch.float32"),
    "complex": (changed(train_inputs=lambda x: x + 0j), "complex128: give real numbers, torch.view_as_real"),
    "other features in the test": (
        changed(test_inputs=lambda x: x[:, 1:]),
        r"train_inputs\[0\] and of test_inputs\[0\] must .* float64 of shape \(8,\) and float64 of shape \(7,\)",
    ),
    "one-hot in the test": (changed(test_targets=lambda y: F.one_hot(y, CLASSES)), r"int64 of shape \(\) and int64"),
    "whole numbers in the test": (changed(test_inputs=torch.Tensor.long), "float64 of shape .* and int64 of shape"),
    "an input less in the test": (fewer_tested, "train_inputs has 2 tensors and test_inputs 1: give one for each arg"),
    "gradients": (changed(train_inputs=lambda x: x.requires_grad_()), "requires grad: use .detach"),
    "gradients of a teacher": (
        changed(train_targets=lambda y: y * torch.ones((), dtype=torch.float64, requires_grad=True)),
        "train_targets requires grad",
    ),
    "inference": (changed(test_inputs=in_inference_mode), r"made in torch.inference_mode\(\).*use .clone\(\)"),
    "sparse": (changed(train_inputs=torch.Tensor.to_sparse), "is sparse_coo: use .to_dense"),
    "compressed": (changed(test_inputs=torch.Tensor.to_sparse_csr), "is sparse_csr: use .to_dense"),
    "nested": (changed(train_inputs=nested), "nested: use torch.nested.to_padded_tensor"),
    "expanded": (changed(train_inputs=lambda x: x[:1].expand(EXAMPLES, FEATURES)), "expanded.*use .contiguous"),
    "answers expanded": (changed(test_targets=lambda y: y[:1].expand(EXAMPLES)), "test_targets is expanded"),
    "elsewhere": (changed(test_inputs=lambda x: x.to("meta")), "is on meta: use .cpu"),
    "numpy": (changed(train_inputs=torch.Tensor.numpy), "a tensor .torch.as_tensor.; got a tuple of ndarray"),
    "a list": (changed(test_targets=torch.Tensor.tolist), "got a tuple of Tensor and a list of int"),
    "a number": (changed(test_targets=len), "got a tuple of Tensor and int"),
    "nothing": (returned(None), "`load` must return a TaskData, got NoneType"),
    "a tuple": (returned((torch.zeros(2), torch.zeros(2))), "`load` must return a TaskData, got tuple"),
    "numpy alone": (returned(np.zeros(3)), "`load` must return a TaskData, got ndarray"),
}


@pytest.fixture
def wrong(request, register):
    """A task whose data are wrong, and what is said of them."""
    load, message = WRONG[request.param]
    kind = type("Mine", (Mine,), {"load": load})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own on sparse and nested tensors
        yield register(kind), message


@pytest.mark.parametrize("wrong", WRONG, indirect=True)
def test_data_that_cannot_be_trained_on_are_named_before_anything_is_trained(wrong, tmp_path):
    spec, message = wrong
    with pytest.raises(SpecError, match=f"data of mine: .*{message}") as caught:
        run_sweep([spec], Store(tmp_path), show_progress=False)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("wrong", WRONG, indirect=True)
def test_the_check_of_a_task_names_them(wrong):
    [finding] = check_task(get_task("mine"))
    assert not finding.ok
    assert "data of mine: " in finding.text
    assert "\n" not in finding.text


RIGHT = {
    "bytes": changed(train_inputs=lambda x: (9 * x).byte(), test_inputs=lambda x: (9 * x).byte()),
    "truth values": changed(train_inputs=lambda x: x > 0.5, test_inputs=lambda x: x > 0.5),
    "a transposed pool": changed(train_inputs=lambda x: x.T.contiguous().T),
    "small classes": changed(train_targets=torch.Tensor.byte, test_targets=torch.Tensor.byte),
    "one test example": changed(test_inputs=lambda x: x[:1], test_targets=lambda y: y[:1]),
    "extreme numbers": changed(train_inputs=lambda x: x * 1e300),
}


@pytest.mark.parametrize("load", RIGHT.values(), ids=RIGHT)
def test_other_data_are_taken(register, load):
    spec = register(type("Mine", (Mine,), {"load": load}))
    assert load_data(get_task("mine"), spec, "cpu").pool_size == EXAMPLES


LOSSES = {
    "cross-entropy": lambda o, y: F.cross_entropy(o, y, reduction="none"),
    "likelihood": lambda o, y: F.nll_loss(o.log_softmax(1), y, reduction="none"),
    "one-hot": lambda o, y: (o - F.one_hot(y, o.shape[1])).square().mean(dim=1),
    "gathered": lambda o, y: -o.gather(1, y[:, None]).squeeze(1),
}


@pytest.mark.parametrize("runs_per_batch", [1, 2])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("place", ["train_targets", "test_targets"])
@pytest.mark.parametrize("value", [3, 17, -1])
def test_classes_without_an_output_are_named_before_the_first_step(
    tmp_path, register, place, loss, value, runs_per_batch
):  # fmt: skip
    """Wherever the example lies: the first batch may not hold it."""
    load = changed(**{place: at(value, EXAMPLES - 1)})
    spec = register(type("Mine", (Mine,), {"load": load, "loss": lambda self, o, y: loss(o, y)}))
    ends = f"classes from {min(value, 0)} to {max(value, CLASSES - 1)}, but its model has {CLASSES} outputs"
    with pytest.raises(SpecError, match=f"targets of mine are {ends}"):
        run_sweep([spec, spec.replace(seed=1)], Store(tmp_path), runs_per_batch=runs_per_batch, show_progress=False)


def test_an_example_that_the_loss_leaves_out_is_no_class(tmp_path, register):
    spec = register(type("Mine", (Mine,), {"load": changed(train_targets=at(-100))}))
    assert len(run_sweep([spec], Store(tmp_path), show_progress=False))


def test_classes_beyond_the_examples_that_are_trained_on_do_no_harm(register):
    spec = register(type("Mine", (Mine,), {"load": changed(train_targets=at(CLASSES, EXAMPLES - 1))}))
    data = load_data(get_task("mine"), spec, "cpu")
    Trainer(get_task("mine"), [spec.replace(n_train=EXAMPLES - 1)], data)
    with pytest.raises(SpecError, match="classes from 0 to 3"):
        Trainer(get_task("mine"), [spec.replace(n_train=32), spec], data)


REGRESSIONS = {
    "targets without the outputs' axis": (lambda x: x, lambda o, y: (o - y).square().mean(dim=1)),
    "outputs without the targets' axis": (lambda x: x.unsqueeze(1), lambda o, y: (o[:, 0] - y).square().mean(dim=1)),
    "the other axis": (lambda x: x, lambda o, y: (o - y).abs().sum(dim=0)),
    "a mean over the batch": (lambda x: x, lambda o, y: (o[:, 0] - y).square() / (y - y.mean()).square().sum()),
}


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("what", REGRESSIONS)
def test_a_loss_that_mixes_examples_is_named(register, what, runs):
    """Of the right shape, and of wrong numbers."""
    shape, loss = REGRESSIONS[what]
    answers = {name: lambda y: shape(y.double()) for name in ("train_targets", "test_targets")}
    changes = {"load": changed(**answers), "loss": lambda self, o, y: loss(o[:, :1], y)}
    right = lambda self, o, y: {"accuracy": o.new_zeros(len(o))}  # noqa: E731
    spec = register(type("Mine", (Mine,), {**changes, "metrics": right}))
    data = load_data(get_task("mine"), spec, "cpu")
    with pytest.raises(SpecError, match="loss of an example of mine depends on the other examples of its batch"):
        Trainer(get_task("mine"), [spec.replace(seed=s) for s in range(runs)], data)
    changes["loss"] = lambda self, o, y: (o[:, 0] - y.flatten()).square()
    register(type("Mine", (Mine,), {**changes, "metrics": right}))
    Trainer(get_task("mine"), [spec.replace(seed=s) for s in range(runs)], data)
