"""Exported programs are read without running what their files say: crafted ones refused, sound ones the same."""

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from click.testing import CliRunner
from torch import nn

from omnigrok.cli import cli
from omnigrok.errors import OmnigrokError
from omnigrok.exported import ANYWAY, read_exported
from omnigrok.probes.complexity import local_complexity


class Marker:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def export(model, path, *examples, dynamic=True):
    sizes = tuple({0: torch.export.Dim("batch", min=2, max=1024)} for _ in examples) if dynamic else None
    torch.export.save(torch.export.export(model.eval(), examples, dynamic_shapes=sizes), path)


def changed(source, target, change):
    """A copy of an archive whose members `change(name, content)` rewrites; None drops one."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def in_json(suffix, edit):
    def change(name, content):
        if not name.endswith(suffix):
            return content
        parsed = json.loads(content)
        edit(parsed)
        return json.dumps(parsed).encode()

    return change


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield tmp_path


@pytest.fixture
def sound(folder):
    export(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), folder / "sound.pt2", torch.rand(3, 4))
    torch.save(torch.rand(5, 4), folder / "points.pt")
    return folder / "sound.pt2"


def pickled_weight(marker):
    def change(name, content):
        if name.endswith("data/weights/weight_0"):
            return pickle.dumps(Marker(marker))
        return in_json("weights_config.json", edit)(name, content)

    def edit(config):
        config["config"]["0.weight"]["use_pickle"] = True

    return change


def legacy_weights(marker):
    def change(name, content):
        return None if name.endswith("weights_config.json") else content

    return change


def sample_inputs(marker):
    return lambda name, content: pickle.dumps(Marker(marker)) if "sample_inputs" in name else content


def opaque_constant(marker):
    def edit(config):
        config["config"]["0.weight"] |= {"path_name": "opaque_obj_0", "use_pickle": False}

    def change(name, content):
        if name.endswith("data/weights/weight_0"):
            return pickle.dumps(Marker(marker))
        return in_json("weights_config.json", edit)(name, content)

    return change


def call(target, text):
    """The first operator replaced by another, called with text."""

    def edit(model):
        node = model["graph_module"]["graph"]["nodes"][0]
        node["target"] = target
        node["inputs"] = [{"name": "command", "arg": {"as_string": text}, "kind": 1}]

    return lambda marker: in_json("models/model.json", lambda model: edit(model))


def shape(marker):
    """A symbolic size, which torch gives to sympy's sympify, which evaluates it."""

    def edit(model):
        for value in model["graph_module"]["graph"]["tensor_values"].values():
            value["sizes"][0] = {
                "as_expr": {"expr_str": f"__import__('pathlib').Path({str(marker)!r}).touch()", "hint": None}
            }

    return in_json("models/model.json", edit)


def names(marker):
    """Names of nodes and of inputs end up in the code that torch generates for a graph."""
    code = f"x\n    __import__('pathlib').Path({str(marker)!r}).touch()\n    y"

    def change(name, content):
        return (
            content.replace(b'"name": "relu"', b'"name": ' + json.dumps(code).encode())
            if "models/" in name
            else content
        )

    return change


TAKEN_APART = {"sample inputs": sample_inputs, "a size": shape, "a name": names}
"""What the reader does not look at: the sound rest is taken."""
REFUSED = {
    "a pickled weight": pickled_weight,
    "an opaque constant": opaque_constant,
    "weights as one pickle": legacy_weights,
    "os.system": call("torch.os.system", "touch marker"),
    "a module of torch's": call("torch.serialization.load", "marker"),
    "torch.load": call("torch.load", "marker"),
    "a file as a tensor": call("torch.ops.aten.from_file.default", "marker"),
    "saving": call("torch.ops.aten.save.default", "marker"),
    "a Python operator": call("_operator.methodcaller", "marker"),
    "an operator of a library": call("torch.ops.load_library", "marker"),
    "mathematics": call("math.sqrt", "2"),
    "memory without bounds": call("torch.ops.aten.as_strided.default", "marker"),
    "torch's own generator": call("torch.ops.aten.manual_seed.default", "marker"),
    "an extension": call("#extension:op", "marker"),
    "a higher-order operator": call("torch.ops.higher_order.wrap.default", "marker"),
    "an attribute of an operator": call("torch.ops.aten.relu.__class__", "marker"),
    "a word": call("marker", "marker"),
}


@pytest.mark.parametrize("craft", REFUSED.values(), ids=REFUSED)
def test_a_crafted_file_is_refused_in_one_line(sound, craft):
    marker = sound.parent / "marker"
    path = changed(sound, sound.parent / "crafted.pt2", craft(marker))
    result = CliRunner().invoke(cli, ["complexity", str(path), "--data", "points.pt", "--directions", "2"])
    assert isinstance(result.exception, OmnigrokError)
    assert "\n" not in str(result.exception)
    assert "crafted.pt2" in str(result.exception)
    assert not marker.exists()


@pytest.mark.parametrize("craft", TAKEN_APART.values(), ids=TAKEN_APART)
def test_what_is_not_needed_is_not_looked_at(sound, craft):
    marker = sound.parent / "marker"
    path = changed(sound, sound.parent / "crafted.pt2", craft(marker))
    x = torch.rand(7, 4)
    assert torch.equal(read_exported(path)(x), read_exported(sound)(x))
    assert not marker.exists()


@pytest.mark.parametrize("craft", [pickled_weight, sample_inputs])
def test_torchs_own_reader_does_run_it(sound, craft):
    """Otherwise the tests above would show nothing. It is what the option's name says."""
    marker = sound.parent / "marker"
    path = changed(sound, sound.parent / "crafted.pt2", craft(marker))
    CliRunner().invoke(cli, ["complexity", str(path), "--data", "points.pt", ANYWAY])
    assert marker.exists()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("shift", torch.rand(4))
        self.register_buffer("scale", torch.rand(4), persistent=False)
        self.constant = torch.rand(4)
        self.again = self.last

    def forward(self, x):
        x = x + F.relu(self.first(x)) * self.scale + self.shift
        left, right = x.chunk(2, dim=1)
        return self.again(torch.cat([F.gelu(right, approximate="tanh"), left], dim=1) - self.constant).flatten(1)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)

    def forward(self, x):
        x = self.norm(self.embed(x.unsqueeze(1).expand(-1, 3, -1)))
        return F.scaled_dot_product_attention(x, x, x).mean(dim=1).view(x.shape[0], -1)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, y):
        return self.layer(x).relu_(), torch.einsum("bi,bi->b", x, y) / 2


MODELS = {
    "a chain": (lambda: nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 3)), (4,)),
    "residual, buffers, a constant, shared": (Residual, (4,)),
    "attention": (Attending, (4,)),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
            nn.Dropout(0.5), nn.Linear(64, 5), nn.GELU(), nn.Linear(5, 2),
        ),
        (1, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS)
def test_a_sound_program_computes_the_same(folder, make, shape):
    model = make().eval()
    export(model, folder / "model.pt2", torch.rand(3, *shape))
    read, x = read_exported(folder / "model.pt2"), torch.rand(9, *shape)
    torch.testing.assert_close(read(x), model(x))
    torch.testing.assert_close(read(x), torch.export.load(folder / "model.pt2").module()(x))
    if make is not Attending:
        ours, plain = (local_complexity(net, x, 0.3, 3) for net in (read, model))
        assert torch.equal(ours.total, plain.total)


def test_several_inputs_and_outputs(folder):
    model = Pair().eval()
    export(model, folder / "model.pt2", torch.rand(3, 4), torch.rand(3, 4))
    x, y = torch.rand(5, 4), torch.rand(5, 4)
    torch.testing.assert_close(read_exported(folder / "model.pt2")(x, y), model(x, y))


def test_a_program_for_one_size_says_so(folder):
    export(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), folder / "fixed.pt2", torch.rand(3, 4), dynamic=False)
    read = read_exported(folder / "fixed.pt2")
    assert read(torch.rand(3, 4)).shape == (3, 6)
    with pytest.raises(OmnigrokError, match="it was exported for inputs of 3 x 4, got 5 x 4"):
        read(torch.rand(5, 4))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + 18 * b"\0"])
def test_what_is_no_program_is_named(folder, content):
    (folder / "none.pt2").write_bytes(content)
    with pytest.raises(OmnigrokError, match=r"none\.pt2"):
        read_exported(folder / "none.pt2")


def test_weights_outside_of_their_file_are_refused(sound):
    def edit(config):
        config["config"]["0.weight"]["tensor_meta"]["storage_offset"] = {"as_int": 10**6}

    path = changed(sound, sound.parent / "outside.pt2", in_json("weights_config.json", edit))
    with pytest.raises(OmnigrokError, match=r"outside\.pt2 does not hold an exported program"):
        read_exported(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_run_only_when_it_is_asked_for(sound):
    torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.ReLU())).save("scripted.pt")
    command = ["complexity", "scripted.pt", "--data", "points.pt", "--directions", "2"]
    result = CliRunner().invoke(cli, command)
    assert f"if you trust it, take {ANYWAY}" in str(result.exception)
    assert CliRunner().invoke(cli, [*command, ANYWAY]).exit_code == 0


@pytest.mark.parametrize("command", ["complexity", "partition"])
def test_help_says_that_a_model_is_a_program(command):
    text = " ".join(CliRunner().invoke(cli, [command, "--help"]).output.split())
    assert "A model is a program" in text
    assert ANYWAY in text


def test_python_m_omnigrok_is_the_command():
    done = subprocess.run([sys.executable, "-m", "omnigrok", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: python -m omnigrok [OPTIONS] COMMAND")
