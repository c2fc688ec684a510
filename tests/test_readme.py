"""The READMEs' Python and the examples in docstrings are run; their addresses resolve."""

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from omnigrok import DataUnavailableError, RunSpec, Task
from omnigrok.task import Thresholds

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(ROOT / folder / "README.md" for folder in ("omnigrok", "tasks", "reproductions"))]
README = "\n".join(page.read_text() for page in PAGES)
BLOCKS = list(dict.fromkeys(re.findall(r"```python\n(.*?)```", README, re.DOTALL)))
SMALLER = {"steps=60_000": "steps=2", "steps=2000": "steps=4", "keep=(0, 1000)": "keep=(0, 2)", "[1000]": "[2]"}
"""A README trains in earnest, a test a few steps."""


def cases():
    """The blocks; those that train real data are slow: how many runs go together is measured first."""
    for block in BLOCKS:
        yield pytest.param(block, marks=[pytest.mark.slow] if "run_sweep(" in block else [], id=block.splitlines()[0])


def given():
    """What a block takes for granted: a network and images of the reader's own, and the names that a task needs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 3))
        return {
            "model": model,
            "images": torch.rand(10, 30),
            "Task": Task,
            "RunSpec": RunSpec,
            "Thresholds": Thresholds,
        }


@pytest.mark.parametrize("block", list(cases()))
def test_a_block_of_the_readme_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for long, short in SMALLER.items():
        block = block.replace(long, short)
    names = given()
    try:
        exec(compile(block, "README.md", "exec", dont_inherit=True), names)
    except DataUnavailableError as error:
        pytest.skip(str(error))
    for value in list(names.values()):
        if isinstance(value, type) and issubclass(value, Task) and value is not Task:
            value()  # nothing that a task must have is missing
            assert not [name for name in vars(value) if not name.startswith("_") and not hasattr(Task, name)
                        and name not in Task.__annotations__]  # fmt: skip


def test_every_shortening_is_of_something_in_the_readme():
    assert not [long for long in SMALLER if long not in "".join(BLOCKS)]


def examples():
    """Every docstring with an example: its file, the line where it starts, its text."""
    for path in sorted(
        path for folder in ("omnigrok", "tasks", "reproductions") for path in (ROOT / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if ">>>" in text:
                    yield path.relative_to(ROOT), getattr(node, "name", "module"), text


@pytest.mark.parametrize(("path", "name", "text"), list(examples()), ids=str)
def test_an_example_of_a_docstring_gives_what_it_says(path, name, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    example = doctest.DocTestParser().get_doctest(text, dict(vars(module)), name, str(path), 0)
    said = []
    failed, tried = doctest.DocTestRunner().run(example, out=said.append)
    assert tried
    assert not failed, "".join(said)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "figures" / "README.md"], ids=lambda page: page.parent.name)
def test_every_address_of_a_page_resolves(page):
    text = page.read_text()
    for address in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = address.partition("#")
        target = page.parent / path if path else page
        if path.startswith("http"):
            continue
        assert target.exists(), address
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, address
