"""The process that the suite is called from: its settings neither enter the numbers nor are they changed."""

import contextlib
import json
import os
import pwd
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from click.testing import CliRunner
from torch import nn

from omnigrok import DataUnavailableError, OmnigrokError, RunSpec, Store, Task, TaskData, get_task, run_sweep
from omnigrok.check import check_task
from omnigrok.cli import cli
from omnigrok.data import cache_root
from omnigrok.gradients import Clip
from omnigrok.loading import _loaded, load_data, run_hash
from omnigrok.losses import CrossEntropy, Temperature
from omnigrok.models import scaled_model
from omnigrok.optimizers import SGD
from omnigrok.oracle import train
from omnigrok.probes.complexity import ComplexityProbe, local_complexity
from omnigrok.probes.kept import measure_kept
from omnigrok.probes.partition import Plane, partition
from omnigrok.probes.robustness import PGD, RobustnessProbe
from omnigrok.processor import _quotas, cores
from omnigrok.store import read_run
from omnigrok.task import Thresholds
from omnigrok.trainer import Trainer

ROOT = Path(__file__).parent.parent


class Called(Task):
    """Everything in it takes torch's defaults as they are: dtype, device, gradients."""

    name = "called"
    display_name = "Called"
    citation = "these tests"
    spec = RunSpec(task=name, n_train=64, steps=20, lr=1e-2, keep=(0, 20))
    thresholds = Thresholds(metric="accuracy", train=0.9, test=0.9)
    optional = {"width": 16}  # noqa: RUF012

    def load(self, spec):
        x = torch.rand(128, 8)
        y = x[:, :3].argmax(dim=1)
        x = x.to(spec.torch_dtype)
        return TaskData((x[:64],), y[:64], (x[64:],), y[64:], "generated")

    def model(self, spec):
        return nn.Sequential(nn.Linear(8, spec.option("width", 16)), nn.ReLU(), nn.Linear(16, 3))

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, outputs, targets):
        return {"accuracy": (outputs.argmax(dim=1) == targets).to(outputs.dtype)}


@contextlib.contextmanager
def setting(setter, new, old):
    setter(new)
    try:
        yield
    finally:
        setter(old)


STATES = {
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "device": lambda: setting(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "no gradients": lambda: setting(torch.set_grad_enabled, False, True),
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "precision": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "anomalies": torch.autograd.detect_anomaly,
    "benchmark": lambda: setting(lambda on: setattr(torch.backends.cudnn, "benchmark", on), True, False),
}


def state():
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.is_anomaly_enabled(), torch.backends.cudnn.benchmark,
    )  # fmt: skip


def swept(folder, **changes):
    _loaded.clear()
    spec = Called().spec.replace(task=Called().name, **changes)
    specs = [spec.replace(seed=seed) for seed in range(2)]
    return run_sweep(specs, Store(folder), runs_per_batch=2, show_progress=False)


@pytest.fixture(autouse=True)
def known_task():
    return get_task(Called())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    get_task(Called())
    return swept(tmp_path_factory.mktemp("plain"))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", STATES)
def test_a_run_has_the_same_bits_whatever_the_caller_has_set(name, plain, tmp_path):
    with STATES[name]():
        before = state()
        found = swept(tmp_path)
        assert state() == before
    pd.testing.assert_frame_equal(found, plain, check_exact=True)


def from_outside():
    """What is called beside a sweep, each with numbers to compare."""
    task = Called()
    data = load_data(task, task.spec, "cpu")
    model = scaled_model(task, task.spec)
    trainer = Trainer(task, [task.spec], data)
    trainer.measure()
    trainer.train()
    counts = local_complexity(model, data.test_inputs[0], 0.5, 4).crossings
    length = partition(model, Plane.through(data.test_inputs[0][:3].double())).boundary_length()
    plain = train(task, task.spec.replace(keep=()), data)
    return [
        data.train_inputs[0],
        *trainer.ensemble.theta,
        counts,
        torch.tensor(length, dtype=torch.float64, device="cpu"),
        *plain.parameters(),
    ]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", STATES)
def test_what_is_called_alone_has_its_own_state_too(name, tmp_path):
    wanted = from_outside()
    with STATES[name]():
        before = state()
        found = from_outside()
        assert all(finding.ok for finding in check_task(Called()))
        assert state() == before
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", STATES)
def test_kept_weights_are_measured_in_the_suites_own_state(name, plain, tmp_path):
    swept(tmp_path)
    spec, store = Called().spec, Store(tmp_path)
    probe = ComplexityProbe(directions=4, points=20)
    with STATES[name]():
        found = measure_kept([spec], probe, store)
    for path in tmp_path.rglob("*.probe.pt"):
        path.unlink()
    fresh = measure_kept([spec], probe, store)
    pd.testing.assert_frame_equal(found, fresh, check_exact=True)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", STATES)
def test_the_callers_state_is_back_after_an_error(name, monkeypatch, tmp_path):
    def fails(self, spec):
        raise ValueError("no such file")

    monkeypatch.setattr(Called, "load", fails)
    with STATES[name]():
        before = state()
        with pytest.raises(Exception, match="no such file"):
            swept(tmp_path)
        assert state() == before


PYTHON = [sys.executable, "-W", "ignore"]
SHORT = ["run", "teacher_student", "--steps", "2", "--n-train", "20"]


def called(command, cwd, *, shell="{}", **variables):
    """What a command ends with, in a folder, with these variables; `shell` is what is typed around it."""
    line = shell.format(shlex.join(map(str, command)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def invoked(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False, standalone_mode=False)


def _points(home):
    np.save(home / "points.npy", np.random.default_rng(0).random((4, 2), dtype=np.float32))
    with torch.random.fork_rng():
        model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    many = ({0: torch.export.Dim("points")},)
    torch.export.save(torch.export.export(model.eval(), (torch.zeros(3, 2),), dynamic_shapes=many), home / "net.pt2")


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ((*SHORT, "--results=~/runs", "--out=~/pictures/curve.png"), "pictures/curve.png"),
        ((*SHORT, "--results", "~/runs"), "runs/teacher_student/batching.json"),
        (("partition", "~/net.pt2", "--data=~/points.npy", "--out=~/regions.png"), "regions.png"),
        (("complexity", "~/net.pt2", "--data=~/points.npy", "--directions=2"), "net.pt2"),
    ],
)
def test_a_tilde_is_the_home_folder_in_every_option(arguments, written, home):
    _points(home)
    assert invoked(*arguments).exit_code == 0
    assert (home / written).is_file()
    assert not Path("~").exists()


def test_a_tilde_is_the_home_folder_in_python_and_in_variables(home, monkeypatch):
    assert Store("~/x").root == home / "x"
    monkeypatch.setenv("OMNIGROK_DATA", "~/data")
    assert cache_root() == home / "data"
    (home / "own").mkdir()
    with pytest.raises(DataUnavailableError, match=str(home / "own")):
        get_task("mnist").dataset.fetch("~/own")
    assert not Path("~").exists()


@pytest.mark.parametrize("path", ["~nobody_of_that_name/x", "~nobody_of_that_name"])
def test_a_folder_of_an_unknown_user_is_one_line(path, home, monkeypatch):
    monkeypatch.setenv("OMNIGROK_DATA", path)
    for call in (lambda: Store(path), cache_root, lambda: invoked(*SHORT, f"--results={path}")):
        with pytest.raises(OmnigrokError, match="~nobody_of_that_name is the folder of no known user here; write the"):
            call()


@pytest.mark.parametrize("shell", ["{} 2>&-", pytest.param("{} >&-", marks=pytest.mark.slow), "{} <&- >&- 2>&-"])
def test_a_command_trains_on_where_its_streams_are_closed(shell, tmp_path):
    done = called([*PYTHON, "-m", "omnigrok", *SHORT], tmp_path, shell=shell)
    assert done.returncode == 0
    [table] = tmp_path.glob("results/teacher_student/*.parquet")
    assert read_run(table)[0]["step"].max() == 2


def test_python_without_standard_error_trains_and_keeps_standard_output_clean(store, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    spec = get_task("teacher_student").spec.replace(steps=2, n_train=20)
    for _ in range(2):  # the second says what is known
        assert len(run_sweep([spec], store, runs_per_batch=1))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "command",
    [
        ["omnigrok", *SHORT],
        ["reproductions.fig_teacher_student", "--help"],
        pytest.param(["omnigrok", "tasks"], marks=pytest.mark.slow),
        pytest.param(["reproductions.all", "--help"], marks=pytest.mark.slow),
    ],
)
def test_commands_work_without_docstrings(command, tmp_path):
    done = called([*PYTHON, "-OO", "-m", *command], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without a home, as a container's may be."""

    def unknown(_):
        raise KeyError("uid not found")

    for name in ("HOME", "OMNIGROK_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, unknown)
    monkeypatch.chdir(tmp_path)
    _loaded.clear()
    yield
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "arguments", [["data"], ["data", "fetch", "mnist"], ["run", "mnist", "--steps", "1", "--n-train", "20"]]
)
def test_a_user_without_a_home_is_told_to_set_the_datas_folder(arguments, nobody):
    with pytest.raises(OmnigrokError, match="set OMNIGROK_DATA to a folder"):
        invoked(*arguments)


@pytest.mark.parametrize("given", ["~/results", "~root/results"])
def test_a_user_without_a_home_cannot_have_a_tilde(given, nobody):
    with pytest.raises(OmnigrokError, match="write the whole path"):
        Store(given)


def test_a_user_without_a_home_trains_on_data_that_are_generated(nobody):
    assert invoked(*SHORT).exit_code == 0


SWEEP = """
from dataclasses import dataclass
from omnigrok import OmnigrokError, Store, get_task, run_sweep
from omnigrok.schedule import Schedule

def make():
    @dataclass(frozen=True)
    class Local:
        def __call__(self, ensemble, data):
            return {"norm": ensemble.norm()}

    return Local()

@dataclass(frozen=True)
class Own:
    def __call__(self, ensemble, data):
        return {"norm": ensemble.norm()}

@dataclass(frozen=True)
class Falling(Schedule):
    def __call__(self, step, steps):
        return 1 - step / steps

def sweep(**changes):
    spec = get_task("teacher_student").spec.replace(steps=2, n_train=20, **changes)
    specs = [spec.replace(seed=seed) for seed in range(2)]
    try:
        print(len(run_sweep(specs, Store("results"), runs_per_batch=1, workers=2, show_progress=False)), "rows")
    except OmnigrokError as error:
        print("error:", error)
"""
GUARDED = f"{SWEEP}\nif __name__ == '__main__':\n    "


@pytest.mark.parametrize(
    ("code", "how", "said"),
    [
        ("sweep(probes=(Own(),))", "cell", "cannot import Own: put it into a file"),
        ("sweep(schedule=(Falling(),))", "cell", "cannot import Falling: put it into a file"),
        ("sweep(probes=(make(),))", "file", "make.<locals>.Local"),
        ("sweep(probes=(Own(),))", "input", "read from standard input: save it as a file"),
        ("sweep()", "input", "read from standard input: save it as a file"),
    ],
)
def test_what_workers_cannot_import_is_one_line_before_any_is_started(code, how, said, tmp_path):
    (tmp_path / "program.py").write_text(GUARDED + code, encoding="utf-8")
    command = {"cell": ["-c", GUARDED + code], "file": ["program.py"], "input": ["-"]}[how]
    done = called([*PYTHON, *command], tmp_path, shell="{} < program.py")
    assert said in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_workers_import_what_a_file_holds(tmp_path):
    (tmp_path / "program.py").write_text(f"{GUARDED}sweep(probes=(Own(),), schedule=(Falling(),))", encoding="utf-8")
    done = called([*PYTHON, "program.py"], tmp_path)
    assert done.stdout.endswith("rows\n"), done.stderr


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("sys.exit('the library lib.so is missing')", "a worker process ended: the library lib.so is missing;"),
        ("raise ImportError('no lib.so')", "a worker process ended: ImportError: no lib.so;"),
        ("os.kill(os.getpid(), 9)", "most often for lack of memory"),
    ],
)
def test_a_workers_last_words_are_kept(ending, said, tmp_path):
    """What a worker runs into as it imports the program again."""
    start = f"import os, sys\nif __name__ != '__main__':\n    print('a warning', file=sys.stderr)\n    {ending}\n"
    (tmp_path / "program.py").write_text(f"{start}{GUARDED}sweep()", encoding="utf-8")
    done = called([*PYTHON, "program.py"], tmp_path)
    assert said in done.stdout, done.stderr
    assert "a warning" in done.stderr  # passed on


def test_a_program_that_workers_would_run_again_is_told_so(tmp_path):
    (tmp_path / "program.py").write_text(f"{SWEEP}\nsweep()".replace("except OmnigrokError", "except KeyError"))
    done = called([*PYTHON, "program.py"], tmp_path)
    assert done.stderr.splitlines()[-1].endswith("; finished runs and checkpoints are kept")
    assert "under `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


@dataclass(frozen=True)
class Weighed:
    """A user's probe, no part of the engine's."""

    weight: float = 1.0
    rows: tuple[int, ...] = (0,)
    level: int | None = None
    name: str = "norm"

    def __call__(self, ensemble, data):
        return {self.name: self.weight * ensemble.norm()}


VALUES = [
    (lambda: Weighed(np.float32(0.1)), Weighed(0.1)),
    (lambda: Weighed(2), Weighed(2.0)),
    (lambda: Weighed(torch.tensor(0.1)), Weighed(0.1)),
    (lambda: Weighed(np.array(0.5)), Weighed(0.5)),
    (lambda: Weighed(rows=[np.int64(1), 2]), Weighed(rows=(1, 2))),
    (lambda: Weighed(rows=torch.arange(3)), Weighed(rows=(0, 1, 2))),
    (lambda: Weighed(rows=4), Weighed(rows=(4,))),
    (lambda: Weighed(level=np.int32(3), name=np.str_("x")), Weighed(level=3, name="x")),
    (lambda: RobustnessProbe(eps=[0.1]), RobustnessProbe(eps=(0.1,))),
    (lambda: RobustnessProbe(eps=np.float16(0.1)), RobustnessProbe(eps=(0.1,))),
    (lambda: ComplexityProbe(radius=1, seed=np.int64(1)), ComplexityProbe(radius=1.0, seed=1)),
]


@pytest.mark.parametrize(("made", "same"), VALUES)
def test_numbers_of_numpy_and_torch_and_lists_are_pythons(made, same, spec):
    given, plain = (spec.replace(probes=(probe,)) for probe in (made(), same))
    assert given.probes == plain.probes
    assert json.dumps(given.canonical()) == json.dumps(plain.canonical())
    assert hash(given) == hash(plain)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"perturbation": PGD(np.float32(0.1), low=0)}, {"perturbation": PGD(0.1, low=0.0)}),
        ({"gradient": [Clip(np.float32(0.3))]}, {"gradient": (Clip(0.3),)}),
        ({"optimizer": SGD(np.float32(0.9))}, {"optimizer": SGD(0.9)}),
        ({"loss": Temperature(2, CrossEntropy(np.float32(0.1)))}, {"loss": Temperature(2.0, CrossEntropy(0.1))}),
        ({"alpha": np.float32(0.1), "lr": torch.tensor(0.3)}, {"alpha": 0.1, "lr": 0.3}),
        ({"options": {"p": np.array(7), "q": [1, 2]}}, {"options": {"p": 7, "q": (1, 2)}}),
        ({"keep": torch.tensor([1, 3])}, {"keep": (1, 3)}),
    ],
)
def test_so_are_those_of_all_parts_and_of_the_spec(given, plain, spec):
    found, wanted = spec.replace(**given), spec.replace(**plain)
    assert json.dumps(found.canonical()) == json.dumps(wanted.canonical())
    assert found == wanted


@pytest.mark.parametrize("width", [16, np.int64(16), 16.0])
def test_an_option_at_its_default_is_as_one_left_out(width, tmp_path):
    spec, store = Called().spec.replace(keep=()), Store(tmp_path)
    given = spec.replace(options={"width": width})
    assert run_hash(given) == run_hash(spec)
    assert run_hash(spec.replace(options={"width": 8})) != run_hash(spec)
    found = run_sweep([spec, given], store, runs_per_batch=1, show_progress=False)
    assert found["run"].nunique() == 1
    assert not found.duplicated(["run", "step", "split", "metric"]).any()


def test_a_spec_without_a_list_is_one_line(store, spec):
    with pytest.raises(OmnigrokError, match=r"run_sweep\(\[spec\], store\)"):
        run_sweep(spec, store)


@pytest.mark.parametrize("option", ["--alpha", "--n-train", "--keep"])
@pytest.mark.parametrize("value", ["", " , "])
def test_an_empty_list_is_a_mistake(option, value, home):
    with pytest.raises(click.BadParameter, match="it is empty"):
        invoked(*SHORT, option, value)


@pytest.mark.parametrize(
    ("files", "groups", "wanted"),
    [
        ({"cpu.max": "250000 100000"}, "0::/", [3]),
        ({"a/b/cpu.max": "50000 100000", "a/cpu.max": "400000 100000"}, "0::/a/b", [1, 4]),
        ({"a/cpu.max": "max 100000"}, "0::/a", []),
        ({"cpu,cpuacct/a/cpu.cfs_quota_us": "150000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
         "4:cpu,cpuacct:/a\n3:memory:/a", [2]),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", []),
        ({"cpu.max": "nonsense"}, "0::/", []),
    ],
)  # fmt: skip
def test_quotas_of_both_kinds_of_groups_are_known(files, groups, wanted, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "cgroup").write_text(groups, encoding="utf-8")
    assert _quotas(tmp_path / "cgroup", tmp_path) == wanted
    assert _quotas(tmp_path / "none", tmp_path) == []


@pytest.mark.parametrize(("job", "wanted"), [("2", 2), ("64", 6), ("", 6), ("many", 6), ("0", 1)])
def test_cores_are_the_least_of_what_limits_them(job, wanted, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("omnigrok.processor._quotas", lambda: [6])
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", job)
    assert cores() == wanted


@pytest.mark.parametrize("settings", [{"text.usetex": True}, {"font.size": 30.0}, {"backend": "svg"}])
def test_figures_are_the_same_whatever_the_user_has_set(settings, home):
    invoked(*SHORT, "--results=a", "--out=plain.png")
    with mpl.rc_context():
        mpl.rcParams.update(settings)
        before = dict(mpl.rcParams)
        invoked(*SHORT, "--results=a", "--out=own.png")
        assert dict(mpl.rcParams) == before
    mpl.use("Agg")
    assert Path("own.png").read_bytes() == Path("plain.png").read_bytes()


def test_a_backend_that_is_still_to_be_chosen_stays_so():
    code = """
import matplotlib as mpl
from omnigrok.figures.style import suite_style

before = mpl.rcParams._get("backend")
with suite_style():
    import matplotlib.pyplot as plt

    plt.close(plt.figure())
print(mpl.rcParams._get("backend") is before, isinstance(before, str))
mine = plt.figure().number
with suite_style():
    plt.close(plt.figure())
print(plt.fignum_exists(mine))
"""
    done = called([*PYTHON, "-c", code], ROOT, MPLBACKEND="")
    assert done.stdout.split() == ["True", "False", "True"], done.stderr
