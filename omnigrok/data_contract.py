"""What a task's data must be: checked once, when they are loaded, before anything is planned or trained.

One pass over the numbers, without a copy of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from omnigrok.errors import SpecError
from omnigrok.spec import RunSpec
from omnigrok.task import Inputs, TaskData


def check_data(data: object, dtype: torch.dtype) -> None:
    """Are these data that can be trained on in a floating-point type?

    Raises:
        SpecError: they are not; says which tensor and how to mend it.
    """
    if not isinstance(data, TaskData):
        raise SpecError(f"`load` must return a TaskData, got {type(data).__name__}")
    for name, x in _tensors(data):
        if wrong := _not_plain(x) or _not_of_type(x, dtype) or _not_finite(x):
            raise SpecError(f"{name} {wrong}")
    _check_splits(data)


def _tensors(data: TaskData) -> Iterator[tuple[str, Tensor]]:
    for split in ("train", "test"):
        for i, x in enumerate(getattr(data, f"{split}_inputs")):
            yield f"{split}_inputs[{i}]", x
        yield f"{split}_targets", getattr(data, f"{split}_targets")


def _not_plain(x: Tensor) -> str:
    """What to mend where a tensor is no dense memory of its own on the CPU; empty where there is nothing."""
    if x.layout != torch.strided:
        return f"is {str(x.layout).removeprefix('torch.')}: use .to_dense()"
    if x.is_quantized:
        return "is quantized: use .dequantize()"
    if x.device.type != "cpu":
        return f"is on {x.device}: use .cpu(); the trainer moves data to its device"
    if x.requires_grad:
        return "requires grad: use .detach()"
    if x.is_inference():
        return "was made in torch.inference_mode(), so nothing can be trained on it: use .clone() outside of it"
    if not x.numel():
        return f"holds no numbers: its shape is {tuple(x.shape)}"
    if any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True)):
        return "is expanded, several numbers in one place of memory: use .contiguous()"
    return ""


def _not_of_type(x: Tensor, dtype: torch.dtype) -> str:
    if x.is_complex():
        return f"is {x.dtype}: give real numbers, torch.view_as_real(x)"
    if x.is_floating_point() and x.dtype != dtype:
        asked = f"asked for {str(dtype).removeprefix('torch.')} (spec.torch_dtype), `load` gave {x.dtype}"
        return f"is of another type: {asked}: use .to(spec.torch_dtype)"
    return ""


def _not_finite(x: Tensor) -> str:
    if not x.is_floating_point() or all(map(math.isfinite, torch.stack(x.aminmax()).tolist())):
        return ""
    examples = (~x.isfinite()).flatten(1).any(dim=1) if x.ndim > 1 else ~x.isfinite()
    first = int(examples.nonzero()[0])
    return f"holds numbers that are not finite in {int(examples.sum())} examples, first in {first}: leave them out"


def _check_splits(data: TaskData) -> None:
    """Raises SpecError where the model and the loss cannot take both splits."""
    if len(data.train_inputs) != len(data.test_inputs):
        raise SpecError(
            f"train_inputs has {len(data.train_inputs)} tensors and test_inputs {len(data.test_inputs)}: give one for "
            "each argument of the model in both"
        )
    half = len(data.train_inputs) + 1
    tensors = list(_tensors(data))
    for (name, train), (other, test) in zip(tensors[:half], tensors[half:], strict=True):
        if train.dtype != test.dtype or train.shape[1:] != test.shape[1:]:
            raise SpecError(
                f"an example of {name} and of {other} must have one type and shape; got "
                f"{_example(train)} and {_example(test)}"
            )


def _example(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape[1:])}"


def extreme_examples(data: TaskData, specs: Sequence[RunSpec]) -> Iterator[tuple[Inputs, Tensor]]:
    """Inputs and targets of two examples of each split: those of the smallest and the largest class, or the first one
    and the next with another target. Of the pool as many are looked at as the runs train on, before a change or after.
    """
    sizes = [n for spec in specs for n in (spec.n_train, *(change.n_train for change in spec.changes))]
    used = data.train_targets[: max(n for n in sizes if n is not None)]
    for inputs, targets in ((data.train_inputs, used), (data.test_inputs, data.test_targets)):
        flat = targets.reshape(len(targets), -1)
        if targets.is_floating_point():
            other = (flat != flat[0]).any(dim=1).int().argmax()
            chosen = torch.stack([torch.zeros_like(other), other])
        else:
            chosen = torch.stack([flat.long().amin(dim=1).argmin(), flat.long().amax(dim=1).argmax()])
        yield tuple(x[chosen] for x in inputs), targets[chosen]


def check_classes(task: str, outputs: object, targets: Tensor, error: Exception) -> None:
    """Raises SpecError where the loss failed because targets are classes that the model has no output for."""
    if targets.is_floating_point() or not isinstance(outputs, Tensor) or outputs.ndim < 2:
        return
    low, high, most = int(targets.min()), int(targets.max()), max(outputs.shape[1:])
    if low < 0 or high >= most:
        raise SpecError(
            f"targets of {task} are classes from {low} to {high}, but its model has {most} outputs, for classes 0 to "
            f"{most - 1}: give the model an output for each class, and number classes from 0"
        ) from error


def check_alone(task: str, beside: Float[Tensor, "batch"], twice: Float[Tensor, "batch"]) -> None:
    """Raises SpecError where the loss of an example is not the same beside another one as it is beside itself."""
    if not torch.allclose(beside[0], twice[0], rtol=1e-4, atol=1e-6, equal_nan=True):
        raise SpecError(
            f"the loss of an example of {task} depends on the other examples of its batch: most often outputs of shape "
            "(batch, 1) and targets of shape (batch,), which are broadcast; give them one shape"
        )
