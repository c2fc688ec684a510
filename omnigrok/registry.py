"""Tasks by name, import path or class: those that are installed, and those of the user's own files.

Installed are the tasks of the entry-point group ``omnigrok.tasks``, of whichever package.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from omnigrok.errors import OmnigrokError, first_line
from omnigrok.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterable

ENTRY_POINT_GROUP = "omnigrok.tasks"


def installed_tasks() -> list[Task]:
    """The registered tasks; one that cannot be loaded is named in a warning and left out: it harms no other's use."""
    found = []
    for name in available_tasks():
        try:
            found.append(get_task(name))
        except OmnigrokError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    return found


def available_tasks() -> list[str]:
    """Names of the registered tasks, in alphabetical order. Imports none of them."""
    return sorted(_registered())


def get_task(which: str | type[Task] | Task) -> Task:
    """The task of a name, of an import path such as ``my_file:MyTask``, or a class or instance itself.

    A task that is not installed goes by its own name from then on, in this process and in the workers that it starts.

    Raises:
        OmnigrokError: no such task; the message lists those there are. Or it cannot be imported, or is no task, or has
            an installed one's name.
    """
    if not isinstance(which, str):
        return _own(which() if isinstance(which, type) else which, None, again=isinstance(which, type))
    if ":" in which:
        return _imported(which)
    return _own_tasks[which][0] if which in _own_tasks else _installed(which)


_own_tasks: dict[str, tuple[Task, str | None]] = {}  # by name: the task, and where another process can import it


def _own(task: Task, place: str | None, *, again: bool) -> Task:
    """Let a task go by its name; `again`: an instance of its class that does already is taken instead."""
    kind = type(task)
    missing = [each for each in ("name", "display_name", "citation", "spec", "thresholds") if not hasattr(task, each)]
    if not isinstance(task, Task) or missing:
        what = f"it lacks {', '.join(missing)}" if isinstance(task, Task) else "it is no subclass of omnigrok.Task"
        raise OmnigrokError(f"{kind.__qualname__} is no task: {what}")
    if task.name in _registered():
        if type(_installed(task.name)) is kind:
            return _installed(task.name)
        raise OmnigrokError(f"{kind.__qualname__} has the name of an installed task, {task.name!r}: give it another")
    if task.spec.task != task.name:
        raise OmnigrokError(
            f"the spec of {kind.__qualname__} must be RunSpec(task={task.name!r}, ...), as its name says"
        )
    known = _own_tasks.get(task.name)
    if known is None or type(known[0]) is not kind or not again:
        _own_tasks[task.name] = task, place
    elif place is not None:
        _own_tasks[task.name] = known[0], place
    return _own_tasks[task.name][0]


def _imported(path: str) -> Task:
    """The task of an import path; its module may lie in the working folder."""
    module, _, attribute = path.partition(":")
    module = module.removesuffix(".py").replace("/", ".")
    folder = os.getcwd()
    try:
        _look_in(folder)
        found = importlib.import_module(module)
    except Exception as error:
        raise OmnigrokError(f"{module!r} of {path} cannot be imported: {first_line(error)}") from error
    if not hasattr(found, attribute):
        raise OmnigrokError(f"there is no {attribute!r} in {module} ({found.__file__})")
    which = getattr(found, attribute)
    try:
        task = which() if isinstance(which, type) else which
    except Exception as error:
        raise OmnigrokError(f"{attribute} of {module} cannot be made: {first_line(error)}") from error
    return _own(task, f"{folder}:{module}:{attribute}", again=True)


def _look_in(folder: str) -> None:
    """Let modules of a folder be imported, now and by what they import later."""
    if folder not in sys.path:
        sys.path.append(folder)  # last: what is installed is not hidden by a file of its name


def own_places(names: Iterable[str]) -> tuple[str, ...]:
    """Where other processes find those of the tasks that are not installed; for `import_places`.

    Raises:
        OmnigrokError: one was given as a class: other processes cannot import it.
    """
    places = []
    for name in sorted(set(names) & set(_own_tasks)):
        task, place = _own_tasks[name]
        if place is None:
            raise OmnigrokError(
                f"other processes cannot import {type(task).__qualname__}: train with workers=1, or put it into a file "
                f"and name it my_file:{type(task).__qualname__}"
            )
        places.append(place)
    return tuple(places)


def import_places(places: Iterable[str]) -> None:
    """Make the tasks of another process known to this one."""
    for place in places:
        folder, module, attribute = place.rsplit(":", 2)
        _look_in(folder)
        _imported(f"{module}:{attribute}")


@cache
def _installed(name: str) -> Task:
    try:
        entry = _registered()[name]
    except KeyError:
        known = ", ".join([*available_tasks(), *sorted(_own_tasks)])
        raise OmnigrokError(f"unknown task {name!r}; there are: {known}, or your own as my_file:MyTask") from None
    try:
        task: Task = entry.load()()
    except Exception as error:
        raise OmnigrokError(
            f"the task {name!r} ({entry.value}) cannot be loaded: {first_line(error)}{_hidden(entry.value)}"
        ) from error
    return task


def _hidden(value: str) -> str:
    """What to add where a file or folder of the working folder is imported in the place of an entry point's package."""
    package = value.partition(":")[0].partition(".")[0]
    module = sys.modules.get(package)
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
    if "." not in value.partition(":")[0] or not any(
        os.path.dirname(os.path.abspath(place)) == os.getcwd() for place in places if place
    ):
        return ""
    return f"; {package!r} in the working folder hides the package of that name: rename it, or run from another folder"


@cache
def _registered() -> dict:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
