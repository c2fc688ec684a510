import errno
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from omnigrok import OmnigrokError, Store
from omnigrok import store as store_module
from omnigrok.errors import CorruptFileError
from omnigrok.loading import run_hash
from omnigrok.store import COLUMNS, RUN_KEY, read_run

MEASURED = pd.DataFrame(
    {"step": [0, 0, 5], "split": ["train", "test", "train"], "metric": "loss", "value": [1.5, -np.nan, 0.1]}
)


def write(store, spec):
    store.write(spec, MEASURED, {"runs_per_batch": 1}, {"finished": 0.0})
    return store.path(spec)


def test_a_run_is_read_as_it_was_written(store, spec):
    path = write(store, spec)
    table = store.read(spec)
    assert list(table.columns) == COLUMNS
    assert table["value"].equals(MEASURED["value"])
    assert table["alpha"].unique() == [spec.alpha]
    assert set(table["run"]) == {path.stem}
    assert json.loads(json.dumps(read_run(path)[1]))["spec"]["n_train"] == spec.n_train
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_to_forget_a_run_is_to_forget_what_was_computed_from_its_weights(store, spec):
    write(store, spec)
    store.write_weights(spec, {0: {}})
    for s in (spec, spec.replace(seed=1)):
        kept = store.weights_path(s)
        kept.with_name(f"{kept.stem}-0.partition.pt").touch()
    store.delete([spec])
    assert [p.name for p in store.weights_path(spec).parent.iterdir()] == [f"{kept.stem}-0.partition.pt"]
    assert store.read(spec) is None


def test_to_forget_a_run_is_to_forget_the_checkpoints_of_its_batches(store, spec):
    specs = [spec.replace(seed=s) for s in range(3)]
    state = {"step": 3}
    batches = specs[:2], specs[1:], specs[2:]
    for batch in batches:
        store.save_checkpoint(batch, state, 1.0)
    store.delete(specs[:1])
    assert [store.checkpoint_path(batch).exists() for batch in batches] == [False, True, True]
    store.delete(specs[:1])  # nothing is there
    assert len(store.checkpointed_batches(spec.task)) == 2


def test_a_pyarrow_without_the_compression_is_one_line(store, spec, monkeypatch):
    path = write(store, spec)
    monkeypatch.setattr(store_module.pa, "Codec", SimpleNamespace(is_available=lambda _: False))
    with pytest.raises(OmnigrokError, match="the installed pyarrow has no zstd"):
        read_run(path)


def test_two_writes_are_the_same_bytes(store, spec):
    first = write(store, spec).read_bytes()
    assert write(store, spec).read_bytes() == first


def test_what_is_not_there_is_none(store, spec):
    assert store.read(spec) is None
    assert not store.finished(spec)
    assert store.load([spec]).empty


def damage_byte(path, other):
    content = bytearray(path.read_bytes())
    content[40] ^= 0xFF
    path.write_bytes(bytes(content))


def damage_length(path, other):
    path.write_bytes(path.read_bytes()[:-20])


def damage_empty(path, other):
    path.write_bytes(b"")


def damage_swap(path, other):
    path.write_bytes(other.read_bytes())


def damage_value(path, other):
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    values = table.column("value").to_numpy().copy()
    values[0] += 1e-9
    import pyarrow as pa

    index = table.schema.get_field_index("value")
    pq.write_table(table.set_column(index, "value", pa.array(values)), path)


@pytest.mark.parametrize("damage", [damage_byte, damage_length, damage_empty, damage_swap, damage_value])
def test_a_damaged_file_is_named_and_never_used(store, spec, damage):
    path, other = write(store, spec), write(store, spec.replace(seed=1))
    damage(path, other)
    with pytest.raises(CorruptFileError, match=path.name) as error:
        store.read(spec)
    assert "\n" not in str(error.value)
    assert not store.finished(spec)
    with pytest.warns(UserWarning, match="trained again"):
        store.set_aside_damaged(spec)
    assert path.with_suffix(".corrupt").is_file()
    assert not path.is_file()
    assert store.finished(spec.replace(seed=1))


def test_a_full_disk_leaves_nothing_half_written(store, spec, monkeypatch):
    def full(table, where, **_):
        where.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module.pq, "write_table", full)
    with pytest.raises(OmnigrokError, match="the disk is full: free some space"):
        write(store, spec)
    assert list(store.path(spec).parent.iterdir()) == []


def test_a_full_disk_keeps_the_last_checkpoint(store, spec, monkeypatch):
    store.save_checkpoint([spec], {"step": 3}, 1.0)

    def full(content, where):
        where.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OmnigrokError, match="cannot write"):
        store.save_checkpoint([spec], {"step": 4}, 2.0)
    path = store.checkpoint_path([spec])
    assert store.load_checkpoint(path, "cpu")["state"] == {"step": 3}
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_checkpoint_is_named_and_dropped(store, spec):
    store.save_checkpoint([spec], {"step": 3}, 1.0)
    path = store.checkpoint_path([spec])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.warns(UserWarning, match="damaged"):
        assert store.load_checkpoint(path, "cpu") is None
    assert not path.exists()


def test_checkpoints_are_named_by_their_batch(store, spec):
    a, b = spec, spec.replace(seed=1)
    store.save_checkpoint([a, b], {"step": 3}, 1.0)
    ((path, hashes),) = store.checkpointed_batches(spec.task)
    assert path == store.checkpoint_path([a, b]) != store.checkpoint_path([b, a])
    assert hashes == [store.path(a).stem, store.path(b).stem]


def test_a_store_that_cannot_be_written_to_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OmnigrokError, match="cannot write to"):
        Store(tmp_path / "file" / "results")


def test_metadata_separates_content_from_host(store, spec):
    _, run, host = read_run(write(store, spec))
    assert set(run) == {"spec", "sha256", "runs_per_batch"}
    assert set(host) == {"finished"}
    assert RUN_KEY == b"omnigrok.run"


def test_what_a_killed_writer_left_is_removed_at_once(store, spec):
    """Runs, weights and checkpoints are written under a lock: whoever writes next knows that nobody else does."""
    written = {
        store.path(spec): lambda: store.write(spec, measured(), {}, {}),
        store.weights_path(spec): lambda: store.write_weights(spec, {0: {}}),
        store.checkpoint_path([spec]): lambda: store.save_checkpoint([spec], {}, 0.0),
    }
    for path, write in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        left = path.with_name(f".{path.name}.{'0' * 12}.tmp")
        left.write_bytes(b"half")
        write()
        assert path.is_file()
        assert not left.exists()


def test_files_have_names_of_16_hexadecimal_digits(store, spec):
    for path in (store.path(spec), store.weights_path(spec), store.checkpoint_path([spec, spec.replace(seed=1)])):
        assert len(path.stem) == 16
        assert int(path.stem, 16) >= 0


def measured():
    return pd.DataFrame({"step": [0], "split": ["test"], "metric": ["loss"], "value": [1.0]})


def test_what_another_process_removes_first_is_no_error(store, spec, monkeypatch):
    store.write(spec, measured(), {}, {})
    gone = store.checkpoint_path([spec])
    monkeypatch.setattr(store, "checkpointed_batches", lambda task: [(gone, [run_hash(spec)])])
    store.delete_finished_checkpoints([spec])
    store.delete([spec])
    assert not store.finished(spec)

    def damaged(*_):
        raise CorruptFileError("damaged")

    monkeypatch.setattr(store_module.sealed, "load", damaged)
    with pytest.warns(UserWarning, match="checkpoint damaged; starting again") as said:
        assert store.load_checkpoint(gone, "cpu") is None
    assert said[0].filename == __file__  # the line that asked


def test_a_warning_of_a_damaged_run_names_the_line_that_asked(store, spec):
    store.write(spec, measured(), {}, {})
    store.path(spec).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="the run is trained again") as said:
        store.set_aside_damaged(spec)
    assert said[0].filename == __file__
