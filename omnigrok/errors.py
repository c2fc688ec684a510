"""Errors that the user can act on. The command line prints them as one line and ends with status 2."""

from __future__ import annotations

from pathlib import Path


class OmnigrokError(Exception):
    """The message is one line and says what to do."""


class SpecError(OmnigrokError, ValueError):
    """A run specification that cannot be trained."""


class CannotBatchError(SpecError):
    """Runs of a task can be trained one by one, not in a batch: `reason` says why."""

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(
            f"the runs of {task} cannot be trained in a batch: {reason}; set batchable = False in its task"
        )
        self.reason = reason


class DataUnavailableError(OmnigrokError):
    """No source could deliver a dataset. The message names the files and where to put them."""


class CorruptFileError(OmnigrokError):
    """A stored or downloaded file is not what its checksum says. The message names it."""


class NewerFileError(OmnigrokError):
    """A stored file of a format that this version does not know. It is left as it is."""

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(
            f"{path} was written by a newer version of omnigrok (format {found}, this one reads up to {known}): "
            "update omnigrok, or name another folder"
        )


def first_line(error: BaseException) -> str:
    """What another library's error says, as part of a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
