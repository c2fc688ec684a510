"""Tensors in a file that vouches for itself: what `torch.save` writes, with a seal in the archive's comment.

The seal says the format, the kind of content and whose it is, and ends with the SHA-256 of all bytes before it. A file
is unpickled only after its seal has been checked. `torch.load` reads such a file as it is, and looks at no seal.

The seal itself is the same in all formats, so a file of a newer one is known for what it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from omnigrok.errors import CorruptFileError, NewerFileError, OmnigrokError, first_line
from omnigrok.files import atomic, reading

FORMAT = 1
T = TypeVar("T")
MARK = b"omnigrok seal "
DIGEST = 64
LONGEST = 1024
"""Bytes of a seal, at most; a zip archive's comment has 65,535."""


def save(path: Path, content: Any, kind: str, owner: str, *, locked: bool = False) -> None:
    """Write tensors (in dicts, lists, with numbers and text) whole or not at all.

    Args:
        kind: what the content is ("checkpoint"), and `owner` whose: `load` asks for both.
        locked: no other process writes this path.

    Raises:
        OmnigrokError: the disk is full or the folder cannot be written to.
    """
    said = MARK + json.dumps({"format": FORMAT, "kind": kind, "owner": owner}).encode() + b" "
    assert len(said) + DIGEST <= LONGEST
    with atomic(path, locked=locked) as temporary:
        torch.save(content, temporary)
        with temporary.open("r+b") as stream:
            stream.seek(-2, os.SEEK_END)  # an archive ends with the length of its comment: none
            if stream.read() != b"\0\0":
                raise OmnigrokError(f"torch wrote {path} as no archive that can be sealed: install another torch")
            stream.seek(-2, os.SEEK_END)
            stream.write((len(said) + DIGEST).to_bytes(2, "little") + said)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0, os.SEEK_END)
            stream.write(digest.encode())


def load(path: Path, kind: str, owner: str, device: str = "cpu") -> Any:
    """The content of a sealed file.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: the file is damaged, or is not this owner's.
        OmnigrokError: the system does not let it be read, a newer version wrote it, or the device has no room for it.
    """
    with reading(path), path.open("rb") as stream:  # what is read is what was checked, also when it is written anew
        said = _seal(path, stream)
        if said["format"] > FORMAT:
            raise NewerFileError(path, said["format"], FORMAT)
        if (said["kind"], said["owner"]) != (kind, owner):
            raise CorruptFileError(f"{path} is damaged (it is not the {kind} that belongs there)")
        stream.seek(0)
        try:
            return torch.load(stream, map_location=device, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # its bytes are those that were written
            raise OmnigrokError(f"cannot load {path} to {device}: {first_line(error)}") from error


def check(path: Path) -> None:
    """Raises CorruptFileError where a file differs from its seal; one without a seal passes."""
    with reading(path), path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - LONGEST))
        if MARK in stream.read():
            _seal(path, stream)


def cached(path: Path, kind: str, owner: str, make: Callable[[], T]) -> T:
    """The content of a sealed file that can be made again, as it is where it is not there or, with a warning, damaged.

    It is kept where the folder can be written to. Other errors as of `load`.
    """
    try:
        content: T = load(path, kind, owner)
        return content
    except FileNotFoundError:
        pass
    except CorruptFileError as error:
        warnings.warn(f"{error}; it is made again", stacklevel=2)
    made = make()
    with contextlib.suppress(OmnigrokError):  # a shared folder may be read-only
        save(path, made, kind, owner)
    return made


def _seal(path: Path, stream: IO[bytes]) -> dict[str, Any]:
    """What the seal says, once it is checked against all bytes before its digest."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - LONGEST))
    end = stream.read()
    stream.seek(0)
    digest = hashlib.sha256()
    left = size - DIGEST
    while left > 0 and (block := stream.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    if size < DIGEST or digest.hexdigest().encode() != end[-DIGEST:] or MARK not in end:
        raise CorruptFileError(f"{path} is damaged (its content differs from its checksum, or it has none)")
    said: dict[str, Any] = json.loads(end[end.rindex(MARK) + len(MARK) : -DIGEST])
    return said
