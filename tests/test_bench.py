import pandas as pd
import pytest
import torch

from omnigrok import bench as bench_module
from omnigrok import get_task
from omnigrok.bench import Recorder, bench, bench_denormals, bench_probe, markdown, probe_turn, turn, with_ratios
from omnigrok.loading import task_data
from omnigrok.trainer import Trainer


def test_ratios():
    rows = [("t", "published", 1, 12.0), ("t", "plain", 1, 4.0), ("t", "trainer", 8, 2.0), ("t", "matmul", 8, 1.5)]
    table = with_ratios(pd.DataFrame(rows, columns=["task", "loop", "runs", "ms"])).set_index("loop")
    assert table["vs_published"].tolist() == [1, 3, 6, 8]
    assert table["vs_plain"].tolist() == pytest.approx([1 / 3, 1, 2, 8 / 3])
    assert table.loc["trainer", "share_of_limit"] == 0.75
    assert "| t | trainer | 8 | 2.000 | 6.0 | 2.00 | 75% |" in markdown(table.reset_index())


@pytest.mark.parametrize("runs", [1, 3])
def test_the_limit_holds_every_matrix_product_of_a_step(spec, runs):
    trainer = Trainer(get_task("teacher_student"), [spec.replace(seed=s) for s in range(runs)], task_data(spec, "cpu"))
    with Recorder() as recorder:
        trainer.update()
    work = sum(a.numel() * b.shape[-1] for _, (a, b) in recorder.products)
    layers = [(5, 100), (100, 100), (100, 5)]
    forward_and_weights = 2 * sum(i * o for i, o in layers)
    inputs = sum(i * o for i, o in layers[1:])
    assert work == runs * spec.n_train * (forward_and_weights + inputs)
    for function, operands in recorder.products:
        assert torch.isfinite(function(*operands)).all()


@pytest.mark.slow
def test_bench_times_every_loop(monkeypatch):
    monkeypatch.setattr(bench_module, "ROUND_SECONDS", 0.002)
    monkeypatch.setattr(bench_module, "ROUNDS", 1)
    monkeypatch.setattr(bench_module, "MUCH_SLOWER", float("inf"))  # a busy machine drops no contender
    task = get_task("teacher_student")
    spec = task.spec.replace(batch_size=20)
    table = bench(task, spec, "cpu", sizes=(1, 2))
    assert table[["loop", "runs"]].to_numpy().tolist() == [
        ["published", 1], ["plain", 1], ["trainer", 1], ["matmul", 1], ["trainer", 2], ["matmul", 2],
    ]  # fmt: skip
    assert (table["ms"] > 0).all()
    assert table.loc[0, "vs_published"] == 1


@pytest.mark.parametrize("loop", ["published", "plain", "trainer", "matmul"])
def test_a_turn_of_each_loop(loop):
    task = get_task("teacher_student")
    spec = task.spec.replace(batch_size=20)
    assert 0 < turn(task_data(spec, "cpu"), task, spec, "cpu", loop, 1, 0.002) < 1


@pytest.mark.slow
def test_the_probe_is_faster_than_a_loop_over_models_and_points(mnist_data):
    task = get_task("mnist")
    spec = task.spec.replace(dtype="float64", options=(("width", 40),))
    times = {
        form: min(probe_turn(mnist_data, task, spec, "cpu", form, runs=4, points=20) for _ in range(3))
        for form in ("loop", "probe")
    }
    assert times["probe"] < times["loop"]


@pytest.mark.slow
def test_the_probe_is_timed_in_processes_of_its_own(monkeypatch):
    monkeypatch.setattr(bench_module, "ROUNDS", 1)
    task = get_task("mnist")
    assert bench_probe(task, task.spec.replace(options=(("width", 20),)), "cpu", runs=2, points=5) > 0


def test_late_steps_are_timed_with_denormals_flushed_and_without(monkeypatch, spec):
    turns = []

    class Process:
        def submit(self, _, work, *arguments):
            turns.append(arguments)
            return self

        def result(self):
            return (1e-3, 2e-3 * len(turns))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    flushes = []
    monkeypatch.setattr(bench_module, "_process", lambda *_, keeps, flush: flushes.append(flush) or Process())
    table = bench_denormals(get_task("teacher_student"), spec, "cpu")
    assert flushes == [True, False]
    assert table["late over early"].tolist() == [2.0, 4.0]
    assert table["denormals"].tolist() == ["flushed", "not flushed"]


def test_a_turn_of_late_steps(monkeypatch, spec):
    monkeypatch.setattr(bench_module, "LATE_STEPS", 30)
    monkeypatch.setattr(bench_module, "TIMED", 10)
    early, late = bench_module.denormal_turn(task_data(spec, "cpu"), get_task("teacher_student"), spec, "cpu", 2)
    assert 0 < early < 1
    assert 0 < late < 1
