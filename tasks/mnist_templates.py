"""MNIST mixed with a constant image for each class (Liu et al. 2023, Fig. 7; arXiv: Fig. 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from omnigrok.spec import RunSpec
from omnigrok.sphere import Sphere
from omnigrok.task import TaskData
from tasks.mnist import MNIST

DARKEST, BRIGHTEST = -0.5, 0.5  # templates of classes 0 and 9


class MNISTTemplates(MNIST):
    """x' = m x + (1 - m) T_class, T constant images from -0.5 to 0.5: messiness m is 1 for MNIST, 0 for its labels.

    Published: all 60,000 images, train and test mixed alike, on the norm sphere without weight decay, batches of 100,
    10,000 steps, lr 1e-3. The best representation is known, so the norm's part in grokking can be told from it.
    """

    name = "mnist_templates"
    display_name = "MNIST with templates"
    citation = "Liu et al. 2023, Fig. 7; LeCun et al. 1998"
    spec = MNIST.spec.replace(
        task=name,
        n_train=60_000,
        steps=10_000,
        alpha=1.0,
        weight_decay=0.0,
        sphere=Sphere(),
        batch_size=100,
        evaluation_density=1,
        options=(("messiness", 1.0),),
    )

    def load(self, spec: RunSpec) -> TaskData:
        data, m = super().load(spec), spec.option("messiness")
        shades = torch.linspace(DARKEST, BRIGHTEST, 10, dtype=spec.torch_dtype)

        def mixed(images: Tensor, targets: Tensor) -> tuple[Tensor]:
            return (m * images + (1 - m) * shades[targets.argmax(dim=1)].unsqueeze(1),)

        return TaskData(
            mixed(data.train_inputs[0], data.train_targets), data.train_targets,
            mixed(data.test_inputs[0], data.test_targets), data.test_targets, data.source,
        )  # fmt: skip

    def landscape(self, preset: str) -> None:  # type: ignore[override]
        return None  # a task of Fig. 7, not one of the L and the U
