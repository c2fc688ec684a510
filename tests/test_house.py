"""Lint, types, and the rules of the house that a machine can see."""

import ast
import dataclasses
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import shapes
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped

import omnigrok
from omnigrok.probes import robustness

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_clean(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


UNDEFINED = """
from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def scaled(rows: Float[Tensor, "runs n"], factors: Float[Tensor, "runs"]) -> Float[Tensor, "runs n"]:
    return rows * {name}[:, None]
"""


@pytest.mark.parametrize("name", ["factors", "factor"])
def test_the_types_see_a_name_that_is_not_defined(name, tmp_path):
    """In the packages, where ruff takes a shape's words for names."""
    path = tmp_path / "module.py"
    path.write_text(UNDEFINED.format(name=name))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (name == "factors"), done.stdout + done.stderr
    assert ('Name "factor" is not defined' in done.stdout) == (name == "factor")


def test_dataclasses_are_frozen_but_for_those_that_work():
    """What enters a hash, a cache or another process must not change under it."""
    found = {}
    for module in map(importlib.import_module, (m.name for m in pkgutil.walk_packages(omnigrok.__path__, "omnigrok."))):
        for name, kind in vars(module).items():
            if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind.__module__ == module.__name__:
                found[name] = kind.__dataclass_params__.frozen
    assert len(found) > 20
    assert {name for name, frozen in found.items() if not frozen} == {"Contender", "_Live", "_Worker"}


@pytest.mark.parametrize("code", ["print(missing)", "def f(x: 'Missing'): ..."])
@pytest.mark.parametrize("folder", ["tests", ""])
def test_lint_sees_a_name_that_is_not_defined(code, folder):
    """Outside the packages, where mypy does not look."""
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", str(ROOT / folder / "module.py"), "-"]
    done = subprocess.run(command, cwd=ROOT, input=code + "\n", capture_output=True, text=True, check=False)
    assert "F821" in done.stdout


def test_shapes_in_signatures_are_checked_while_the_tests_run():
    like = torch.zeros(2, 3, 4)
    assert robustness.expand(torch.zeros(2, 3), like).shape == (2, 3, 1)
    with pytest.raises(TypeCheckError, match="values"):
        robustness.expand(torch.zeros(2), like)
    with pytest.raises(TypeCheckError, match="return value"):  # as many rows as came in
        transposed(torch.zeros(2, 3))


Rows = Float[torch.Tensor, "runs n"]


@jaxtyped(typechecker=shapes.checked)
def transposed(rows: Rows) -> Rows:
    return rows.T


def imports(path):
    """The modules that a file imports, and what it imports from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("floor", "above"),
    [
        ("omnigrok/**/*.py", ("tasks.", "reproductions.")),
        ("tasks/**/*.py", ("reproductions.",)),
        ("reproductions/experiments/*.py", ("reproductions.claims", "reproductions.fig_", "matplotlib")),
        ("reproductions/claims/*.py", ("reproductions.fig_", "matplotlib")),
        ("reproductions/fig_*.py", ("reproductions.fig_",)),
    ],
)
def test_imports_run_one_way_down(floor, above):
    paths = list(ROOT.glob(floor))
    assert paths
    for path in paths:
        assert not [name for name in imports(path) if name.startswith(above)], path


def test_functions_are_short_enough_to_be_read_at_once():
    found = set()
    for path in (path for folder in ("omnigrok", "tasks", "reproductions") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 45:
                found.add(f"{path.relative_to(ROOT)}: {node.name}")
    assert not found


def test_figures_are_short():
    lines = {path.stem: len(path.read_text().splitlines()) for path in (ROOT / "reproductions").glob("fig_*.py")}
    assert {name: n for name, n in lines.items() if n >= 120} == {}
    assert max(lines[name] for name in ("fig_mnist", "fig_time_to_grok", "fig_domains")) < 100


def test_heavy_libraries_are_imported_where_they_are_needed():
    """The command line starts without them; torch itself is unavoidable."""
    code = "import sys, omnigrok.cli, tasks.mnist; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert not loaded & {"torch_geometric", "rdkit", "torchvision", "requests", "seaborn"}


def text_without_encoding(tree):
    """Lines that open a text file in whatever encoding the machine has."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        said = {keyword.arg for keyword in node.keywords}
        if name in ("read_text", "write_text", "to_csv") and "encoding" not in said:
            yield node.lineno
        if name == "open" and "encoding" not in said:
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if owner not in ("os", "tarfile", "gzip", "wheel", "Image", "zipfile") and not any("b" in m for m in modes):
                yield node.lineno


def test_text_files_are_utf_8():
    paths = [path for folder in ("omnigrok", "tasks", "reproductions") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path): list(text_without_encoding(ast.parse(path.read_text(encoding="utf-8")))) for path in paths}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("code", "lines"),
    [("p.read_text()", [1]), ("p.write_text(t)", [1]), ("open(p)", [1]), ("p.open('w')", [1]), ("p.open('rb')", []),
     ("t.to_csv(p)", [1]), ("p.read_text(encoding='utf-8')", []), ("open(p, 'w', encoding='utf-8')", [])],
)  # fmt: skip
def test_a_text_file_of_the_machines_own_encoding_is_seen(code, lines):
    assert list(text_without_encoding(ast.parse(code))) == lines
