"""Weights from files of the user's: alone, in checkpoints, of wrapped networks, and those that runs keep."""

import sys

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from omnigrok import OmnigrokError, Store, get_task, run_sweep
from omnigrok.cli import cli
from omnigrok.probes.complexity import local_complexity
from omnigrok.spec import generator
from omnigrok.state import load_weights

POINTS = torch.rand(5, 4, generator=generator(0, "points"))
NET = """
from torch import nn
def net():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
"""


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def prefixed(prefix):
    return {prefix + name: x for name, x in net().state_dict().items()}


FILES = {
    "a state_dict": lambda: net().state_dict(),
    "of DataParallel": lambda: nn.DataParallel(net()).state_dict(),
    "of torch.compile": lambda: prefixed("_orig_mod."),
    "of both": lambda: prefixed("module._orig_mod."),
    "a compiled part": lambda: {n.replace("0.", "0._orig_mod."): x for n, x in net().state_dict().items()},
    "in a checkpoint": lambda: {"epoch": 3, "state_dict": net().state_dict(), "optimizer": {"lr": 0.1}},
    "as model": lambda: {"model": prefixed("module.")},
    "as model_state_dict": lambda: {"model_state_dict": net().state_dict(), "loss": torch.tensor(0.3)},
    "kept by a run": lambda: {0: net(5).state_dict(), 10: net().state_dict()},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (tmp_path / "own_net.py").write_text(NET)
    torch.save(POINTS, "points.pt")
    with torch.random.fork_rng():
        yield tmp_path
    sys.modules.pop("own_net", None)


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_weights_are_taken_wherever_they_are_in_a_file(folder, make):
    torch.save(make(), folder / "w.pt")
    loaded = net(1)
    load_weights(loaded, folder / "w.pt", "net")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), net().parameters(), strict=True))


class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = net()


def test_a_network_with_a_part_named_module_keeps_its_names(folder):
    torch.save(Wrapper().state_dict(), folder / "w.pt")
    loaded = Wrapper()
    nn.init.zeros_(loaded.module[0].weight)
    load_weights(loaded, folder / "w.pt", "net")
    assert torch.equal(loaded.module[0].weight, net()[0].weight)


def without(name):
    return {key: x for key, x in net().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: without("2.bias"), r"do not fit net: missing 2\.bias"),
        (lambda: net().state_dict() | {"extra": torch.zeros(1)}, "unexpected extra"),
        (
            lambda: {"features." + k: x for k, x in net().state_dict().items()},
            r"missing 0\.weight.*unexpected features",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2)).state_dict(),
            r"size mismatch for 0\.weight",
        ),
        (lambda: {"net": net().state_dict(), "epoch": 3}, "there is no state_dict, but net, epoch"),
        (lambda: {"state_dict": {"lr": 0.1}}, "there is no state_dict, but lr in it"),
        (lambda: {f"part {i}": i for i in range(9)}, "part 3 and 5 more"),
        (lambda: torch.zeros(3), "the file holds a Tensor"),
        (lambda: [net().state_dict()], "the file holds a list"),
        (dict, "there is no state_dict"),
        (net, r"save them as torch\.save\(net\.state_dict\(\), path\)"),
    ],
)
def test_what_does_not_fit_is_named_by_its_keys(folder, content, message):
    torch.save(content(), folder / "w.pt")
    with pytest.raises(OmnigrokError, match=message) as error:
        load_weights(net(), folder / "w.pt", "net")
    assert "\n" not in str(error.value)


def test_a_step_is_of_kept_weights(folder):
    torch.save({0: net(5).state_dict(), 10: net().state_dict()}, folder / "kept.pt")
    torch.save(net().state_dict(), folder / "plain.pt")
    loaded = net(1)
    load_weights(loaded, folder / "kept.pt", "net", step=0)
    assert torch.equal(loaded[0].weight, net(5)[0].weight)
    with pytest.raises(OmnigrokError, match="none of step 3; there are: 0, 10"):
        load_weights(loaded, folder / "kept.pt", "net", step=3)
    with pytest.raises(OmnigrokError, match="--step is for weights that a run has kept"):
        load_weights(loaded, folder / "plain.pt", "net", step=3)


@pytest.fixture
def kept(folder):
    """A file of weights that a run has kept, and what it measured."""
    store = Store(folder / "results")
    spec = get_task("teacher_student").spec.replace(steps=4, n_train=20, keep=(0, 4))
    run_sweep([spec], store, runs_per_batch=1, show_progress=False)
    return store.weights(spec), store.weights_path(spec)


def test_the_weights_that_a_run_keeps_are_taken(folder, kept):
    weights, path = kept
    task = get_task("teacher_student")
    for step, chosen in ((None, 4), (0, 0), (4, 4)):
        with torch.random.fork_rng():
            model = task.model(task.spec)
        load_weights(model, path, "net", step=step)
        assert all(torch.equal(x, weights[chosen][name]) for name, x in model.state_dict().items())
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(OmnigrokError, match="is damaged"):
        load_weights(model, path, "net")


def invoke(*arguments):
    return CliRunner().invoke(cli, [*arguments, "--data", "points.pt"])


@pytest.mark.parametrize("command", ["complexity", "partition"])
def test_the_commands_take_weights_of_a_step(folder, command):
    torch.save({0: net(5).state_dict(), 10: net().state_dict()}, folder / "kept.pt")
    for seed, name in ((5, "first.pt"), (0, "last.pt")):
        torch.save(net(seed).state_dict(), folder / name)
    options = ["--directions", "3"] if command == "complexity" else []
    arguments = {
        "first.pt": ["--weights", "kept.pt", "--step", "0"],
        "last.pt": ["--weights", "kept.pt"],
    }
    outputs = set()
    for name, given in arguments.items():
        result, expected = (invoke(command, "own_net:net", *options, *w) for w in (given, ["--weights", name]))
        assert result.exit_code == 0, result.output
        assert result.output == expected.output
        assert not result.stderr
        outputs.add(result.output)
    assert len(outputs) == 2
    for model in ("own_net:net", "net.pt2"):
        assert "--step is for weights that a run has kept" in str(invoke(command, model, "--step", "3").exception)


@pytest.mark.parametrize("command", ["complexity", "partition"])
@pytest.mark.usefixtures("folder")
def test_a_network_without_weights_is_said_to_be_a_random_one(command):
    options = ["--directions", "3"] if command == "complexity" else []
    result = invoke(command, "own_net:net", *options)
    assert result.exit_code == 0, result.output
    assert "own_net:net is measured as it is made: a random initial network" in result.stderr
    assert "random initial" not in result.stdout


def test_the_table_says_what_is_counted(folder):
    torch.save(net().state_dict(), folder / "w.pt")
    result = invoke("complexity", "own_net:net", "--weights", "w.pt", "--directions", "3")
    found = local_complexity(net(), POINTS, 0.5, 3)
    assert result.stdout.splitlines()[1].split()[:3] == ["1", "relu", "6"]
    assert f"local complexity {found.total.double().mean().item():.2f}" in result.stdout
