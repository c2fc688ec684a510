"""Content-addressed results: one Parquet file a run, named by the run's hash, written whole or not at all.

``results/<task>/<hash>.parquet`` holds the long table (run, task, alpha, n_train, weight_decay, seed, step, split,
metric, value). Its metadata holds the spec, the content checksum and the provenance; what differs between two
identical computations (time, host load) is under a key of its own, `HOST_KEY`.
Weights that a run keeps lie as ``results/<task>/weights/<hash>.pt``.
Batches in progress lie as ``results/<task>/checkpoints/<hash>.pt``, locks as ``results/<task>/locks/<hash>``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from omnigrok.data import first_line, make_folder
from omnigrok.errors import CorruptFileError, OmnigrokError
from omnigrok.spec import RunSpec
from omnigrok.task import run_hash

RUN_KEY, HOST_KEY = b"omnigrok.run", b"omnigrok.host"
MEASURED = ["step", "split", "metric", "value"]
COLUMNS = ["run", "task", "alpha", "n_train", "weight_decay", "seed", *MEASURED]


class Store:
    """A folder of finished runs and of the checkpoints of unfinished ones.

    Raises:
        OmnigrokError: the folder cannot be written to.
    """

    def __init__(self, root: Path | str = "results") -> None:
        self.root = Path(root)
        make_folder(self.root)

    def path(self, spec: RunSpec) -> Path:
        return self.root / spec.task / f"{run_hash(spec)}.parquet"

    def write(self, spec: RunSpec, measured: pd.DataFrame, run: dict[str, Any], host: dict[str, Any]) -> None:
        """Store a finished run. `measured` has the columns step, split, metric, value."""
        name = run_hash(spec)
        measured = measured[MEASURED].astype({"step": "int64", "value": "float64"})
        table = measured.assign(
            run=name,
            task=spec.task,
            alpha=spec.alpha,
            n_train=spec.n_train,
            weight_decay=spec.weight_decay,
            seed=spec.seed,
        )[COLUMNS]
        content = {"spec": spec.canonical(), "sha256": content_sha256(table), **run}
        metadata = {RUN_KEY: json.dumps(content, sort_keys=True), HOST_KEY: json.dumps(host, sort_keys=True)}
        arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(metadata)
        with atomic(self.path(spec), locked=True) as temporary:
            pq.write_table(arrow, temporary, compression="zstd")

    def write_weights(self, spec: RunSpec, weights: dict[int, dict[str, torch.Tensor]]) -> None:
        """Keep a run's weights at some steps. Written before its table: a finished run has them."""
        with atomic(self.weights_path(spec), locked=True) as temporary:
            torch.save(weights, temporary)

    def weights_path(self, spec: RunSpec) -> Path:
        return self.root / spec.task / "weights" / f"{run_hash(spec)}.pt"

    def weights(self, spec: RunSpec) -> dict[int, dict[str, torch.Tensor]]:
        """The state_dicts of a finished run at the steps of `spec.keep`, for the module of ``task.model(spec)``.

        Raises:
            OmnigrokError: there are none, or the file is damaged.
        """
        path = self.weights_path(spec)
        try:
            kept: dict[int, dict[str, torch.Tensor]] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise OmnigrokError(f"no weights at {path} ({first_line(error)}); --force trains the run again") from error
        return kept

    def read(self, spec: RunSpec) -> pd.DataFrame | None:
        """The long table of a run; None when the run is not finished.

        Raises:
            CorruptFileError: the file is damaged or belongs to another run.
        """
        path = self.path(spec)
        return read_run(path)[0] if path.is_file() else None

    def finished(self, spec: RunSpec) -> bool:
        """Whether a sound result is there. A damaged one is named, set aside as .corrupt, and counts as not there."""
        try:
            return self.read(spec) is not None
        except CorruptFileError as error:
            path = self.path(spec)
            aside = path.with_suffix(".corrupt")
            os.replace(path, aside)
            warnings.warn(f"{error}; kept as {aside.name}, the run is trained again", stacklevel=2)
            return False

    def load(self, specs: Sequence[RunSpec]) -> pd.DataFrame:
        """The long tables of finished runs, one below the other."""
        tables = [table for table in map(self.read, specs) if table is not None]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)

    def training_seconds(self, specs: Sequence[RunSpec]) -> float:
        """What the runs cost when they were trained: their share of their batches' seconds."""
        found = [read_run(self.path(spec)) for spec in specs if self.path(spec).is_file()]
        return sum(host["batch_seconds"] / run["runs_per_batch"] for _, run, host in found)

    def delete(self, specs: Sequence[RunSpec]) -> None:
        """Forget runs: their tables, their weights, and the checkpoints of batches with one of them."""
        hashes = set(map(run_hash, specs))
        for spec in specs:
            self.path(spec).unlink(missing_ok=True)
            kept = self.weights_path(spec)
            for path in kept.parent.glob(f"{kept.stem}*"):  # the weights, and what a figure has computed from them
                path.unlink(missing_ok=True)
        for task in {spec.task for spec in specs}:
            for path, batch in self.checkpointed_batches(task):
                if hashes & set(batch):
                    path.unlink(missing_ok=True)

    def lock(self, spec: RunSpec) -> filelock.BaseFileLock:
        """A lock that only one process holds for a run; the system frees it when the process ends, however it ends."""
        path = self.root / spec.task / "locks" / run_hash(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(path)

    def checkpoint_path(self, specs: Sequence[RunSpec]) -> Path:
        """Named by the batch's runs in their order: numbers are the same bits only in the same batch."""
        name = hashlib.sha256(" ".join(map(run_hash, specs)).encode()).hexdigest()[:16]
        return self.root / specs[0].task / "checkpoints" / f"{name}.pt"

    def save_checkpoint(self, specs: Sequence[RunSpec], state: dict[str, Any], seconds: float) -> None:
        """Keep a trainer's state and the seconds spent on it so far."""
        with atomic(self.checkpoint_path(specs), locked=True) as temporary:
            torch.save({"runs": list(map(run_hash, specs)), "state": state, "seconds": seconds}, temporary)

    def load_checkpoint(self, path: Path, device: str) -> dict[str, Any] | None:
        """A checkpoint's content, or None when it is not there or not readable (it is then named and removed)."""
        if not path.is_file():
            return None
        try:
            saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            return saved
        except Exception as error:
            warnings.warn(f"checkpoint {path} is damaged ({first_line(error)}); starting again", stacklevel=2)
            path.unlink(missing_ok=True)
            return None

    def checkpointed_batches(self, task: str) -> list[tuple[Path, list[str]]]:
        """Checkpoints of a task and the hashes of their runs, in batch order."""
        result = []
        for path in sorted((self.root / task / "checkpoints").glob("*.pt")):
            with contextlib.suppress(Exception):  # a damaged one is reported when it is loaded
                result.append((path, torch.load(path, map_location="meta", weights_only=True, mmap=True)["runs"]))
        return result


def run_files(root: Path) -> list[Path]:
    """The finished runs of a store that may be another's, to read only."""
    return sorted(root.glob("*/*.parquet"))


def read_run(path: Path) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    """Long table, run metadata and host metadata of one file, verified. Not to be changed: a figure asks three times.

    Raises:
        CorruptFileError: not a Parquet file, no metadata, or content that differs from its checksum.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise CorruptFileError(f"{path} is damaged ({first_line(error)})") from error
    return _read_run(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2048)  # all figures at the default preset have 1,531 runs
def _read_run(path: Path, _modified: int, _size: int) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    try:
        arrow = pq.read_table(path)
        metadata = arrow.schema.metadata or {}
        run, host = json.loads(metadata[RUN_KEY]), json.loads(metadata[HOST_KEY])
        table = arrow.to_pandas()
        sound = content_sha256(table) == run["sha256"] and set(table["run"]) <= {path.stem}
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise CorruptFileError(f"{path} is damaged ({first_line(error)})") from error
    if not sound:
        raise CorruptFileError(f"{path} is damaged (its content differs from its checksum)")
    return table, run, host


def content_sha256(table: pd.DataFrame) -> str:
    """Checksum of a long table's values, independent of how Parquet packs them."""
    digest = hashlib.sha256()
    for column in COLUMNS:
        values = table[column]
        if pd.api.types.is_numeric_dtype(values):
            numbers = values.to_numpy(dtype="float64")
            digest.update(np.where(np.isnan(numbers), np.nan, numbers).tobytes())  # Parquet keeps no NaN's sign
        else:
            digest.update("\n".join(values.astype(str)).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def atomic(path: Path, *, locked: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    With `locked`, when no other process writes this path, the name is always the same, so that what a killed process
    left is overwritten.

    Raises:
        OmnigrokError: the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.tmp" if locked else f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save raises a RuntimeError when the disk is full
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        advice = "the disk is full: free some space and run the same command again" if full else first_line(error)
        raise OmnigrokError(f"cannot write {path}: {advice}") from error
    finally:
        temporary.unlink(missing_ok=True)
