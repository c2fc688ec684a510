"""Read an exported program (.pt2, of torch.export.save) without executing anything that the file says.

`torch.export.load` unpickles what a file's config tells it to, evaluates its symbolic shapes as Python and looks
operators up by name, wherever they are. This reader takes the graph's JSON and the raw numbers of the weights, and
builds the graph anew from operators on tensors: names, sources and everything pickled in the file are left alone.
"""

from __future__ import annotations

import json
import operator
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from omnigrok.errors import OmnigrokError, first_line

ANYWAY = "--run-code-from-file"
"""The command line's option that takes a file which this reader refuses."""
SCALAR_TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""By their numbers in the file."""
ON_NUMBERS = {"add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem", "eq", "ne", "lt", "le", "gt", "ge"}
"""Python operators between sizes, and the choice of one of several outputs."""
_NAMES = """
    relu relu_ relu6 relu6_ leaky_relu leaky_relu_ hardtanh hardtanh_ elu elu_ gelu silu silu_ prelu _prelu_kernel
    selu selu_ celu celu_ mish mish_ hardswish hardswish_ hardsigmoid hardsigmoid_ sigmoid sigmoid_ tanh tanh_
    softplus log_sigmoid threshold threshold_ glu softmax log_softmax _softmax _log_softmax linear addmm mm bmm
    matmul baddbmm mv dot outer einsum bilinear conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d
    conv_transpose3d embedding scaled_dot_product_attention lstm gru rnn_tanh rnn_relu batch_norm
    _native_batch_norm_legit_no_training layer_norm native_layer_norm group_norm native_group_norm instance_norm
    rms_norm norm linalg_vector_norm dropout dropout_ native_dropout feature_dropout alpha_dropout avg_pool1d
    avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d add add_
    sub sub_ mul mul_ div div_ rsub neg neg_ abs abs_ exp exp_ log log_ log1p expm1 sqrt sqrt_ rsqrt reciprocal pow
    pow_ square sin cos tan atan erf sign floor ceil round trunc remainder fmod maximum minimum clamp clamp_
    clamp_min clamp_max addcmul addcdiv lerp where masked_fill masked_fill_ nan_to_num eq ne lt le gt ge logical_and
    logical_or logical_not bitwise_and bitwise_or bitwise_not isnan isinf isfinite sum mean prod var std amax amin
    max min argmax argmin logsumexp cumsum cumprod any all topk sort view _unsafe_view view_as reshape reshape_as
    flatten unflatten squeeze squeeze_ unsqueeze unsqueeze_ permute transpose t numpy_T mT movedim swapaxes expand
    expand_as broadcast_to repeat repeat_interleave tile cat concat stack chunk split split_with_sizes unbind select
    slice narrow index index_select gather roll flip tril triu diagonal pad constant_pad_nd reflection_pad1d
    reflection_pad2d replication_pad1d replication_pad2d pixel_shuffle unfold im2col upsample_nearest2d
    upsample_bilinear2d zeros ones full arange linspace eye scalar_tensor zeros_like ones_like full_like new_zeros
    new_ones new_full clone detach detach_ alias lift_fresh_copy contiguous to _to_copy type_as sym_size sym_numel
"""
ON_TENSORS = frozenset(_NAMES.split())
"""Of ATen: compute tensors from tensors and check their bounds; none writes a file, maps memory or calls back."""
CHECKS = re.compile(r"torch\.ops\.aten\.(_assert\w*|sym_constrain\w*)\.\w+")
"""Operators that compute nothing: they hold an exported program to the sizes that it was exported for."""
PLAIN = {"as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"}


def read_exported(path: Path) -> fx.GraphModule:
    """The program in a .pt2 file as a module: same operators, same weights, called with its inputs in their order.

    Raises:
        OmnigrokError: it is no such file, or asks for more than operators on tensors and weights stored as numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Program(archive).module()
    except OmnigrokError as error:
        raise OmnigrokError(f"{path} is not taken: {error}; if you trust it, {ANYWAY} runs it as it is") from error
    except Exception as error:  # whatever a file that is not what it seems makes of its reader
        raise OmnigrokError(f"{path} does not hold an exported program: {first_line(error)}") from error


class _Program:
    """The parts of an archive that are read: a model's JSON, the tables of its weights and their bytes."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.members = {name.partition("/")[2]: name for name in archive.namelist()}
        models = [name for name in self.members if re.fullmatch(r"models/[^/]+\.json", name)]
        if len(models) != 1:
            raise OmnigrokError(f"it holds {len(models)} models of torch.export.save of torch 2.8 or newer, not one")
        self.name = models[0].removeprefix("models/").removesuffix(".json")
        program = self.json(models[0])["graph_module"]
        self.graph, self.signature = program["graph"], program["signature"]
        self.tables = {
            kind: self.json(f"data/{kind}/{self.name}_{kind}_config.json")["config"]
            for kind in ("weights", "constants")
        }
        self.root, self.built = nn.Module(), fx.Graph()
        self.values: dict[str, fx.Node] = {}
        self.sizes: list[list[int | None]] = []

    def json(self, member: str) -> Any:
        return json.loads(self.archive.read(self.members[member]))

    def module(self) -> fx.GraphModule:
        self.inputs()
        for node in self.graph["nodes"]:
            self.node(node)
        outputs = [kind for spec in self.signature["output_specs"] for kind in spec]
        if "buffer_mutation" in outputs:
            raise OmnigrokError("it changes its buffers, as in training mode: export it from net.eval()")
        if set(outputs) != {"user_output"}:
            raise OmnigrokError(f"it does more than give outputs ({', '.join(sorted({*outputs} - {'user_output'}))})")
        results = [self.argument(output) for output in self.graph["outputs"]]
        self.built.output(results[0] if len(results) == 1 else tuple(results))
        self.built.lint()
        module = fx.GraphModule(self.root, self.built, "Exported")
        module.register_forward_pre_hook(check_sizes(self.sizes))
        return module

    def inputs(self) -> None:
        """A placeholder for each input, an attribute for each weight, under names of our own."""
        for number, spec in enumerate(self.signature["input_specs"]):
            [(kind, found)] = spec.items()
            if kind == "user_input":
                name = found["arg"]["as_tensor"]["name"]
                self.values[name] = self.built.placeholder(f"input_{number}")
                sizes = self.graph["tensor_values"][name]["sizes"]
                self.sizes.append([size.get("as_int") for size in sizes])
                continue
            if kind not in ("parameter", "buffer", "tensor_constant"):
                raise OmnigrokError(f"it has an input of the kind {kind}")
            weight = self.weight(found[f"{kind}_name"])
            if kind == "parameter":
                self.root.register_parameter(f"weight_{number}", nn.Parameter(weight, weight.is_floating_point()))
            else:
                self.root.register_buffer(f"weight_{number}", weight)
            self.values[found["arg"]["name"]] = self.built.get_attr(f"weight_{number}")

    def weight(self, name: str) -> Tensor:
        kind = "weights" if name in self.tables["weights"] else "constants"
        entry = self.tables[kind][name]
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise OmnigrokError(f"its weight {name!r} is pickled: a pickle can run code")
        meta = entry["tensor_meta"]
        sizes, strides = ([part["as_int"] for part in meta[key]] for key in ("sizes", "strides"))
        content = bytearray(self.archive.read(self.members[f"data/{kind}/{entry['path_name']}"]))
        if not content:
            return torch.zeros(sizes, dtype=SCALAR_TYPES[meta["dtype"]])
        numbers = torch.frombuffer(content, dtype=SCALAR_TYPES[meta["dtype"]])
        return numbers.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).clone()

    def node(self, node: dict[str, Any]) -> None:
        """An operator's call. Its name, its source and its metadata are not looked at."""
        if CHECKS.fullmatch(node["target"]):
            return
        positional = tuple(self.argument(given["arg"]) for given in node["inputs"] if given.get("kind") != 2)
        keywords = {given["name"]: self.argument(given["arg"]) for given in node["inputs"] if given.get("kind") == 2}
        made = self.built.call_function(tensor_operator(node["target"]), positional, keywords)
        names = [name for output in node["outputs"] for name in self.names(output)]
        if len(names) == 1 and "as_tensors" not in node["outputs"][0]:
            self.values[names[0]] = made
            return
        for i, name in enumerate(names):  # a list of tensors, or several outputs
            if name:
                self.values[name] = self.built.call_function(operator.getitem, (made, i))

    @staticmethod
    def names(output: dict[str, Any]) -> list[str]:
        """What the tensors of an output are called later; "" for one that is not there."""
        [(kind, value)] = output.items()
        if kind == "as_none":
            return [""]
        found = [part.get("name", part.get("as_name")) for part in (value if isinstance(value, list) else [value])]
        if not all(isinstance(name, str) for name in found):
            raise OmnigrokError(f"it has an output of the kind {kind}")
        return found

    def argument(self, given: dict[str, Any]) -> Any:
        """An argument's value: a number, a truth value, text, an earlier result, or a list of such."""
        [(kind, value)] = given.items()
        if kind in PLAIN:
            return checked(value)
        if kind in ("as_none", "as_memory_format", "as_layout"):
            return None
        if kind in ("as_tensor", "as_name"):
            return self.values[value["name"] if kind == "as_tensor" else value]
        if kind == "as_device":
            return torch.device("cpu")
        if kind == "as_scalar_type":
            return SCALAR_TYPES[value]
        if kind in ("as_tensors", "as_optional_tensors"):
            return [self.argument({"as_tensor": each} if "name" in each else each) for each in value]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor"):
            return self.argument(value)
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self.argument(each) for each in value]
        raise OmnigrokError(f"it has an argument of the kind {kind}")


def checked(value: Any) -> Any:
    """A value of JSON that may stand in a graph's code, which Python reads again."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, bool | int | float | str) for part in parts):
        raise OmnigrokError(f"it has an argument of the kind {type(value).__name__}")
    return value


def tensor_operator(target: str) -> Callable[..., Any]:
    """The operator of that name, if all that it can do is compute with tensors and numbers.

    Raises:
        OmnigrokError: it is another.
    """
    found: Callable[..., Any] | None = None
    if match := re.fullmatch(r"_operator\.(\w+)", target):
        found = getattr(operator, match[1]) if match[1] in ON_NUMBERS else None
    elif match := re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target):
        overload = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
        if match[1] in ON_TENSORS and isinstance(overload, torch._ops.OpOverload):
            found = overload
    if found is None:
        raise OmnigrokError(f"it calls {target[:60]!r}, not known as an operator that only computes")
    return found


def check_sizes(sizes: list[list[int | None]]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A hook that holds a program to the sizes that it was exported for; None is any size."""

    def check(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        for x, expected in zip(inputs, sizes, strict=True):
            shape = list(x.shape)
            if len(shape) != len(expected) or any(e not in (None, n) for e, n in zip(expected, shape, strict=True)):
                wanted = " x ".join("any" if size is None else str(size) for size in expected)
                raise OmnigrokError(f"it was exported for inputs of {wanted}, got {' x '.join(map(str, shape))}")

    return check
