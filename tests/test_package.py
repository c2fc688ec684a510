"""What is built from the project: a wheel that works away from it, a source distribution, one version everywhere."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import omnigrok

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "results", "build", "*.egg-info", "__pycache__", ".*_cache", "*.p[nd][gf]"
)
BUILD = "import setuptools.build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


def test_there_is_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    found = {
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"],
        citation["version"],
        citation["preferred-citation"]["version"],
        *(
            json.loads((ROOT / name).read_text(encoding="utf-8"))["version"]
            for name in ("codemeta.json", ".zenodo.json")
        ),
    }
    assert found == {omnigrok.__version__}
    assert f"## {omnigrok.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the wheel and the source distribution."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("builds with setuptools 77 or newer")
    source = tmp_path_factory.mktemp("source") / "project"
    shutil.copytree(ROOT, source, ignore=LEFT_OUT)
    (source / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Deprecat" not in done.stderr
    return source / "dist"


@pytest.mark.slow
def test_the_wheel_works_in_another_folder(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "work").mkdir()

    def ran(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path / "work",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = (
        "import omnigrok; from omnigrok.claims import known_deviations; from reproductions import all, paper; "
        "print(omnigrok.__file__, len(paper.all_paper_values()), len(known_deviations(all.DIFFERENCES.read_text())))"
    )
    place, values, deviations = ran("-c", code).split()
    assert Path(place).is_relative_to(tmp_path / "site")
    assert int(values) > 10
    assert int(deviations) > 0
    assert "wrote mine.py" in ran("-m", "omnigrok", "new-task", "mine.py")
    assert "weight_norm" in ran("-m", "omnigrok", "run", "teacher_student", "--steps", "5")
    assert "fig_lu.png" in ran(
        "-m", "reproductions.fig_lu", "--preset", "quick", "--tasks", "teacher_student", "--seeds", "1"
    )


@pytest.mark.slow
def test_the_source_distribution_holds_what_vouches_for_it(built):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "CITATION.cff", "CHANGELOG.md", "LICENSE", "codemeta.json", ".zenodo.json", "reproductions/differences.md",
        "reproductions/paper_values.csv", "figures/fig_lu.json", "figures/fig_lu.csv", "tests/test_package.py",
        "tests/pinned_losses.csv", ".github/CONTRIBUTING.md",
    } <= names  # fmt: skip
