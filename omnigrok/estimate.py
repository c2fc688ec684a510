"""What a sweep will cost, before it is trained: what `--dry-run` prints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from omnigrok.batching import shortest
from omnigrok.loading import task_data
from omnigrok.plan import plan, unique
from omnigrok.processor import threads
from omnigrok.registry import get_task
from omnigrok.schedule import evaluation_steps
from omnigrok.spec import RunSpec
from omnigrok.store import Store
from omnigrok.trainer import Trainer


def describe(specs: Sequence[RunSpec], store: Store, device: str, workers: int = 1, force: bool = False) -> str:
    """What `--dry-run` prints: runs, steps, estimated time on all workers and memory of one batch."""
    batches = plan(specs, store, device, workers=workers, force=force)
    rows: dict[tuple, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for batch in batches:
        spec, found = batch.specs[0], batch.batching
        assert found is not None
        row = rows[spec.task, spec.steps, len(batch.specs)]
        row[0] += len(batch.specs)
        row[1] += batch.seconds
        evaluations = len(evaluation_steps(spec.steps, spec.evaluation_density))
        with threads(batch.threads):
            row[1] += evaluations * len(batch.specs) * _probe_seconds(spec.replace(seed=0, alpha=1.0), device)
        row[2] = max(row[2], len(batch.specs) * found.run_bytes + task_data(spec, device).nbytes)
    lines = [f"{'task':<18}{'runs':>6}{'steps':>9}{'runs/batch':>12}{'minutes':>9}{'MiB':>8}"]
    for (task, steps, size), (runs, seconds, memory) in rows.items():
        minutes = f"{seconds / workers / 60:>9.1f}"
        lines.append(f"{task:<18}{runs:>6}{steps:>9}{size:>12}{minutes}{memory / 2**20:>8.0f}")
    total = sum(seconds for _, seconds, _ in rows.values())
    runs, left = len(unique(specs)), sum(len(batch.specs) for batch in batches)
    lines.append(f"{runs - left} of {runs} runs are finished; about {total / workers / 60:.1f} min left")
    return "\n".join(lines)


@lru_cache(maxsize=64)
def _probe_seconds(spec: RunSpec, device: str) -> float:
    """Seconds of one evaluation of one run's probes, at its start."""
    if not spec.probes:
        return 0.0
    trainer = Trainer(get_task(spec.task), [spec], task_data(spec, device), device)
    return shortest(trainer.probed, device, 0.0, least=2)
