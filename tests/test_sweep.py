"""Sweeps: nothing is trained twice, a killed sweep ends with the same bits, processes share a store."""

import json
import multiprocessing
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from omnigrok import Store, get_task, run_sweep
from omnigrok import loading as loading_module
from omnigrok import sweep as sweep_module
from omnigrok.batching import Batching, _cgroup_limits, measure
from omnigrok.ensemble import scaled_model
from omnigrok.errors import OmnigrokError, SpecError
from omnigrok.estimate import describe
from omnigrok.executors import WorkerProgress, process_pool
from omnigrok.loading import run_hash, task_data
from omnigrok.optimizers import AdamW
from omnigrok.plan import plan
from omnigrok.schedule import evaluation_steps
from omnigrok.store import HOST_KEY, RUN_KEY, run_files
from omnigrok.sweep import train_in_turn
from omnigrok.trainer import Trainer

SCRIPT = """
import sys
from omnigrok import Store, get_task, run_sweep
root, log, steps, runs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
base = get_task("teacher_student").spec.replace(steps=steps, batch_size=16, n_train=50)
specs = [base.replace(seed=seed, alpha=1.0 + seed) for seed in range(runs)]
write = Store.write
def logged(self, spec, *rest):
    open(log, "a").write(f"{spec.seed}\\n")
    write(self, spec, *rest)
Store.write = logged
run_sweep(specs, Store(root), runs_per_batch=2, checkpoint_seconds=0.05, show_progress=False)
"""


def start(root, log, steps, runs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(root), str(log), str(steps), str(runs)], env=environment)


def contents(root):
    """All stored runs: columns and metadata, but not time, host load and the code, which may be edited meanwhile."""
    result = {}
    for path in sorted(root.glob("*/*.parquet")):
        table = pq.read_table(path)
        run = json.loads(table.schema.metadata[RUN_KEY])
        del run["provenance"]
        result[path.name] = (table.to_pydict(), run)
        assert HOST_KEY in table.schema.metadata
    return result


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    """OMNIGROK_TEST_SEED chooses the moments; what a failed test printed tries them again."""
    seed = int(os.environ.get("OMNIGROK_TEST_SEED", time.time_ns()))
    print(f"OMNIGROK_TEST_SEED={seed}")
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    steps, runs, kills = 2_500, 5, 6
    assert start(whole, tmp_path / "other", steps, runs).wait(timeout=200) == 0
    rng = random.Random(seed)
    interrupted = 0
    for _ in range(kills):
        process = start(killed, log, steps, runs)
        before = {p: p.stat().st_mtime_ns for p in killed.glob("*/checkpoints/*.pt")}
        while process.poll() is None:  # until it is at work, and then for a random while
            now = {p: p.stat().st_mtime_ns for p in killed.glob("*/checkpoints/*.pt") if p.exists()}
            if any(before.get(p) != t for p, t in now.items()):
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.8))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            interrupted += 1
        process.wait()
    assert interrupted >= 3
    assert start(killed, log, steps, runs).wait(timeout=200) == 0
    assert contents(killed) == contents(whole)
    assert not list(killed.glob("*/checkpoints/*"))
    assert len(list(killed.glob("*/*.parquet"))) == runs


@pytest.mark.slow
def test_two_processes_share_a_store_without_training_a_run_twice(tmp_path):
    root, log = tmp_path / "results", tmp_path / "log"
    processes = [start(root, log, 1_500, 6) for _ in range(2)]
    assert [p.wait(timeout=200) for p in processes] == [0, 0]
    assert sorted(log.read_text().split()) == list("012345")


def test_what_other_processes_leave_undone_is_taken_over_batch_by_batch(store, spec):
    """Two batches that must not become one: of different length, so that merging them would raise."""
    specs = [spec.replace(seed=s, steps=steps) for steps in (5, 7) for s in range(2)]
    held = threading.Event()

    def other_process():
        locks = [store.lock(each) for each in specs]
        for lock in locks:
            lock.acquire()
        held.set()
        time.sleep(1.5)
        for lock in locks:
            lock.release()

    released = threading.Thread(target=other_process)
    released.start()
    held.wait()
    curves = run_sweep(specs, store, runs_per_batch=2, show_progress=False)
    released.join()
    assert curves.groupby("run")["step"].max().tolist().count(7) == 2
    assert not list(store.root.glob("*/checkpoints/*"))


def test_a_begun_batch_is_gone_on_with_as_a_whole_or_left_to_another_process(store, spec):
    specs = [spec.replace(seed=s) for s in range(3)]
    trainer = Trainer(get_task(spec.task), specs, task_data(spec, "cpu"))
    trainer.measure()
    trainer.update()
    store.save_checkpoint(specs, trainer.state_dict(), 0.0)
    worker = sweep_module._Worker(store, "cpu", 30.0, WorkerProgress())
    lock = store.lock(specs[2])
    lock.acquire()
    thread = threading.Thread(target=lambda: result.append(worker.train(specs)))
    result: list = []
    thread.start()
    thread.join()
    assert result == [specs]
    assert not run_files(store.root)
    lock.release()
    assert worker.train(specs) == []
    assert not store.checkpoint_path(specs).exists()
    assert len(run_files(store.root)) == 3


class Answering(Executor):
    """An executor of another's, whose workers do something else."""

    def __init__(self, answer):
        self.answer = answer

    def submit(self, work, *arguments, **_):
        future = Future()
        try:
            future.set_result(self.answer(work, *arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def test_an_executor_of_threads_gives_the_same_numbers(tmp_path, spec):
    specs = [spec.replace(seed=s) for s in range(6)]
    here = run_sweep(specs, Store(tmp_path / "a"), runs_per_batch=1, show_progress=False)
    with ThreadPoolExecutor(6) as executor:
        there = run_sweep(specs, Store(tmp_path / "b"), runs_per_batch=1, executor=executor, show_progress=False)
    assert here.equals(there)


def test_an_executor_elsewhere_is_told_the_whole_path_and_missed_when_it_writes_to_another(tmp_path, spec, monkeypatch):
    monkeypatch.chdir(tmp_path)
    roots = []
    with pytest.raises(OmnigrokError, match="1 runs were trained but are not in results: do all workers see"):
        run_sweep(
            [spec],
            Store("results"),
            runs_per_batch=1,
            executor=Answering(lambda work, root, *_: roots.append(root) or []),
            show_progress=False,
        )
    assert roots == [str(tmp_path / "results")]


def test_a_worker_that_is_ended_for_memory_is_one_line(store, spec):
    def ended(*_):
        raise BrokenProcessPool("a child process terminated abruptly")

    with pytest.raises(OmnigrokError, match="take fewer --workers; finished runs"):
        run_sweep([spec], store, runs_per_batch=1, executor=Answering(ended), show_progress=False)


def test_a_device_without_memory_is_one_line(store, spec, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "train", full)
    with pytest.raises(OmnigrokError, match="cpu ran out of memory with 1 runs of teacher_student at once"):
        run_sweep([spec], store, runs_per_batch=1, show_progress=False)


def runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_pool_that_fails_ends_its_own_processes_only():
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    try:
        with pytest.raises(ZeroDivisionError), process_pool(2) as (pool, _):
            pool.submit(divmod, 1, 0).result()
        # one that the pool's own thread has waited for first stays in Python's list: the system is asked
        assert [child for child in multiprocessing.active_children() if runs(child.pid)] == [other]
    finally:
        other.terminate()
        other.join()


def test_datasets_are_kept_up_to_a_size(spec, monkeypatch):
    monkeypatch.setattr(loading_module, "_loaded", {})
    first, second, third = (spec.replace(data_seed=seed) for seed in range(3))
    size = task_data(first, "cpu").nbytes
    monkeypatch.setattr(loading_module, "DATA_BYTES", 2 * size)
    kept = task_data(second, "cpu")
    assert task_data(first, "cpu") is not task_data(third, "cpu")  # the second was used longest ago
    assert task_data(second, "cpu") is not kept
    assert len(loading_module._loaded) == 2


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sweeps_in_turn_are_the_sweeps_one_after_the_other(tmp_path, spec, workers):
    """Same batches, so the same bits; the second sweep shares runs with the first, the third has no others."""
    runs = [spec.replace(seed=s, steps=steps) for steps in (10, 20) for s in range(5)]
    sweeps = [runs[:4], runs[2:], runs[:3]]
    alone, together = Store(tmp_path / "alone"), Store(tmp_path / "together")
    for sweep in sweeps:
        run_sweep(sweep, alone, runs_per_batch=3, workers=workers, show_progress=False)
    finished = []
    for i in train_in_turn(sweeps, together, runs_per_batch=3, workers=workers, show_progress=False):
        assert all(together.finished(each) for each in sweeps[i])
        finished.append(i)
    assert finished == [0, 1, 2]
    assert contents(together.root) == contents(alone.root)


def test_a_checkpoint_of_an_earlier_sweep_is_not_a_later_ones_to_delete(store, spec):
    specs = [spec.replace(seed=s) for s in range(2)]
    trainer = Trainer(get_task(spec.task), specs, task_data(spec, "cpu"))
    trainer.measure()
    store.save_checkpoint(specs, trainer.state_dict(), 0.0)
    [batch] = plan(specs, store, "cpu", runs_per_batch=1)
    assert list(batch.specs) == specs
    assert plan(specs, store, "cpu", runs_per_batch=1, after=set(map(run_hash, specs))) == []
    assert store.checkpoint_path(specs).exists()


def test_a_batch_that_was_killed_while_its_results_were_written_is_completed_as_it_was(store, spec):
    """Of two runs the first is stored, and the checkpoint of both is there: the second goes on in its batch."""
    specs = [spec.replace(seed=s) for s in range(2)]
    run_sweep(specs, store, runs_per_batch=2, show_progress=False)
    before = contents(store.root)
    trainer = Trainer(get_task(spec.task), specs, task_data(spec, "cpu"))
    trainer.train()
    store.delete(specs[1:])
    store.save_checkpoint(specs, trainer.state_dict(), 0.0)
    [batch] = plan(specs, store, "cpu", runs_per_batch=2)
    assert list(batch.specs) == specs
    [batch] = plan(specs[1:], store, "cpu", runs_per_batch=2)  # of a sweep without the first, it is a batch of its own
    assert list(batch.specs) == specs[1:]
    run_sweep(specs, store, runs_per_batch=2, show_progress=False)
    assert contents(store.root) == before
    assert not store.checkpoint_path(specs).exists()


def test_force_deletes_nothing_that_it_cannot_train_again(store, spec):
    run_sweep([spec], store, show_progress=False)
    before = contents(store.root)
    with pytest.raises(SpecError, match="more than the"):
        run_sweep([spec, spec.replace(n_train=10**9)], store, force=True, show_progress=False)
    assert contents(store.root) == before


def test_force_starts_from_the_first_step(store, spec):
    trainer = Trainer(get_task(spec.task), [spec], task_data(spec, "cpu"))
    trainer.measure()
    with torch.no_grad():
        trainer.ensemble.scale_(torch.tensor([2.0]))
    store.save_checkpoint([spec], trainer.state_dict(), 0.0)
    curves = run_sweep([spec], store, force=True, show_progress=False)
    fresh = Trainer(get_task(spec.task), [spec], task_data(spec, "cpu"))
    norm = curves.query("metric == 'weight_norm' and step == 0")["value"].item()
    fresh.measure()
    assert norm == fresh.frames()[0].query("metric == 'weight_norm'")["value"].item()
    last = curves.query("metric == 'weight_norm'").sort_values("step")["value"].iloc[-1]
    assert last < 1.5 * norm  # not that of the checkpoint's network


def test_a_diverging_run_is_kept_and_read(store, spec):
    curves = run_sweep([spec.replace(lr=1e30)], store, show_progress=False)
    assert not np.isfinite(curves.query("metric == 'loss'")["value"].iloc[-1])
    assert store.finished(spec.replace(lr=1e30))


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """Seen by the checkpoints, of which a worker writes one every 50 ms: two are written at once, then none."""
    code = SCRIPT.replace("runs_per_batch=2", "runs_per_batch=1, workers=2")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(tmp_path / "log"), "50000000", "2"])

    def checkpoints():
        return {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*/checkpoints/*.pt")}

    deadline = time.time() + 200
    while len(checkpoints()) < 2 and time.time() < deadline:
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert len(checkpoints()) == 2, "two workers were never at work at once"
    before = None
    while checkpoints() != before and time.time() < deadline:
        before = checkpoints()
        time.sleep(3.0)
    assert checkpoints() == before


def test_kept_weights_are_those_of_their_steps(store, spec):
    specs = [spec.replace(seed=s, keep=(0, 7, 30)) for s in range(2)]
    run_sweep(specs, store, runs_per_batch=2, show_progress=False)
    task = get_task(spec.task)
    for each in specs:
        kept = store.weights(each)
        assert list(kept) == [0, 7, 30]
        for step, state in kept.items():
            trainer = Trainer(task, [each], task_data(each, "cpu"))
            for _ in range(step):
                trainer.update()
            model = scaled_model(task, each)
            model.load_state_dict(state)
            for one, other in zip(model.parameters(), trainer.ensemble.model(0).parameters(), strict=True):
                torch.testing.assert_close(one, other)
    store.delete(specs[:1])
    with pytest.raises(OmnigrokError, match="no weights"):
        store.weights(specs[0])


def test_a_resumed_run_keeps_the_weights_of_steps_before(spec):
    spec = spec.replace(keep=(0, 5, 20))
    task, data = get_task(spec.task), task_data(spec, "cpu")
    first, second = (Trainer(task, [spec], data) for _ in range(2))
    states = []
    first.train(checkpoint=lambda: states.append((first.step, first.state_dict())), checkpoint_seconds=0)
    [state] = [state for step, state in states if step == 10]
    second.load_state_dict({**state, "kept": {k: v for k, v in state["kept"].items() if k <= 10}})
    second.train()
    assert sorted(second.weights()[0]) == [0, 5, 20]


def test_a_finished_run_is_never_trained_again(store, spec, monkeypatch):
    specs = [spec.replace(seed=s) for s in range(3)]
    first = run_sweep(specs, store, runs_per_batch=2, show_progress=False)

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "update", refuse)
    again = run_sweep(reversed(specs), store, runs_per_batch=3, show_progress=False)
    assert again["value"].sum() == pytest.approx(first["value"].sum())
    assert first.groupby("run")["step"].max().tolist() == [spec.steps] * 3
    with pytest.raises(AssertionError, match="trained again"):
        run_sweep(specs[:1], store, runs_per_batch=1, force=True, show_progress=False)


def test_more_seeds_train_only_what_is_new(store, spec, monkeypatch):
    run_sweep([spec.replace(seed=s) for s in range(2)], store, runs_per_batch=8, show_progress=False)
    trained = []
    original = sweep_module.Trainer
    monkeypatch.setattr(
        sweep_module, "Trainer", lambda task, specs, *rest: trained.extend(specs) or original(task, specs, *rest)
    )
    run_sweep([spec.replace(seed=s) for s in range(4)], store, runs_per_batch=8, show_progress=False)
    assert sorted(s.seed for s in trained) == [2, 3]


def test_batches_hold_only_what_can_be_trained_together(store, spec):
    specs = [spec.replace(alpha=a, weight_decay=w) for a in (1.0, 2.0) for w in (0.0, 0.1)] + [spec.replace(lr=1.0)]
    sizes = sorted(len(batch.specs) for batch in plan(specs, store, "cpu", runs_per_batch=3))
    assert sizes == [1, 2, 2]


def test_a_damaged_result_is_computed_again(store, spec):
    run_sweep([spec], store, runs_per_batch=1, show_progress=False)
    sound = contents(store.root)
    store.path(spec).write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match="trained again"):
        run_sweep([spec], store, runs_per_batch=1, show_progress=False)
    assert contents(store.root) == sound


def test_a_spec_that_cannot_be_trained_ends_the_sweep_before_it_starts(store, spec):
    with pytest.raises(SpecError, match="20000 is more than the 10000"):
        run_sweep([spec, spec.replace(n_train=20_000)], store, runs_per_batch=1, show_progress=False)
    assert not run_files(store.root)


@pytest.mark.slow
def test_a_pool_of_processes_gives_the_same_numbers(tmp_path, spec):
    specs = [spec.replace(seed=s, dtype="float64") for s in range(3)]
    here = run_sweep(specs, Store(tmp_path / "a"), runs_per_batch=2, show_progress=False)
    there = run_sweep(specs, Store(tmp_path / "b"), runs_per_batch=2, workers=2, show_progress=False)
    assert here["value"].to_numpy() == pytest.approx(there["value"].to_numpy(), rel=1e-8, abs=1e-8)


def test_runs_that_can_share_a_batch_are_divided_among_the_workers(store, spec):
    specs = [spec.replace(seed=s) for s in range(5)]
    sizes = {workers: [len(b.specs) for b in plan(specs, store, "cpu", 8, workers)] for workers in (1, 2, 9)}
    assert sizes == {1: [5], 2: [3, 2], 9: [1] * 5}


@pytest.mark.slow
def test_workers_report_their_progress(tmp_path, spec, monkeypatch):
    reported = []
    monkeypatch.setattr(sweep_module.Progress, "advance", lambda self, units, note="": reported.append(units))
    specs = [spec.replace(seed=s) for s in range(4)]
    run_sweep(specs, Store(tmp_path), runs_per_batch=2, workers=2, show_progress=False)
    assert reported[-1] == pytest.approx(sum(s.steps for s in specs))  # `set` is given all that has been done


def test_the_batch_size_is_measured_once_and_kept(store, spec, monkeypatch):
    calls = []

    def fake(*_):
        calls.append(1)
        return Batching(runs=3, threads=1, step_seconds=1.0, evaluation_seconds=0.5, run_bytes=2**20, tried={"3": 1.0})

    monkeypatch.setattr("omnigrok.batching.measure", fake)
    specs = [spec.replace(seed=s) for s in range(7)]
    describe(
        [each.replace(lr=1e-2, optimizer=AdamW((0.5, 0.9))) for each in specs], store, "cpu"
    )  # whose steps take as long
    text = describe(specs, store, "cpu")
    assert [len(b.specs) for b in plan(specs, store, "cpu")] == [3, 2, 2]
    assert len(calls) == 1
    evaluations = 13
    assert f"about {7 * (30 + evaluations * 0.5) / 60:.1f} min left" in text
    assert "0 of 7 runs are finished" in text
    run_sweep(specs[:2], store, runs_per_batch=2, show_progress=False)
    assert "2 of 7 runs are finished" in describe(specs, store, "cpu")
    assert "0 of 7 runs are finished" in describe(specs, store, "cpu", force=True)


def test_a_dry_run_counts_evaluations_probes_and_memory(store, spec, monkeypatch):
    """Two batches of two runs of 1 MiB each, on two workers."""
    found = Batching(runs=2, threads=1, step_seconds=2.0, evaluation_seconds=0.5, run_bytes=2**20, tried={"2": 2.0})
    monkeypatch.setattr("omnigrok.batching.measure", lambda *_: found)
    monkeypatch.setattr("omnigrok.estimate._probe_seconds", lambda *_: 10.0)
    evaluations, data = len(evaluation_steps(spec.steps, spec.evaluation_density)), task_data(spec, "cpu")
    text = describe([spec.replace(seed=s) for s in range(4)], store, "cpu", workers=2)
    seconds = 4 * (spec.steps * 2.0 + evaluations * (0.5 + 10.0))
    assert text.splitlines()[1:] == [
        f"{'teacher_student':<18}{4:>6}{spec.steps:>9}{2:>12}{seconds / 2 / 60:>9.1f}{2 + data.nbytes / 2**20:>8.0f}",
        f"0 of 4 runs are finished; about {seconds / 2 / 60:.1f} min left",
    ]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_progress_counts_each_step_of_each_run_once(store, spec, monkeypatch, elsewhere):
    reported = []
    monkeypatch.setattr(sweep_module.Progress, "advance", lambda self, units, note="": reported.append(units))
    specs = [spec.replace(seed=s) for s in range(4)]
    with ThreadPoolExecutor(1) as threads:
        executor = threads if elsewhere else None
        run_sweep(specs, store, runs_per_batch=2, executor=executor, show_progress=False)
    assert sum(reported) == pytest.approx(sum(s.steps for s in specs))


def test_one_process_trains_in_silence_unless_more_are_asked_for(store, spec, monkeypatch, capfd):
    def refuse(*_):
        raise AssertionError("a pool was started")

    monkeypatch.setattr(sweep_module, "process_pool", refuse)
    specs = [spec.replace(seed=s) for s in range(2)]
    for _ in train_in_turn([specs], store, runs_per_batch=1, show_progress=False):
        pass
    run_sweep([*specs, spec.replace(seed=2), spec.replace(seed=3)], store, runs_per_batch=1, show_progress=False)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(AssertionError, match="a pool was started"):
        run_sweep([spec.replace(seed=s) for s in (4, 5)], store, runs_per_batch=1, workers=2, show_progress=False)


def test_a_cgroups_limit_is_the_memory_there_is(tmp_path):
    (tmp_path / "root" / "job" / "step").mkdir(parents=True)
    (tmp_path / "root" / "job" / "memory.max").write_text("1000\n")
    (tmp_path / "root" / "job" / "step" / "memory.max").write_text("max\n")
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    assert _cgroup_limits(tmp_path / "cgroup", tmp_path / "root") == [1000]
    assert _cgroup_limits(tmp_path / "none", tmp_path / "root") == []


def test_measuring_tries_growing_sizes_and_takes_the_fastest(spec, monkeypatch):
    times = iter([8.0, 24.0, 9.0, 12.0, 40.0, 96.0, 1.0])  # seconds a step of the batch: 8, 12, 2.25, 1.5, 2.5, 3 a run
    monkeypatch.setattr("omnigrok.batching.step_seconds", lambda *_: next(times))
    found = measure(get_task("teacher_student"), spec, task_data(spec, "cpu"), "cpu")
    assert found.runs == 8
    assert found.step_seconds == 1.5
    assert list(found.tried) == ["1", "2", "4", "8", "16", "32"]
    times = iter([8.0, 8.0])
    assert list(measure(get_task("teacher_student"), spec, task_data(spec, "cpu"), "cpu", 2).tried) == ["1", "2"]
    parameters = 11_205
    assert found.run_bytes == 4 * 4 * parameters


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed blocks back so eagerly")
@pytest.mark.slow
def test_freed_memory_is_kept_instead_of_taken_anew_at_every_step():
    code = """
import resource, sys, torch
from omnigrok.executors import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
faults = [torch.ones(2**23).sum() and resource.getrusage(resource.RUSAGE_SELF).ru_minflt for _ in range(40)]
print(faults[-1] - faults[5])
"""
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("plain", "kept")
    )
    assert kept < plain / 10
