"""MNIST as the published code serves it (Liu et al. 2023, Fig. 3), for `omnigrok bench`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from omnigrok.published import Published
from omnigrok.spec import RunSpec
from tasks.mnist_data import DATASET, read_idx


@dataclass(frozen=True)
class PublishedMNIST(Published):
    """A DataLoader over PIL images."""

    def loader(self, spec: RunSpec, split: str, n: int, generator: torch.Generator) -> DataLoader:
        images, labels = read_idx(DATASET.fetch(), "train" if split == "train" else "t10k")
        examples = PublishedExamples(images[:n], labels[:n])
        size, shuffle = spec.effective_batch_size, split == "train"
        return DataLoader(examples, batch_size=size, shuffle=shuffle, generator=generator)


class PublishedExamples(Dataset):
    """Images as the published code serves them: a PIL image and ToTensor for each sample."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        from torchvision import transforms

        self.images, self.labels = images, labels
        self.transform = transforms.ToTensor()
        self.one_hot = torch.eye(10)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        image = Image.fromarray(self.images[i].reshape(28, 28), mode="L")
        return self.transform(image).flatten(), self.one_hot[self.labels[i]]
