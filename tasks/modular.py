"""Modular arithmetic with a one-layer Transformer (Power et al. 2022; Liu et al. 2023, section 4.2 and Fig. 8)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from omnigrok.errors import SpecError
from omnigrok.spec import RunSpec, generator
from omnigrok.task import Task, TaskData, Thresholds

OPERATIONS = {"add": lambda a, b, p: (a + b) % p}
MLP = 512  # hidden units
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
        betas=(0.9, 0.98),
        weight_decay=1.0,
        dtype="float64",
        evaluation_density=4,
        options=(("operation", "add"), ("p", 113)),
    )
    optional: ClassVar[dict[str, object]] = {"mlp": MLP}
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
        return Transformer(spec.option("p"), d_mlp=spec.option("mlp", MLP))

    def reference_model(self, spec: RunSpec) -> nn.Module:
        return FullTransformer(spec.option("p"), d_mlp=spec.option("mlp", MLP))

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


class Transformer(nn.Module):
    """One causal attention layer and an MLP, no LayerNorm, nothing tied, computed at the answer position only.

    In a single layer, keys and values depend on (token, position) alone, so they are made once a token instead of once
    an example, and only the "=" attends, is transformed and unembedded. Same numbers as `FullTransformer`, to rounding.
    """

    def __init__(self, p: int, d_model: int = 128, heads: int = 4, d_mlp: int = MLP) -> None:
        super().__init__()
        self.p, tokens, d_head = p, p + 1, d_model // heads

        def normal(*shape: int, fan: int = d_model) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) / fan**0.5)

        self.embed, self.position = normal(tokens, d_model), normal(3, d_model)
        self.query, self.key, self.value = (normal(heads, d_head, d_model) for _ in range(3))
        self.out = normal(d_model, d_model)
        self.mlp_in, self.mlp_in_bias = normal(d_mlp, d_model), nn.Parameter(torch.zeros(d_mlp))
        self.mlp_out, self.mlp_out_bias = normal(d_model, d_mlp), nn.Parameter(torch.zeros(d_model))
        self.unembed = normal(tokens, d_model, fan=tokens)

    def forward(self, pairs: Int[Tensor, "batch 2"]) -> Float[Tensor, "batch token"]:
        heads, d_head, _ = self.query.shape
        equals = self.embed[self.p] + self.position[2]
        tables = [self.embed[: self.p] + self.position[i] for i in range(2)] + [equals.unsqueeze(0)]
        query = torch.einsum("hkd,d->hk", self.query, equals)
        towards = torch.einsum("hkd,hk->dh", self.key, query) / d_head**0.5
        scores = [table @ towards for table in tables]  # (token, head)
        values = [table @ self.value.flatten(0, 1).T for table in tables]  # (token, head * d_head)
        a, b = pairs.unbind(dim=1)
        score_a, score_b = F.embedding(a, scores[0]), F.embedding(b, scores[1])
        weights = torch.stack([score_a, score_b, scores[2].expand_as(score_a)]).softmax(dim=0)  # (3, batch, head)
        mixed = sum(
            weight.unsqueeze(-1) * value.unflatten(-1, (heads, d_head))
            for weight, value in zip(
                weights, (F.embedding(a, values[0]), F.embedding(b, values[1]), values[2]), strict=True
            )
        )
        residual = equals + mixed.flatten(1) @ self.out.T
        hidden = F.relu(F.linear(residual, self.mlp_in, self.mlp_in_bias))
        return F.linear(residual + F.linear(hidden, self.mlp_out, self.mlp_out_bias), self.unembed)


class FullTransformer(Transformer):
    """The plain form: the whole sequence through every layer, the last position read at the end."""

    def forward(self, pairs: Int[Tensor, "batch 2"]) -> Float[Tensor, "batch token"]:
        d_head = self.query.shape[1]
        tokens = torch.cat([pairs, torch.full_like(pairs[:, :1], self.p)], dim=1)
        x = self.embed[tokens] + self.position
        query, key, value = (torch.einsum("hkd,bpd->bhpk", w, x) for w in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / d_head**0.5
        future = torch.ones(3, 3, dtype=torch.bool, device=pairs.device).triu(diagonal=1)
        attention = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        x = x + (attention @ value).transpose(1, 2).flatten(2) @ self.out.T
        x = x + F.linear(F.relu(F.linear(x, self.mlp_in, self.mlp_in_bias)), self.mlp_out, self.mlp_out_bias)
        return F.linear(x, self.unembed)[:, -1]
