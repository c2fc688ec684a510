"""``omnigrok new-task``: a task of one's own to start from."""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
from pathlib import Path

import click

from omnigrok import console
from omnigrok.errors import OmnigrokError
from omnigrok.files import make_folder


@click.command("new-task")
@click.argument("file", type=console.PATH)
def new_task(file: Path) -> None:
    """Write a complete task with comments into FILE, a new one that ends in .py; it runs as it is."""
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise OmnigrokError(f"{file} is no name of a Python module: take one such as my_task.py")
    if importlib.util.find_spec(file.stem) is not None and not file.exists():
        raise OmnigrokError(f"there is a module {file.stem} already, which {file} would hide: take another name")
    text = importlib.resources.files("omnigrok").joinpath("example.py").read_text(encoding="utf-8")
    make_folder(file.parent)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise OmnigrokError(f"{file} is there already: take another name, nothing was written") from None
    except OSError as error:
        raise OmnigrokError(f"cannot write {file}: {error.strerror}") from error
    place = f"{os.path.relpath(file).removesuffix('.py').replace(os.sep, '.')}:Parity"
    click.echo(f"wrote {file}: twenty signs, the product of three of them. As it is, and as you change it:")
    click.echo(f"  omnigrok check {place}")
    click.echo(f"  omnigrok run {place} --alpha 1,4 --seeds 3")
    click.echo(f"  python -m reproductions.fig_lu --tasks {place} --out figures/mine")
