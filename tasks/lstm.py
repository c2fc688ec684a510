"""The LSTM of Liu et al. 2023, Fig. 4, on left-padded reviews: an exact fast form, the plain one, the published one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

GROUPS = 3  # by length, in which a batch starts from the state that its padding leaves


class ReviewLSTM(nn.Module):
    """Embedding, LSTM and a linear read-out of the last step's state: a logit.

    Reviews are padded on the left, so all rows pass through the same states until their first word. A batch is sorted
    by length into groups; the padding is run once, in a batch of one, from group to group, and each group starts from
    the state that it has left. Gradients flow through it: same numbers as `PlainReviewLSTM`, to rounding.
    """

    def __init__(self, vocabulary: int, hidden: int, embedding: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary + 1, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2, batch_first=True)
        self.linear = nn.Linear(hidden, 1)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch"]:
        length = tokens.shape[1]
        words = (tokens != 0).sum(dim=1)
        order = words.argsort(descending=True)
        padding = self.embedding(torch.zeros(1, 1, dtype=torch.long, device=tokens.device))
        state: tuple[Tensor, Tensor] | None = None
        done, last = 0, []
        for group in order.tensor_split(min(GROUPS, len(order))):
            start = length - max(1, int(words[group].max()))
            if start > done:
                _, state = self.lstm(padding.expand(1, start - done, -1), state)
                done = start
            shared = None
            if state is not None:
                shared = tuple(s.expand(-1, len(group), -1).contiguous() for s in state)
            outputs, _ = self.lstm(self.embedding(tokens[group, start:]), shared)
            last.append(outputs[:, -1])
        return self.linear(torch.cat(last))[order.argsort(), 0]


class PlainReviewLSTM(ReviewLSTM):
    """The plain form: nn.LSTM over the padded batch."""

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch"]:
        outputs, _ = self.lstm(self.embedding(tokens))
        return self.linear(outputs[:, -1])[:, 0]


class CarryingReviewLSTM(ReviewLSTM):
    """As published: each row of a training batch starts from the state that the same row of the batch before has left.

    The first batch of an epoch starts from zero, and so does whatever is evaluated. Gradients end at the batch. Padding
    has no state to share here: the padded batch is run as it is.
    """

    carried: Tensor
    batches: Tensor

    def __init__(self, vocabulary: int, hidden: int, embedding: int = 64, *, batch: int, n_train: int) -> None:
        super().__init__(vocabulary, hidden, embedding)
        self.batch, self.n_train = batch, n_train
        self.register_buffer("carried", torch.zeros(2, 2, batch, hidden))  # (hidden and cell, layer, row, unit)
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))  # seen in training

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch"]:
        if not self.training:
            return super().forward(tokens)
        start = int(self.batches) * self.batch
        first = start // self.n_train != (start - self.batch) // self.n_train
        before = torch.zeros_like(self.carried) if first else self.carried.clone()
        outputs, after = self.lstm(self.embedding(tokens), (before[0], before[1]))
        with torch.no_grad():
            self.carried.copy_(torch.stack(after))
            self.batches.add_(1)
        return self.linear(outputs[:, -1])[:, 0]
