"""``omnigrok store``: a store as one file, to deposit it or to take it to another machine."""

from __future__ import annotations

from pathlib import Path

import click

from omnigrok import console
from omnigrok.archive import export_store, import_store
from omnigrok.files import file_sha256

archive_argument = click.argument("file", type=console.PATH)


@click.group("store")
def store() -> None:
    """A store of runs as one archive: export it, import it."""


@store.command("export")
@archive_argument
@console.results_option
@click.option("--tasks", type=console.CommaList(), default=(), help="Whose runs, separated by commas. Default: all.")
@click.option("--weights", is_flag=True, help="The weights too that runs have kept.")
@click.option("--figures", type=console.PATH, help="A folder whose sidecars and tables go along.")
def export(file: Path, results: Path, tasks: tuple[str, ...], weights: bool, figures: Path | None) -> None:
    """Write the finished runs into FILE, a new .zip with a manifest of checksums."""
    runs = export_store(results, file, tasks=tasks, weights=weights, figures=figures)
    click.echo(f"{runs} runs in {file}, {file.stat().st_size / 2**20:.1f} MiB, sha256 {file_sha256(file)}")


@store.command("import")
@archive_argument
@console.results_option
@click.option("--figures", type=console.PATH, help="A folder for the sidecars and tables in it.")
def take(file: Path, results: Path, figures: Path | None) -> None:
    """Take the runs of FILE into a store. All is verified first, nothing in it is executed, no sound run replaced."""
    done = import_store(file, results, figures=figures)
    click.echo(f"{done.new} files are new in {results}, {done.known} were there already")
