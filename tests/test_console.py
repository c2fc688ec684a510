"""Bad input gets one line and status 2; nothing is half-written."""

import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from omnigrok import console
from omnigrok.cli import cli
from omnigrok.errors import OmnigrokError
from omnigrok.exported import ANYWAY
from omnigrok.provenance import command_line
from reproductions import fig_lu, fig_mnist
from reproductions.experiments import lu

FIGURES = Path(__file__).parent.parent / "figures"
LU, MNIST = fig_lu.FIGURE.command(), fig_mnist.FIGURE.command()


def invoke(monkeypatch, capsys, command, *arguments):
    """Run a command line as a user would: its exit status, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["omnigrok", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        console.run(command)
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (cli, ["run", "mnits"], "unknown task 'mnits'; there are:"),
        (cli, ["run", "teacher_student", "--alpha", "0"], "alpha must be a finite number above 0, got 0.0"),
        (cli, ["run", "teacher_student", "--alpha", "-1"], "alpha must be"),
        (cli, ["run", "teacher_student", "--alpha", "nan"], "alpha must be"),
        (cli, ["run", "teacher_student", "--alpha", "big"], "'big' is not a valid float"),
        (cli, ["run", "teacher_student", "--n-train", "0"], "n_train must be 1 or more, got 0"),
        (cli, ["run", "teacher_student", "--n-train", "10001", "--steps", "1"], "10001 is more than the 10000"),
        (cli, ["run", "teacher_student", "--steps", "-5"], "steps must be 0 or more, got -5"),
        (cli, ["run", "teacher_student", "--lr", "nan"], "lr must be"),
        (cli, ["run", "teacher_student", "--steps", "5", "--keep", "6"], "keep must be steps from 0 to 5, got (6,)"),
        (cli, ["run", "teacher_student", "--device", "cuda:77"], "device 'cuda:77' is not available here"),
        (cli, ["run", "teacher_student", "--optimizer", "sgdw"], "optimizer must be an optimizer or the name of one"),
        (cli, ["run", "modular", "--option", "q=3"], "unknown option 'q'; there are: operation, p"),
        (cli, ["run", "modular", "--option", "p=x"], "option p takes a int, got 'x'"),
        (cli, ["run", "modular", "--option", "operation=minus"], "operation must be one of add"),
        (cli, ["run", "teacher_student", "--batch-size", "all"], "'all' is not a valid integer"),
        (cli, ["run", "teacher_student", "--out", "curve.jpeg"], "ending in .png, .pdf, .svg; got curve.jpeg"),
        (cli, ["run"], "Missing argument 'TASK'"),
        (cli, ["frobnicate"], "No such command 'frobnicate'"),
        (cli, ["bench", "--sizes", "1,x"], "'x' is not a valid integer range"),
        (cli, ["bench", "--tasks", "nope"], "unknown task 'nope'"),
        (cli, ["data", "fetch", "nope"], "unknown dataset 'nope'"),
        (cli, ["status", "--results", "nowhere"], "there is no store at nowhere"),
        (cli, ["claims", "--figures", FIGURES, "--write", "nowhere.md"], "cannot update nowhere.md"),
        (cli, ["claims"], "there are no figures in figures"),
        (LU, ["--preset", "fast"], "'fast' is not one of 'quick', 'default', 'paper'"),
        (LU, ["--tasks", "nope"], "unknown task 'nope'"),
        (MNIST, ["--tasks", "teacher_student"], "fig_mnist does not draw teacher_student"),
        (LU, ["--seeds", "0"], "0 is not in the range x>=1"),
        (LU, ["--n-train", "0"], "0 is not in the range x>=1"),
        (LU, ["--tasks", "teacher_student", "--n-train", "20000", "--preset", "quick"], "20000 is more than"),
        (LU, ["--out", "/proc/nowhere", "--tasks", "teacher_student"], "cannot write to /proc/nowhere"),
        (LU, ["--results", "/proc/nowhere", "--tasks", "teacher_student"], "cannot write to /proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_with_status_2(monkeypatch, capsys, tmp_path, command, arguments, expected):
    status, _, err = invoke(monkeypatch, capsys, command, *arguments)
    assert status == 2
    assert expected in err
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not list(tmp_path.glob("**/*.parquet")) + list(tmp_path.glob("**/*.png"))


@pytest.mark.usefixtures("without_data")
@pytest.mark.parametrize(("command", "arguments"), [(LU, ["--tasks", "mnist"]), (MNIST, []), (cli, ["run", "mnist"])])
def test_a_task_asked_for_by_name_needs_its_data(monkeypatch, capsys, command, arguments):
    status, _, err = invoke(monkeypatch, capsys, command, *arguments)
    assert status == 2
    assert "train-images-idx3-ubyte" in err
    assert "omnigrok data fetch mnist --from FOLDER" in err
    assert len(err.splitlines()) == 1


def test_one_run_ends_with_a_table_and_a_curve(monkeypatch, capsys, tmp_path):
    arguments = ["run", "teacher_student", "--steps", 40, "--alpha", 0.5, "--out", "curve.png"]
    status, out, _ = invoke(monkeypatch, capsys, cli, *arguments)
    assert status == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    values = dict(line.rsplit(maxsplit=1) for line in out.splitlines() if len(line.split()) == 3)
    assert float(values["parameters weight_norm"]) == pytest.approx(4.3, abs=0.3)
    assert "t_gen      not within 40 steps" in out
    assert len(list(tmp_path.glob("results/teacher_student/*.parquet"))) == 1
    status, out, _ = invoke(monkeypatch, capsys, cli, "status")
    assert "1 finished runs in results" in out
    (path,) = tmp_path.glob("results/teacher_student/*.parquet")
    path.write_bytes(b"PAR1")
    (path.parent / "checkpoints").mkdir(exist_ok=True)
    torch.save({"runs": []}, path.parent / "checkpoints" / "x.pt")
    status, out, _ = invoke(monkeypatch, capsys, cli, "status")
    assert "0 finished runs" in out
    assert f"damaged: results/teacher_student/{path.name}" in out
    assert "unfinished batch: results/teacher_student/checkpoints/x.pt" in out


@pytest.mark.slow
def test_the_curve_goes_into_a_folder_or_another_format_and_none_is_a_value(monkeypatch, capsys, tmp_path):
    arguments = ["run", "teacher_student", "--steps", 3, "--batch-size", "none", "--gradient-clip", "none", "--out"]
    assert invoke(monkeypatch, capsys, cli, *arguments, "new")[0] == 0
    assert [p.suffix for p in (tmp_path / "new").iterdir()] == [".png"]
    assert invoke(monkeypatch, capsys, cli, *arguments, "curve.pdf")[0] == 0
    assert (tmp_path / "curve.pdf").read_bytes().startswith(b"%PDF")
    assert len(list(tmp_path.glob("results/teacher_student/*.parquet"))) == 1  # as published: the full batch


def test_tasks_and_data_are_listed(monkeypatch, capsys, tmp_path):
    status, out, _ = invoke(monkeypatch, capsys, cli, "tasks")
    assert status == 0
    assert "mnist: MNIST (Liu et al. 2023, Fig. 3" in out
    assert "N = 1000, alpha = 8, adamw lr 0.001, weight decay 0.01, batches of 200" in out
    monkeypatch.setenv("OMNIGROK_DATA", str(tmp_path / "empty"))
    status, out, _ = invoke(monkeypatch, capsys, cli, "data")
    assert status == 0
    assert f"cache: {tmp_path / 'empty'}" in out
    assert "not fetched; get it with: omnigrok data fetch mnist" in out


def test_fetching_replaces_a_damaged_copy(monkeypatch, capsys, tmp_path, mnist_data):
    from omnigrok.data import cache_root

    good = cache_root() / "mnist"
    monkeypatch.setenv("OMNIGROK_DATA", str(tmp_path / "cache"))
    status, out, _ = invoke(monkeypatch, capsys, cli, "data", "fetch", "mnist", "--from", good)
    assert status == 0
    assert "verified" in out
    labels = tmp_path / "cache" / "mnist" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    status, out, _ = invoke(monkeypatch, capsys, cli, "data")
    assert "DAMAGED" in out
    assert labels.name in out
    status, out, err = invoke(monkeypatch, capsys, cli, "data", "fetch", "mnist", "--from", good)
    assert status == 0
    assert "replacing a damaged copy" in err
    assert labels.read_bytes() == (good / labels.name).read_bytes()
    (tmp_path / "bad").mkdir()
    for path in good.glob("*ubyte"):
        (tmp_path / "bad" / path.name).write_bytes(b"rubbish")
    labels.unlink()
    status, _, err = invoke(monkeypatch, capsys, cli, "data", "fetch", "mnist", "--from", tmp_path / "bad")
    assert status == 2
    assert "of a local folder has 7 bytes, published are" in err
    assert ".fetch-" not in err


def test_dry_run_trains_nothing(monkeypatch, capsys, tmp_path):
    arguments = ["--preset", "quick", "--tasks", "teacher_student", "--dry-run"]
    status, out, _ = invoke(monkeypatch, capsys, LU, *arguments)
    assert status == 0
    runs = 2 * len(lu.alphas("quick", "teacher_student"))
    assert f"0 of {runs} runs are finished" in out
    assert not list(tmp_path.glob("**/*.parquet"))


@pytest.mark.slow
def test_a_full_disk_while_the_figure_is_written_keeps_the_old_one(monkeypatch, capsys, tmp_path):
    from matplotlib.figure import Figure

    old = tmp_path / "out" / "fig_lu.png"
    old.parent.mkdir()
    old.write_bytes(b"old")
    save = Figure.savefig

    def full(self, path, **options):
        if str(path).endswith(".pdf"):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", full)
    arguments = ["--preset", "quick", "--tasks", "teacher_student", "--seeds", 1, "--out", "out"]
    monkeypatch.setattr(lu, "GRID", {"quick": 2})
    status, _, err = invoke(monkeypatch, capsys, LU, *arguments)
    assert status == 2
    assert "No space left on device" in err.splitlines()[-1]
    assert old.read_bytes() == b"old"
    assert list(old.parent.iterdir()) == [old]


def test_an_error_is_one_line(monkeypatch, capsys):
    @click.command()
    def fails():
        raise OmnigrokError("first\nsecond")

    status, _, err = invoke(monkeypatch, capsys, fails)
    assert (status, err) == (2, "error: first second\n")


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly():
    """`omnigrok tasks | head -0`: the reader is gone before the first line."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", "from omnigrok.cli import main; main()", "tasks"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_command_alone_shows_its_help(monkeypatch, capsys):
    status, _, err = invoke(monkeypatch, capsys, cli)
    assert status == 2
    assert "\nCommands:\n" in err


def test_to_go_on_a_command_is_quoted_and_not_forced(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/omnigrok", "run", "mnist", "--force", "--results", "my results"])
    assert command_line() == "omnigrok run mnist --results 'my results'"


def test_claims_of_a_folder_without_figures(tmp_path):
    result = CliRunner().invoke(cli, ["claims", "--figures", str(tmp_path)])
    assert "there are no figures in" in str(result.exception)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_names_the_command(tmp_path):
    command = ["-m", "reproductions.fig_lu", "--tasks", "teacher_student", "--preset", "default", "--seeds", "1"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, cwd=tmp_path, text=True)
    checkpoints = tmp_path / "results" / "teacher_student" / "batching.json"
    while not checkpoints.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    last = err.splitlines()[-1]
    assert last.startswith("interrupted: finished runs are kept; continue with: ")
    assert last.endswith(f"python {' '.join(command)}")
    assert not (tmp_path / "figures" / "fig_lu.png").exists()


MODEL = """
from torch import nn
net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
def make():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
wide = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
number = 3
"""


@pytest.fixture
def own_model(tmp_path, monkeypatch):
    """A user's module and points in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (tmp_path / "own_net.py").write_text(MODEL)
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(5, 4)))
    with torch.random.fork_rng():
        yield tmp_path
    sys.modules.pop("own_net", None)


def test_complexity_of_a_users_own_model(own_model):
    result = CliRunner().invoke(cli, ["complexity", "own_net:net", "--data", "points.npy", "--directions", "3"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split()[:3] == ["1", "relu", "6"]
    assert "at 5 points" in result.output


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_models_in_files(own_model):
    net = importlib.import_module("own_net").net
    torch.jit.script(net).save("scripted.pt")
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=batch), "exported.pt2")

    def output(command, model, *arguments):
        result = CliRunner().invoke(cli, [command, model, "--data", "points.npy", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    expected = output("complexity", "own_net:net", "--directions", "3")
    for model, trust in (("scripted.pt", [ANYWAY]), ("exported.pt2", []), ("exported.pt2", [ANYWAY])):
        assert output("complexity", model, "--directions", "3", *trust) == expected
    assert output("partition", "exported.pt2") == output("partition", "own_net:net")
    np.save("points.npy", np.random.default_rng(0).random((3, 5)))
    result = CliRunner().invoke(cli, ["partition", "exported.pt2", "--data", "points.npy"])
    assert "exported.pt2 does not take points of shape 5" in str(result.exception)


def test_partition_of_a_users_own_model(own_model):
    result = CliRunner().invoke(cli, ["partition", "own_net:net", "--data", "points.npy", "--out", "p.png"])
    assert result.exit_code == 0, result.output
    assert int(result.stdout.splitlines()[0].split()[-1]) > 1
    assert (own_model / "p.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("complexity", ["own_net:other"], "no model at 'own_net:other'"),
        ("complexity", ["nowhere:net"], "no model at 'nowhere:net'"),
        ("complexity", ["own_net:number"], "no model at 'own_net:number'"),
        ("complexity", ["own_net:make", "--directions", "2"], "no activation"),
        ("complexity", ["own_net:net", "--directions", "9"], "directions must be 1 to 4"),
        ("complexity", ["own_net:wide"], "own_net:wide does not take points of shape 4"),
        ("partition", ["own_net:wide"], "own_net:wide does not take points of shape 4"),
        ("complexity", ["own_net:net", "--weights", "points.npy"], "do not fit own_net:net"),
        ("partition", ["own_net:make"], "does not know Tanh"),
        ("complexity", ["none.pt", "--weights", "w.pt"], "none.pt has its own weights"),
        ("complexity", ["none.pt"], "none.pt does not hold a TorchScript module"),
        ("partition", ["none.pt2"], "none.pt2 does not hold an exported program"),
    ],
)
@pytest.mark.usefixtures("own_model")
def test_a_users_model_that_cannot_be_taken_is_named(command, arguments, message):
    result = CliRunner().invoke(cli, [command, *arguments, "--data", "points.npy"])
    assert message in str(result.exception)


@pytest.mark.usefixtures("own_model")
def test_points_that_cannot_be_read_are_named():
    result = CliRunner().invoke(cli, ["complexity", "own_net:net", "--data", "none.npy"])
    assert "cannot read points from none.npy" in str(result.exception)
