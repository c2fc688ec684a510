"""The ``omnigrok`` command: tasks, run, check, status, data, claims, bench, complexity, partition."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd

from omnigrok import console
from omnigrok.errors import CorruptFileError, OmnigrokError
from omnigrok.model_cli import complexity, partition
from omnigrok.registry import get_task, installed_tasks
from omnigrok.run_cli import check, run_task
from omnigrok.store_cli import store
from omnigrok.task_cli import new_task


def main() -> None:
    """Entry point of the console script."""
    console.run(cli)


@click.group()
@click.version_option(package_name="omnigrok")
def cli() -> None:
    """Grokking across domains: train scaled-init runs, keep them in a store, test the papers' claims.

    \b
    Figures have scripts of their own:  python -m reproductions.fig_lu --help
    One run, with live progress:        omnigrok run mnist --alpha 8 --n-train 1000
    """


for command in (run_task, check, new_task, store, complexity, partition):
    cli.add_command(command)


@cli.command("tasks")
def list_tasks() -> None:
    """List the tasks with their citation and the published run that is their default."""
    for task in installed_tasks():
        spec = task.spec
        batch = "full batch" if spec.batch_size is None else f"batches of {spec.batch_size}"
        click.echo(f"{task.name}: {task.display_name} ({task.citation})")
        click.echo(
            f"    N = {spec.n_train}, alpha = {spec.alpha:g}, {type(spec.optimizer).__name__.lower()} lr {spec.lr:g}, "
            f"weight decay {spec.weight_decay:g}, {batch}, {spec.steps:,} steps, {spec.dtype}"
        )
        if spec.options:
            click.echo("    options: " + ", ".join(f"{option}={value}" for option, value in spec.options))
        described = (type(task).__doc__ or "").strip().splitlines()
        click.echo(f"    {described[0] if described else ''}")


@cli.command()
@console.results_option
def status(results: Path) -> None:
    """What the store holds: finished runs, unfinished batches, damaged files."""
    from omnigrok.store import read_run, run_files

    if not results.is_dir():
        raise OmnigrokError(f"there is no store at {results}; a figure or `omnigrok run` makes one")
    rows, notes = [], []
    for path in run_files(results):
        try:
            table, run, _ = read_run(path)
        except FileNotFoundError:  # another process may set it aside while we look
            continue
        except CorruptFileError as error:
            notes.append(f"damaged: {error}; it is trained again when it is asked for")
            continue
        except OmnigrokError as error:
            notes.append(f"left out: {error}")
            continue
        first = table.iloc[0]
        rows.append(
            {
                "task": first["task"],
                "alpha": first["alpha"],
                "n_train": first["n_train"],
                "seed": first["seed"],
                "steps": table["step"].max(),
                "sphere": bool(run["spec"].get("sphere", False)),
                "bytes": path.stat().st_size,
            }
        )
    if rows:
        table = pd.DataFrame(rows)
        grouped = table.groupby(["task", "n_train", "steps", "sphere"])
        summary = grouped.agg(
            runs=("seed", "size"), alphas=("alpha", "nunique"), seeds=("seed", "nunique"), KiB=("bytes", "sum")
        ).reset_index()
        summary["KiB"] = (summary["KiB"] / 1024).round().astype(int)
        click.echo(summary.to_string(index=False))
    click.echo(f"{len(rows)} finished runs in {results}")
    for path in sorted(results.glob("*/checkpoints/*.pt")):
        with contextlib.suppress(FileNotFoundError):  # its batch may end while we look
            age = time.time() - path.stat().st_mtime
            click.echo(f"unfinished batch: {path} (saved {age / 60:.0f} min ago; the same command goes on from it)")
    for line in notes:
        click.echo(line)


@cli.group("data", invoke_without_command=True)
@click.pass_context
def data_group(context: click.Context) -> None:
    """The datasets: source, checksum, size, and where they lie."""
    if context.invoked_subcommand is not None:
        return
    from omnigrok.data import cache_root

    click.echo(f"cache: {cache_root()} (OMNIGROK_DATA sets another folder)")
    for dataset in _datasets().values():
        click.echo(f"{dataset.name}: {dataset.title}; {dataset.reference}")
        size = sum(f.size for f in dataset.files) / 2**20
        click.echo(f"    {len(dataset.files)} files, {size:.1f} MiB, sha256 {dataset.sha256}")
        if not dataset.present():
            click.echo(f"    not fetched; get it with: omnigrok data fetch {dataset.name}")
            continue
        try:
            dataset.verify(dataset.folder)
            click.echo(f"    verified in {dataset.folder}, from {dataset.source()}")
        except CorruptFileError as error:
            click.echo(f"    DAMAGED: {error}")


@data_group.command("fetch")
@click.argument("name")
@click.option("--from", "folder", type=console.PATH, help="Take the files from this folder.")
def fetch(name: str, folder: Path | None) -> None:
    """Fetch and verify dataset NAME. A damaged copy in the cache is replaced."""
    datasets = _datasets()
    if name not in datasets:
        raise OmnigrokError(f"unknown dataset {name!r}; there are: {', '.join(datasets)}")
    dataset = datasets[name]
    if dataset.present():
        try:
            dataset.verify(dataset.folder)
        except CorruptFileError as error:
            click.echo(f"replacing a damaged copy: {error}", err=True)
            for file in dataset.files:
                (dataset.folder / file.name).unlink(missing_ok=True)
    click.echo(f"{dataset.title}: verified in {dataset.fetch(folder)}, from {dataset.source()}")


def _datasets() -> dict[str, Any]:
    found = [task.dataset for task in installed_tasks()]
    return {dataset.name: dataset for dataset in found if dataset is not None}


@cli.command()
@click.option("--figures", type=console.PATH, default="figures", show_default=True)
@click.option("--write", type=console.PATH, help="Replace the table of figures in this Markdown file.")
def claims(figures: Path, write: Path | None) -> None:
    """The claims of all figures with their verdicts, from the figures' sidecars."""
    from omnigrok.claims import figures_table, markdown_table, read_sidecars, replace_table
    from omnigrok.files import atomic

    sidecars = read_sidecars(figures)
    if write is None:
        click.echo(markdown_table(sidecars))
        return
    table = figures_table(sidecars)
    try:
        text = replace_table(write.read_text(encoding="utf-8"), table)
    except (OSError, ValueError) as error:
        raise OmnigrokError(f"cannot update {write}: {error}") from error
    with atomic(write) as temporary:
        temporary.write_text(text, encoding="utf-8")


@cli.command()
@click.option("--tasks", type=console.CommaList(), help="Tasks, separated by commas. Default: all.")
@click.option(
    "--sizes",
    type=console.CommaList(click.IntRange(1)),
    default="1,4,8,16,32,64",
    show_default=True,
    help="Runs together, separated by commas.",
)
@click.option("--probe", is_flag=True, help="Instead, time the local-complexity probe of 32 runs of the first task.")
@click.option("--denormals", is_flag=True, help="Instead, time late steps with denormal numbers flushed and without.")
@console.device_option
def bench(tasks: tuple[str, ...] | None, sizes: tuple[int, ...], probe: bool, denormals: bool, device: str) -> None:
    """Time the trainer against the published style of loop, the strongest plain loop and the matrix products alone.

    All ratios are measured in one run. Do it on an idle machine.
    """
    import torch

    from omnigrok.bench import ROUNDS, bench_denormals, bench_probe, markdown
    from omnigrok.bench import bench as measure
    from omnigrok.provenance import device_name

    hardware = f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    if probe:
        task = get_task((tasks or ("mnist",))[0])
        ratio = bench_probe(task, task.spec, device)
        click.echo(
            f"local complexity of 32 {task.name} runs: {ratio:.1f} times a loop over models and points; {hardware}"
        )
        return
    if denormals:
        task = get_task((tasks or ("mnist",))[0])
        click.echo(
            bench_denormals(task, task.landscape("default") or task.spec, device).round(3).to_string(index=False)
        )
        click.echo(hardware)
        return
    chosen = [get_task(name) for name in tasks or ()] or installed_tasks()
    tables = []
    for task in chosen:
        click.echo(f"timing {task.name} ...", err=True)
        tables.append(measure(task, task.spec, device, sizes))
    click.echo(markdown(pd.concat(tables)))
    click.echo(f"\n{hardware}; medians over n = {ROUNDS} rounds in which the loops take turns.")
