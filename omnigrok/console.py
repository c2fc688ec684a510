"""What all command lines share: options with one spelling, errors of one line with status 2, a kind end to Ctrl-C."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from omnigrok.errors import OmnigrokError
from omnigrok.files import expanded, open_closed_streams
from omnigrok.processor import flush_denormals
from omnigrok.progress import say
from omnigrok.provenance import command_line, pick_device, program

INTERRUPTED = 130  # the shell's status for a process ended by Ctrl-C


class GivenPath(click.ParamType):
    """A path; ~ and ~user are their folders."""

    name = "path"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return expanded(value)


PATH = GivenPath()


class Device(click.ParamType):
    """auto, cpu, cuda, cuda:N or mps; checked before anything else is done."""

    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        device = pick_device(value)
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            self.fail(f"device {value!r} is not available here", param, ctx)
        return device


device_option = click.option(
    "--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."
)
results_option = click.option("--results", type=PATH, default="results", show_default=True, help="The store of runs.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that share the work. Default: one a core on a CPU, one on a GPU. The same command may also run "
    "several times on one machine.",
)


def with_options(function: Callable[..., Any], options: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """A command's function with options of `click.option`, in their order; for options that a loop makes."""
    for option in reversed(options):
        function = option(function)
    return function


NONE = "none"


class OrNone(click.ParamType):
    """A value, or the word none, which is not the same as leaving the option out."""

    def __init__(self, of: click.ParamType) -> None:
        self.of, self.name = of, f"{of.name}|{NONE}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return NONE if value == NONE else self.of.convert(value, param, ctx)


class CommaList(click.ParamType):
    """Values separated by commas."""

    name = "a,b,..."

    def __init__(self, of: click.ParamType = click.STRING) -> None:
        self.of = of

    def convert(self, value: str | tuple, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        if isinstance(value, tuple):
            return value
        found = tuple(self.of.convert(part.strip(), param, ctx) for part in value.split(",") if part.strip())
        if not found:
            self.fail("it is empty: give values separated by commas, or leave the option out", param, ctx)
        return found


def run(command: click.Command) -> None:
    """Run a command line and end the process: 0 done, 2 something the user can mend, 130 interrupted."""
    open_closed_streams()
    warnings.showwarning = _show_warning
    flush_denormals()  # before the process has computed anything, so that all of its threads do
    try:
        status = command.main(prog_name=program(), standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except OmnigrokError as error:
        _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, click.exceptions.Abort):
        say(f"\ninterrupted: finished runs are kept; continue with: {command_line()}")
        sys.exit(INTERRUPTED)


def _fail(message: str) -> None:
    say("error: " + " ".join(message.split()))
    sys.exit(2)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    say(f"warning: {' '.join(str(message).split())}")
