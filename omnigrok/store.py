"""Content-addressed results: one Parquet file a run, named by the run's hash, written whole or not at all.

``results/<task>/<hash>.parquet`` holds the long table (run, task, alpha, n_train, weight_decay, seed, step, split,
metric, value). Its metadata holds the spec, the content checksum and the provenance; what differs between two
identical computations (time, host load) is under a key of its own, `HOST_KEY`.
Weights that a run keeps lie as ``results/<task>/weights/<hash>.pt``, sealed; `torch.load` reads them as they are. What
probes and figures have computed from them lies beside, as ``<hash>-<of what>``, and is forgotten with them.
Batches in progress lie as ``results/<task>/checkpoints/<hash>.pt``, sealed, locks as ``results/<task>/locks/<hash>``.

Nothing that is read is used unchecked. Damaged is only what fails its checksum in a known format; what the system does
not let be read, and what a newer version wrote, ends in one line and is left as it is. Format 1 had no number and
a checksum over a fixed list of columns, none over its metadata; it is still read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from omnigrok import sealed
from omnigrok.errors import CorruptFileError, NewerFileError, OmnigrokError, first_line
from omnigrok.files import atomic, expanded, make_folder, reading
from omnigrok.loading import run_hash
from omnigrok.log import MEASURED
from omnigrok.spec import RunSpec

FORMAT = 2
RUN_KEY, HOST_KEY = b"omnigrok.run", b"omnigrok.host"
FORMAT_KEY, SHA256_KEY = b"omnigrok.format", b"omnigrok.sha256"
COMPRESSION = "zstd"
COLUMNS = ["run", "task", "alpha", "n_train", "weight_decay", "seed", *MEASURED]


class Store:
    """A folder of finished runs and of the checkpoints of unfinished ones.

    Raises:
        OmnigrokError: the folder cannot be written to.
    """

    def __init__(self, root: Path | str = "results") -> None:
        self.root = expanded(root)
        make_folder(self.root)

    def path(self, spec: RunSpec) -> Path:
        return self.root / spec.task / f"{run_hash(spec)}.parquet"

    def write(self, spec: RunSpec, measured: pd.DataFrame, run: dict[str, Any], host: dict[str, Any]) -> None:
        """Store a finished run. `measured` has the columns step, split, metric, value."""
        arrow = pa.Table.from_pandas(identified(spec, measured), preserve_index=False)
        content = {"spec": spec.canonical(), "sha256": table_sha256(arrow), **run}
        metadata = {
            FORMAT_KEY: str(FORMAT).encode(),
            RUN_KEY: json.dumps(content, sort_keys=True).encode(),
            HOST_KEY: json.dumps(host, sort_keys=True).encode(),
        }
        metadata[SHA256_KEY] = metadata_sha256(metadata)
        with atomic(self.path(spec), locked=True) as temporary:
            pq.write_table(arrow.replace_schema_metadata(metadata), temporary, compression=COMPRESSION)

    def write_weights(self, spec: RunSpec, weights: dict[int, dict[str, torch.Tensor]]) -> None:
        """Keep a run's weights at some steps. Written before its table: a finished run has them.

        What was computed from other weights of the run, before it was trained again, is forgotten.
        """
        self._delete_computed(spec)
        sealed.save(self.weights_path(spec), weights, "weights", run_hash(spec), locked=True)

    def weights_path(self, spec: RunSpec) -> Path:
        return self.root / spec.task / "weights" / f"{run_hash(spec)}.pt"

    def weights(self, spec: RunSpec) -> dict[int, dict[str, torch.Tensor]]:
        """A finished run's state_dicts, for the module of ``task.model(spec)``, at the steps of `spec.keep` it reached.

        Raises:
            OmnigrokError: there are none, or the file is damaged.
        """
        path = self.weights_path(spec)
        try:
            kept: dict[int, dict[str, torch.Tensor]] = sealed.load(path, "weights", run_hash(spec))
        except FileNotFoundError as error:
            raise OmnigrokError(f"there are no weights at {path}; --force trains the run again") from error
        except CorruptFileError as error:
            raise CorruptFileError(f"{error}; --force trains the run again") from error
        return kept

    def read(self, spec: RunSpec) -> pd.DataFrame | None:
        """The long table of a run; None when the run is not finished.

        Raises:
            CorruptFileError: the file is damaged or belongs to another run.
            OmnigrokError: the system does not let it be read, or a newer version wrote it.
        """
        try:
            return read_run(self.path(spec))[0]
        except FileNotFoundError:
            return None

    def finished(self, spec: RunSpec) -> bool:
        """Whether a sound result is there. A damaged one counts as none; other errors as of `read`. Changes nothing."""
        try:
            return self.read(spec) is not None
        except CorruptFileError:
            return False

    def set_aside_damaged(self, spec: RunSpec) -> None:
        """Rename a damaged result to .corrupt and say so. For whoever holds the run's lock and trains it again."""
        try:
            self.read(spec)
        except CorruptFileError as error:
            path = self.path(spec)
            aside = path.with_suffix(".corrupt")
            os.replace(path, aside)
            warnings.warn(f"{error}; kept as {aside.name}, the run is trained again", stacklevel=2)

    def load(self, specs: Sequence[RunSpec]) -> pd.DataFrame:
        """The long tables of finished runs, one below the other."""
        tables = [table for table in map(self.read, specs) if table is not None]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)

    def training_seconds(self, specs: Sequence[RunSpec]) -> float:
        """What the runs cost when they were trained: their share of their batches' seconds."""
        found = [read_run(self.path(spec)) for spec in specs if self.read(spec) is not None]
        return sum(host["batch_seconds"] / run["runs_per_batch"] for _, run, host in found)

    def delete(self, specs: Sequence[RunSpec]) -> None:
        """Forget runs: their tables, their weights, and the checkpoints of batches with one of them."""
        hashes = set(map(run_hash, specs))
        for spec in specs:
            self.path(spec).unlink(missing_ok=True)
            self.weights_path(spec).unlink(missing_ok=True)
            self._delete_computed(spec)
        for task in {spec.task for spec in specs}:
            for path, batch in self.checkpointed_batches(task):
                if hashes & set(batch):
                    path.unlink(missing_ok=True)

    def _delete_computed(self, spec: RunSpec) -> None:
        """Forget what figures and probes have computed from a run's weights."""
        kept = self.weights_path(spec)
        for path in kept.parent.glob(f"{kept.stem}-*"):
            path.unlink(missing_ok=True)

    def lock(self, spec: RunSpec) -> filelock.BaseFileLock:
        """A lock that only one process of a machine holds for a run; the system frees it however the process ends."""
        path = self.root / spec.task / "locks" / run_hash(spec)
        make_folder(path.parent)
        return filelock.FileLock(path)

    def checkpoint_path(self, specs: Sequence[RunSpec]) -> Path:
        """Named by the batch's runs in their order: numbers are the same bits only in the same batch."""
        name = hashlib.sha256(" ".join(map(run_hash, specs)).encode()).hexdigest()[:16]
        return self.root / specs[0].task / "checkpoints" / f"{name}.pt"

    def save_checkpoint(self, specs: Sequence[RunSpec], state: dict[str, Any], seconds: float) -> None:
        """Keep a trainer's state and the seconds spent on it so far."""
        path = self.checkpoint_path(specs)
        content = {"runs": list(map(run_hash, specs)), "state": state, "seconds": seconds}
        sealed.save(path, content, "checkpoint", path.stem, locked=True)

    def load_checkpoint(self, path: Path, device: str) -> dict[str, Any] | None:
        """A checkpoint's content; None when it is not there, or is damaged or another batch's: then named and removed.

        Raises:
            OmnigrokError: the system does not let it be read, or a newer version wrote it.
        """
        try:
            saved: dict[str, Any] = sealed.load(path, "checkpoint", path.stem, device)
            return saved
        except FileNotFoundError:
            return None
        except CorruptFileError as error:
            warnings.warn(f"checkpoint {error}; starting again", stacklevel=2)
            path.unlink(missing_ok=True)
            return None

    def checkpointed_batches(self, task: str) -> list[tuple[Path, list[str]]]:
        """Checkpoints of a task and the hashes of their runs, in batch order, as far as they can be gone on with."""
        folder, result = self.root / task / "checkpoints", []
        try:
            with reading(folder):  # glob would take a folder that cannot be read for an empty one
                paths = sorted(path for path in folder.iterdir() if path.suffix == ".pt")
        except FileNotFoundError:
            return []
        for path in paths:
            try:
                result.append((path, sealed.load(path, "checkpoint", path.stem, "meta")["runs"]))
            except (FileNotFoundError, CorruptFileError, NewerFileError):
                continue  # said by the batch that would go on from it
        return result

    def delete_finished_checkpoints(self, specs: Sequence[RunSpec]) -> None:
        """Delete the checkpoints of batches that are finished: they were killed after their last run was stored."""
        finished = {run_hash(spec) for spec in specs if self.finished(spec)}
        for task in {spec.task for spec in specs}:
            for path, batch in self.checkpointed_batches(task):
                if finished.issuperset(batch):
                    path.unlink(missing_ok=True)


def identified(spec: RunSpec, measured: pd.DataFrame) -> pd.DataFrame:
    """The long table of a run, from what was measured of it: step, split, metric, value."""
    measured = measured[MEASURED].astype({"step": "int64", "value": "float64"})
    return measured.assign(
        run=run_hash(spec),
        task=spec.task,
        alpha=spec.alpha,
        n_train=spec.n_train,
        weight_decay=spec.weight_decay,
        seed=spec.seed,
    )[COLUMNS]


def run_files(root: Path) -> list[Path]:
    """The finished runs of a store that may be another's, to read only."""
    return sorted(root.glob("*/*.parquet"))


def read_run(path: Path) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    """Long table, run metadata and host metadata of one file, verified. Not to be changed: a figure asks three times.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: not a Parquet file, no metadata, or content that differs from its checksum.
        OmnigrokError: the system does not let it be read, or a newer version wrote it.
    """
    with reading(path):
        state = path.stat()
        return _read_run(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2048)  # all figures at the default preset have 1,531 runs
def _read_run(path: Path, _modified: int, _size: int) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    content = path.read_bytes()  # an OSError here is the system's; from the bytes on, whatever fails is their fault
    if not pa.Codec.is_available(COMPRESSION):
        raise OmnigrokError(f"the installed pyarrow has no {COMPRESSION}, which the store needs: reinstall pyarrow")
    try:
        metadata = pq.read_schema(io.BytesIO(content)).metadata or {}
        number = int(metadata.get(FORMAT_KEY, b"1"))
        if number > FORMAT:
            raise NewerFileError(path, number, FORMAT)
        arrow = pq.read_table(io.BytesIO(content))
        run, host = json.loads(metadata[RUN_KEY]), json.loads(metadata[HOST_KEY])
        table = arrow.to_pandas()
        if number == 1:
            sound = fixed_columns_sha256(table) == run["sha256"]
        else:
            sound = metadata_sha256(metadata) == metadata[SHA256_KEY] and table_sha256(arrow) == run["sha256"]
        sound = sound and set(table["run"]) == {path.stem}
    except OmnigrokError:
        raise
    except MemoryError as error:
        raise OmnigrokError(f"memory ran out while {path} was read") from error
    except Exception as error:
        raise CorruptFileError(f"{path} is damaged ({first_line(error)})") from error
    if not sound:
        raise CorruptFileError(f"{path} is damaged (its content differs from its checksum, or is another run's)")
    return table, run, host


def table_sha256(table: pa.Table) -> str:
    """Checksum of a table's columns, whichever they are: names, types and values, however Parquet packs them."""
    digest = hashlib.sha256()
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = str(field.type) if pa.types.is_primitive(field.type) else "other"  # Parquet has one kind of text
        digest.update(f"{field.name}\0{kind}\0{len(column)}\0{column.null_count}\0".encode())
        if pa.types.is_floating(field.type):
            _digest_values(digest, column.to_pandas())
        else:
            digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest()


def metadata_sha256(metadata: dict[bytes, bytes]) -> bytes:
    """Checksum of what a file says of its run, the checksum of its table in it."""
    said = [key + b"\0" + metadata[key] for key in (FORMAT_KEY, RUN_KEY, HOST_KEY)]
    return hashlib.sha256(b"\0".join(said)).hexdigest().encode()


def fixed_columns_sha256(table: pd.DataFrame) -> str:
    """The checksum of format 1."""
    digest = hashlib.sha256()
    for name in ("run", "task", "alpha", "n_train", "weight_decay", "seed", "step", "split", "metric", "value"):
        _digest_values(digest, table[name])
    return digest.hexdigest()


def _digest_values(digest: hashlib._Hash, values: pd.Series) -> None:
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype="float64")
        digest.update(np.where(np.isnan(numbers), np.nan, numbers).tobytes())  # Parquet keeps no NaN's sign
    else:
        digest.update("\n".join(values.astype(str)).encode())
