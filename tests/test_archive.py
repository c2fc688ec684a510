"""A store as one file: what comes out is what went in, and nothing else gets in."""

import hashlib
import json
import zipfile

import pytest
from click.testing import CliRunner

from omnigrok import Store, run_sweep
from omnigrok.archive import export_store, import_store
from omnigrok.cli import cli
from omnigrok.errors import CorruptFileError, OmnigrokError
from omnigrok.loading import run_hash


@pytest.fixture
def specs(spec, store):
    """Two finished runs, one with weights."""
    specs = [spec.replace(steps=3, keep=(0, 3)), spec.replace(steps=3, seed=1)]
    run_sweep(specs, store, runs_per_batch=1, show_progress=False)
    return specs


@pytest.fixture
def archive(specs, store, tmp_path):
    assert export_store(store.root, tmp_path / "store.zip", weights=True) == 2
    return tmp_path / "store.zip"


def rewritten(archive, change):
    """The archive with its members, manifest included, changed by a function of a dict; the checksums fit again."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist() if name != "manifest.json"}
        manifest = json.loads(old.read("manifest.json"))
    change(members)
    manifest["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in members.items()
    }
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in {**members, "manifest.json": json.dumps(manifest).encode()}.items():
            new.writestr(name, content)
    return archive


def test_another_store_gets_the_same_bytes(specs, store, archive, tmp_path):
    other = Store(tmp_path / "other")
    done = import_store(archive, other.root)
    assert (done.new, done.known) == (3, 0)
    for spec in specs:
        assert other.path(spec).read_bytes() == store.path(spec).read_bytes()
    assert set(other.weights(specs[0])) == {0, 3}
    again = import_store(archive, other.root)
    assert (again.new, again.known) == (0, 3)
    assert not list(other.root.glob(".import-*"))


def test_of_the_same_store_an_archive_has_the_same_bytes(specs, store, archive, tmp_path):
    export_store(store.root, tmp_path / "again.zip", weights=True)
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    export_store(store.root, tmp_path / "without.zip")
    assert not [name for name in zipfile.ZipFile(tmp_path / "without.zip").namelist() if name.endswith(".pt")]


def test_a_sound_run_is_kept_and_a_damaged_one_is_set_aside(specs, store, archive, tmp_path):
    run_sweep(specs[1:], store, runs_per_batch=1, show_progress=False, force=True)  # other seconds, other bytes
    kept = store.path(specs[1]).read_bytes()
    store.path(specs[0]).write_bytes(b"PAR1")
    done = import_store(archive, store.root)
    assert (done.new, done.known) == (1, 2)
    assert store.path(specs[1]).read_bytes() == kept
    assert store.finished(specs[0])
    assert store.path(specs[0]).with_suffix(".corrupt").read_bytes() == b"PAR1"


def outside(members):
    members["runs/../../evil.parquet"] = b"x"


def code(members):
    members["runs/teacher_student/evil.py"] = b"x"


def absolute(members):
    members["/tmp/evil.parquet"] = b"x"


def another_runs(members):
    first, second = sorted(name for name in members if name.endswith(".parquet"))
    members[first] = members[second]


def another_tasks(members):
    name = next(name for name in members if name.endswith(".parquet"))
    members[name.replace("teacher_student", "mnist")] = members.pop(name)


def pickled(members):
    name = next(name for name in members if name.endswith(".pt"))
    members[name] = b"\x80\x04."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outside, "holds 'runs/../../evil.parquet', which no archive of a store does"),
        (code, "holds 'runs/teacher_student/evil.py'"),
        (absolute, "holds '/tmp/evil.parquet'"),
        (another_runs, "is another run's"),
        (another_tasks, "is a run of another task"),
        (pickled, "is damaged"),
    ],
)
def test_what_no_export_writes_is_refused_and_nothing_is_taken(archive, tmp_path, change, message):
    with pytest.raises(CorruptFileError, match=message):
        import_store(rewritten(archive, change), tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.*"))
    assert not list(tmp_path.rglob("evil*"))


def test_damage_of_any_byte_is_seen(archive, tmp_path):
    content, seen = archive.read_bytes(), 0
    for place in range(0, len(content), len(content) // 40):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        archive.write_bytes(damaged)
        try:
            import_store(archive, tmp_path / "other")
        except OmnigrokError:
            assert not list((tmp_path / "other").rglob("*.parquet"))
            seen += 1
            continue
        for path in (tmp_path / "other").rglob("*.parquet"):  # of a header's byte that says nothing
            path.unlink()
    assert seen > 30


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_member_that_the_manifest_does_not_name_or_that_is_packed_is_refused(archive, tmp_path, specs):
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("runs/teacher_student/0123456789abcdef.parquet", b"x")
    with pytest.raises(CorruptFileError, match="does not hold the files that its manifest names"):
        import_store(archive, tmp_path / "other")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("specs.json", b" " * 1_000_000, zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptFileError, match=r"holds 'specs\.json', which no archive"):
        import_store(archive, tmp_path / "other")


def test_commands(specs, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "fig_lu.json").write_text("{}")

    def ran(*arguments):
        result = CliRunner().invoke(cli, ["store", *arguments])
        return result.output or str(result.exception)

    text = ran("export", "a.zip", "--figures", "figures")
    digest = hashlib.sha256((tmp_path / "a.zip").read_bytes()).hexdigest()
    assert text.startswith("2 runs in a.zip")
    assert text.endswith(f"sha256 {digest}\n")
    assert "a.zip is there already: take another name" in ran("export", "a.zip")
    assert "there are no runs in results of mnist" in ran("export", "b.zip", "--tasks", "mnist")
    assert ran("import", "a.zip", "--results", "new", "--figures", "theirs") == (
        "3 files are new in new, 0 were there already\n"
    )
    assert (tmp_path / "theirs" / "fig_lu.json").read_text() == "{}"
    assert Store("new").finished(specs[1])
    assert run_hash(specs[1]) in zipfile.ZipFile("a.zip").read("specs.json").decode()
    assert "there is no file nowhere.zip" in ran("import", "nowhere.zip")
    (tmp_path / "text.zip").write_text("text")
    assert "text.zip is no sound archive" in ran("import", "text.zip")
