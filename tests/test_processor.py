"""Denormal numbers, threads and waiting: right and fast on every machine."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from omnigrok import batching as batching_module
from omnigrok import get_task
from omnigrok.batching import Batching, measure, shortest
from omnigrok.loading import task_data
from omnigrok.optimizers import AdamW
from omnigrok.oracle import train
from omnigrok.processor import cores, flushed, flushes
from omnigrok.trainer import Trainer
from tasks.teacher_student import TeacherStudent


class Fitting(TeacherStudent):
    """A task whose loss and gradients are exactly zero once it fits, so that moments halve and halve again."""

    def model(self, spec):
        return nn.Sequential(nn.Linear(5, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 5))

    def loss(self, outputs, targets):
        return ((outputs - targets).abs() - 0.2).relu().mean(dim=1)


def numbers(trainer):
    """Weights, gradients and moments of a trainer."""
    moments = [x for state in trainer.optimizer.optimizer.state.values() for x in state.values()]
    return [*trainer.ensemble.theta, *(leaf.grad for leaf in trainer.ensemble.leaves), *moments]


def denormals(tensors):
    """How many numbers are denormal, by their bits: a thread that flushes reads them as zero."""
    bits = [x.detach().contiguous().flatten().view(torch.int32) & 0x7FFFFFFF for x in tensors]
    return sum(int(((x > 0) & (x < 0x00800000)).sum()) for x in bits)


@pytest.fixture
def fitting():
    spec = get_task("teacher_student").spec.replace(
        n_train=20, steps=1000, lr=1e-3, weight_decay=0.0, optimizer=AdamW((0.9, 0.9)), alpha=1.0
    )
    return [spec.replace(seed=seed, alpha=1.0 + seed) for seed in range(3)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_a_trained_batch_holds_no_denormal(fitting, threads, count):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert flushes(), "the tests' threads were started before denormals were flushed"
        trainer = Trainer(Fitting(), fitting[:count], task_data(fitting[0], "cpu"))
        trainer.train()
        assert denormals(numbers(trainer)) == 0
        torch.set_flush_denormal(False)
        torch.set_num_threads(1)
        control = Trainer(Fitting(), fitting[:count], task_data(fitting[0], "cpu"))
        for _ in range(control.spec.steps):
            control.update()
        assert denormals(numbers(control)) > 1000
    finally:
        torch.set_flush_denormal(True)
        torch.set_num_threads(before)


@pytest.mark.parametrize("train_it", [lambda *run: Trainer(run[0], [run[1]], run[2]).train(), train])
def test_training_flushes_in_any_thread_and_gives_the_callers_setting_back(fitting, train_it):
    seen = []

    class Watching(Fitting):
        def loss(self, outputs, targets):
            seen.append(flushes(all_threads=False))
            return super().loss(outputs, targets)

    def work():
        torch.set_flush_denormal(False)
        train_it(Watching(), fitting[0].replace(steps=2), task_data(fitting[0], "cpu"))
        return flushes(all_threads=False)

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(work).result() is False
    assert seen[-1] is True


def test_flushed_nests():
    with flushed():
        with flushed():
            assert flushes(all_threads=False)
        assert flushes(all_threads=False)


IN_A_NEW_PROCESS = """
import {first}
import os, torch
from omnigrok.processor import flush_denormals, flushes, threads
print(os.environ["OMP_WAIT_POLICY"])
torch.set_num_threads(2)
if {used}:
    torch.ones(2**20).mul_(2)  # torch's threads are at work before anything is flushed
with threads(2):
    print(torch.get_num_threads(), flushes())
"""


@pytest.mark.parametrize("first", ["omnigrok", "tasks.mnist", "reproductions.fig_lu"])
@pytest.mark.parametrize(("used", "expected"), [(False, "2 True"), (True, "1 ")])
def test_several_threads_are_used_only_where_all_flush(first, used, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    code = IN_A_NEW_PROCESS.format(first=first, used=used)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    policy, found = done.stdout.splitlines()
    assert policy == "passive"
    assert found.startswith(expected)


def test_the_users_wait_policy_stays():
    code = "import os, omnigrok; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {**os.environ, "OMP_WAIT_POLICY": "active"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "active"


@pytest.mark.parametrize(
    ("seconds", "chosen"), [({1: 1.0, 2: 0.9, 4: 0.1}, 1), ({1: 1.0, 2: 0.7, 4: 0.6}, 2), ({1: 1.0, 2: 0.6, 4: 0.3}, 4)]
)
def test_threads_are_added_while_they_are_clearly_faster(spec, monkeypatch, seconds, chosen):
    def fake(task, spec, data, device, largest, number):
        return Batching(1, number, seconds[number], 0.0, 0, {})

    monkeypatch.setattr(batching_module, "measure_sizes", fake)
    found = measure(get_task("teacher_student"), spec, task_data(spec, "cpu"), "cpu", 1, most_threads=4)
    assert found.threads == chosen


def test_a_measurement_survives_other_work_on_the_machine():
    """Every other call is slow, as beside another process: the shortest counts."""
    calls = []

    def work():
        calls.append(1)
        time.sleep(0.02 if len(calls) % 3 else 0.001)

    assert shortest(work, "cpu", budget=0.1) < 0.01


NEIGHBOUR = "while True: pass"
RUN = [
    "-m",
    "omnigrok",
    "run",
    "teacher_student",
    "--steps",
    "3000",
    "--force",
    "--n-train",
    "200",
    "--batch-size",
    "50",
]


@pytest.mark.slow
@pytest.mark.skipif(cores() < 2, reason="a neighbour needs a core of its own")
def test_a_busy_neighbour_costs_little(tmp_path):
    """`omnigrok run` beside a process that keeps one core busy, over the same run alone; ratio of the best of three."""

    def seconds():
        start = time.perf_counter()
        subprocess.run([sys.executable, *RUN, "--results", str(tmp_path)], check=True, capture_output=True)
        return time.perf_counter() - start

    alone, beside = [], []
    for _ in range(3):
        alone.append(seconds())
        neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
        try:
            beside.append(seconds())
        finally:
            neighbour.kill()
            neighbour.wait()
    assert min(beside) < 2.5 * min(alone)


@pytest.mark.slow
def test_late_steps_cost_what_early_ones_do(mnist_data):
    """Steps of MNIST's landscape: the last hundred of 3,000 against the first hundred."""
    task = get_task("mnist")
    base = task.landscape("default")
    specs = [base.replace(alpha=alpha, dtype="float32") for alpha in (1.0, 8.0)]
    trainer = Trainer(task, specs, task_data(specs[0], "cpu"))
    times = []
    for _ in range(3000):
        start = time.perf_counter()
        trainer.update()
        times.append(time.perf_counter() - start)
    first, last = (sorted(part)[len(part) // 4] for part in (times[10:110], times[-100:]))  # beside other work, too
    assert last < 1.3 * first
