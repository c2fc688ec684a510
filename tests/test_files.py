"""Nothing that is read again is used unchecked, no link is followed, and what the system refuses is not damage."""

import errno
import json
import os
import random
import time
import warnings
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from omnigrok import batching, files, run_sweep, sealed
from omnigrok import store as store_module
from omnigrok.cli import cli
from omnigrok.errors import CorruptFileError, NewerFileError, OmnigrokError
from omnigrok.estimate import describe
from omnigrok.files import atomic
from omnigrok.store import FORMAT_KEY, HOST_KEY, RUN_KEY, SHA256_KEY, read_run
from tasks import qm9

MEASURED = pd.DataFrame(
    {"step": [0, 0, 5], "split": ["train", "test", "train"], "metric": "loss", "value": [1.5, np.nan, 0.1]}
)
STATE = {"step": 3, "runs": {"w": torch.arange(12.0).view(3, 4)}, "log": {"train/loss": torch.rand(5)}}
FLIPS = 60


class Runs:
    """The file of a finished run."""

    def __init__(self, store, spec):
        self.store, self.spec = store, spec

    def write(self):
        self.store.write(self.spec, MEASURED, {"runs_per_batch": 2}, {"batch_seconds": 3.0})
        return self.store.path(self.spec)

    def read(self):
        store_module._read_run.cache_clear()
        table, run, host = read_run(self.store.path(self.spec))
        return table.to_json(double_precision=15), list(table.dtypes), run, host


class Checkpoints(Runs):
    def write(self):
        self.store.save_checkpoint([self.spec], STATE, 2.0)
        return self.store.checkpoint_path([self.spec])

    def read(self):
        saved = self.store.load_checkpoint(self.store.checkpoint_path([self.spec]), "cpu")
        return saved and repr((saved["state"], saved["seconds"], saved["runs"]))


class Weights(Runs):
    def write(self):
        self.store.write_weights(self.spec, {0: {"w": torch.ones(2, 3)}, 7: {"w": torch.zeros(2, 3)}})
        return self.store.weights_path(self.spec)

    def read(self):
        return repr(self.store.weights(self.spec))


class Features(Runs):
    """Each spec's are of other molecules."""

    def molecules(self):
        return ["C" * (1 + self.spec.seed), "CO"]

    def write(self):
        qm9.cached_features(self.molecules(), torch.float32)
        [path] = set(qm9.DATASET.folder.glob("features-*.pt")) - getattr(self.store, "others", set())
        self.store.others = {path, *getattr(self.store, "others", set())}
        return path

    def read(self):
        return repr(qm9.cached_features(self.molecules(), torch.float32))


class Batchings(Runs):
    """A measurement; what is damaged is measured again."""

    path = property(lambda self: self.store.root / self.spec.task / "batching.json")

    def write(self):
        batching._write(self.path, {"a key": {"runs": 3, "threads": 1, "tried": {"1": 0.5}}})
        return self.path

    def read(self):
        return batching._read(self.path) or None


KINDS = [Runs, Checkpoints, Weights, Features, Batchings]


@pytest.fixture
def kept(request, store, spec, tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIGROK_DATA", str(tmp_path / "cache"))
    return [request.param(store, spec.replace(seed=seed)) for seed in range(2)]


def outcome(kept):
    """What reading gives: the content, and whether it is said that it is not the file's."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            content = kept.read()
        except CorruptFileError as error:
            said, content = [error], None
        except NewerFileError as error:  # of a Parquet file whose format number was hit
            said, content = [error], None
    lines = [str(getattr(each, "message", each)) for each in said]
    assert not any("\n" in line for line in lines)
    return content, lines


@pytest.mark.parametrize("kept", KINDS, indirect=True)
def test_no_flipped_bit_is_used_silently(kept):
    path = kept[0].write()
    sound, content = path.read_bytes(), kept[0].read()
    seed = time.time_ns()
    print(f"seed {seed}")
    rng, seen = random.Random(seed), 0
    for _ in range(FLIPS):
        changed = bytearray(sound)
        changed[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        found, said = outcome(kept[0])
        assert found == content if found is not None else said or isinstance(kept[0], Batchings)
        seen += bool(said) or found is None
    assert seen > FLIPS / 4  # a Parquet file repeats itself, and a JSON file has spaces
    path.write_bytes(sound)
    assert outcome(kept[0]) == (content, [])


@pytest.mark.parametrize("kept", [Checkpoints, Weights, Features], indirect=True)
def test_every_bit_of_a_sealed_file_counts(kept):
    path = kept[0].write()
    sound, content = path.read_bytes(), kept[0].read()
    places = [*range(0, len(sound), len(sound) // 40), *range(len(sound) - 100, len(sound), 3)]
    for place in places:
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        found, said = outcome(kept[0])
        assert len(said) == 1
        assert str(path) in said[0]
        assert found in (None, content) if isinstance(kept[0], Features) else found is None


@pytest.mark.parametrize("kept", [Runs, Checkpoints, Weights, Features], indirect=True)
def test_of_two_swapped_files_neither_is_used(kept):
    paths, contents = [each.write() for each in kept], [each.read() for each in kept]
    aside = paths[0].with_name("aside")
    for old, new in ((paths[0], aside), (paths[1], paths[0]), (aside, paths[1])):
        os.replace(old, new)
    for each, content in zip(kept, contents, strict=True):
        found, [said] = outcome(each)
        assert found is None or (isinstance(each, Features) and found == content)
        assert "is damaged" in said


@pytest.mark.parametrize("kept", KINDS, indirect=True)
@pytest.mark.parametrize("length", [0, 1, 70, -1])
def test_a_file_that_was_cut_off_is_not_used(kept, length):
    path, content = kept[0].write(), kept[0].read()
    path.write_bytes(path.read_bytes()[:length])
    found, said = outcome(kept[0])
    assert said or isinstance(kept[0], Batchings)
    assert found == content if isinstance(kept[0], Features) else found is None


@pytest.mark.parametrize("kept", KINDS, indirect=True)
def test_a_newer_format_is_refused_in_one_line_and_left_as_it_is(kept, monkeypatch):
    module = {Runs: store_module, Batchings: batching}.get(type(kept[0]), sealed)
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 7)
    path = kept[0].write()
    monkeypatch.undo()
    if isinstance(kept[0], Features):
        monkeypatch.setenv("OMNIGROK_DATA", str(path.parent.parent))
    before = path.read_bytes()
    with pytest.raises(
        NewerFileError, match=rf"{path.name} was written by a newer version .*format \d+, this one reads"
    ):
        kept[0].read()
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.corrupt"))


@pytest.mark.parametrize("kept", KINDS, indirect=True)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_the_system_does_not_let_be_read_is_one_line_and_not_damage(kept, number, monkeypatch):
    path = kept[0].write()
    before = path.read_bytes()
    opened = Path.open

    def refuse(self, *arguments, **options):
        if self == path:
            raise OSError(number, os.strerror(number), str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OmnigrokError) as error:
        kept[0].read()
    assert str(error.value) == f"cannot read {path}: {os.strerror(number)}"
    assert not isinstance(error.value, CorruptFileError)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.corrupt"))


@pytest.mark.parametrize("kept", [Checkpoints, Weights], indirect=True)
def test_an_error_of_the_system_in_the_middle_of_a_file_is_not_damage(kept, monkeypatch):
    path = kept[0].write()
    opened = Path.open

    class Failing:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def seek(self, *where):
            return self.stream.seek(*where)

        def read(self, *_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", lambda self, *arguments: Failing(opened(self, *arguments)))
    with pytest.raises(OmnigrokError, match=f"cannot read {path}: Input/output error"):
        kept[0].read()
    assert path.is_file()


def test_a_sound_checkpoint_that_a_device_has_no_room_for_is_kept(store, spec, monkeypatch):
    store.save_checkpoint([spec], STATE, 2.0)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "load", full)
    path = store.checkpoint_path([spec])
    with pytest.raises(OmnigrokError, match=r"cannot load .* to cuda: CUDA out of memory"):
        store.load_checkpoint(path, "cuda")
    assert path.is_file()


def test_kept_weights_are_read_by_torch_as_they_are(store, spec):
    path = Weights(store, spec).write()
    assert list(torch.load(path, weights_only=True)) == [0, 7]


def test_a_damaged_checkpoint_is_no_batch_and_does_not_hide_the_others(store, spec):
    sound, broken = Checkpoints(store, spec), Checkpoints(store, spec.replace(seed=1))
    path, other = sound.write(), broken.write()
    other.write_bytes(path.read_bytes())  # also sound, but not its own
    assert [found for found, _ in store.checkpointed_batches(spec.task)] == [path]
    assert other.is_file()


def test_checkpoints_that_cannot_be_listed_are_not_taken_for_none(store, spec, monkeypatch):
    Checkpoints(store, spec).write()

    def refuse(self):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(OmnigrokError, match=r"cannot read .*checkpoints: Permission denied"):
        store.checkpointed_batches(spec.task)


def first_format(path):
    """Rewrite a run's file as the first version wrote it: no number, a checksum over a fixed list of columns."""
    table = pq.read_table(path)
    metadata = table.schema.metadata
    run = {**json.loads(metadata[RUN_KEY]), "sha256": store_module.fixed_columns_sha256(table.to_pandas())}
    pq.write_table(
        table.replace_schema_metadata({RUN_KEY: json.dumps(run, sort_keys=True), HOST_KEY: metadata[HOST_KEY]}), path
    )


def test_the_first_format_is_read_and_its_damage_seen(store, spec):
    path = Runs(store, spec).write()
    table, run, host = read_run(path)
    first_format(path)
    store_module._read_run.cache_clear()
    old, _, old_host = read_run(path)
    assert old.equals(table)
    assert old_host == host
    assert run["sha256"] != read_run(path)[1]["sha256"]
    arrow = pq.read_table(path)
    pq.write_table(arrow.set_column(9, "value", pa.array([1.5, None, 0.2])), path)
    store_module._read_run.cache_clear()
    with pytest.raises(CorruptFileError, match="differs from its checksum"):
        read_run(path)


def test_a_file_of_the_first_version_is_read(spec):
    """Written by the code of commit 9f4dc5b: its checksum, too, is what that code computed."""
    table = MEASURED.astype({"step": "int64"}).assign(
        run="a" * 16, task="toy", alpha=2.0, n_train=40, weight_decay=0.05, seed=0
    )
    assert store_module.fixed_columns_sha256(table) == FIRST_SHA256


FIRST_SHA256 = "87eace01d31034b8675914fd784496a5d37dd84b87b4f5d64845a68b682ca445"


def with_table(path, arrow):
    """Write a run's file anew with another table and its checksum, as a later version might."""
    metadata = dict(pq.read_schema(path).metadata)
    run = {**json.loads(metadata[RUN_KEY]), "sha256": store_module.table_sha256(arrow)}
    metadata |= {RUN_KEY: json.dumps(run, sort_keys=True).encode()}
    metadata[SHA256_KEY] = store_module.metadata_sha256(metadata)
    pq.write_table(arrow.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.3], [1, 2, 3], ["a", "b", None], [True, False, None], [[1], [], [2]]])
def test_a_column_that_this_version_does_not_know_is_read_and_checked(store, spec, values):
    path = Runs(store, spec).write()
    wider = pq.read_table(path).append_column("lr", pa.array(values))
    with_table(path, wider)
    store_module._read_run.cache_clear()
    assert store.finished(spec)
    assert "lr" in store.read(spec)
    changed = wider.set_column(wider.num_columns - 1, "lr", pa.array([*values[:2], values[0]]))
    pq.write_table(changed.replace_schema_metadata(pq.read_schema(path).metadata), path)
    store_module._read_run.cache_clear()
    with pytest.raises(CorruptFileError):
        read_run(path)


@pytest.mark.parametrize("key", [RUN_KEY, HOST_KEY])
def test_a_changed_word_in_the_metadata_is_seen(store, spec, key):
    path = Runs(store, spec).write()
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    metadata[key] = metadata[key].replace(b"2", b"3").replace(b"3.0", b"9.0")
    assert metadata != table.schema.metadata
    pq.write_table(table.replace_schema_metadata(metadata), path)
    store_module._read_run.cache_clear()
    with pytest.raises(CorruptFileError, match="differs from its checksum"):
        read_run(path)


def newer(path):
    """Make a run's file one of a format that does not exist yet."""
    arrow = pq.read_table(path)
    pq.write_table(arrow.replace_schema_metadata({**arrow.schema.metadata, FORMAT_KEY: b"99"}), path)


def listing(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_to_ask_for_a_damaged_run_changes_nothing_and_to_train_it_sets_it_aside(store, spec, monkeypatch):
    monkeypatch.setattr(batching, "measure", lambda *_: batching.Batching(8, 1, 1.0, 0.5, 2**20, {"8": 1.0}))
    specs = [spec.replace(seed=s) for s in range(2)]
    run_sweep(specs, store, show_progress=False)
    done = store.checkpoint_path(specs[1:])  # of a batch that was killed after its last run was stored
    store.save_checkpoint(specs[1:], STATE, 1.0)
    path = store.path(spec)
    path.write_bytes(path.read_bytes()[:-9])
    describe(specs, store, "cpu")  # batch sizes are measured and recorded
    before = listing(store.root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [store.finished(each) for each in specs] == [False, True]
        assert "1 of 2 runs are finished" in describe(specs, store, "cpu")
        shown = CliRunner().invoke(cli, ["status", "--results", str(store.root)])
        describe(specs[1:], store, "cpu")
    assert f"damaged: {path} is damaged" in shown.output
    assert listing(store.root) == before
    assert done.is_file()
    done.unlink()
    with pytest.warns(UserWarning, match=rf"kept as {path.stem}\.corrupt, the run is trained again"):
        run_sweep(specs, store, show_progress=False)
    assert all(map(store.finished, specs))
    assert path.with_suffix(".corrupt").read_bytes() == before[path]


def test_the_checkpoint_of_a_finished_batch_is_deleted_by_the_next_sweep(store, spec):
    run_sweep([spec], store, runs_per_batch=1, show_progress=False)
    store.save_checkpoint([spec], STATE, 1.0)
    run_sweep([spec], store, runs_per_batch=1, show_progress=False)
    assert not store.checkpoint_path([spec]).exists()


def test_a_newer_run_ends_a_sweep_and_is_one_line_of_status(store, spec):
    specs = [spec.replace(seed=s) for s in range(2)]
    paths = [Runs(store, each).write() for each in specs]
    newer(paths[0])
    before = listing(store.root)
    with pytest.raises(NewerFileError, match="format 99, this one reads up to 2"):
        run_sweep(specs, store, runs_per_batch=1, show_progress=False)
    shown = CliRunner().invoke(cli, ["status", "--results", str(store.root)])
    assert shown.exit_code == 0
    assert "1 finished runs" in shown.output
    [line] = [line for line in shown.output.splitlines() if paths[0].name in line]
    assert line.startswith("left out: ")
    assert listing(store.root) == before


def test_a_planted_link_is_not_followed(tmp_path, store, spec, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 12)  # even where its name is known beforehand
    paths = [store.path(spec), store.weights_path(spec), store.checkpoint_path([spec]), tmp_path / "text"]
    for path in paths:
        for name in (f".{path.name}.tmp", f".{path.name}.{'0' * 12}.tmp"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(name).symlink_to(victim)
    for kind in (Runs, Weights, Checkpoints):
        assert kind(store, spec).write().is_file()
    with pytest.raises(OmnigrokError, match="cannot write"), atomic(tmp_path / "text") as temporary:
        temporary.write_text("overwritten")
    assert victim.read_text() == "precious"


def test_a_planted_lock_is_not_followed(tmp_path, store, spec):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock = Path(store.lock(spec).lock_file)
    lock.symlink_to(victim)
    with pytest.raises(OmnigrokError, match=f"cannot lock {lock}: Too many levels"):
        run_sweep([spec], store, runs_per_batch=1, show_progress=False)
    assert victim.read_text() == "precious"


def test_a_lock_is_held_and_freed(store, spec):
    with files.holding(store.lock(spec)), pytest.raises(filelock.Timeout):
        store.lock(spec).acquire(blocking=False)
    with files.holding(store.lock(spec), blocking=False):
        pass


@pytest.mark.parametrize("locked", [True, False])
def test_what_killed_processes_left_does_not_pile_up(tmp_path, locked):
    path = tmp_path / "a[b].pt"
    new, old, others = (tmp_path / f".{name}.{'5' * 12}.tmp" for name in ("a[b].pt", "a[b].pt", "a.pt"))
    old = old.with_name(old.name.replace("5", "6"))
    for left in (new, old, others):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    with atomic(path, locked=locked) as temporary:
        assert temporary.read_bytes() == b""
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert [new.exists(), old.exists(), others.exists()] == [not locked, False, True]


def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        sealed.save(tmp_path / "a.pt", {"w": torch.ones(2)}, "test", "me")
    finally:
        os.umask(before)
    assert (tmp_path / "a.pt").stat().st_mode & 0o777 == 0o640


def test_cached_content_is_given_where_it_cannot_be_kept(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(torch, "save", refuse)
    made = []
    for _ in range(2):
        content = sealed.cached(tmp_path / "x.pt", "test", "me", lambda: made.append(1) or {"a": 1})
        assert content == {"a": 1}
    assert len(made) == 2
    assert not list(tmp_path.iterdir())


def test_features_of_another_rdkit_are_not_taken(tmp_path, monkeypatch):
    import rdkit

    monkeypatch.setenv("OMNIGROK_DATA", str(tmp_path))
    made = []
    original = qm9.featurise
    monkeypatch.setattr(qm9, "featurise", lambda smiles: made.append(smiles) or original(smiles))
    for _ in range(2):
        qm9.cached_features(["C"], torch.float32)
    assert len(made) == 1
    monkeypatch.setattr(rdkit, "__version__", "1.0")
    qm9.cached_features(["C"], torch.float32)
    monkeypatch.setattr(qm9, "FEATURES_VERSION", 99)
    qm9.cached_features(["C"], torch.float32)
    assert len(made) == 3
