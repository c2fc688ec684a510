"""The one-layer Transformer of Liu et al. 2023, Fig. 8: an exact fast form, and the plain form of the full sequence."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn


class Transformer(nn.Module):
    """One causal attention layer and an MLP, no LayerNorm, nothing tied, computed at the answer position only.

    Same numbers as `FullTransformer`, to rounding, by three identities. Only "=" is unembedded, so only it attends and
    is transformed. In a single layer keys and values depend on (token, position) alone: they are made once a token
    instead of once an example, and what the MLP and the unembedding read off a value too, so that attention is a
    weighted sum over rows of a small table. Linear maps in a row are one matrix.
    """

    def __init__(self, p: int, d_model: int = 128, heads: int = 4, d_mlp: int = 512) -> None:
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
        p = self.p
        equals = self.embed[p] + self.position[2]
        # Rows: every first operand, every second operand, "=".
        table = torch.cat([self.embed[:p] + self.position[0], self.embed[:p] + self.position[1], equals.unsqueeze(0)])
        query = torch.einsum("hkd,d->hk", self.query, equals)
        scores = table @ torch.einsum("hkd,hk->dh", self.key, query) / d_head**0.5
        values = (table @ self.value.flatten(0, 1).T).unflatten(1, (heads, d_head))
        a, b = pairs.unbind(dim=1)
        seen = torch.stack([a, b + p, torch.full_like(a, 2 * p)], dim=1)
        weights = F.embedding(seen, scores).softmax(dim=1).flatten(1)  # (batch, 3 * heads)
        rows = (seen.unsqueeze(-1) * heads + torch.arange(heads, device=seen.device)).flatten(1)

        def read(matrix: Float[Tensor, "n d_model"], constant: Float[Tensor, "n"]) -> Float[Tensor, "batch n"]:
            """matrix @ (attention's output) + constant; a head's weights sum to 1, so each row takes its share."""
            by_head = (matrix @ self.out).unflatten(1, (heads, d_head))
            shares = torch.einsum("thk,nhk->thn", values, by_head) + constant / heads
            # torch takes a batch of runs through this one operation run by run: exact, and no slower
            return F.embedding_bag(rows, shares.flatten(0, 1), mode="sum", per_sample_weights=weights)

        hidden = F.relu(read(self.mlp_in, self.mlp_in @ equals + self.mlp_in_bias))
        skip = read(self.unembed, self.unembed @ (equals + self.mlp_out_bias))
        return torch.addmm(skip, hidden, (self.unembed @ self.mlp_out).T)


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
