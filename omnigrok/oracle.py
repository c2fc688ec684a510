"""The same training as a plain PyTorch loop: one nn.Module, a DataLoader, torch.optim. Written to be obviously right.

Tests hold the trainer against it and `omnigrok bench` times against it. It shares with the trainer only what defines
a run: the scaled init and the order of the examples.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from omnigrok.ensemble import scaled_model
from omnigrok.errors import SpecError
from omnigrok.gradients import Clip
from omnigrok.isolation import own_state
from omnigrok.order import BatchOrder
from omnigrok.processor import flushed
from omnigrok.spec import RunSpec
from omnigrok.sphere import Sphere
from omnigrok.task import Task, TaskData


class Examples(Dataset):
    """The first n examples of the pool, or of the test set, one at a time."""

    def __init__(self, data: TaskData, n: int, *, test: bool = False) -> None:
        self.inputs = data.test_inputs if test else data.train_inputs
        self.targets = data.test_targets if test else data.train_targets
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        return (*[x[i] for x in self.inputs], self.targets[i])


class Stream(Sampler[int]):
    """Example indices in the trainer's order, for a number of steps."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec

    def __iter__(self) -> Iterator[int]:
        spec = self.spec
        if spec.effective_batch_size == spec.n_train:
            return iter(list(range(spec.n_train)) * spec.steps)
        return iter(BatchOrder.stream(spec.seed, spec.n_train, range(spec.steps * spec.effective_batch_size)).tolist())


def weight_norm(model: nn.Module, *, first_twice: bool = False) -> float:
    """L2 norm of all parameters, in float64; with the first one counted twice."""
    squares = [p.detach().double().square().sum().item() for p in model.parameters()]
    return (sum(squares) + (squares[0] if first_twice else 0)) ** 0.5


@own_state()
@flushed()
def train(task: Task, spec: RunSpec, data: TaskData) -> nn.Module:
    """Train one run and return its module.

    Raises:
        SpecError: the run has a part that this loop does not know: it has torch's optimizers, clipping, schedules,
            losses and the published spheres.
    """
    sphere, clips = spec.sphere, [part for part in spec.gradient if isinstance(part, Clip)]
    published = sphere is None or sphere == Sphere(sphere.first_twice, sphere.early)
    others = [spec.perturbation, spec.weight_noise, spec.stop, *spec.changes]
    if not published or len(clips) < len(spec.gradient) or any(part is not None for part in others):
        raise SpecError(
            "the plain loop knows torch's optimizers, clipping, schedules, losses and published spheres only"
        )
    model = scaled_model(task, spec, reference=True)
    first_twice = sphere is not None and sphere.first_twice
    radius = weight_norm(model, first_twice=first_twice)

    def project(*, early: bool) -> None:
        if sphere is not None and sphere.early == early:
            scale = radius / weight_norm(model, first_twice=first_twice)
            for p in model.parameters():
                p.data.mul_(scale)

    optimizer = spec.optimizer.plain(model.parameters(), spec.lr, spec.weight_decay)
    criterion = spec.loss or task.loss
    loader = DataLoader(
        Examples(data, spec.n_train),
        batch_size=spec.effective_batch_size,
        sampler=Stream(spec),
        generator=torch.Generator(),  # DataLoader draws a seed for its workers, from the global generator if left alone
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: spec.lr_at(step) / spec.lr)
    for *inputs, targets in loader:
        optimizer.zero_grad()
        loss = criterion(model(*inputs), targets).mean()
        project(early=True)
        loss.backward()
        for clip in clips:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip.limit)
        optimizer.step()
        schedule.step()
        project(early=False)
    return model
