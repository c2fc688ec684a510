"""The trainer on a GPU against the CPU, in float64. Skipped where there is no GPU."""

import pytest
import torch

from omnigrok import DataUnavailableError, get_task
from omnigrok.loading import task_data
from omnigrok.probes.complexity import ComplexityProbe
from omnigrok.probes.robustness import PGD, GaussianNoise, RobustnessProbe
from omnigrok.schedule import Drop
from omnigrok.sphere import Sphere
from omnigrok.trainer import Trainer

CASES = {
    "teacher_student": {},
    "mnist": {"n_train": 300},
    "mnist probes": {
        "n_train": 300,
        "probes": (
            ComplexityProbe(radius=0.5, directions=5, points=20),
            RobustnessProbe(eps=(0.1,), examples=50, train=True),
        ),
    },
    "mnist noise": {"n_train": 300, "perturbation": GaussianNoise(0.1)},
    "mnist adversarial": {"n_train": 300, "perturbation": PGD(0.1, steps=3)},
    "mnist_templates": {"n_train": 300},
    "modular": {"n_train": 500},
    "modular_toy": {"schedule": (Drop(5, 0.2),)},
    "qm9": {"n_train": 50},
    "imdb": {"n_train": 60, "options": (("hidden", 8), ("length", 40), ("stop_words", True), ("vocabulary", 100))},
    "cifar10": {"n_train": 100, "batch_size": 50, "options": (("network", "cnn"), ("width", 2))},
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_gives_the_numbers_of_the_cpu(case):
    task = get_task(case.split()[0])
    base = task.spec.replace(dtype="float64", steps=20, **CASES[case])
    specs = [base]
    if task.batchable:
        specs += [
            base.replace(seed=1, alpha=0.8, sphere=True),
            base.replace(seed=2, alpha=1.5, sphere=Sphere(early=True, first_twice=True)),
        ]
    try:
        trainers = [Trainer(task, specs, task_data(base, device), device) for device in ("cpu", "cuda")]
    except DataUnavailableError as error:
        pytest.skip(str(error))
    for trainer in trainers:
        trainer.train()
    for one, other in zip(*(t.ensemble.params.values() for t in trainers), strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=0, atol=1e-8)
    for one, other in zip(*(t.frames() for t in trainers), strict=True):
        assert one[["step", "split", "metric"]].equals(other[["step", "split", "metric"]])
        assert one["value"].to_numpy() == pytest.approx(other["value"].to_numpy(), rel=1e-6, abs=1e-8)
