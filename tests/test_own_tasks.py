"""A task in a file of one's own, outside any package: by its import path in commands, in workers, or as a class."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from omnigrok import Store, get_task, run_sweep
from omnigrok import registry as registry_module
from omnigrok.check import check_task
from omnigrok.errors import OmnigrokError
from reproductions.experiments import lu
from reproductions.fig_mnist import FIGURE

DIGITS = """
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from omnigrok import RunSpec, Task, TaskData
from omnigrok.spec import generator
from omnigrok.task import Thresholds


class Digits(Task):
    name = "digits"
    display_name = "Digits"
    citation = "scikit-learn"
    spec = RunSpec(task=name, n_train=200, steps=30, lr=1e-2, batch_size=50)
    thresholds = Thresholds(metric="accuracy", train=0.99, test=0.9)

    def load(self, spec):
        x, y = map(torch.tensor, load_digits(return_X_y=True))
        order = torch.randperm(len(y), generator=generator(spec.data_seed, "split"))
        x, y = (x / 16)[order].to(spec.torch_dtype), y[order]
        return TaskData((x[:1000],), y[:1000], (x[1000:],), y[1000:], source="scikit-learn")

    def model(self, spec):
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, outputs, targets):
        return {"accuracy": (outputs.argmax(dim=1) == targets).to(outputs.dtype)}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the file."""
    pytest.importorskip("sklearn")
    (tmp_path / "my_file.py").write_text(DIGITS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry_module, "_own_tasks", {})
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("my_file", None)


def command(*arguments, folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_it_is_as_short_as_the_readme_says():
    assert len([line for line in DIGITS.splitlines() if line.strip()]) <= 33


def test_an_import_path_is_a_task_that_goes_by_its_name(folder):
    task = get_task("my_file:Digits")
    assert task.name == "digits"
    assert get_task("digits") is task
    assert get_task("my_file.py:Digits") is task
    assert all(finding.ok for finding in check_task(task)), check_task(task)
    curves = run_sweep([task.spec], Store(folder / "results"), show_progress=False)
    assert set(curves["task"]) == {"digits"}


def test_workers_import_it_too(folder):
    spec = get_task("my_file:Digits").spec
    specs = [spec.replace(seed=s, dtype="float64") for s in range(2)]
    alone = run_sweep(specs, Store(folder / "a"), runs_per_batch=1, show_progress=False)
    workers = run_sweep(specs, Store(folder / "b"), runs_per_batch=1, workers=2, show_progress=False)
    assert alone["value"].to_numpy() == pytest.approx(workers["value"].to_numpy(), rel=1e-8)


def test_a_class_is_a_task_in_this_process_and_says_that_others_cannot_import_it(folder, tmp_path):
    scope: dict = {"__name__": "__main__"}
    exec(DIGITS, scope)
    task = get_task(scope["Digits"])
    assert get_task(scope["Digits"]()).name == get_task("digits").name == "digits"
    specs = [task.spec.replace(seed=s) for s in range(2)]
    assert len(run_sweep(specs[:1], Store(tmp_path / "a"), show_progress=False))
    with pytest.raises(OmnigrokError, match="other processes cannot import Digits: train with workers=1, or put it"):
        run_sweep(specs, Store(tmp_path / "b"), runs_per_batch=1, workers=2, show_progress=False)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere:Digits", "'nowhere' of nowhere:Digits cannot be imported: No module named"),
        ("my_file:Numbers", "there is no 'Numbers' in my_file"),
        ("my_file:Thresholds", "Thresholds of my_file cannot be made"),
        ("my_file:generator", "function is no task: it is no subclass of omnigrok.Task"),
        ("my_file:Task", "Task of my_file cannot be made: Can't instantiate abstract class Task"),
        ("broken:Digits", "'broken' of broken:Digits cannot be imported: 1 / 0 is none|division by zero"),
        ("named:Mnist", "Mnist has the name of an installed task, 'mnist': give it another"),
        ("unnamed:Other", "the spec of Other must be RunSpec"),
    ],
)
def test_what_is_no_task_is_named(folder, path, message):
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "named.py").write_text("from my_file import Digits\n\n\nclass Mnist(Digits):\n    name = 'mnist'\n")
    (folder / "unnamed.py").write_text("from my_file import Digits\n\n\nclass Other(Digits):\n    name = 'other'\n")
    try:
        with pytest.raises(OmnigrokError, match=message):
            get_task(path)
    finally:
        for name in ("broken", "named", "unnamed"):
            sys.modules.pop(name, None)


class Broken:
    name, value = "broken", "my_package:Broken"

    def load(self):
        raise ImportError("No module named 'my_package'")


def test_a_plug_in_that_cannot_be_imported_harms_nobody_elses_command(monkeypatch):
    known = {**registry_module._registered(), "broken": Broken()}
    monkeypatch.setattr(registry_module, "_registered", lambda: known)
    with pytest.warns(UserWarning, match=r"left out: the task 'broken' \(my_package:Broken\) cannot be loaded"):
        found = registry_module.installed_tasks()
    assert {"mnist", "modular"} <= {task.name for task in found}
    assert "broken" not in {task.name for task in found}
    assert lu.tasks() == [
        "teacher_student",
        "mnist",
        "imdb",
        "qm9",
        "modular",
    ]  # a plug-in joins only where it is named


@pytest.mark.slow
@pytest.mark.parametrize("hiding", ["tasks.py", "tasks/__init__.py"])
def test_what_hides_the_suites_tasks_is_said_or_harms_nobody(tmp_path, hiding):
    place = tmp_path / hiding
    place.parent.mkdir(exist_ok=True)
    place.write_text("")
    done = command("omnigrok", "run", "mnist", "--steps", "1", folder=tmp_path)
    if hiding == "tasks/__init__.py" and done.returncode == 0:  # an editable install still finds the suite's modules
        return
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'tasks' in the working folder hides the package of that name: rename it" in done.stderr


def test_an_unknown_name_says_how_to_bring_ones_own():
    with pytest.raises(OmnigrokError, match=r"unknown task 'digit'; there are: .* or your own as my_file:MyTask"):
        get_task("digit")


@pytest.mark.slow
def test_commands_take_it(folder):
    done = command("omnigrok", "check", "my_file:Digits", folder=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "MEND" not in done.stdout
    sweep = ("--alpha", "1,3", "--seeds", "2", "--n-train", "100,200", "--steps", "20")
    done = command("omnigrok", "run", "my_file:Digits", *sweep, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "8 runs, 0 of them from the store" in done.stdout
    assert done.stdout.splitlines()[0].split()[:4] == ["alpha", "n_train", "weight_decay", "seed"]
    [picture] = (folder / "results" / "digits").glob("sweep-*.png")
    assert picture.with_suffix(".csv").read_text().count("\n") == 9
    assert "8 of them from the store" in command("omnigrok", "run", "my_file:Digits", *sweep, folder=folder).stdout


BAD = {
    "loss": (
        "def loss(self, outputs, targets):\n        return F.cross_entropy(outputs, targets)",
        "one number an example",
    ),
    "random data": (
        "def load(self, spec):\n        data = super().load(spec)\n"
        "        inputs = (torch.tensor(next(NOISE)) + data.test_inputs[0],)\n"
        "        return TaskData(data.train_inputs, data.train_targets, inputs, data.test_targets, 's')",
        "gave other data the second time",
    ),
    "unused": (
        "def model(self, spec):\n        net = super().model(spec)\n        net.spare = nn.Linear(2, 2)\n"
        "        net.forward = lambda x: nn.Sequential(*list(net)[:3])(x)\n        return net",
        "do not enter the loss",
    ),
    "metric": ("def metrics(self, outputs, targets):\n        return {}", "has no metric 'accuracy'"),
    "nan": (
        "def load(self, spec):\n        data = super().load(spec)\n        data.train_inputs[0][0] = float('nan')\n"
        "        return data",
        "not finite",
    ),
    "float32": (
        "def load(self, spec):\n        return super().load(spec.replace(dtype='float32'))",
        "asked for float64 (spec.torch_dtype), `load` gave torch.float32",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_keep_the_contract_is_said(folder, what):
    body, message = BAD[what]
    scope: dict = {"__name__": "mine"}
    exec(f"{DIGITS}\nimport itertools\nNOISE = itertools.count(0.0)\n\nclass Bad(Digits):\n    {body}\n", scope)
    findings = check_task(scope["Bad"]())
    assert any(message in finding.text for finding in findings if not finding.ok), findings


def test_a_model_that_depends_on_its_neighbours_passes_is_found(folder):
    scope: dict = {"__name__": "mine"}
    exec(DIGITS, scope)

    passes = []

    class Outside(torch.nn.Module):
        """What it computes depends on the passes of other models."""

        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            passes.append(len(x))
            return self.net(x) * (1 + 0.01 * len(passes))

    class Mixed(scope["Digits"]):
        def model(self, spec):
            return Outside(super().model(spec))

    findings = check_task(Mixed())
    assert any("gave other weights the second time" in finding.text for finding in findings if not finding.ok), findings
    assert any("trained one by one: torch computes other numbers" in finding.text for finding in findings), findings


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["fig_lu", "fig_train_size", "fig_domains", "fig_time_to_grok"])
def test_figures_draw_it(folder, figure):
    arguments = (f"reproductions.{figure}", "--preset", "quick", "--tasks", "my_file:Digits", "--seeds", "1")
    done = command(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((folder / "figures" / "quick" / f"{figure}.json").read_text())
    assert sidecar["command"].endswith("--tasks my_file:Digits --seeds 1")
    table = pd.read_csv(folder / "figures" / "quick" / f"{figure}.csv")
    assert set(table["task"]) == {"digits"}
    assert figure == "fig_time_to_grok" or "error" in set(table["metric"])
    assert {claim["status"] for claim in sidecar["claims"]} == {"NOT RUN"}


def test_figures_of_one_dataset_say_what_they_draw(folder, tmp_path):
    with pytest.raises(OmnigrokError, match="fig_mnist does not draw digits; it draws: mnist"):
        FIGURE.run(preset="quick", tasks=["my_file:Digits"], out=tmp_path, results=tmp_path)
