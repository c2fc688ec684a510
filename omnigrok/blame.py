"""An error of the user's own code in one line: the task, the line that failed, and what was said there."""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from omnigrok.errors import OmnigrokError, SpecError, first_line
from omnigrok.task import Task

ENGINE = str(Path(__file__).parent) + os.sep
STANDARD = sysconfig.get_path("stdlib") + os.sep
INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
PASSED_ON = (OmnigrokError, MemoryError, torch.OutOfMemoryError)
"""Errors that say what to do as they are, or whose handlers do."""


@contextlib.contextmanager
def blamed(task: Task, what: str, advice: str = "") -> Iterator[None]:
    """Raises what the task's own code raises as a SpecError that names the task, shows the line, and ends in advice."""
    try:
        yield
    except PASSED_ON:
        raise
    except Exception as error:
        raise explained(task, what, error, advice) from error


def blame(task: Task, error: Exception) -> None:
    """Raises a SpecError where an error came out of a line of the user's own; returns where it did not."""
    if not isinstance(error, PASSED_ON) and own_line(task, error) is not None:
        batched = "; set batchable = False in its task" if "vmap" in str(error) else ""
        raise explained(task, "the code", error, batched) from error


def explained(task: Task, what: str, error: Exception, advice: str = "") -> SpecError:
    """The error as one line."""
    line = own_line(task, error)
    place = "" if line is None else f" at {line.filename}:{line.lineno}" + (f", `{line.line}`" if line.line else "")
    return SpecError(f"{what} of {task.name} failed{place}: {type(error).__name__}: {first_line(error)}{advice}")


def own_line(task: Task, error: Exception) -> traceback.FrameSummary | None:
    """The innermost line of an error that no library has, where it is not the engine's."""
    module = sys.modules.get(type(task).__module__)
    place = getattr(module, "__file__", None)
    folder = None if place is None else str(Path(place).parent) + os.sep
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        name = frame.filename
        if name.startswith(ENGINE):
            return None
        installed = any(part in name for part in INSTALLED)
        standard = name.startswith("<frozen") or (name.startswith(STANDARD) and not installed)
        if not standard and (not installed or (folder is not None and name.startswith(folder))):
            return frame
    return None
