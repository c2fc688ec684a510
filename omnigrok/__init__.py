"""The engine of the Omnigrok reproduction suite: one scaled-init trainer, a store of runs, their analysis.

Nothing here knows a dataset or a figure. Tasks live in ``tasks/`` (or in any package that registers one under
the entry-point group ``omnigrok.tasks``), figures in ``reproductions/``.
"""

import os

# Read when torch is loaded, which is below: threads that wait for work sleep instead of keeping a core from others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from omnigrok.errors import DataUnavailableError, OmnigrokError
from omnigrok.spec import RunSpec
from omnigrok.store import Store
from omnigrok.sweep import run_sweep
from omnigrok.task import Task, TaskData, available_tasks, get_task

__version__ = "0.1.0"

__all__ = [
    "DataUnavailableError",
    "OmnigrokError",
    "RunSpec",
    "Store",
    "Task",
    "TaskData",
    "available_tasks",
    "get_task",
    "run_sweep",
]
