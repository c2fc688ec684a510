"""``omnigrok run``: one run or a small sweep of a task, with its table and picture; ``omnigrok check``."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd

from omnigrok import console
from omnigrok.errors import OmnigrokError
from omnigrok.gradients import Clip
from omnigrok.loading import run_hash
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec
from omnigrok.task import Task

SWEPT = (("alpha", click.FLOAT), ("n_train", click.INT), ("weight_decay", click.FLOAT))
"""Options that take several values, separated by commas: every combination is a run."""
RUN_OPTIONS = (
    ("steps", int),
    ("seed", int),
    ("lr", float),
    ("batch_size", console.OrNone(click.INT)),
    ("optimizer", str),
    ("dtype", str),
    ("subset", str),
    ("data_seed", int),
    ("evaluation_density", int),
)
PICTURES = (".png", ".pdf", ".svg")
HELP = {field.name: field.metadata.get("help", "") for field in dataclasses.fields(RunSpec)}


def _run_options(command: Any) -> Any:
    several = [(name, console.CommaList(kind), f"{HELP[name]}; several: 1,3,8") for name, kind in SWEPT]
    once = [(name, kind, HELP[name]) for name, kind in RUN_OPTIONS]
    options = [
        click.option(f"--{name.replace('_', '-')}", name, type=kind, help=text) for name, kind, text in several + once
    ]
    return console.with_options(command, options)


@click.command("run")
@click.argument("task")
@_run_options
@click.option("--seeds", type=click.IntRange(1), help="Seeds 0 to N - 1, instead of one --seed.")
@click.option("--sphere/--no-sphere", default=None, help=HELP["sphere"])
@click.option(
    "--gradient-clip",
    type=console.OrNone(click.FLOAT),
    help="Largest gradient norm of a run, instead of what the task does to its gradients; none: nothing.",
)
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="One of the task's own: --option p=97.")
@click.option("--keep", type=console.CommaList(click.IntRange(0)), help="Steps whose weights are kept: 0,1000.")
@console.device_option
@console.results_option
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that share a sweep.")
@click.option(
    "--out",
    type=console.PATH,
    help="The curve's PNG, PDF or SVG, or a folder for it. Default: beside the run in the store.",
)
@click.option("--force", is_flag=True, help="Train again when it is in the store.")
def run_task(
    task: str,
    device: str,
    results: Path,
    out: Path | None,
    force: bool,
    workers: int,
    seeds: int | None,
    **fields: Any,
) -> None:
    """Train runs of TASK, print what they end with and save their curves.

    TASK is a task's name (see `omnigrok tasks`) or your own, as my_file:MyTask. What is not given is as published. With
    several values of an option, or --seeds, every combination is a run:

    \b
      omnigrok run mnist --alpha 1,3,8 --seeds 3 --n-train 200,1000

    A run that is in the store is not trained again, and one that was interrupted goes on from its last checkpoint.
    """
    from omnigrok.files import make_folder
    from omnigrok.store import Store
    from omnigrok.sweep import run_sweep

    chosen, store = get_task(task), Store(results)
    if seeds is not None and fields["seed"] is not None:
        raise OmnigrokError("--seeds 3 are the seeds 0, 1, 2: give either it or --seed")
    specs = specs_of(chosen, seeds, **fields)
    picture = picture_path(out, specs, store)
    make_folder(picture.parent)
    known = {spec for spec in specs if not force and store.finished(spec)}
    curves = run_sweep(specs, store, device=device, force=force, workers=workers)
    if len(specs) == 1:
        _print_run(specs[0], curves, store, known=bool(known))
    else:
        table = ends(curves, chosen)
        place = picture.with_suffix(".csv")
        table.to_csv(place, index=False, encoding="utf-8")
        click.echo(table.drop(columns="run").to_string(index=False, float_format=lambda x: f"{x:.4g}"))
        click.echo(f"{len(specs)} runs, {len(known)} of them from the store; table: {place}")
    save_curves(picture, specs, curves)
    click.echo(f"curve: {picture}")


def specs_of(
    task: Task,
    seeds: int | None,
    options: tuple[str, ...],
    keep: tuple[int, ...] | None,
    gradient_clip: float | str | None,
    **fields: Any,
) -> list[RunSpec]:
    """The task's published run with what was given, a spec a combination."""
    swept = {name: fields.pop(name) for name, _ in SWEPT}
    given = {name: None if value == console.NONE else value for name, value in fields.items() if value is not None}
    spec = task.spec.replace(**given, options=_with_options(task, options), keep=keep or ())
    if gradient_clip is not None:
        spec = spec.replace(gradient=() if gradient_clip == console.NONE else (Clip(float(gradient_clip)),))
    axes = {name: values for name, values in swept.items() if values}
    if seeds is not None:
        axes["seed"] = tuple(range(seeds))
    return [spec.replace(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


def picture_path(out: Path | None, specs: list[RunSpec], store: Any) -> Path:
    """Where the curves' picture goes: named by the run, or by all runs of a sweep."""
    name = run_hash(specs[0])
    if len(specs) > 1:
        name = "sweep-" + hashlib.sha256(" ".join(map(run_hash, specs)).encode()).hexdigest()[:12]
    picture = out or store.path(specs[0]).with_name(f"{name}.png")
    if picture.is_dir() or not picture.suffix:
        picture = picture / f"{name}.png"
    if picture.suffix not in PICTURES:
        raise OmnigrokError(f"--out is a folder or a file ending in {', '.join(PICTURES)}; got {out}")
    return picture


def ends(curves: pd.DataFrame, task: Task) -> pd.DataFrame:
    """A row a run: what it ends with and when it memorised and generalised; a time that was not reached is empty."""
    from omnigrok.analysis import grokking_times

    last = curves[curves["step"] == curves.groupby("run")["step"].transform("max")]
    wanted = last[last["metric"].isin(["loss", task.thresholds.metric]) & last["split"].isin(["train", "test"])]
    values = wanted.assign(name=wanted["split"] + " " + wanted["metric"]).pivot(
        index="run", columns="name", values="value"
    )
    times = grokking_times(curves, task.thresholds)
    for name in ("mem", "gen"):
        times[f"t_{name}"] = times[f"t_{name}"].mask(times[f"{name}_censored"])
    columns = ["run", "alpha", "n_train", "weight_decay", "seed", "t_mem", "t_gen"]
    return times[columns].merge(values, left_on="run", right_index=True)


def save_curves(path: Path, specs: list[RunSpec], curves: pd.DataFrame) -> None:
    """A panel a combination, the median and the range of its seeds."""
    from omnigrok.figures.style import suite_style
    from omnigrok.files import atomic

    with suite_style():
        import matplotlib.pyplot as plt

        figure = _drawn(specs, curves)
        with atomic(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150)
        plt.close(figure)


def _drawn(specs: list[RunSpec], curves: pd.DataFrame) -> Any:
    import matplotlib.pyplot as plt

    from omnigrok.figures.panels import grokking_panel
    from omnigrok.figures.style import HEIGHT, WIDTH

    task = get_task(specs[0].task)
    panels = list(dict.fromkeys((spec.n_train, spec.weight_decay, spec.alpha) for spec in specs))
    across = len({alpha for *_, alpha in panels})
    down = -(-len(panels) // across)
    size = (1.5 * WIDTH * across, 1.1 * HEIGHT * down)
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False)
    for ax, (n, decay, alpha) in zip(axes.flat, panels, strict=True):
        part = curves.query("n_train == @n and weight_decay == @decay and alpha == @alpha")
        grokking_panel(ax, part, task.thresholds.metric, {}, "best")
        ax.set_title(f"{task.display_name}, N = {n}, $\\alpha$ = {alpha:g}, weight decay {decay:g}", fontsize=10)
    return figure


def _print_run(spec: RunSpec, curves: pd.DataFrame, store: Any, *, known: bool) -> None:
    from omnigrok.analysis import grokking_times
    from omnigrok.store import read_run

    last = curves[curves["step"] == curves["step"].max()]
    for row in last.itertuples():
        click.echo(f"{row.split:<11}{row.metric:<14}{row.value:.6g}")
    times = grokking_times(curves, get_task(spec.task).thresholds).iloc[0]
    click.echo(f"t_mem      {_time(times['t_mem'], times['mem_censored'])}")
    click.echo(f"t_gen      {_time(times['t_gen'], times['gen_censored'])}")
    if known:
        day = time.strftime("%Y-%m-%d", time.localtime(read_run(store.path(spec))[2]["finished"]))
        click.echo(f"from the store, trained on {day}; --force trains it again")
    click.echo(f"run {run_hash(spec)}: {store.path(spec)}")
    if spec.keep:
        click.echo(f"weights, a state_dict a step: {store.weights_path(spec)}")


def _with_options(task: Task, given: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    """The task's options with those given as NAME=VALUE replaced, each of its default's type."""
    chosen: dict[str, Any] = {**task.optional, **dict(task.spec.options)}
    for text in given:
        name, _, value = text.partition("=")
        if name not in chosen:
            raise OmnigrokError(f"unknown option {name!r}; there are: {', '.join(chosen) or 'none'}")
        kind = type(chosen[name])
        try:
            chosen[name] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (KeyError, ValueError):
            raise OmnigrokError(f"option {name} takes a {kind.__name__}, got {value!r}") from None
        if kind is int and chosen[name] < 1:
            raise OmnigrokError(f"option {name} must be 1 or more, got {value}")
    return tuple(
        sorted((name, v) for name, v in chosen.items() if name not in task.optional or v != task.optional[name])
    )


def _time(steps: int, censored: bool) -> str:
    return f"not within {steps:,} steps" if censored else f"{steps:,} steps"


@click.command("check")
@click.argument("task")
def check(task: str) -> int:
    """Test whether TASK (my_file:MyTask) keeps the contract of a task, and say what to mend."""
    from omnigrok.check import check_task

    found = check_task(get_task(task))
    for finding in found:
        click.echo(f"{'ok  ' if finding.ok else 'MEND'}  {finding.text}")
    return 0 if all(finding.ok for finding in found) else 1
