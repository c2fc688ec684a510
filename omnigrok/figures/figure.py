"""What every reproduction shares: its command line, its outputs, its provenance.

A reproduction is five functions' worth of content (`Reproduction`): its runs in named groups, a table of each, a
picture. This module parses the options, sees to the data, runs the sweep through the store, and writes PNG, PDF, CSV
and the JSON sidecar, all or none.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import click
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from omnigrok import console
from omnigrok.claims import NOTHING, Claim, Tables, markdown_table, measured_text, read_sidecars, verdicts
from omnigrok.errors import DataUnavailableError, OmnigrokError
from omnigrok.estimate import describe
from omnigrok.figures.style import suite_style, tidy
from omnigrok.files import atomic, expanded, file_sha256, make_folder
from omnigrok.loading import data_sha256, run_hash
from omnigrok.plan import unique
from omnigrok.provenance import default_workers, provenance
from omnigrok.registry import get_task
from omnigrok.spec import TRAINER_VERSION, RunSpec
from omnigrok.store import Store
from omnigrok.sweep import run_sweep

PRESETS = ("quick", "default", "paper")
Reading = Literal["published", "corrected"]
READINGS: tuple[Reading, ...] = ("published", "corrected")
preset_option = click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="default",
    show_default=True,
    help="quick: every code path in under a minute; default: enough for a verdict on a laptop; paper: the published "
    "configuration, of Humayun et al. not in all (reproductions/differences.md); --dry-run says what it costs.",
)
reading_option = click.option(
    "--reading",
    type=click.Choice(READINGS),
    default="published",
    show_default=True,
    help="As the published code reads its runs, or corrected (reproductions/differences.md).",
)


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        tasks: tasks whose data are there.
        missing: tasks whose data are not, and why.
        sizes: training-set sizes, in a figure that compares them; () leaves them to the preset.
        reading: numbers as the published code takes them, or corrected (reproductions/differences.md).
        store: where the runs are, for a picture that needs their weights.
    """

    preset: str = "default"
    tasks: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    seeds: int = 3
    n_train: int | None = None
    sizes: tuple[int, ...] = ()
    reading: Reading = "published"
    store: Store | None = None

    @property
    def statistic(self) -> Literal["best", "last"]:
        """Of a run's values the one that counts: published landscapes take the best over training, test set too."""
        return "best" if self.reading == "published" else "last"

    @property
    def published_size(self) -> bool:
        """Whether training-set sizes are the preset's: the paper's numbers and the claims are about no others."""
        return self.n_train is None and not self.sizes


Groups = Mapping[Any, Any]
"""Runs by what a figure calls them, a name, a task or a setting: a list of RunSpec each, or groups in their turn."""
Frames = Mapping[Any, Any]
"""Groups as tables have them: in the place of every list the curves of its runs, as `Store.load` gives them."""


def flat(groups: Groups) -> list[RunSpec]:
    """The runs of all groups in their order, each once: groups may share runs."""
    lists = (flat(found) if isinstance(found, Mapping) else found for found in groups.values())
    return unique(chain.from_iterable(lists))


def grouped(runs: pd.DataFrame, groups: Groups) -> Frames:
    """The rows of a table of runs, group by group; none for a group without runs."""
    return {
        name: grouped(runs, found) if isinstance(found, Mapping) else runs[runs["run"].isin(set(map(run_hash, found)))]
        for name, found in groups.items()
    }


@dataclass(frozen=True)
class Reproduction:
    """A figure of a paper.

    Attributes:
        doc: the script's docstring; its first paragraph is the command's help.
        tasks: names of the tasks that it can draw.
        sweep: which runs, in groups; those of all groups are trained together, in their order.
        tables: which numbers, from the groups' curves. All tables are always there; one that has no rows, as of a group
            without runs, is not written. The file of the first has the figure's name, the others' add their own.
        draw: which picture.
        claims: what is tested; a function of the options where the readings differ.
        seeds: seeds at each preset.
        compares_sizes: `--n-train` takes several sizes, separated by commas.
        any_task: it draws any task that is named, installed or as my_file:MyTask, not only those of `tasks`.
    """

    name: str
    paper: str
    doc: str | None
    tasks: Callable[[], Sequence[str]]
    sweep: Callable[[Options], Groups]
    tables: Callable[[Frames, Options], Tables]
    draw: Callable[[Tables, Options], Figure]
    claims: Sequence[Claim] | Callable[[Options], Sequence[Claim]]
    seeds: Mapping[str, int] = field(default_factory=lambda: {"quick": 2, "default": 3, "paper": 3})
    compares_sizes: bool = False
    any_task: bool = False

    def main(self) -> None:
        """The script's command line."""
        console.run(self.command())

    def command(self) -> click.Command:
        """The figure as a click command."""
        doc = textwrap.dedent(self.doc or "")  # python -OO takes docstrings away
        text = doc + "\nFinished runs are kept: the same command goes on where it was stopped."

        def run(**arguments: Any) -> None:
            self.run(**arguments)

        return click.command(self.name, help=text)(console.with_options(run, self._command_options()))

    def _command_options(self) -> list[Callable[..., Any]]:
        size, several = click.IntRange(1), ", separated by commas" if self.compares_sizes else ""
        known = ", ".join([*self.tasks(), *(["or your own as my_file:MyTask"] if self.any_task else [])])
        return [
            preset_option,
            click.option("--tasks", type=console.CommaList(), help=f"Of: {known}. Default: all."),
            click.option(
                "--seeds",
                type=click.IntRange(1),
                help=f"Seeds 0..N-1. Default: {self.seeds['default']} (default preset).",
            ),
            click.option(
                "--n-train",
                type=console.CommaList(size) if self.compares_sizes else size,
                help=f"Training examples, instead of the preset's{several}.",
            ),
            reading_option,
            console.device_option,
            click.option(
                "--out",
                type=console.PATH,
                help="Folder for PNG, PDF, CSV and JSON. Default: figures, or figures/PRESET for another preset than "
                "default.",
            ),
            console.results_option,
            console.workers_option,
            click.option("--dry-run", is_flag=True, help="Print runs, steps, time and memory; train nothing."),
            click.option("--force", is_flag=True, help="Train again what is in the store."),
        ]

    def run(
        self,
        *,
        preset: str = "default",
        tasks: Sequence[str] | None = None,
        seeds: int | None = None,
        n_train: int | tuple[int, ...] | None = None,
        reading: Reading = "published",
        device: str = "cpu",
        out: Path | str | None = None,
        results: Path | str = Path("results"),
        dry_run: bool = False,
        workers: int | None = None,
        force: bool = False,
    ) -> Path | None:
        """Train what is missing, then write and print the figure's outputs. Returns their folder; None: a dry run."""
        start = time.time()
        provenance(device)  # of the code as it is now, should it be edited while the runs are trained
        out = expanded(out or Path("figures") / ("" if preset == "default" else preset))
        make_folder(out)
        store = Store(results)
        one, several = (n_train, ()) if isinstance(n_train, int) else (None, n_train or ())
        options = Options(
            preset, seeds=seeds or self.seeds[preset], n_train=one, sizes=several, reading=reading, store=store
        )
        options = self._with_available(options, tasks)
        groups = self.sweep(options)
        specs, workers = flat(groups), workers or default_workers(device)
        if dry_run:
            print(describe(specs, store, device, workers, force))
            return None
        runs = run_sweep(specs, store, device=device, workers=workers, force=force)
        tables = self.tables(grouped(runs, groups), options)
        command = self._command(preset=preset, tasks=tasks, seeds=seeds, n_train=n_train, reading=reading)
        sidecar = {
            **self._tested(tables, options, command),
            **_record(specs, options.seeds, store, device, start),
        }
        self._write(out, tables, options, sidecar)
        _print_outcome(out / self.name, sidecar["claims"], options.missing)
        return out

    def specs(self, preset: str, store: Store) -> list[RunSpec]:
        """The runs of the figure at a preset, of the tasks whose data are there."""
        options = Options(preset=preset, seeds=self.seeds[preset], store=store)
        return flat(self.sweep(self._with_available(options, None)))

    def _command(self, **asked: Any) -> str:
        """The command that draws the figure, also where it is drawn by another script."""
        module = self.sweep.__module__
        main = sys.modules["__main__"].__spec__
        if module == "__main__" and main is not None:
            module = main.name
        parts = [f"python -m {module}"]
        for name, value in asked.items():
            if value not in (None, {"preset": "default", "reading": "published"}.get(name)):
                text = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
                parts.append(f"--{name.replace('_', '-')} {text}")
        return " ".join(parts)

    def claims_for(self, options: Options) -> Sequence[Claim]:
        """The claims under the options' reading."""
        return self.claims(options) if callable(self.claims) else self.claims

    def _tested(self, tables: Tables, options: Options, command: str) -> dict[str, Any]:
        """The first part of the sidecar: what the figure is and what became of its claims."""
        claims = self.claims_for(options)
        tested = options.published_size
        return {
            "figure": self.name,
            "paper": self.paper,
            "preset": options.preset,
            "command": command,
            "claims": [claim.test(tables, self.name) if tested else claim.judge(NOTHING) for claim in claims],
            "reading": options.reading,
            "readings_differ": self._readings_differ(tables, options) if tested else {},
        }

    def _readings_differ(self, tables: Tables, options: Options) -> dict[str, dict[str, str]]:
        """The claims whose verdict on these runs depends on the reading, with the verdict under each."""
        if not callable(self.claims):
            return {}
        by_reading = {}
        for reading in READINGS:
            tested = [c.test(tables, self.name) for c in self.claims_for(dataclasses.replace(options, reading=reading))]
            by_reading[reading] = {claim["id"]: claim["status"] for claim in tested}
        first, second = by_reading.values()
        return {
            name: {reading: by_reading[reading][name] for reading in READINGS}
            for name in first
            if first[name] != second[name]
        }

    def _write(self, out: Path, tables: Tables, options: Options, sidecar: dict[str, Any]) -> None:
        """Draw the figure and write all its files, and the gallery where it is the committed one's folder."""
        with suite_style():
            picture = self.draw(tables, options)
            tidy(picture)
            write_outputs(out, self.name, picture, tables, sidecar)
            plt.close(picture)
        if out == Path("figures"):
            write_gallery(out)

    def _with_available(self, options: Options, wanted: Sequence[str] | None) -> Options:
        """Fetch the data. A task asked for by name must have them; without --tasks those that have not are left out."""
        wanted = [get_task(name).name for name in wanted] if wanted else None  # of an import path; or it says so
        for name in wanted or ():
            if name not in self.tasks() and not self.any_task:
                raise OmnigrokError(f"{self.name} does not draw {name}; it draws: {', '.join(self.tasks())}")
        missing: dict[str, str] = {}
        for name in wanted or self.tasks():
            dataset = get_task(name).dataset
            try:
                if dataset is not None:
                    dataset.fetch()
            except DataUnavailableError as error:
                if wanted or len(self.tasks()) == 1:
                    raise
                missing[name] = str(error)
        tasks = tuple(name for name in wanted or self.tasks() if name not in missing)
        if not tasks:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            raise DataUnavailableError(reasons or "no task is registered: install the project, pip install -e .")
        return dataclasses.replace(options, tasks=tasks, missing=missing)


def write_outputs(out: Path, name: str, figure: Figure, tables: Tables, sidecar: dict[str, Any]) -> None:
    """PNG, PDF, CSV and, last, the JSON sidecar with their checksums. All are written before the first is moved in."""
    make_folder(out)
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}-") as temporary:
        folder = Path(temporary)
        try:
            figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
            figure.set_layout_engine("none")  # the PDF keeps the PNG's places, which take long to find
            figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
            for key, file_name in file_names(name, tables).items():
                if len(tables[key]):
                    tables[key].to_csv(folder / file_name, index=False, float_format="%.8g", encoding="utf-8")
            files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
            text = json.dumps({**sidecar, "files": files}, indent=1, allow_nan=False)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            for file_name in [*files, f"{name}.json"]:
                os.replace(folder / file_name, out / file_name)
        except OSError as error:
            raise OmnigrokError(f"cannot write {out / name}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def file_names(name: str, tables: Tables) -> dict[str, str]:
    """The files of a figure's tables by their names: the first has the figure's own, the others add theirs."""
    first = next(iter(tables))
    return {key: f"{name}.csv" if key == first else f"{name}_{key}.csv" for key in tables}


def write_gallery(out: Path) -> None:
    """README.md of a folder of figures: each picture, the command that made it, its claims with their verdicts."""
    parts = [
        "# Gallery\n\nWritten by the reproductions; every figure names the command that made it. How claims are to be "
        "read, and why some are not a PASS: [reproductions/README.md](../reproductions/README.md).\n"
    ]
    for sidecar in read_sidecars(out):
        name = sidecar["figure"]
        parts.append(
            f"## {name}\n\n{sidecar['paper']}\n\n`{sidecar['command']}` ({verdicts(sidecar)})\n\n"
            f"![{name}]({name}.png)\n\n[PDF]({name}.pdf), [numbers]({name}.csv), [sidecar]({name}.json)\n\n"
            f"{markdown_table([sidecar])}\n"
        )
    with atomic(out / "README.md") as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _print_outcome(path: Path, claims: Sequence[dict[str, Any]], missing: Mapping[str, str]) -> None:
    """A line a claim, a line a task without data, and where the files are."""
    for claim in claims:
        expected = claim["expected"]["text"]
        print(f"{claim['status']:<13}{claim['statement']}: {measured_text(claim)}, expected {expected}")
    for task, reason in missing.items():
        print(f"NOT RUN      {task}: {reason}")
    print(f"wrote {path}.png, .pdf, .csv, .json")


def _record(specs: Sequence[RunSpec], seeds: int, store: Store, device: str, start: float) -> dict[str, Any]:
    """The second part of the sidecar: what was trained, how long it took, from which data and code."""
    return {
        "runs": [run_hash(spec) for spec in specs],
        "seeds": seeds,
        "wall_seconds": round(time.time() - start, 1),
        "training_seconds": round(store.training_seconds(specs), 1),
        "data": _data_record(specs),
        "trainer": TRAINER_VERSION,
        "provenance": {**provenance(device), "dtype": sorted({spec.dtype for spec in specs})},
    }


def _data_record(specs: Sequence[RunSpec]) -> dict[str, dict[str, Any]]:
    record: dict[str, dict[str, Any]] = {}
    for spec in specs:
        task = get_task(spec.task)
        source = task.dataset.source() if task.dataset else "generated"
        entry = record.setdefault(spec.task, {"source": source, "sha256": data_sha256(spec), "n": []})
        entry["n"] = sorted({*entry["n"], spec.n_train})
    return record
