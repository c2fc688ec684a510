"""Fetching and verifying, on small files; the real mirrors at the end."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import tarfile
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from omnigrok import DataUnavailableError, OmnigrokError
from omnigrok.data import (
    ArchiveSource,
    Dataset,
    File,
    FolderSource,
    HttpSource,
    NpmSource,
    PipSource,
    cache_root,
    load_arrays,
)
from omnigrok.errors import CorruptFileError
from tasks import cifar10_data, imdb_data, qm9_data
from tasks.mnist import MNIST
from tasks.mnist_data import FILES, from_npm, from_wheel

CONTENT = {"a.bin": b"first file" * 100, "b.bin": b"second" * 50}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIGROK_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def good(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    (folder / "a.bin").write_bytes(CONTENT["a.bin"])
    (folder / "b.bin.gz").write_bytes(gzip.compress(CONTENT["b.bin"]))
    return folder


def dataset(*sources):
    files = tuple(File(name, len(c), hashlib.sha256(c).hexdigest()) for name, c in CONTENT.items())
    return Dataset("small", "Small set", "nobody", files, sources)


class Refusing:
    name = "a refusing server"

    def fetch(self, files, into):
        (into / files[0].name).write_bytes(b"half")
        raise ConnectionError("refused\nand more lines")


class Wrong:
    name = "a wrong mirror"

    def fetch(self, files, into):
        for f in files:
            (into / f.name).write_bytes(bytes(f.size))


def test_sources_are_tried_in_order_and_what_failed_leaves_nothing(good, cache):
    data = dataset(Refusing(), Wrong(), FolderSource(good))
    folder = data.fetch()
    assert folder == cache / "small"
    assert (folder / "b.bin").read_bytes() == CONTENT["b.bin"]
    assert data.source() == "a local folder"
    assert {p.name for p in folder.iterdir()} <= {"a.bin", "b.bin", "source.json", ".lock"}
    broken = replace(data, sources=())
    assert broken.fetch() == folder  # from the cache, without a source


def test_no_source_ends_in_one_line_that_names_files_and_place():
    with pytest.raises(DataUnavailableError) as error:
        dataset(Refusing(), Wrong()).fetch()
    message = str(error.value)
    assert "\n" not in message
    for part in ("a.bin", "b.bin", "a refusing server: refused", "a wrong mirror", "omnigrok data fetch small --from"):
        assert part in message


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: b"X" + c[1:], lambda c: CONTENT["a.bin"], lambda c: b""]
)
def test_a_truncated_altered_or_swapped_file_is_named_and_never_used(good, change):
    data = dataset(FolderSource(good))
    folder = data.fetch()
    (folder / "b.bin").write_bytes(change(CONTENT["b.bin"]))
    with pytest.raises(CorruptFileError, match=r"b\.bin"):
        data.fetch()
    (good / "a.bin").write_bytes(change(CONTENT["a.bin"]) if change(b"ab") != CONTENT["a.bin"] else b"swapped")
    with pytest.raises(CorruptFileError, match=r"a\.bin"):
        dataset().fetch(good)


def test_a_damaged_archive_is_named(good):
    (good / "b.bin.gz").write_bytes(gzip.compress(CONTENT["b.bin"])[:-9])
    with pytest.raises(CorruptFileError, match=r"b\.bin\.gz is damaged"):
        dataset().fetch(good)


def test_the_users_folder_comes_first_and_must_be_complete(good, tmp_path):
    assert dataset(Wrong()).fetch(good).name == "small"
    with pytest.raises(DataUnavailableError, match="is not there"):
        dataset().fetch(tmp_path)


def test_the_checksum_of_a_dataset_depends_on_its_files_only(good):
    assert dataset().sha256 == dataset(Refusing()).sha256
    assert dataset().sha256 != replace(dataset(), files=dataset().files[:1]).sha256


def test_an_unwritable_cache_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OMNIGROK_DATA", str(tmp_path / "file"))
    with pytest.raises(OmnigrokError, match="cannot write to"):
        dataset().fetch()


def test_the_platforms_cache_folder_is_the_default(monkeypatch):
    monkeypatch.delenv("OMNIGROK_DATA")
    assert cache_root().name == "omnigrok"


@pytest.fixture
def address(tmp_path):
    """A server of the test's folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_http_source_unpacks_what_the_publisher_serves(tmp_path, address):
    for name, content in CONTENT.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert (dataset(HttpSource(address)).fetch() / "a.bin").read_bytes() == CONTENT["a.bin"]
    with pytest.raises(DataUnavailableError, match="404"):
        replace(dataset(HttpSource(f"{address}/nowhere")), name="other").fetch()


def archive(path, members):
    with tarfile.open(path, "w:gz") as package:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))


def test_archive_source_hands_over_its_downloads_in_order(tmp_path, address):
    archive(tmp_path / "one.tar.gz", {"a.bin": CONTENT["a.bin"]})
    (tmp_path / "two.bin").write_bytes(CONTENT["b.bin"])

    def extract(packed, plain, into):
        with tarfile.open(packed) as members:
            (into / "a.bin").write_bytes(members.extractfile("a.bin").read())
        shutil.copy(plain, into / "b.bin")

    data = dataset(ArchiveSource((f"{address}/one.tar.gz", f"{address}/two.bin"), extract))
    assert (data.fetch() / "b.bin").read_bytes() == CONTENT["b.bin"]
    assert data.source().startswith("the publisher (127.0.0.1")


def test_imdb_from_the_publisher_is_the_train_half_without_duplicates(tmp_path):
    texts = {"train/pos/1_9": "Fine, très fine", "train/neg/2_1": "Bad", "train/neg/3_1": "Bad", "train/unsup/4_0": "?"}
    members = {f"aclImdb/{name}.txt": text.encode() for name, text in (texts | {"test/pos/0_9": "unseen"}).items()}
    archive(tmp_path / "reviews.tar.gz", members)
    imdb_data.from_archive(tmp_path / "reviews.tar.gz", tmp_path)
    assert imdb_data.read_canonical(tmp_path / "imdb-train.jsonl") == [(0, "Bad"), (1, "Fine, très fine")]


def test_cifar10_from_the_publisher_is_its_binary_files(tmp_path):
    content = {f"cifar-10-batches-bin/{f.name}": f.name.encode() for f in cifar10_data.FILES}
    archive(tmp_path / "cifar.tar.gz", content | {"cifar-10-batches-bin/readme.html": b""})
    cifar10_data.from_archive(tmp_path / "cifar.tar.gz", tmp_path)
    for f in cifar10_data.FILES:
        assert (tmp_path / f.name).read_bytes() == f.name.encode()


def test_qm9_from_the_publisher_leaves_out_the_uncharacterised(tmp_path):
    def xyz(index, smiles, targets):
        numbers = "\t".join(map(str, [157.7, 157.7, 157.7, *targets]))
        return f"1\ngdb {index}\t{numbers}\t\nC 0 0 0 -0.5\n1341.3\n{smiles}\tother\nInChI=1\tInChI=2\n".encode()

    targets = [float(i) for i in range(12)]
    members = {f"dsgdb9nsd_{i:06d}.xyz": xyz(i, s, targets) for i, s in ((3, "O"), (1, "C"), (2, "N"))}
    archive(tmp_path / "molecules.tar.bz2", members)
    (tmp_path / "list.txt").write_text("Index  reason\n\n2 N distorted\n")
    qm9_data.from_archive(tmp_path / "molecules.tar.bz2", tmp_path / "list.txt", tmp_path)
    found = pd.read_csv(tmp_path / "qm9.csv")
    assert found["index"].tolist() == [1, 3]
    assert found[list(qm9_data.TARGETS)].to_numpy().tolist() == [targets] * 2


def test_registry_sources_report_their_client_in_one_line():
    for source in (
        PipSource("no-such-package-omnigrok-test", "0.0.1", "0" * 64, lambda a, b: None),
        NpmSource("no-such-package-omnigrok-test", "0.0.1", "sha512-x", lambda a, b: None),
    ):
        with pytest.raises(DataUnavailableError) as error:
            dataset(source).fetch()
        assert "\n" not in str(error.value)


def test_arrays_are_unpickled_and_nothing_else(tmp_path):
    arrays = ((np.arange(6.0).reshape(2, 3), np.array([1, 2])), [np.zeros(2, dtype="uint8")])
    for protocol in (3, 4):
        path = tmp_path / "arrays.pkl"
        path.write_bytes(pickle.dumps(arrays, protocol=protocol))
        with path.open("rb") as stream:
            loaded = load_arrays(stream)
        assert np.array_equal(loaded[0][0], arrays[0][0])

    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "executed"),)

    for payload in (Evil(), {"x": [np.arange(3), Evil()]}):
        path.write_bytes(pickle.dumps(payload))
        with path.open("rb") as stream, pytest.raises(CorruptFileError, match="refused"):
            load_arrays(stream)
    assert not (tmp_path / "executed").exists()


def test_mnist_from_a_wheel_becomes_the_idx_files(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 784))
    labels = rng.integers(0, 10, 7)
    parts = [((pixels[a:b] / 256).astype("float32"), labels[a:b]) for a, b in ((0, 3), (3, 5), (5, 7))]
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickle.dumps(tuple(parts), protocol=4)))
    from_wheel(tmp_path / "x.whl", tmp_path)
    train = (tmp_path / "train-images-idx3-ubyte").read_bytes()
    assert train[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 28, 0, 0, 0, 28])
    assert train[16:] == pixels[:5].astype("uint8").tobytes()
    assert (tmp_path / "t10k-labels-idx1-ubyte").read_bytes()[8:] == labels[5:].astype("uint8").tobytes()


def test_mnist_from_npm_reads_the_named_members_only(tmp_path):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as package:
        for name in [*(f.name for f in FILES), "../../evil"]:
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = 0
            package.addfile(member)
    (tmp_path / "into").mkdir()
    from_npm(tmp_path / "x.tgz", tmp_path / "into")
    assert sorted(p.name for p in (tmp_path / "into").iterdir()) == sorted(f.name for f in FILES)


@pytest.mark.parametrize("source", MNIST.dataset.sources, ids=lambda source: type(source).__name__)
@pytest.mark.slow
def test_every_source_of_mnist_gives_the_same_bytes(source, tmp_path):
    """Real downloads; a source that does not answer is skipped, one that answers with other bytes fails."""
    try:
        source.fetch(FILES, tmp_path)
    except (OSError, DataUnavailableError) as error:
        pytest.skip(str(error)[:120])
    MNIST.dataset.verify(tmp_path)
