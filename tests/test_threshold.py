"""The threshold of coverage, in a project of its own: two test files, half of the code covered."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = {
    "pyproject.toml": """
        [tool.pytest.ini_options]
        testpaths = ["tests"]
        addopts = "--cov=part"
        markers = ["slow: takes long"]
        [tool.coverage.report]
        fail_under = 85
    """,
    "part.py": "def covered():\n    return 1\n\n\ndef uncovered():\n    a = 2\n    b = a\n    return b\n",
    "tests/test_one.py": "import part\n\n\ndef test_one():\n    assert part.covered()\n",
    "tests/test_two.py": "import pytest\n\n\n@pytest.mark.slow\ndef test_two(): ...\n\n\ndef test_more(): ...\n",
    "tests/conftest.py": (Path(__file__).parent / "threshold.py").read_text(),
}


@pytest.fixture
def project(tmp_path):
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 1),
        (["tests"], 1),
        (["tests/test_one.py"], 0),
        (["tests/test_one.py", "tests/test_two.py"], 0),
        (["-m", "not slow"], 0),
        pytest.param(["tests/test_one.py::test_one"], 0, marks=pytest.mark.slow),
        pytest.param(["-k", "one"], 0, marks=pytest.mark.slow),
        pytest.param(["-k", "test"], 1, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_threshold_is_asked_of_the_whole_run_only(project, arguments, status):
    environment = {**os.environ, "PYTHONPATH": str(project)}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=project, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    assert ("required test coverage" in (done.stdout + done.stderr).lower()) == bool(status)
