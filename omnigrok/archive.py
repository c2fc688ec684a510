"""A store in one file: results, weights where they are wanted, sidecars and specs, with a manifest of checksums.

A zip archive whose members are stored as they are (Parquet is compressed already), in the order of their names and
without their dates: of the same store the same bytes. It is read without executing anything: member names are of a few
known forms, sizes and checksums are the manifest's, a table is verified as those of a store are, weights are sealed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from omnigrok import __version__, sealed
from omnigrok.errors import CorruptFileError, NewerFileError, OmnigrokError, first_line
from omnigrok.files import atomic, file_sha256, holding, make_folder, reading
from omnigrok.store import read_run, run_files

FORMAT = 1
MANIFEST, SPECS = "manifest.json", "specs.json"
LONGEST_MANIFEST = 2**26
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
FORMS = {
    "run": re.compile(rf"runs/(?P<task>{NAME})/(?P<run>[0-9a-f]{{16}})\.parquet"),
    "weights": re.compile(rf"weights/(?P<task>{NAME})/(?P<run>[0-9a-f]{{16}})\.pt"),
    "figure": re.compile(rf"figures/(?P<file>{NAME}\.(?:json|csv))"),
    "specs": re.compile(re.escape(SPECS)),
}
"""All that an archive may hold beside its manifest."""


@dataclass(frozen=True)
class Imported:
    """What an import did: runs, weights and figures' files that are new, and those that were there already."""

    new: int
    known: int


def export_store(
    root: Path, path: Path, *, tasks: Collection[str] = (), weights: bool = False, figures: Path | None = None
) -> int:
    """Write the sound runs of a store into a new archive; returns how many.

    Args:
        tasks: whose runs; of all where it is empty.
        weights: the weights too that runs have kept.
        figures: a folder of which the sidecars and tables go along.

    Raises:
        OmnigrokError: the archive is there already, there are no runs, or one is damaged.
    """
    if path.exists():
        raise OmnigrokError(f"{path} is there already: take another name")
    runs = [each for each in run_files(root) if not tasks or each.parent.name in tasks]
    if not runs:
        raise OmnigrokError(f"there are no runs in {root}" + (f" of {', '.join(tasks)}" if tasks else ""))
    members = {f"runs/{each.parent.name}/{each.name}": each for each in runs}
    if weights:
        kept = [each.parent / "weights" / f"{each.stem}.pt" for each in runs]
        members |= {f"weights/{each.parent.parent.name}/{each.name}": each for each in kept if each.is_file()}
    if figures is not None:
        found = [*figures.glob("*.json"), *figures.glob("*.csv")]
        members |= {f"figures/{each.name}": each for each in found if FORMS["figure"].fullmatch(f"figures/{each.name}")}
    specs = {each.stem: read_run(each)[1]["spec"] for each in runs}
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        files = {SPECS: _add(archive, SPECS, json.dumps(specs, indent=1, sort_keys=True).encode())}
        for name, each in sorted(members.items()):
            with reading(each):
                files[name] = _add(archive, name, each.read_bytes())
        manifest = {"format": FORMAT, "omnigrok": __version__, "files": files}
        _add(archive, MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    return len(runs)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> dict[str, Any]:
    """Write a member; returns what the manifest says of it."""
    archive.writestr(zipfile.ZipInfo(name), content)  # of 1980, whenever it is written
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def import_store(path: Path, root: Path, *, figures: Path | None = None) -> Imported:
    """Take an archive's runs and weights into a store. All is verified before the first is moved in.

    A sound run that the store has is kept as it is; a damaged one is set aside.

    Args:
        figures: a folder for the sidecars and tables, of which none is written over.

    Raises:
        CorruptFileError: the archive is damaged, or holds what none does.
        OmnigrokError: it cannot be read, a newer version wrote it, or the store cannot be written to.
    """
    make_folder(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=".import-") as temporary:
        folder = Path(temporary)
        with _opened(path) as archive:
            files = _manifest(archive, path)
            for name, said in files.items():
                _extract(archive, path, name, said, folder)
        new = known = 0
        for name in sorted(files, reverse=True):  # weights before the table that says that they are there
            if (target := _target(name, root, figures)) is not None:
                done = _move(folder / name, target)
                new, known = new + done, known + (not done)
    return Imported(new, known)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever is wrong with its bytes is one line."""
    try:
        with reading(path), path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            yield archive
    except FileNotFoundError as error:
        raise OmnigrokError(f"there is no file {path}") from error
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, NotImplementedError, EOFError, RuntimeError) as error:
        raise CorruptFileError(f"{path} is no sound archive ({first_line(error)})") from error


def _manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of each file, once the members are known to be these and of the known forms."""
    members = archive.infolist()
    if archive.getinfo(MANIFEST).file_size > LONGEST_MANIFEST:
        raise CorruptFileError(f"{path} is no sound archive (its manifest is too long)")
    manifest = json.loads(_content(archive, MANIFEST))
    if (number := int(manifest["format"])) > FORMAT:
        raise NewerFileError(path, number, FORMAT)
    files: dict[str, dict[str, Any]] = manifest["files"]
    for member in members:
        known = member.filename == MANIFEST or any(form.fullmatch(member.filename) for form in FORMS.values())
        if not known or member.compress_type != zipfile.ZIP_STORED:
            raise CorruptFileError(f"{path} holds {member.filename!r}, which no archive of a store does")
    if sorted(member.filename for member in members) != sorted([*files, MANIFEST]):
        raise CorruptFileError(f"{path} does not hold the files that its manifest names")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CorruptFileError(f"{path} claims to hold more than its own length")
    for member in members:
        if member.filename != MANIFEST and member.file_size != files[member.filename]["bytes"]:
            raise CorruptFileError(f"{member.filename} of {path} is not as long as the manifest says")
    return files


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    return archive.read(name)


def _extract(archive: zipfile.ZipFile, path: Path, name: str, said: dict[str, Any], folder: Path) -> None:
    """Put a member into a folder and verify it: its checksum, and that it is what its name says."""
    place = folder / name
    archive.extract(name, folder)
    if file_sha256(place) != said["sha256"]:
        raise CorruptFileError(f"{name} of {path} is damaged (its content differs from its checksum)")
    if match := FORMS["run"].fullmatch(name):
        table, run, _ = read_run(place)
        if set(table["task"]) != {match["task"]} or run["spec"].get("task") != match["task"]:
            raise CorruptFileError(f"{name} of {path} is a run of another task")
    elif match := FORMS["weights"].fullmatch(name):
        sealed.load(place, "weights", match["run"], "meta")


def _target(name: str, root: Path, figures: Path | None) -> Path | None:
    """Where a member goes; None: nowhere."""
    if match := FORMS["run"].fullmatch(name):
        return root / match["task"] / f"{match['run']}.parquet"
    if match := FORMS["weights"].fullmatch(name):
        return root / match["task"] / "weights" / f"{match['run']}.pt"
    if (match := FORMS["figure"].fullmatch(name)) and figures is not None:
        return figures / match["file"]
    return None


def _move(source: Path, target: Path) -> bool:
    """Move a verified file to its place, where nothing sound lies yet; whether it did."""
    make_folder(target.parent)
    task = target.parent.parent if target.suffix == ".pt" else target.parent
    stored = target.suffix in (".parquet", ".pt")
    with contextlib.ExitStack() as locks:
        if stored:
            make_folder(task / "locks")
            locks.enter_context(holding(filelock.FileLock(task / "locks" / target.stem)))
        if target.exists():
            if not stored or _sound(target):
                return False
            os.replace(target, target.with_suffix(".corrupt"))
        os.replace(source, target)
    return True


def _sound(path: Path) -> bool:
    try:
        if path.suffix == ".parquet":
            read_run(path)
        else:
            sealed.load(path, "weights", path.stem, "meta")
    except CorruptFileError:
        return False
    return True
