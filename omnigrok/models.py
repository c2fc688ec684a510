"""The module of one run: made, materialised, cast and scaled; the names of its tensors, and its modes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from omnigrok.blame import blamed
from omnigrok.errors import SpecError
from omnigrok.isolation import own_state
from omnigrok.loading import load_data
from omnigrok.spec import RunSpec, keyed
from omnigrok.task import Inputs, Task

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


@own_state()
def scaled_model(task: Task, spec: RunSpec, *, reference: bool = False, example: Inputs | None = None) -> nn.Module:
    """The module of one run at step 0: the library's default init times alpha, on the CPU, in the spec's dtype.

    Every parameter is scaled, biases and embeddings too (Liu et al. 2023, section 3). The draw depends on the seed
    alone; the global generators, torch's, numpy's and Python's, are left as they were. `reference` gives the task's
    plain form of the same network. Lazy modules take their shapes from a pass of `example`, or of the task's data.

    Raises:
        SpecError: the task's `model` fails; the message shows the line.
    """
    with keyed(spec.seed, "init"):
        with blamed(task, "model"):
            model = task.model(spec)
        _materialise(task, spec, model, example)
        if reference:
            with blamed(task, "reference_model"):
                plain = task.reference_model(spec)
            _materialise(task, spec, plain, example)
            plain.load_state_dict(model.state_dict())
            model = plain
    _cast(model, spec.torch_dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(spec.alpha)
    return model


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Floating-point tensors to the dtype, complex ones to the complex dtype of its width; others stay."""

    def cast(x: Tensor) -> Tensor:
        return x.to(COMPLEX[dtype] if x.is_complex() else dtype if x.is_floating_point() else x.dtype)

    model._apply(cast)  # what Module.to does, which would take the imaginary parts away


def _materialise(task: Task, spec: RunSpec, model: nn.Module, example: Inputs | None) -> None:
    """Give lazy modules their shapes, by a pass of two examples in evaluation mode."""
    if not _lazy(model):
        return
    inputs = load_data(task, spec, "cpu").train_inputs if example is None else example
    first = tuple(x[:2].clone() for x in inputs)
    default = torch.get_default_dtype()  # of the parameters, which are cast afterwards
    what = "the pass that gives lazy modules their shapes in the model"
    with blamed(task, what), torch.no_grad(), in_evaluation(model):
        model(*(x.cpu().to(default if x.is_floating_point() else x.dtype) for x in first))
    if left := _lazy(model):
        raise SpecError(f"of {task.name} are lazy, and no forward pass gives them a shape: {', '.join(left)}")


def _lazy(model: nn.Module) -> list[str]:
    return [name for name, x in (*model.named_parameters(), *model.named_buffers()) if is_lazy(x)]


@contextlib.contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """The module is in evaluation mode within; afterwards each of its layers is in the mode that it had."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, also of a module that holds results of a pass, as the old weight norm does."""
    held = [x for layer in module.modules() for x in vars(layer).values() if isinstance(x, Tensor)]
    results = {id(x): x.detach() for x in held if not x.is_leaf}  # torch would refuse to copy them
    return copy.deepcopy(module, results)


def shared_names(module: nn.Module) -> dict[str, str]:
    """The further names of parameters and buffers that layers share, with the first name of each."""
    first: dict[Tensor, str] = {}  # a tensor's hash is its identity
    return {name: first[x] for name, x in named_tensors(module) if first.setdefault(x, name) != name}


def named_tensors(module: nn.Module, *, once: bool = False) -> Iterator[tuple[str, Tensor]]:
    """All parameters, then all buffers, by all their names; with `once` each layer's by one path to it."""
    layers = list(module.named_modules(remove_duplicate=once))
    for kind in ("_parameters", "_buffers"):
        for path, layer in layers:
            for name, x in getattr(layer, kind).items():
                if x is not None:
                    yield f"{path}.{name}" if path else name, x


def draws(module: nn.Module) -> bool:
    """Whether a module draws random numbers when it trains."""
    rate = module.p if isinstance(module, DROPOUT) else getattr(module, "dropout", 0.0)  # of nn.LSTM and attention
    return isinstance(rate, float) and rate > 0
