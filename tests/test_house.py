"""Lint, types, and the rules of the house that a machine can see."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_clean(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize(("floor", "above"), [("omnigrok", ("tasks", "reproductions")), ("tasks", ("reproductions",))])
def test_imports_run_one_way_down(floor, above):
    for path in (ROOT / floor).glob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] in above], path


def test_heavy_libraries_are_imported_where_they_are_needed():
    """The command line starts without them; torch itself is unavoidable."""
    code = "import sys, omnigrok.cli, tasks.mnist; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert not loaded & {"torch_geometric", "rdkit", "torchvision", "requests", "seaborn"}
