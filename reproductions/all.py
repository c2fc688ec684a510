"""All figures in one sweep: each is drawn as soon as its runs are there, with a table of verdicts at the end.

How many runs go together is measured first, which takes minutes. Finished runs are kept, and figures share them: stop
it whenever you like, the same command goes on where it was. A verdict does not make it fail; `--check` does, with
status 1, when a claim DEVIATES that is not listed as known in reproductions/differences.md.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import time
from pathlib import Path

import click

import reproductions
from omnigrok import console
from omnigrok.claims import KNOWN_HEADING, known_deviations, summary
from omnigrok.errors import DataUnavailableError
from omnigrok.figures.figure import Reproduction, preset_option
from omnigrok.progress import say
from omnigrok.provenance import default_workers, provenance
from omnigrok.store import Store
from omnigrok.sweep import train_in_turn

DIFFERENCES = Path(__file__).with_name("differences.md")


def figures() -> list[Reproduction]:
    """Every reproduction of this package; fig_lu, the main one, first."""
    names = [m.name for m in pkgutil.iter_modules(reproductions.__path__) if m.name.startswith("fig_")]
    names.sort(key=lambda name: (name != "fig_lu", name in ("fig_train_size", "fig_domains"), name))
    return [importlib.import_module(f"reproductions.{name}").FIGURE for name in names]


@click.command(help=__doc__)
@preset_option
@console.device_option
@click.option("--out", type=console.PATH, help="Folder of the figures. Default: as each figure's own.")
@console.results_option
@console.workers_option
@click.option("--dry-run", is_flag=True, help="Print each figure's runs, steps, time and memory; train nothing.")
@click.option("--check", is_flag=True, help="Status 1 when a claim deviates that is not known to.")
def main(
    preset: str, device: str, out: Path | None, results: Path, workers: int | None, dry_run: bool, check: bool
) -> int:
    start, store = time.time(), Store(results)
    chosen, sweeps = [], []
    for figure in figures():
        try:
            sweeps.append(figure.specs(preset, store))
            chosen.append(figure)
        except DataUnavailableError as error:
            print(f"NOT RUN      {figure.name}: {error}")
    if dry_run:
        for figure in chosen:
            print(figure.name)
            figure.run(preset=preset, device=device, results=results, workers=workers, dry_run=True)
        return 0
    sidecars = []
    provenance(device)  # of the code as it is now, should it be edited while the runs are trained
    processes = workers or default_workers(device)
    for i in train_in_turn(sweeps, store, device=device, workers=processes):
        figure, minutes = chosen[i], (time.time() - start) / 60
        say(f"[{i + 1}/{len(chosen)}] {figure.name} (after {minutes:.0f} min)")
        folder = figure.run(preset=preset, device=device, out=out, results=results, workers=workers)
        assert folder is not None
        sidecars.append(json.loads((folder / f"{figure.name}.json").read_text(encoding="utf-8")))
    print(summary(sidecars))
    known = known_deviations(DIFFERENCES.read_text(encoding="utf-8"))
    deviating = {f"{s['figure']}/{c['id']}" for s in sidecars for c in s["claims"] if c["status"] == "DEVIATES"}
    new = sorted(deviating - known)
    if new:
        print(f"deviates and is not under '{KNOWN_HEADING}' in {DIFFERENCES.name}: {', '.join(new)}")
    return 1 if check and new else 0


if __name__ == "__main__":
    console.run(main)
