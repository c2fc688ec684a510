"""The one scaled-init trainer. A batch of runs is trained together; each keeps its own alpha, seed, weight decay,
training-set size and norm sphere, and its result does not depend on its neighbours beyond floating-point rounding.

A step is composed of the spec's parts: an optimizer that asks for gradients, parts that change these, a sphere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnigrok.blame import PASSED_ON, blame, blamed
from omnigrok.data_contract import check_alone, check_classes, extreme_examples
from omnigrok.ensemble import Ensemble, Model, example_losses, widest_dtype
from omnigrok.errors import CannotBatchError, SpecError, first_line
from omnigrok.isolation import own_state
from omnigrok.log import Log
from omnigrok.models import in_evaluation, scaled_model
from omnigrok.order import BatchOrder
from omnigrok.probing import Question, asked, no_global_draws, takes, takes_trainer
from omnigrok.processor import flushed
from omnigrok.schedule import evaluation_steps
from omnigrok.spec import RunSpec, keyed
from omnigrok.sphere import Spheres
from omnigrok.task import Inputs, Task, TaskData, check_options, check_size
from omnigrok.trial import Function, advice, compare_last, find_habits, keeps_contract


class Probe(Protocol):
    """Measures something of all runs at the logged steps. A frozen dataclass: its fields enter the run's hash.

    Its answer is checked each time: floating-point numbers, one a run, by the names of metrics. A metric may be left
    out at some steps. A probe that has one argument is given the trainer, as all were once.
    """

    def __call__(self, ensemble: Ensemble, data: TaskData) -> dict[str, Float[Tensor, "runs"]]: ...


class Perturbation(Protocol):
    """Changes the training inputs of a step (noise, PGD). A frozen dataclass: its fields enter the run's hash.

    Inputs and targets lead with (runs, batch), and so do the inputs that it gives. What it does to the model's buffers
    (running statistics) is undone.
    """

    def __call__(self, ensemble: Ensemble, inputs: Inputs, targets: Tensor) -> Inputs: ...


PER_RUN = frozenset({"alpha", "seed", "weight_decay", "n_train", "batch_size", "sphere"})
"""What may differ within a batch. All else is shared, so a field that is forgotten here costs speed and no truth."""


def batch_key(spec: RunSpec) -> tuple:
    """Specs with equal keys can be trained in one batch: equal but for PER_RUN, and as many examples a step."""
    shared = (getattr(spec, field.name) for field in dataclasses.fields(spec) if field.name not in PER_RUN)
    return (*shared, spec.effective_batch_size)


class Trainer:
    """Trains a batch of runs.

    Args:
        task: the task of all runs.
        specs: one spec a run; equal but for PER_RUN and in the examples a step.
        data: the task's data on `device`.

    Raises:
        SpecError: a run wants more examples than the pool has, or float64 where the device has none; the task's loss or
            a metric is not one number an example; its code fails, and the message shows the line; or a probe or
            perturbation does not take what it is called with.
        CannotBatchError: the task's runs can be trained alone only.
        ValueError: the specs cannot share a batch.
    """

    @own_state()
    def __init__(
        self, task: Task, specs: Sequence[RunSpec], data: TaskData, device: torch.device | str = "cpu"
    ) -> None:
        if len({batch_key(spec) for spec in specs}) != 1:
            raise ValueError(f"the runs of a batch must agree in all but {', '.join(sorted(PER_RUN))}")
        for spec in specs:
            check_options(task, spec)
            check_size(task, spec, data)
            for change in spec.changes:
                check_size(task, spec.replace(**change.settings), data)
                if change.n_train is not None and task.data_depends_on_n_train:
                    raise SpecError(f"n_train of {task.name} cannot change: its data depend on it")
        if specs[0].loss is not None:
            specs[0].loss.check(data.train_targets)
        if specs[0].torch_dtype == torch.float64 != widest_dtype(torch.device(device)):
            raise SpecError(f"{device} has no float64, which {task.name} is trained in; take --device cpu")
        self.task, self.specs, self.data = task, tuple(specs), data
        self.device = torch.device(device)
        self.spec = specs[0]
        self._measured = -1  # a checkpoint at a logged step may lie before or after its measurement
        self._step = 0
        self._order = BatchOrder(specs, self.device)
        self.ensemble = self._begun()
        self._questions: list[Question] = [
            (probe, (self,) if takes_trainer(probe) else (self.ensemble, data)) for probe in self.spec.probes
        ]
        if self.spec.perturbation is not None and not takes(self.spec.perturbation, 3):
            name = type(self.spec.perturbation).__name__
            raise SpecError(f"{name} cannot be called as a perturbation is: __call__(self, ensemble, inputs, targets)")
        self._schedule = set(evaluation_steps(self.spec.steps, self.spec.evaluation_density))
        self._log = Log()
        self._kept: dict[int, dict[str, Tensor]] = {}
        self.optimizer = self.spec.optimizer.start(self.ensemble, [spec.weight_decay for spec in specs])
        self._gradient_parts = [(part, part.state(self.ensemble)) for part in self.spec.gradient]

    @property
    def step(self) -> int:
        """Updates so far."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = self.ensemble.step = step

    @own_state()
    @flushed()
    def train(
        self,
        *,
        checkpoint: Callable[[], None] | None = None,
        checkpoint_seconds: float = 30.0,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Train to the last step, measuring on the way; call `checkpoint` at least that often and at the end."""
        saved = time.monotonic()
        while True:
            if self.step in self._schedule and self.step > self._measured:
                self.measure()
                if progress is not None:
                    progress(self.step)
            if self.step in self.spec.keep and self.step not in self._kept:
                self._kept[self.step] = self.ensemble.stacked()
            if self.step >= self.spec.steps or (self.step == self._measured and self.stopped()):
                break
            self.update()
            if checkpoint is not None and time.monotonic() - saved > checkpoint_seconds:
                checkpoint()
                saved = time.monotonic()
                if progress is not None:
                    progress(self.step)
        if checkpoint is not None:
            checkpoint()

    def update(self) -> None:
        """One step of every run."""
        try:
            self._change(self.step)
            if self.step:
                self.spheres.begin(self.step)
            self.optimizer.step(self.gradients, self.spec.lr_at(self.step))
            self.spheres.after_step()
        except Exception as error:
            blame(self.task, error)
            raise
        self.step += 1

    def gradients(self) -> None:
        """Gradients of all runs where their weights are now; an optimizer may ask for them twice a step."""
        inputs, targets, shared = self.batch()
        with self._weight_noise() if self.spec.weight_noise is not None else contextlib.nullcontext():
            with self.ensemble.seeded(self.step):
                if self.spec.perturbation is not None:
                    inputs, targets = self._per_run(inputs, targets, shared)
                    with no_global_draws(self.spec.perturbation, self.ensemble), self.ensemble.buffers_kept():
                        inputs, shared = self.spec.perturbation(self.ensemble, inputs, targets), False
                losses = self.ensemble.losses(inputs, targets, shared=shared)
            self.spheres.within_step()
            self.ensemble.set_gradients(losses)
        if self._gradient_parts:
            with torch.no_grad():
                for part, state in self._gradient_parts:
                    part(self.ensemble, state, self.step)

    def batch(self) -> tuple[Inputs, Tensor, bool]:
        """The training batch of the current step: inputs, targets, and whether all runs share it.

        Leading axes are (runs, batch), or (batch) when shared.
        """
        size = self.spec.effective_batch_size
        if all(spec.n_train == size for spec in self.specs):  # full batch: the order does not matter
            return tuple(x[:size] for x in self.data.train_inputs), self.data.train_targets[:size], True
        index = self._order(self.step)
        return tuple(x[index] for x in self.data.train_inputs), self.data.train_targets[index], False

    def losses(self, inputs: Inputs, targets: Tensor, *, shared: bool = False) -> Float[Tensor, "runs"]:
        """Mean loss of each run on a batch."""
        return self.ensemble.losses(inputs, targets, shared=shared)

    @own_state()
    def measure(self) -> None:
        """Log loss and metrics on train and test set, the weight norm, and the probes."""
        try:
            with torch.no_grad(), self.ensemble.seeded(self.step, "evaluation"):
                self._measure()
        except Exception as error:
            blame(self.task, error)
            raise

    def _measure(self) -> None:
        if self.data.versions() != self._untouched:
            raise SpecError(
                f"the data of {self.task.name} were changed in place while it was trained: have model, loss, metrics "
                "and parts change copies (x.clone()), and start again in a new process"
            )
        step, data = self.step, self.data
        self._log.record(step, "parameters", {"weight_norm": self.ensemble.norm()})
        self._log.record(step, "test", self._evaluate(data.test_inputs, data.test_targets))
        sizes = torch.tensor([spec.n_train for spec in self.specs])
        results: dict[str, Tensor] = {}
        for n in sizes.unique().tolist():
            rows = torch.nonzero(sizes == n).flatten().to(self.device)
            metrics = self._evaluate(
                tuple(x[:n] for x in data.train_inputs),
                data.train_targets[:n],
                rows=None if len(rows) == len(self.specs) else rows,
            )
            for name, values in metrics.items():
                results.setdefault(name, values.new_zeros(len(self.specs)))[rows] = values
        self._log.record(step, "train", results)
        self._log.record(step, "probe", self.probed())
        self._measured = step

    def probed(self) -> dict[str, Float[Tensor, "runs"]]:
        """What the probes say now.

        Raises:
            SpecError: an answer is not what a probe's must be.
        """
        return asked(self._questions, self.ensemble)

    def latest(self, split: str, metric: str) -> float:
        """The mean over runs of what was measured last."""
        return self._log.latest(split, metric).mean().item()

    def frames(self) -> list[pd.DataFrame]:
        """What was measured, a table a run: step, split, metric, value. A run that stopped ends there and says so."""
        ends = self._ends()
        tables = self._log.tables(ends)
        for r, end in enumerate(ends):
            if end != math.inf:
                said = pd.DataFrame({"step": [int(end)], "split": "run", "metric": "stopped", "value": 1.0})
                tables[r] = pd.concat([tables[r], said], ignore_index=True)
        return tables

    def stopped(self) -> bool:
        """Whether all runs have ended before their last step."""
        return self.spec.stop is not None and max(self._ends()) < math.inf

    def _ends(self) -> list[float]:
        """The step of the evaluation after which each run has stopped; inf: it has not."""
        metric = self.task.thresholds.metric
        steps = self._log.steps("test", metric)
        if self.spec.stop is None or not steps:
            return [math.inf] * len(self.specs)
        found = [self.spec.stop.at(v, self.task.thresholds.test) for v in self._log.values("test", metric).T.tolist()]
        return [steps[int(i)] if i < math.inf else i for i in found]

    def weights(self) -> list[dict[int, dict[str, Tensor]]]:
        """For each run, the kept steps that it reached with the state_dict of its module."""
        return [
            {
                step: {name: x[r].cpu().clone() for name, x in state.items()}
                for step, state in self._kept.items()
                if step <= end
            }
            for r, end in enumerate(self._ends())
        ]

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on with the same bits: there is no generator state, batch order is keyed by step."""
        return {
            "step": self.step,
            "measured": self._measured,
            "runs": self.ensemble.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradient": [state for _, state in self._gradient_parts],
            "spheres": self.spheres.state_dict(),
            **self._log.state_dict(),
            "kept": self._kept,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.ensemble.load_state_dict(state["runs"])
        for step in sorted({change.step for change in self.spec.changes if change.step < self.step}):
            self._change(step)
        self.optimizer.load_state_dict(state["optimizer"])
        self.spheres.load_state_dict(state["spheres"], self.step)
        for (_, own), saved in zip(self._gradient_parts, state["gradient"], strict=True):
            for x, y in zip(own, saved, strict=True):
                x.copy_(y)
        evaluations = [step for step in sorted(self._schedule) if step <= state["measured"]]
        self._log.load_state_dict(state, len(self.specs), evaluations)
        self._measured = state["measured"]
        self._kept = dict(state.get("kept", {}))

    def _evaluate(
        self, inputs: Inputs, targets: Tensor, rows: Tensor | None = None
    ) -> dict[str, Float[Tensor, "runs"]]:
        """Means over a shared set of examples. Sums are in float64 where the device has it, and divided last."""
        accumulate = widest_dtype(self.device)
        sums: dict[str, Tensor] = {}
        chunk = self.task.evaluation_chunk
        with self.ensemble.evaluating():
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                values = self.ensemble.map(
                    self._example_metrics, tuple(x[part] for x in inputs), targets[part], shared=True, rows=rows
                )
                for name, value in values.items():
                    total = value.sum(dim=1, dtype=accumulate)
                    sums[name] = sums[name] + total if name in sums else total
        return {name: total / len(targets) for name, total in sums.items()}

    def _example_metrics(self, model: Model, inputs: Inputs, targets: Tensor) -> dict[str, Tensor]:
        outputs = model(*inputs)
        return {"loss": self.example_losses(outputs, targets), **self.task.metrics(outputs, targets)}

    def _begun(self) -> Ensemble:
        """The runs before the first step, once one of them alone has shown what the model does."""
        task, specs, data = self.task, self.specs, self.data
        check = keeps_contract(task, self.example_losses)
        self._check_contract(check)
        few = slice(0, min(2, len(data.test_targets)))
        examples = tuple(x[few] for x in data.test_inputs), data.test_targets[few]
        inputs, targets, shared = self.batch()

        def batch(r: int) -> tuple[Inputs, Tensor]:
            return (inputs, targets) if shared else (tuple(x[r] for x in inputs), targets[r])

        def loss(model: Model, inputs: Inputs, targets: Tensor) -> dict[str, Tensor]:
            return {"loss": self.example_losses(model(*inputs), targets)}

        habits = find_habits(task, self._alone(0), (loss, batch(0)), (check, examples))
        gradients: dict[str, Tensor] = {}
        try:
            ensemble = self.ensemble = Ensemble(task, specs, self.device, data.train_inputs, habits)
            if len(specs) > 1:
                with ensemble.buffers_kept():
                    with ensemble.evaluating(), torch.no_grad():
                        ensemble.map(self._example_metrics, *examples, shared=True)
                    gradients = ensemble.gradients_of(ensemble.losses(inputs, targets, shared=shared))
        except PASSED_ON:
            raise
        except Exception as error:
            if len(specs) == 1:
                raise
            raise CannotBatchError(task.name, f"torch cannot batch its model ({first_line(error)})") from error
        if len(specs) > 1:
            self._same_as_alone(inputs, targets, shared)
        self._untouched = data.versions()
        self.spheres = Spheres(ensemble, [spec.sphere for spec in specs])
        self.spheres.begin(0)
        if gradients:
            ensemble.adopt_layout(gradients)
        return ensemble

    def _same_as_alone(self, inputs: Inputs, targets: Tensor, shared: bool) -> None:
        """Raises CannotBatchError where a run has other gradients in a batch than alone: torch's batched form of an
        operation may leave out what its plain form does.

        At the default initialisation and in float64, where rounding is far below such a fault; a saturated network's
        float32 gradients are rounding. What cannot be computed so is not compared.
        """
        task, double = self.task, torch.float64
        if widest_dtype(self.device) != double:
            return
        specs = [spec.replace(alpha=1.0, dtype="float64") for spec in (self.specs[0], self.specs[-1])]

        def of_two(x: Tensor) -> Tensor:
            x = x if shared else x[[0, -1]]
            return x.to(double) if x.is_floating_point() else x

        def loss(model: Model, inputs: Inputs, targets: Tensor) -> dict[str, Tensor]:
            return {"loss": self.example_losses(model(*inputs), targets)}

        inputs, targets = tuple(map(of_two, inputs)), of_two(targets)
        last = (inputs, targets) if shared else (tuple(x[-1] for x in inputs), targets[-1])
        try:
            two = Ensemble(task, specs, self.device, self.data.train_inputs, self.ensemble.habits)
            gradients = two.gradients_of(two.losses(inputs, targets, shared=shared))
            alone = scaled_model(task, specs[-1], example=self.data.train_inputs).to(self.device)
            compare_last(task, alone, loss, last, gradients, two.buffers)
        except CannotBatchError:
            raise
        except Exception:  # of a model that computes in float32 only, say
            return

    def _alone(self, r: int) -> nn.Module:
        """A fresh module of one run."""
        return scaled_model(self.task, self.specs[r], example=self.data.train_inputs).to(self.device)

    def _check_contract(self, check: Function) -> None:
        """Loss and metrics are one number an example, of all classes, whatever is beside it."""
        model = self._alone(0)
        for inputs, targets in extreme_examples(self.data, self.specs):
            blame_it = blamed(self.task, "the model, loss or metrics", advice(model, (*inputs, targets)))
            with torch.no_grad(), in_evaluation(model), keyed("trial"), blame_it:
                outputs = model(*(x.clone() for x in inputs))
                try:
                    check(lambda *_, outputs=outputs: outputs, inputs, targets.clone())
                except (IndexError, RuntimeError) as error:
                    check_classes(self.task.name, outputs, targets, error)
                    raise

                def losses(chosen: list[int], outputs: Tensor = outputs, targets: Tensor = targets) -> Tensor:
                    with keyed("trial"):
                        return self.example_losses(outputs[chosen], targets[chosen])

                if isinstance(outputs, Tensor):
                    first = [0] * len(targets)
                    check_alone(self.task.name, *map(losses, ([*range(len(targets))], first)))

    def example_losses(self, outputs: Any, targets: Tensor) -> Tensor:
        """The loss of each example of one run: the task's, or what the spec has instead."""
        return example_losses(self.task, self.spec, outputs, targets)

    def _change(self, step: int) -> None:
        """Take on the settings that change at a step."""
        for change in (each for each in self.spec.changes if each.step == step):
            self.ensemble.specs = self.specs = tuple(spec.replace(**change.settings) for spec in self.specs)
            self.spec = self.specs[0]
            self.optimizer.decay([spec.weight_decay for spec in self.specs])
            self._order = BatchOrder(self.specs, self.device)

    @contextlib.contextmanager
    def _weight_noise(self) -> Iterator[None]:
        """The weights are those with the step's noise within, and without it afterwards."""
        assert self.spec.weight_noise is not None
        with torch.no_grad():
            before = [matrix.clone() for matrix in self.ensemble.theta]
            self.spec.weight_noise(self.ensemble, self.step)
        yield
        with torch.no_grad():
            for matrix, old in zip(self.ensemble.theta, before, strict=True):
                matrix.copy_(old)

    def _per_run(self, inputs: Inputs, targets: Tensor, shared: bool) -> tuple[Inputs, Tensor]:
        """Batches of the runs with their own leading axis, also where they share one."""
        if not shared:
            return inputs, targets
        runs = len(self.specs)
        return tuple(x.expand(runs, *x.shape) for x in inputs), targets.expand(runs, *targets.shape)
