"""Modular addition with fixed embeddings of adjustable messiness (Liu et al. 2023, Fig. 6)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnigrok.errors import SpecError
from omnigrok.optimizers import Adam
from omnigrok.schedule import Drop
from omnigrok.spec import RunSpec, generator
from omnigrok.sphere import Sphere
from omnigrok.task import Task, TaskData, Thresholds

P, TARGET = 10, 30
CLOSE = 0.1  # squared error below which an answer counts as right; two random targets are 2 apart on average


class ModularToy(Task):
    """A decoder MLP reads E_i + E_j and answers with the random vector that stands for (i + j) mod 10.

    Published (code): 45 of the 55 pairs i <= j for training, embeddings in two dimensions that go from a line (each
    number at its place, second coordinate within 0.3) to random, E = a random + (1 - a) line, fixed while the decoder
    is trained on its norm sphere; 2-200-200-30 with LeakyReLU 0.2, Adam lr 1e-2, betas (0.9, 0.99), lr times 0.2 every
    5,000 steps, 15,000 steps. The text's appendix D differs (reproductions/differences.md). The figures' messiness is
    m = 5 a, the option here is a.
    """

    name = "modular_toy"
    display_name = "Modular addition, fixed embeddings"
    citation = "Liu et al. 2023, Fig. 6"
    recipe = "modular_toy/1"
    data_depends_on_n_train = True  # what is not trained on is the test set
    spec = RunSpec(
        task=name,
        n_train=45,
        steps=15_000,
        lr=1e-2,
        schedule=(Drop(5_000, 0.2),),
        optimizer=Adam(betas=(0.9, 0.99)),
        sphere=Sphere(),
        options=(("messiness", 0.0),),
    )
    thresholds = Thresholds(metric="accuracy", train=0.95, test=0.95)

    def load(self, spec: RunSpec) -> TaskData:
        pairs = torch.combinations(torch.arange(P), with_replacement=True)
        if spec.n_train >= len(pairs):
            raise SpecError(f"n_train must leave one of the {len(pairs)} pairs for the test, got {spec.n_train}")
        pairs = pairs[torch.randperm(len(pairs), generator=generator(spec.data_seed, "pairs"))]
        draw = generator(spec.data_seed, "embeddings")
        place, offset = (
            torch.linspace(-1, 1, P, dtype=torch.float64),
            torch.rand(P, generator=draw, dtype=torch.float64),
        )
        line = torch.stack([place, 0.6 * offset - 0.3], dim=1)
        random = 2 * torch.rand(P, 2, generator=draw, dtype=torch.float64) - 1
        mess = spec.option("messiness")
        embeddings = mess * random + (1 - mess) * line
        answers = torch.randn(P, TARGET, generator=generator(spec.data_seed, "answers"), dtype=torch.float64)
        inputs = embeddings[pairs].sum(dim=1).to(spec.torch_dtype)
        targets = answers[pairs.sum(dim=1) % P].to(spec.torch_dtype)
        n = spec.n_train
        return TaskData((inputs[:n],), targets[:n], (inputs[n:],), targets[n:], source="generated")

    def model(self, spec: RunSpec) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(2, 200), nn.LeakyReLU(0.2), nn.Linear(200, 200), nn.LeakyReLU(0.2), nn.Linear(200, TARGET)
        )

    def loss(self, outputs: Float[Tensor, "batch 30"], targets: Float[Tensor, "batch 30"]) -> Float[Tensor, "batch"]:
        return (outputs - targets).square().mean(dim=1)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (self.loss(outputs, targets) < CLOSE).to(outputs.dtype)}
