"""The engine of the Omnigrok reproduction suite: one scaled-init trainer, a store of runs, their analysis.

Nothing here knows a dataset or a figure. Tasks live in ``tasks/`` (in any package that registers one under the
entry-point group ``omnigrok.tasks``, or in a file of your own), figures in ``reproductions/``. A map of the house:

spec                                       a run: its numbers and its parts
part, optimizers, schedule, gradients,     the parts, a kind a file
losses, sphere, changes
task, registry, data, loading,             what is learned, from which data, and whether a task keeps its contract
data_contract, check
models, trial, blame                       a run's module; what a user's code does, found by trying it, and its errors
ensemble, order, trainer, oracle           R models as rows of one matrix; their training; the same as a plain loop
log, probing                               what is measured on the way, and how probes are asked
plan, batching, sweep, executors, pickles, specs into batches, batches into processes, and what that will cost
estimate
isolation, values, processor               the caller's process left as it was; numbers of any library; the processor
store, files, sealed, archive, state       what was measured, kept and resumed; a store as one file; weights of any file
analysis, claims                           critical norms, times to grok; what a paper says against what was measured
probes, exported                           local complexity, attacks, linear regions: of any torch model, and as probes
figures                                    what every reproduction shares, and what needs matplotlib
cli, run_cli, model_cli, task_cli,         the commands; what only `bench` needs of a task; what `new-task` writes
store_cli, console, bench, published,
example
"""

import os

# Read when torch is loaded, which is below: threads that wait for work sleep instead of keeping a core from others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from omnigrok.errors import DataUnavailableError, OmnigrokError
from omnigrok.registry import available_tasks, get_task
from omnigrok.spec import RunSpec
from omnigrok.store import Store
from omnigrok.sweep import run_sweep
from omnigrok.task import Task, TaskData, Thresholds

__version__ = "0.1.0"

__all__ = [
    "DataUnavailableError",
    "OmnigrokError",
    "RunSpec",
    "Store",
    "Task",
    "TaskData",
    "Thresholds",
    "available_tasks",
    "get_task",
    "run_sweep",
]
