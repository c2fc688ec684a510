"""The two-layer decoder-only Transformer of Power et al. 2022, appendix A.1.2: an exact fast form, the plain one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

EOS, EQUALS, OPERATOR = 0, 1, 2
OPERATORS = 20
"""Tokens of the published vocabulary for operators; a model sees one of them."""
LENGTH = 6
"""Tokens that the model reads: <eos> a op b = c. It is asked for c after "=", and for <eos> after c."""


class DecoderLayer(nn.Module):
    """Causal attention and an MLP with ReLU, each followed by LayerNorm; linear maps have no biases."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        self.mlp_in, self.mlp_out = (
            nn.Linear(d_model, 4 * d_model, bias=False),
            nn.Linear(4 * d_model, d_model, bias=False),
        )
        self.norm_attention, self.norm_mlp = nn.LayerNorm(d_model), nn.LayerNorm(d_model)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What the last positions, whose queries are given, read off all positions up to their own."""
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for x in (query, key, value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        asked, seen = scores.shape[-2:]
        future = torch.ones(asked, seen, dtype=torch.bool, device=scores.device).triu(diagonal=seen - asked + 1)
        attention = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        return self.out((attention @ v).transpose(-3, -2).flatten(-2))

    def finish(self, x: Tensor, read: Tensor) -> Tensor:
        """The layer's output at positions with input x, from what they have read."""
        x = self.norm_attention(x + read)
        change = F.dropout(self.mlp_out(F.relu(self.mlp_in(x))), self.dropout, self.training)
        return self.norm_mlp(x + change)

    def forward(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        return self.finish(x, self.attend(self.query(x), self.key(x), self.value(x)))


class Decoder(nn.Module):
    """Logits of the answer's tokens, computed only where they depend on the example and where the loss reads them.

    Same numbers as `FullDecoder`, to rounding: attention is causal and the first layer's inputs are token and position,
    so queries, keys and values of that layer are made once a token; states of "<eos> a op" once an operand a; and the
    second layer needs queries and its MLP at the answer's positions alone.

    Args:
        operands: number of tokens that may be operand or answer.
        first: the first of them in the vocabulary.
        vocabulary: all tokens.
        answer: tokens of the answer that are asked for: 2 with <eos>, 1 without.
    """

    position: Tensor

    def __init__(
        self, operands: int, first: int, vocabulary: int, answer: int = 2, dropout: float = 0.0, d_model: int = 128
    ) -> None:
        super().__init__()
        self.operands, self.first, self.answer = operands, first, answer
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.layers = nn.ModuleList(DecoderLayer(d_model, 4, dropout) for _ in range(2))
        self.output = nn.Linear(d_model, vocabulary, bias=False)
        self.register_buffer("position", sinusoids(LENGTH, d_model))

    def forward(self, equations: Int[Tensor, "batch 3"]) -> Float[Tensor, "batch answer token"]:
        n, length = self.operands, LENGTH - 2 + self.answer
        first, second = cast(Sequence[DecoderLayer], self.layers)
        embedded, place = self.embedding.weight, self.position
        operand = embedded[self.first : self.first + n]
        fixed = torch.stack([embedded[EOS] + place[0], embedded[OPERATOR] + place[2], embedded[EQUALS] + place[4]])
        table = torch.cat([fixed, *(operand + place[i] for i in (1, 3, 5)[: length // 2])])
        queries, keys, values = first.query(table), first.key(table), first.value(table)

        a, b, c = (equations - self.first).unbind(dim=1)
        eos, operator, equals = (torch.full_like(a, i) for i in range(3))
        seen = torch.stack([eos, 3 + a, operator, 3 + n + b, equals, 3 + 2 * n + c], dim=1)[:, :length]
        own = seen[:, 3:]  # the positions that differ from example to example
        read = first.attend(*(F.embedding(i, x) for i, x in ((own, queries), (seen, keys), (seen, values))))
        states = first.finish(F.embedding(own, table), read)

        every = torch.arange(n, device=a.device)
        prefix = torch.stack([torch.zeros_like(every), 3 + every, torch.ones_like(every)], dim=1)
        before = [F.embedding(prefix, x) for x in (table, queries, keys, values)]
        shared = first.finish(before[0], first.attend(*before[1:]))  # (a, position, d_model)

        def behind(linear: nn.Linear) -> Tensor:
            """Keys or values of the second layer at all positions."""
            known = F.embedding(a, linear(shared).flatten(1)).unflatten(1, (3, -1))
            return torch.cat([known, linear(states)], dim=1)

        asked = states[:, -self.answer :]
        read = second.attend(second.query(asked), behind(second.key), behind(second.value))
        return self.output(second.finish(asked, read))


class FullDecoder(Decoder):
    """The plain form: the whole sequence through every layer, the answer's positions read at the end."""

    def forward(self, equations: Int[Tensor, "batch 3"]) -> Float[Tensor, "batch answer token"]:
        a, b, c = equations.unbind(dim=1)
        eos, equals, operator = (torch.full_like(a, token) for token in (EOS, EQUALS, OPERATOR))
        tokens = torch.stack([eos, a, operator, b, equals, c], dim=1)
        x = self.embedding(tokens) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.output(x)[:, 4 : 4 + self.answer]


def sinusoids(length: int, d_model: int) -> Float[Tensor, "position d_model"]:
    """Fixed positions of Vaswani et al. 2017, section 3.5: sines at even places, cosines at odd ones."""
    angle = torch.arange(length).unsqueeze(1) / 10_000 ** (torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
