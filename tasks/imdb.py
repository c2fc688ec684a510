"""Sentiment of film reviews with an LSTM (Liu et al. 2023, Fig. 4)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from omnigrok.errors import SpecError
from omnigrok.gradients import Clip
from omnigrok.published import Published
from omnigrok.spec import RunSpec, generator
from omnigrok.task import Task, TaskData, Thresholds
from tasks.imdb_data import DATASET, encode, read_canonical, vocabulary
from tasks.lstm import CarryingReviewLSTM, PlainReviewLSTM, ReviewLSTM

TEST = 2_000  # reviews held out of the official train split


class IMDb(Task):
    """Reviews as the 1,000 most frequent words of the training part, left-padded to 500; a two-layer LSTM.

    Published (code of Fig. 4): the first 1,000 reviews, 750 for training and 250 for the test; embedding 64, LSTM 256,
    sigmoid and binary cross-entropy at the last step, gradients clipped at norm 5, AdamW lr 3e-4, batches of 50 (the
    text's appendix A says LSTM 128 and Adam with lr 1e-3). Grokking run: alpha = 6, weight decay 1, 75,000 steps. Here
    the test set has 2,000 reviews held out of the official train split, because 250 leave a standard error of 0.03. The
    published code carries the hidden state from batch to batch within an epoch; here every batch starts from zero,
    unless the option carry_state says otherwise.
    """

    name = "imdb"
    display_name = "IMDb"
    citation = "Liu et al. 2023, Fig. 4; Maas et al. 2011"
    dataset = DATASET
    data_depends_on_n_train = True  # the vocabulary is that of the training part
    evaluation_chunk = TEST  # a recurrent network wants few, wide calls
    batchable = False  # nn.LSTM has no batching rule, and a hand-written batched cell is slower on a CPU
    spec = RunSpec(
        task=name,
        n_train=750,
        steps=75_000,
        lr=3e-4,
        alpha=6.0,
        weight_decay=1.0,
        batch_size=50,
        gradient=(Clip(5.0),),
        evaluation_density=2,
        options=(("hidden", 256), ("length", 500), ("stop_words", True), ("vocabulary", 1000)),
    )
    optional: ClassVar[dict[str, object]] = {"carry_state": False}
    published = Published(every=1, test=50)  # one random test batch a step
    thresholds = Thresholds(metric="accuracy", train=0.95, test=0.6)

    def load(self, spec: RunSpec) -> TaskData:
        reviews = read_canonical(DATASET.fetch() / "imdb-train.jsonl")
        classes = []
        for label in (0, 1):  # a random order within each class, then classes in turn: every prefix is balanced
            texts = [text for found, text in reviews if found == label]
            order = torch.randperm(len(texts), generator=generator(spec.data_seed, "reviews", label))
            classes.append([(label, texts[i]) for i in order.tolist()])
        mixed = [review for pair in zip(*classes, strict=False) for review in pair]
        test, pool = mixed[:TEST], mixed[TEST:]
        if spec.n_train > len(pool):
            raise SpecError(f"n_train {spec.n_train} is more than the {len(pool)} training examples of {self.name}")
        train = pool[: spec.n_train]
        known = vocabulary((text for _, text in train), spec.option("vocabulary"), spec.option("stop_words"))

        def tensors(part: list[tuple[int, str]]) -> tuple[tuple[Tensor], Tensor]:
            tokens = encode([text for _, text in part], known, spec.option("length"))
            return (tokens,), torch.tensor([label for label, _ in part], dtype=spec.torch_dtype)

        return TaskData(*tensors(train), *tensors(test), source=DATASET.source())

    def model(self, spec: RunSpec) -> nn.Module:
        sizes = spec.option("vocabulary"), spec.option("hidden")
        if spec.option("carry_state", False):
            return CarryingReviewLSTM(*sizes, batch=spec.effective_batch_size, n_train=spec.n_train)
        return ReviewLSTM(*sizes)

    def reference_model(self, spec: RunSpec) -> nn.Module:
        if spec.option("carry_state", False):
            return self.model(spec)
        return PlainReviewLSTM(spec.option("vocabulary"), spec.option("hidden"))

    def configuration(self, spec: RunSpec) -> str:
        return f"hidden {spec.option('hidden')}, {spec.option('length')} tokens"

    def landscape(self, preset: str) -> RunSpec:
        """Published: Adam, lr 1e-3, 50,000 / N epochs of 1,000 reviews. The default is a smaller network."""
        hidden, length, steps = {"quick": (8, 40, 5), "default": (32, 100, 300), "paper": (256, 500, 750)}[preset]
        return self.spec.replace(
            alpha=1.0,
            optimizer="adam",
            lr=1e-3,
            weight_decay=0.0,
            sphere=True,
            steps=steps,
            evaluation_density=0,
            options=(("hidden", hidden), ("length", length), ("stop_words", True), ("vocabulary", 1000)),
        )

    def loss(self, outputs: Float[Tensor, "batch"], targets: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": ((outputs > 0) == (targets > 0.5)).to(outputs.dtype)}
