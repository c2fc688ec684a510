"""`omnigrok new-task` writes a task that runs as it is."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from omnigrok import Store, get_task, run_sweep
from omnigrok import registry as registry_module
from omnigrok.analysis import grokking_times
from omnigrok.check import check_task
from omnigrok.cli import cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry_module, "_own_tasks", {})
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("my_parity", None)


@pytest.fixture
def task(folder):
    """The task of a new file."""
    done = CliRunner().invoke(cli, ["new-task", "my_parity.py"])
    assert done.exit_code == 0, done.output
    assert "omnigrok check my_parity:Parity" in done.output
    return get_task("my_parity:Parity")


def test_it_is_short_and_keeps_the_contract(task, folder):
    assert (folder / "my_parity.py").read_text().count("\n") < 60
    assert type(task).__module__ == "my_parity"
    assert all(finding.ok for finding in check_task(task)), check_task(task)


@pytest.mark.slow
def test_as_it_is_it_memorises_first_and_generalises_later(task, store):
    times = grokking_times(run_sweep([task.spec], store, show_progress=False), task.thresholds).iloc[0]
    assert not times["gen_censored"]
    assert times["delay"] > 2


def test_it_trains_and_workers_can_import_it(task, store):
    run_sweep([task.spec.replace(steps=2)], store, runs_per_batch=1, show_progress=False)
    assert Store(store.root).finished(task.spec.replace(steps=2))
    assert registry_module.own_places(["parity"])


@pytest.mark.slow
def test_figures_draw_it(task, folder):
    command = ["reproductions.fig_lu", "--preset", "quick", "--tasks", "my_parity:Parity", "--seeds", "1", "--out", "o"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "o" / "fig_lu.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("there.py", "there.py is there already: take another name, nothing was written"),
        ("my task.py", "no name of a Python module"),
        ("task.txt", "no name of a Python module"),
        ("json.py", "there is a module json already"),
        ("/proc/nowhere/x.py", "cannot write to /proc/nowhere"),
    ],
)
def test_nothing_is_written_over_or_hidden(folder, name, message):
    (folder / "there.py").write_text("mine")
    result = CliRunner().invoke(cli, ["new-task", name])
    assert message in str(result.exception)
    assert [path.name for path in folder.iterdir()] == ["there.py"]
    assert (folder / "there.py").read_text() == "mine"
