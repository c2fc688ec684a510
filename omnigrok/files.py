"""Files that are whole or not there: atomic writes, checksums, locks, and one line where the system refuses."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from omnigrok.errors import OmnigrokError, first_line

LEFTOVER_SECONDS = 24 * 3600.0
"""A temporary file of that age was left by a process that was killed."""


def expanded(path: Path | str) -> Path:
    """A path that a user gives, with ~ and ~user as their folders, whichever way it comes: no shell expands them in
    ``--results=~/x``, in a variable's value or in Python.

    Raises:
        OmnigrokError: there is no such user, or no home.
    """
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise OmnigrokError(
            f"{path}: {path.parts[0]} is the folder of no known user here; write the whole path"
        ) from error


def open_closed_streams() -> None:
    """Have standard input, output and error lead nowhere where they are closed, as a service's may be.

    Otherwise the next files that are opened, a run's among them, take their numbers, and so what libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  as long as the process


def make_folder(folder: Path) -> None:
    """Create a folder; one that cannot be created or written to ends in one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OmnigrokError(f"cannot write to {folder}: {error.strerror}") from error


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system has against reading a file (no descriptor left, no permission, a network file system's error) is
    one line: it says nothing of the content. A file that is not there stays a FileNotFoundError.

    Raises:
        FileNotFoundError: there is no such file.
        OmnigrokError: the system does not let it be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OmnigrokError(f"cannot read {path}: {error.strerror or first_line(error)}") from error


@contextlib.contextmanager
def holding(lock: filelock.BaseFileLock, *, blocking: bool = True) -> Iterator[None]:
    """Hold a lock that only one process of the machine can hold; the system frees it however a process ends.

    Raises:
        filelock.Timeout: another process holds it (without `blocking`).
        OmnigrokError: its file cannot be opened, or is a link.
    """
    try:
        lock.acquire(blocking=blocking)
    except filelock.Timeout:
        raise
    except OSError as error:
        raise OmnigrokError(f"cannot lock {lock.lock_file}: {error.strerror or first_line(error)}") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def atomic(path: Path, *, locked: bool = False) -> Iterator[Path]:
    """A new, empty file beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    Its name is a new one and no link is followed, so nothing that lies in the folder is written to. What a process left
    that was killed while it wrote `path` is removed: with `locked`, when no other process writes it, at once, otherwise
    after a day.

    Raises:
        OmnigrokError: the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path, 0.0 if locked else LEFTOVER_SECONDS)
        exclusive = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        os.close(os.open(temporary, exclusive, 0o666))  # the umask takes what it takes
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save raises a RuntimeError when the disk is full
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        advice = "the disk is full: free some space and run the same command again" if full else first_line(error)
        raise OmnigrokError(f"cannot write {path}: {advice}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_leftovers(path: Path, age: float) -> None:
    start, end = f".{path.name}.", ".tmp"
    for other in path.parent.iterdir():  # not glob: a name may hold its signs
        name = other.name
        if name.startswith(start) and name.endswith(end) and len(name) == len(start) + 12 + len(end):
            with contextlib.suppress(OSError):  # another process may remove it, too
                if time.time() - other.lstat().st_mtime >= age:
                    other.unlink()
