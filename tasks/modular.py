"""Modular arithmetic with a one-layer Transformer (Power et al. 2022; Liu et al. 2023, Fig. 8; arXiv: Fig. 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from omnigrok.errors import SpecError
from omnigrok.optimizers import AdamW
from omnigrok.spec import RunSpec, generator
from omnigrok.task import Task, TaskData, Thresholds
from tasks.transformer import FullTransformer, Transformer

OPERATIONS = {"add": lambda a, b, p: (a + b) % p}
POOL_SHARE = 0.7  # of all pairs; the rest is the test set at every training-set size


class Modular(Task):
    """a o b mod p: all p^2 ordered pairs, the answer read at the "=" of the prompt "a b =".

    Published (Fig. 8): p = 113, addition, 30 % of the pairs for training, full batch, cross-entropy over 114 tokens,
    one layer, d_model 128, 4 heads, MLP 512, float64, AdamW lr 1e-3, betas (0.9, 0.98), weight decay 1, 15,000 steps.
    There the other 70 % are the test set; here a fixed 30 % are, so that training sets of different size share it.
    """

    name = "modular"
    display_name = "Modular addition"
    citation = "Liu et al. 2023, Fig. 8; Power et al. 2022"
    recipe = "modular/1"
    spec = RunSpec(
        task=name,
        n_train=3_830,
        steps=15_000,
        lr=1e-3,
        optimizer=AdamW(betas=(0.9, 0.98)),
        weight_decay=1.0,
        dtype="float64",
        evaluation_density=4,
        options=(("operation", "add"), ("p", 113)),
    )
    thresholds = Thresholds(metric="accuracy", train=0.95, test=0.95)

    def load(self, spec: RunSpec) -> TaskData:
        p, operation = spec.option("p"), spec.option("operation")
        if operation not in OPERATIONS:
            raise SpecError(f"operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
        pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
        pairs = pairs[torch.randperm(len(pairs), generator=generator(spec.data_seed, "pairs"))]
        answers = OPERATIONS[operation](pairs[:, 0], pairs[:, 1], p)
        pool = int(POOL_SHARE * len(pairs))
        return TaskData((pairs[:pool],), answers[:pool], (pairs[pool:],), answers[pool:], source="generated")

    def model(self, spec: RunSpec) -> nn.Module:
        return Transformer(spec.option("p"))

    def reference_model(self, spec: RunSpec) -> nn.Module:
        return FullTransformer(spec.option("p"))

    def configuration(self, spec: RunSpec) -> str:
        return f"p = {spec.option('p')}"

    def landscape(self, preset: str) -> RunSpec:
        """The default is a smaller problem, p = 31 with half of the pairs, that 2 cores can sweep."""
        p, n_train, steps = {"quick": (11, 60, 50), "default": (31, 480, 800), "paper": (113, 3_830, 15_000)}[preset]
        return self.spec.replace(
            alpha=1.0,
            weight_decay=0.0,
            sphere=True,
            n_train=n_train,
            steps=steps,
            dtype="float64" if preset == "paper" else "float32",
            evaluation_density=1,
            options=(("operation", "add"), ("p", p)),
        )

    def loss(self, outputs: Float[Tensor, "batch token"], targets: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Cross-entropy of the logits in float64, also where the network is in float32.

        Once the training set is memorised, 1 - p of the right token is far below float32's resolution: in float32 its
        gradient is rounding noise, the weight norm oscillates instead of decaying, and generalisation comes thousands
        of steps later or not at all.
        """
        if outputs.device.type != "mps":  # which has no float64
            outputs = outputs.double()
        return F.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (outputs.argmax(dim=1) == targets).to(outputs.dtype)}
