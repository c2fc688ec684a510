"""Whether worker processes can be given runs: they import the classes of a run's parts by name, from files."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omnigrok.errors import OmnigrokError, first_line
from omnigrok.spec import RunSpec

ADVICE = "put it into a file that can be imported (my_parts.py), or train with workers=1"


def check_sendable(specs: Iterable[RunSpec]) -> None:
    """Raises OmnigrokError where new processes could not be started, or not be given these runs: what they lack."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # said by a worker that is being started
        raise OmnigrokError("put what this program does under `if __name__ == '__main__':`, as each worker imports it")
    found = _Names()
    for spec in specs:
        try:
            found.dump(spec)
        except Exception as error:
            raise OmnigrokError(
                f"runs of {spec.task} cannot be sent to other processes ({first_line(error)}): {ADVICE}"
            ) from error
    main = sys.modules["__main__"]
    place = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is None and place is not None and not Path(place).is_file():
        raise OmnigrokError(
            "other processes cannot import this program, which was read from standard input: save it as a file, or "
            "train with workers=1"
        )
    for thing in found.seen:
        if not _importable(thing.__module__):
            raise OmnigrokError(f"other processes cannot import {thing.__qualname__}: {ADVICE}")


class _Names(pickle.Pickler):
    """Notes the classes and functions that a pickle says by name alone."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.seen: dict[Any, None] = {}

    def reducer_override(self, thing: Any) -> Any:
        if hasattr(thing, "__qualname__") and hasattr(thing, "__module__"):
            self.seen[thing] = None
        return NotImplemented


def _importable(module: str | None) -> bool:
    """Whether a new process with this one's paths finds a module of that name."""
    if module == "__main__":  # is run again from its file, where it has one: a notebook has none
        main = sys.modules[module]
        return getattr(main, "__spec__", None) is not None or hasattr(main, "__file__")
    name = (module or "builtins").partition(".")[0]
    return name in sys.builtin_module_names or any(finder.find_spec(name, None) is not None for finder in sys.meta_path)
