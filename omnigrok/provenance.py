"""Where a result comes from: code, versions, hardware. No host name, no paths."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from omnigrok.processor import cores

ROOT = Path(__file__).resolve().parent.parent
CODE = ("omnigrok", "tasks", "reproductions", "pyproject.toml")
PACKAGES = ("omnigrok", "torch", "torchvision", "torch-geometric", "rdkit", "numpy", "pandas", "scipy", "seaborn")


@cache
def provenance(device: str) -> dict[str, Any]:
    """Git commit, whether the code differs from it, versions and device."""
    return {
        "git": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", *CODE)),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": device_name(device),
    }


@cache
def device_name(device: str) -> str:
    """The model of the processor or accelerator that a torch device string names."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if device == "mps":
        return f"{_processor()} (mps)"
    return _processor()


def default_workers(device: str) -> int:
    """Processes that share a sweep: one a core on a CPU, one on a GPU."""
    return cores() if device == "cpu" else 1


def pick_device(name: str) -> str:
    """The device of `--device`: auto takes cuda, then mps, then cpu."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return done.stdout.strip()


def program() -> str:
    """How this process was started: ``python -m module`` or a command's name."""
    path, main = Path(sys.argv[0]), sys.modules["__main__"].__spec__
    return f"python -m {main.name.removesuffix('.__main__')}" if main and path.suffix == ".py" else path.name


def command_line() -> str:
    """The command that goes on where this one stopped: as it was typed, but for --force."""
    return f"{program()} {shlex.join(word for word in sys.argv[1:] if word != '--force')}".rstrip()
