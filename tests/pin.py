"""What is pinned, and how it is pinned anew: ``python tests/pin.py names``, ``losses`` or ``probes``.

Names: a digest of the run names of every figure, preset and reading, under the first version of the trainer.
Losses: of small runs of every task, at three steps in float64.
Probes: what every probe, attack and perturbation makes of two small networks at their init.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import pandas as pd
import torch
from boxes import boxes

import omnigrok.spec
from omnigrok import RunSpec, available_tasks, get_task
from omnigrok.figures.figure import PRESETS, READINGS, Options, flat
from omnigrok.gradients import Clip
from omnigrok.loading import run_hash, task_data
from omnigrok.optimizers import AdamW
from omnigrok.probes.complexity import ComplexityProbe
from omnigrok.probes.partition_probe import PartitionProbe
from omnigrok.probes.robustness import PGD, GaussianNoise, RobustnessProbe
from omnigrok.schedule import Drop
from omnigrok.sphere import Sphere
from omnigrok.trainer import Trainer
from reproductions.all import figures

NAMES, LOSSES, PROBES = (Path(__file__).with_name(f"pinned_{what}.csv") for what in ("names", "losses", "probes"))
STEPS = (0, 1, 2, 3)
TESTED = 100  # test examples
SMALL = {  # what makes a task's run quick
    "algorithmic": {"n_train": 20, "batch_size": 10, "options": {"operation": "x/y", "p": 7}},
    "cifar10": {"n_train": 8, "batch_size": 4, "options": {"network": "cnn", "width": 2}},
    "imdb": {
        "n_train": 12,
        "batch_size": 6,
        "options": {"hidden": 4, "length": 20, "stop_words": True, "vocabulary": 50},
    },
    "mnist": {"n_train": 12, "batch_size": 6},
    "mnist_templates": {"n_train": 12, "batch_size": 6},
    "modular": {"n_train": 20, "batch_size": 10, "options": {"operation": "add", "p": 7}},
    "modular_toy": {"n_train": 20},
    "qm9": {"n_train": 12, "batch_size": 6},
    "teacher_student": {"n_train": 20, "batch_size": 10},
}
VARIANTS = {  # of the tasks that all mechanisms are tried on
    "as published": {},
    "adam": {"optimizer": "adam", "weight_decay": 0.1},
    "adamw": {"optimizer": AdamW((0.8, 0.9)), "weight_decay": 0.1},
    "sphere": {"sphere": True, "alpha": 2.0},
    "sphere, early, first twice": {"sphere": Sphere(first_twice=True, early=True)},
    "falling rate": {"schedule": (Drop(1, 0.5),)},
    "clipped": {"gradient": (Clip(0.01),)},
    "shuffled": {"subset": "shuffled", "data_seed": 1},
    "noise": {"perturbation": GaussianNoise(0.1)},
    "attacked": {"perturbation": PGD(0.1, 2)},
}


def options_of(figure, preset: str, reading: str) -> Options:
    """A figure's options as if all data were there: nothing is fetched."""
    return Options(preset=preset, seeds=figure.seeds[preset], reading=reading, tasks=tuple(figure.tasks()))


def names(figure, preset: str, reading: str, trainer: int) -> list[str]:
    """The names of a figure's runs under a version of the trainer."""
    before = omnigrok.spec.TRAINER_VERSION
    omnigrok.spec.TRAINER_VERSION = trainer
    try:
        return [run_hash(spec) for spec in flat(figure.sweep(options_of(figure, preset, reading)))]
    finally:
        omnigrok.spec.TRAINER_VERSION = before


def digests() -> pd.DataFrame:
    rows = []
    for figure in figures():
        for preset in PRESETS:
            for reading in READINGS:
                found = names(figure, preset, reading, trainer=1)
                digest = hashlib.sha256(" ".join(sorted(found)).encode()).hexdigest()[:16]
                rows.append((figure.name, preset, reading, len(found), digest))
    return pd.DataFrame(rows, columns=["figure", "preset", "reading", "runs", "digest"])


def pinned_specs(task: str) -> dict[str, RunSpec]:
    """Small runs of a task by what is special about them."""
    base = get_task(task).spec.replace(dtype="float64", steps=STEPS[-1], evaluation_density=1, **SMALL.get(task, {}))
    chosen = VARIANTS if task in ("mnist", "teacher_student") else {"as published": {}}
    left_out = ("attacked",) if task == "teacher_student" else ()  # a regression has no classes to attack
    return {name: base.replace(**changes) for name, changes in chosen.items() if name not in left_out}


def losses(specs: dict[str, RunSpec]) -> pd.DataFrame:
    """Train and test loss and the weight norm at STEPS."""
    tables = []
    for variant, spec in specs.items():
        data = task_data(spec, "cpu")
        few = tuple(x[:TESTED] for x in data.test_inputs), data.test_targets[:TESTED]
        data = dataclasses.replace(data, test_inputs=few[0], test_targets=few[1])
        trainer = Trainer(get_task(spec.task), [spec], data)
        trainer.train()
        [table] = trainer.frames()
        kept = table[table["metric"].isin(["loss", "weight_norm"]) & table["step"].isin(STEPS)]
        tables.append(kept.assign(task=spec.task, variant=variant))
    return pd.concat(tables)[["task", "variant", "step", "split", "metric", "value"]].reset_index(drop=True)


PINNED_PROBES = {
    "complexity": ComplexityProbe(),
    "complexity, close": ComplexityProbe(radius=0.05, directions=4, points=60, seed=1),
    "robustness": RobustnessProbe(train=True),
    "robustness, other sizes": RobustnessProbe(eps=(0.02, 0.3), steps=3, margin_steps=4, examples=70, chunk=30),
    "partition": PartitionProbe(),
    "partition, other plane": PartitionProbe(examples=(3, 5, 4), margin=2.0),
}
PERTURBATIONS = {
    "noise": GaussianNoise(0.2),
    "linf": PGD(0.1),
    "l2": PGD(0.7, norm="l2"),
    "margin": PGD(0.1, 4, objective="margin"),
    "dlr": PGD(0.1, 4, objective="dlr"),
    "restarts": PGD(0.1, 2, restarts=3),
    "decay": PGD(0.1, 5, decay=True),
    "decay, l2, own step, own range": PGD(0.7, 5, step=0.3, norm="l2", decay=True, low=-0.1, high=0.8),
}


def probes() -> pd.DataFrame:
    """What the probes log, and what the perturbations do to a batch: its mean change and its loss."""
    trainer, rows = boxes(), []
    for name, probe in PINNED_PROBES.items():
        found = probe(trainer.ensemble, trainer.data)
        rows += [(name, metric, r, x) for metric, values in found.items() for r, x in enumerate(values.tolist())]
    trainer.step = 2
    inside = trainer.batch()[0][0].clamp(max=0.8), trainer.batch()[1]
    for name, perturbation in PERTURBATIONS.items():
        (x,) = perturbation(trainer.ensemble, inside[:1], inside[1])
        weights = torch.linspace(1.0, 2.0, x[0].numel(), dtype=x.dtype).view(x[0].shape)
        with torch.no_grad():
            loss = trainer.losses((x,), inside[1])
        for metric, values in (("change", ((x - inside[0]) * weights).mean(dim=(1, 2))), ("loss", loss)):
            rows += [(name, metric, r, value) for r, value in enumerate(values.tolist())]
    return pd.DataFrame(rows, columns=["probe", "metric", "run", "value"])


if __name__ == "__main__":
    if sys.argv[1:] == ["names"]:
        digests().to_csv(NAMES, index=False)
    elif sys.argv[1:] == ["losses"]:
        found = [losses(pinned_specs(task)) for task in available_tasks()]
        pd.concat(found).to_csv(LOSSES, index=False, float_format="%.17g")
    elif sys.argv[1:] == ["probes"]:
        probes().to_csv(PROBES, index=False, float_format="%.17g")
    else:
        sys.exit(__doc__)
