"""CIFAR-10 and a convolutional network without normalisation (Humayun et al. 2024, Fig. 1, 6 and 12)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from omnigrok.errors import SpecError
from omnigrok.spec import RunSpec
from omnigrok.task import Task, TaskData, Thresholds
from tasks.cifar10_data import DATASET, read

MEAN, STD = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)  # published, of pixels in 0..255
NETWORKS = ("cnn", "resnet18")


class CIFAR10(Task):
    """Images in [0, 1], which the network normalises itself: a radius of an attack is in pixels. Cross-entropy.

    Published (Fig. 1): pre-activation ResNet18 of width 16 without batch normalisation, all 50,000 images, no weight
    decay; lr 1e-3, AdamW, batches of 256 and 500,000 steps are the code's. network=cnn (Fig. 6) is five convolutions
    and two linear layers whose first convolution has `width` channels: the paper does not state them. batch_norm puts a
    batch normalisation before every ReLU (Fig. 12: after each convolution).
    """

    name = "cifar10"
    display_name = "CIFAR-10"
    citation = "Humayun et al. 2024, Fig. 1; Krizhevsky 2009"
    dataset = DATASET
    batchable = False  # a batch of runs is one grouped convolution, which is slower on a processor
    spec = RunSpec(
        task=name,
        n_train=50_000,
        steps=500_000,
        lr=1e-3,
        batch_size=256,
        evaluation_density=1,
        options=(("network", "resnet18"),),
    )
    optional: ClassVar[dict[str, object]] = {"width": 16, "batch_norm": False}
    thresholds = Thresholds(metric="accuracy", train=0.99, test=0.6)

    def load(self, spec: RunSpec) -> TaskData:
        folder = DATASET.fetch()

        def tensors(split: str) -> tuple[tuple[Tensor], Tensor]:
            images, labels = read(folder, split)
            return (torch.from_numpy(images).to(spec.torch_dtype).div_(255),), torch.from_numpy(labels).long()

        return TaskData(*tensors("train"), *tensors("test"), source=DATASET.source())

    def model(self, spec: RunSpec) -> nn.Module:
        network, width = spec.option("network"), spec.option("width", 16)
        if network not in NETWORKS:
            raise SpecError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
        build = cnn if network == "cnn" else resnet18
        return nn.Sequential(Normalize(), build(width, spec.option("batch_norm", False)))

    def loss(self, outputs: Float[Tensor, "batch 10"], targets: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        return F.cross_entropy(outputs, targets, reduction="none")

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (outputs.argmax(dim=1) == targets).to(outputs.dtype)}


class Normalize(nn.Module):
    """Pixels in [0, 1] less their mean over their standard deviation, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).div(255).view(3, 1, 1))

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
        return (images - self.mean) / self.std


def norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


def cnn(width: int, batch_norm: bool) -> nn.Sequential:
    """Five 3 x 3 convolutions, of which three halve the picture, and two linear layers."""
    channels = (3, width, 2 * width, 2 * width, 4 * width, 4 * width)
    layers: list[nn.Module] = []
    for i, stride in enumerate((2, 2, 1, 2, 1)):
        layers += [
            nn.Conv2d(channels[i], channels[i + 1], 3, stride, padding=1),
            norm(channels[i + 1], batch_norm),
            nn.ReLU(),
        ]
    head = [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, 8 * width), nn.ReLU(), nn.Linear(8 * width, 10)]
    return nn.Sequential(*layers, *head)


def resnet18(width: int, batch_norm: bool) -> nn.Sequential:
    """The pre-activation ResNet18, convolutions without bias, nothing between the last block and the pooling."""
    blocks: list[nn.Module] = []
    inside = width
    for channels, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        blocks += [Block(inside, channels, stride, batch_norm), Block(channels, channels, 1, batch_norm)]
        inside = channels
    first = nn.Conv2d(3, width, 3, padding=1, bias=False)
    return nn.Sequential(first, *blocks, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8 * width, 10))


class Block(nn.Module):
    """Normalise, ReLU, convolve, twice; the shortcut of a block that changes the shape leaves after the first ReLU."""

    def __init__(self, inside: int, channels: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.norm1, self.relu1 = norm(inside, batch_norm), nn.ReLU()
        self.conv1 = nn.Conv2d(inside, channels, 3, stride, padding=1, bias=False)
        self.norm2, self.relu2 = norm(channels, batch_norm), nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        changes = stride != 1 or inside != channels
        self.shortcut = nn.Conv2d(inside, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(self.relu2(self.norm2(self.conv1(active)))) + skip
