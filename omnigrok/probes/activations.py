"""Where a model's activations are, however they are called: as modules, functions, methods, in place or in TorchScript.

A pass is watched at the level of Python's calls of torch, which is the same inside `torch.func.vmap`, and once at the
level of torch's operators: what only they show (TorchScript, nn.RNN) is counted there, or refused where it cannot be.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch._C import _functorch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from omnigrok.errors import OmnigrokError

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Hardswish, nn.Hardtanh, nn.Threshold,
)  # fmt: skip
"""Modules whose input is a pre-activation. Not counted: tanh, sigmoid, their hard and soft forms, GLU, softmax, abs."""
_SAME = {"_prelu_kernel": "prelu", "rrelu_with_noise": "rrelu", "_threshold": "threshold", "clip": "clamp",
         "clamp_min": "clamp", "max": "maximum", "fmax": "maximum"}  # fmt: skip
_NAMES = (
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus",
    "hardswish", "hardtanh", "threshold", "clamp", "maximum", *_SAME,
)  # fmt: skip
_PLACES = (torch, Tensor, F, torch._C._nn, torch.ops.aten)
NAMED = {
    getattr(place, name + suffix): _SAME.get(name, name)
    for place, name, suffix in itertools.product(_PLACES, _NAMES, ("", "_"))
    if hasattr(place, name + suffix)
}
"""What each function is called in a result. A clamp from below and a maximum count where the bound is zero."""
BOUNDED = ("clamp", "maximum")
HIDING = re.compile(r"relu|_activation|_pointwise|encoder_layer_fwd|quantized|prepacked|_cudnn_rnn")
"""Operators that may have an activation inside, where they are none themselves."""
See = Callable[[str, Tensor], Tensor]
"""Told of each activation's name and pre-activation, gives what the activation is to take."""


@dataclass(frozen=True)
class Place:
    """Where the examples are in a pre-activation: along an axis, which may hold more, (outer, examples, inner)."""

    axis: int
    outer: int = 1
    inner: int = 1

    def examples_first(self, pre: Tensor) -> Tensor:
        if self.outer == self.inner == 1:
            return pre.movedim(self.axis, 0)
        return pre.unflatten(self.axis, (self.outer, -1, self.inner)).movedim(self.axis + 1, 0)


@dataclass(frozen=True)
class Layers:
    """The activations of a model's pass, in the order of the calls.

    Attributes:
        names: of those that are counted, as ("relu", "gelu").
        places: where each call has the examples; None where it has none (of a parameter): not counted.
        modules: layers that the caller has named, whose inputs are the pre-activations; None: every activation.
        operators: they are seen as operators, not as Python's calls.
        widest: numbers of one example in the largest pre-activation.
    """

    names: tuple[str, ...]
    places: tuple[Place | None, ...]
    modules: tuple[nn.Module, ...] | None
    operators: bool
    widest: int


def find_layers(model: nn.Module, examples: Tensor, modules: Sequence[nn.Module] | None = None) -> Layers:
    """The activations of a model, by passes of two and of three examples.

    Args:
        examples: three, of which the first two are the same.
        modules: layers whose input is a pre-activation; None: all activations.

    Raises:
        OmnigrokError: there is none, one cannot be seen or does not keep examples apart, or the model is in training
            mode.
    """
    chosen = None if modules is None else tuple(modules)
    operators = seen_in(model, examples, None, operators=True)  # first: it refuses what draws before it does
    shown = seen_in(model, examples, chosen, operators=False)
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    level = chosen is None and (scripted or count(operators) > count(shown))
    if level:
        shown = operators
    fewer = seen_in(model, examples[:2], chosen, operators=level)
    if [name for name, _ in fewer] != [name for name, _ in shown]:
        raise OmnigrokError("the model calls other activations for other numbers of examples; it cannot be measured")
    places = tuple(place_of(*a, b[1]) for a, b in zip(shown, fewer, strict=True))
    for (name, pre), (_, other), place in zip(shown, fewer, places, strict=True):
        if place is not None and not alike(place.examples_first(pre)[:2], place.examples_first(other)):
            raise OmnigrokError(
                f"the input of a {name} is another at each pass, or mixes examples: the model is in training mode; "
                "export it from net.eval()"
            )
    counted = [each for each, place in zip(shown, places, strict=True) if place is not None]
    if not counted:
        kinds = ", ".join(kind.__name__ for kind in ACTIVATIONS)
        raise OmnigrokError(f"the model has no activation ({kinds}); name the layers whose input is one")
    widest = max(pre.numel() // len(examples) for _, pre in counted)
    return Layers(tuple(name for name, _ in counted), places, chosen, level, widest)


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether numbers are the same but for rounding; what is not finite is not looked at."""
    finite = one.isfinite() & other.isfinite()
    apart = (one - other)[finite].abs()
    size = float(one[finite].abs().max()) if len(apart) else 0.0
    return not len(apart) or float(apart.max()) <= 1e4 * torch.finfo(one.dtype).eps * size


def count(seen: list[tuple[str, Tensor]]) -> int:
    """Of activations; torch itself clamps from below in much that is none."""
    return sum(name not in BOUNDED for name, _ in seen)


def seen_in(
    model: nn.Module, examples: Tensor, modules: tuple[nn.Module, ...] | None, operators: bool
) -> list[tuple[str, Tensor]]:
    """The names and pre-activations of one pass."""
    seen: list[tuple[str, Tensor]] = []

    def see(name: str, pre: Tensor) -> Tensor:
        seen.append((name, pre.detach().clone()))  # an activation may overwrite its input
        return pre

    with torch.no_grad(), watched(see, modules, operators):
        model(examples.clone())
    return seen


def place_of(name: str, three: Tensor, two: Tensor) -> Place | None:
    """Where the examples are: the axis that is longer for three than for two."""
    axes = [axis for axis, (a, b) in enumerate(zip(three.shape, two.shape, strict=True)) if a != b]
    if not axes:
        return None
    length = three.shape[axes[0]]
    if len(axes) == 1 and 2 * length == 3 * two.shape[axes[0]]:
        if length == 3:
            return Place(axes[0])
        inner = length // 3
        whole = [Place(axes[0], 1, inner), Place(axes[0], inner, 1)]
        rows = [place.examples_first(three) for place in whole]
        same = [alike(row[0], row[1]) for row in rows]
        if sum(same) == 1:  # the first two examples are the same
            return whole[same.index(True)]
    raise OmnigrokError(
        f"the input of a {name} has the shape {tuple(three.shape)} for three examples, where no axis holds the "
        "examples; keep them apart there, or name the layers to count"
    )


@contextlib.contextmanager
def watched(see: See, modules: Sequence[nn.Module] | None = None, operators: bool = False) -> Iterator[None]:
    """Tell of every activation within, or of the inputs of some modules; nothing is left behind.

    torch's fast path of attention, fused code of TorchScript and compiled code, where activations do not show, are off
    within.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if modules is None and operators:
            stack.enter_context(torch.jit.optimized_execution(False))
            mode = _Operators(see)
            stack.push(mode.explain)
            stack.enter_context(mode)
        elif modules is None:
            stack.enter_context(_Functions(see))
        for module in modules or ():
            stack.callback(module.register_forward_pre_hook(tell(see)).remove)
        yield


def tell(see: See) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A hook that tells of a layer's input and leaves it as it is."""

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        see(type(module).__name__, inputs[0])

    return hook


class _Functions(TorchFunctionMode):
    """Sees Python's calls of torch, each once: what a function calls in its turn is not told of."""

    def __init__(self, see: See) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return called(self.see, function, args, kwargs or {})


class _Operators(TorchDispatchMode):
    """Sees operators, whoever calls them, and refuses those of training."""

    def __init__(self, see: See) -> None:
        super().__init__()
        self.see = see
        self.error: OmnigrokError | None = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            refuse_training(function, args, kwargs or {})
            if function.overloadpacket not in NAMED and HIDING.search(function.name()):
                raise OmnigrokError(f"{function.name()} may hide an activation; give the model before it is fused")
            return called(self.see, function, args, kwargs or {})
        except OmnigrokError as error:
            self.error = error
            raise

    def explain(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        """Raises the error that TorchScript has made another of."""
        if self.error is not None and error is not self.error:
            raise self.error from None


def called(see: See, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call's result, told of where it is an activation."""
    name = NAMED.get(getattr(function, "overloadpacket", function))
    if name is None:
        return function(*args, **kwargs)
    given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    key: Any = next((key for key in (0, "input", "self") if key in given), None)
    if name in BOUNDED:
        bound = next((given[k] for k in (1, "min", "other") if k in given), None)
        if name == "maximum" and isinstance(bound, Tensor) and is_zero(given[key]):
            key = next(k for k in (1, "other") if k in given)
        elif not is_zero(bound) or (name == "maximum" and not isinstance(bound, Tensor)):
            return function(*args, **kwargs)
    pre = given.get(key)
    if isinstance(pre, Tensor) and pre.is_floating_point():
        shift = given.get(1, given.get("threshold")) if name == "threshold" else 0
        bounds = [given.get(i, given.get(k)) for i, k in ((1, "min_val"), (2, "max_val"))]
        label = "relu6" if name == "hardtanh" and bounds == [0, 6] else name
        new = see(label, pre - shift if shift else pre)
        if not shift and new is not pre:
            given[key] = new
            args, kwargs = tuple(given[i] for i in range(len(args))), {k: given[k] for k in kwargs}
    return function(*args, **kwargs)


def is_zero(bound: Any) -> bool:
    """Whether a bound is the number zero, or a tensor of nothing else."""
    if isinstance(bound, Tensor):
        while _functorch.is_batchedtensor(bound):
            bound = _functorch.get_unwrapped(bound)
        return not bound.is_meta and not bool(bound.any())
    return isinstance(bound, int | float) and bound == 0


def refuse_training(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises OmnigrokError for an operator in training mode: random numbers, or the statistics of a batch."""
    arguments = function._schema.arguments
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    named = defaults | {a.name: x for a, x in zip(arguments, args, strict=False)} | kwargs
    training = named.get("training", named.get("train"))
    what = ""
    if "batch_norm" in function.name():
        own = named.get("running_mean") is None and named["input"].shape[0] == 1  # of nn.InstanceNorm
        what = "statistics of a batch" if (training or "with_update" in function.name()) and not own else ""
    elif torch.Tag.nondeterministic_seeded in function.tags:
        drops = training is not False and named.get("dropout_p", 1) != 0  # of attention
        what = "random numbers" if drops else ""
    if what:
        raise OmnigrokError(
            f"the model is in training mode: it takes {what} ({function.name()}) in evaluation, too; export it from "
            "net.eval(), or have it do so in training only"
        )
