"""Probes of kept weights: measure what a run did not log, without training it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor

from omnigrok import sealed
from omnigrok.ensemble import Ensemble
from omnigrok.errors import SpecError
from omnigrok.isolation import own_state
from omnigrok.loading import run_hash, task_data
from omnigrok.log import Log
from omnigrok.part import check_part, plain
from omnigrok.plan import unique
from omnigrok.probing import asked, takes_trainer
from omnigrok.processor import flushed
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec
from omnigrok.store import Store, identified
from omnigrok.values import normalised

if TYPE_CHECKING:
    from omnigrok.trainer import Probe


@own_state()
def measure_kept(specs: Sequence[RunSpec], probe: Probe, store: Store, device: str = "cpu") -> pd.DataFrame:
    """What a probe says of finished runs at the steps whose weights they keep (`keep` of their specs).

    Computed once: it lies in a file beside the weights, named by run and probe, which a second call reads.

    Returns:
        The long table, with the columns of `Store.read` and the split "probe".

    Raises:
        SpecError: a run keeps no weights or is not finished, or the probe is none, or takes the trainer.
        OmnigrokError: kept weights are gone or damaged.

    >>> from dataclasses import dataclass
    >>> from omnigrok import run_sweep
    >>> @dataclass(frozen=True)
    ... class Norm:
    ...     def __call__(self, ensemble, data):
    ...         return {"norm": ensemble.norm()}
    >>> spec, store = get_task("teacher_student").spec.replace(steps=4, keep=(0, 4)), Store("results")
    >>> _ = run_sweep([spec], store, runs_per_batch=1, show_progress=False)
    >>> measure_kept([spec], Norm(), store)[["step", "metric"]].values.tolist()
    [[0, 'norm'], [4, 'norm']]
    """
    probe = normalised(probe)
    check_part("measure_kept", probe)
    if takes_trainer(probe):
        name = type(probe).__name__
        raise SpecError(f"{name} takes the trainer, which kept weights have none of: __call__(self, ensemble, data)")
    specs = unique(specs)
    if not specs:
        raise SpecError("measure_kept needs one run or more, got none")
    for spec in specs:
        if not spec.keep:
            raise SpecError(f"a run of {spec.task} keeps no weights: train it with keep, as in spec.replace(keep=(0,))")
        if not store.finished(spec):
            raise SpecError(f"run {run_hash(spec)} of {spec.task} is not finished in {store.root}: run_sweep trains it")
    tables = [_of_run(spec, probe, store, device) for spec in specs]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def kept_ensembles(spec: RunSpec, store: Store, device: str = "cpu") -> Iterator[Ensemble]:
    """The network of a finished run as an ensemble of one, at each step whose weights it keeps, which `step` says.

    It is one ensemble whose weights change from step to step.

    Raises:
        OmnigrokError: there are no weights, or the file is damaged.
    """
    weights = store.weights(spec)
    ensemble = Ensemble(get_task(spec.task), [spec], device)
    for step in sorted(weights):
        ensemble.load_weights([weights[step]])
        ensemble.step, ensemble.specs = step, (settings_at(spec, step),)
        yield ensemble


def settings_at(spec: RunSpec, step: int) -> RunSpec:
    """A spec with the settings that a measurement at a step is of: those that changed before it."""
    for change in sorted((change for change in spec.changes if change.step < step), key=lambda change: change.step):
        spec = spec.replace(**change.settings)
    return spec


def _of_run(spec: RunSpec, probe: Probe, store: Store, device: str) -> pd.DataFrame:
    content = json.dumps(plain(probe), sort_keys=True)
    name = f"{run_hash(spec)}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    path = store.weights_path(spec).with_name(f"{name}.probe.pt")

    @flushed()
    def measured() -> dict[str, dict[str, Tensor]]:
        log, data = Log(), task_data(spec, device)
        for ensemble in kept_ensembles(spec, store, device):
            log.record(ensemble.step, "probe", asked([(probe, (ensemble, data))], ensemble))
        return log.state_dict()

    log = Log()
    log.load_state_dict(sealed.cached(path, "probe", name, measured), runs=1)
    [table] = log.tables([spec.steps])
    return identified(spec, table)
