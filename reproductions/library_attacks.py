"""The final networks of `fig_partition` under strong attacks, the suite's and a library's, beside plain PGD.

Plain PGD, which `fig_delayed_robustness` draws, takes 10 constant steps of a quarter of the radius from one random
start; Humayun et al. 2024 take 100 steps of 4/255 on MNIST, which is not among the attacks here. An attack that follows
the gradient can be fooled. This command attacks the weights that `fig_partition` keeps, of the same network and
training, with the suite's PGD of 20 restarts and decaying steps on three objectives, and with APGD (Croce and Hein
2020) and the gradient-free Square attack of the Adversarial Robustness Toolbox, and writes the accuracy under each and
under all of either side. Train the networks first: python -m reproductions.fig_partition. Needs the `test` extra.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from torch import nn

from omnigrok import console
from omnigrok.ensemble import Ensemble
from omnigrok.errors import OmnigrokError
from omnigrok.figures.figure import Options, preset_option
from omnigrok.files import atomic
from omnigrok.loading import task_data
from omnigrok.probes.kept import kept_ensembles
from omnigrok.probes.robustness import PGD, class_labels, objective_values
from omnigrok.store import Store
from omnigrok.task import TaskData
from reproductions.claims.partition import FROM
from reproductions.experiments.robust import MAIN, partitioned
from reproductions.fig_partition import FIGURE

strong = partial(PGD, MAIN, steps=50, restarts=20, decay=True)
OURS = {
    "PGD-10": PGD(MAIN),
    "PGD-20, 10 restarts": PGD(MAIN, steps=20, restarts=10),
    "decaying PGD-20, margin": PGD(MAIN, steps=20, objective="margin", decay=True),
    "strong PGD, ce": strong(objective="ce"),
    "strong PGD, margin": strong(objective="margin"),
    "strong PGD, dlr": strong(objective="dlr"),
}
Right = dict[str, np.ndarray]
"""For each attack, whether each image is still classified right."""


def ours(ensemble: Ensemble, data: TaskData, n: int) -> Right:
    """The first n test images, clean and under the suite's attacks."""
    inputs, targets = (data.test_inputs[0][None, :n],), data.test_targets[None, :n]
    labels = class_labels(targets)
    attacked = {name: attack.attack(ensemble, inputs, targets, "evaluation") for name, attack in OURS.items()}
    return {
        name: (objective_values(ensemble, "margin", found, labels)[0] < 0).numpy()
        for name, found in {"clean": inputs, **attacked}.items()
    }


def library(model: nn.Module, data: TaskData, n: int) -> Right:
    """The first n test images under the library's attacks.

    Raises:
        OmnigrokError: the library is not installed.
    """
    try:
        from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise OmnigrokError("the Adversarial Robustness Toolbox is missing; pip install -e '.[test]'") from error
    images, labels = data.test_inputs[0][:n].view(n, 1, 28, 28).numpy(), data.test_targets[:n].numpy()
    pictures = nn.Sequential(nn.Flatten(), model).eval()
    shared = {"norm": np.inf, "eps": MAIN, "batch_size": n, "verbose": False}
    with torch.random.fork_rng():  # the library draws from the global generators
        torch.manual_seed(0)
        np.random.seed(0)
        classifier = PyTorchClassifier(
            pictures, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0.0, 1.0), device_type="cpu"
        )
        attacks = {
            f"APGD {loss}": AutoProjectedGradientDescent(
                classifier, eps_step=2 * MAIN, max_iter=100, nb_random_init=5, loss_type=loss, **shared
            )
            for loss in ("cross_entropy", "difference_logits_ratio")
        }
        attacks["Square, 2,000 queries"] = SquareAttack(classifier, max_iter=2000, nb_restarts=1, **shared)
        found = {name: classifier.predict(attack.generate(images, labels)) for name, attack in attacks.items()}
    return {name: x.argmax(axis=1) == labels.argmax(axis=1) for name, x in found.items()}


def with_worst(right: Right, name: str) -> dict[str, float]:
    """Accuracy under each attack, and over the images that withstand all of them."""
    return {k: float(x.mean()) for k, x in {**right, name: np.logical_and.reduce(list(right.values()))}.items()}


@click.command(help=__doc__)
@preset_option
@click.option("--examples", type=click.IntRange(1), default=500, show_default=True, help="Test images.")
@console.results_option
@click.option("--out", type=console.PATH, default="figures/library_attacks.csv", show_default=True)
def main(preset: str, examples: int, results: Path, out: Path) -> None:
    options = Options(preset=preset, tasks=("mnist",), seeds=FIGURE.seeds[preset])
    store, rows = Store(results), []
    for spec in partitioned(options):
        data = task_data(spec, "cpu")
        for ensemble in kept_ensembles(spec, store):
            step = ensemble.step
            if step < FROM and preset != "quick":
                continue
            found = with_worst(ours(ensemble, data, examples), "all of ours")
            found |= with_worst(library(ensemble.model(0), data, examples), "all of the library's")
            rows += [{"seed": spec.seed, "step": step, "attack": k, "accuracy": x} for k, x in found.items()]
            click.echo(f"seed {spec.seed}, step {step:,}: " + ", ".join(f"{k} {x:.3f}" for k, x in found.items()))
    with atomic(out) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, encoding="utf-8")


if __name__ == "__main__":
    console.run(main)
