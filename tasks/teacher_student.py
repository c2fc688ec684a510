"""Teacher-student regression (Liu et al. 2023, Fig. 2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnigrok.published import Published
from omnigrok.spec import RunSpec, generator
from omnigrok.task import Task, TaskData, Thresholds

POOL, TEST = 10_000, 1_000


class TeacherStudent(Task):
    """Regression on the outputs of a random network of the student's own shape.

    Published: 100 training and 100 test examples, x ~ N(0, I_5), no noise, a 5-100-100-5 tanh network with torch's
    default init as teacher. Here the test set has 1,000 examples. Grokking run: student at alpha = 2, AdamW with
    weight decay 0.05, 1e5 steps; landscape: Adam on the norm sphere, 1e4 steps. Accuracy is the share of examples
    with a squared error (mean over the five outputs) below 0.001, as in the published notebook (the text: 0.01): a
    thresholded loss, so look at both.
    """

    name = "teacher_student"
    display_name = "Teacher-student"
    citation = "Liu et al. 2023, Fig. 2"
    recipe = "teacher_student/1"
    spec = RunSpec(task=name, n_train=100, steps=100_000, lr=3e-4, alpha=2.0, weight_decay=0.05, evaluation_density=2)
    published = Published(every=1, test=100)  # each step evaluates the test set
    thresholds = Thresholds(metric="accuracy", train=0.95, test=0.95)

    def load(self, spec: RunSpec) -> TaskData:
        with torch.random.fork_rng(devices=[]):  # the module's own init is replaced below
            teacher = self.model(spec).double()
        draw = generator(spec.data_seed, "teacher")
        with torch.no_grad():
            for layer in teacher:
                if isinstance(layer, nn.Linear):  # torch's default init, from a generator of our own
                    bound = layer.in_features**-0.5
                    layer.weight.uniform_(-bound, bound, generator=draw)
                    layer.bias.uniform_(-bound, bound, generator=draw)
            train = torch.randn(POOL, 5, generator=generator(spec.data_seed, "train"), dtype=torch.float64)
            test = torch.randn(TEST, 5, generator=generator(spec.data_seed, "test"), dtype=torch.float64)
            tensors = [x.to(spec.torch_dtype) for x in (train, teacher(train), test, teacher(test))]
        return TaskData((tensors[0],), tensors[1], (tensors[2],), tensors[3], source="generated")

    def model(self, spec: RunSpec) -> nn.Sequential:
        return nn.Sequential(nn.Linear(5, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 5))

    def loss(self, outputs: Float[Tensor, "batch 5"], targets: Float[Tensor, "batch 5"]) -> Float[Tensor, "batch"]:
        return (outputs - targets).square().mean(dim=1)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (self.loss(outputs, targets) < 1e-3).to(outputs.dtype)}

    def landscape(self, preset: str) -> RunSpec:
        return self.spec.replace(
            alpha=1.0,
            optimizer="adam",
            weight_decay=0.0,
            sphere=True,
            steps=1_000 if preset == "quick" else 10_000,
            evaluation_density=1,
        )
