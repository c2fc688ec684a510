"""Ensemble: the parameters of R models as one matrix theta (runs x parameters), held tensor by tensor.

The mechanisms of Omnigrok are arithmetic on the rows of theta: scaled init and weight decay multiply a row, the norm
sphere divides it by its norm. A batch of one run is an ordinary module and takes torch's native kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from omnigrok.errors import CannotBatchError, SpecError
from omnigrok.isolation import own_state
from omnigrok.models import copied, in_evaluation, named_tensors, scaled_model, shared_names
from omnigrok.spec import RunSpec, generator, keyed
from omnigrok.sphere import row_norms
from omnigrok.task import Inputs, Task
from omnigrok.trial import Habits, place_of

__all__ = ["Ensemble", "Model", "in_memory_order", "scaled_model"]

Model = Callable[..., Tensor]
warn_of_slow_rules = torch._C._functorch._set_vmap_fallback_warning_enabled  # type: ignore[attr-defined]
DRAWS = "its model draws random numbers (dropout)"


def widest_dtype(device: torch.device) -> torch.dtype:
    """What means are taken in: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


class Ensemble:
    """The stacked parameters and buffers of one batch of runs: what optimizers step and probes look at.

    A parameter that several layers share is one parameter. In a batch the model's forward pass may not draw random
    numbers, as runs would depend on their neighbours; alone, what it draws depends on seed and step. A buffer that a
    forward pass assigns is read back after a pass in training; one in evaluation leaves no trace.

    Attributes:
        task: the task of all runs.
        specs: one spec a run; where settings change at a step, those of now.
        step: updates so far, which the trainer counts.
        device: of the parameters.
        params: each of the module's parameters with a leading axis of runs.
        theta: the same memory as one (runs, n) matrix a parameter, for the row arithmetic.
        leaves: what the optimizer steps: theta, or the module's own parameters for a single run.
        draws: whether the model draws random numbers (dropout), in training or evaluation.
        habits: what the model does beside computing its outputs.
        module: of a single run its own; of a batch the structure, without numbers.

    Raises:
        SpecError: a parameter is frozen or complex, or does not enter the loss.
        CannotBatchError: a model of a batch draws random numbers.
    """

    @own_state()
    def __init__(
        self,
        task: Task,
        specs: Sequence[RunSpec],
        device: torch.device | str,
        example: Inputs | None = None,
        habits: Habits = Habits(),  # noqa: B008  frozen
    ) -> None:
        models = [scaled_model(task, spec, example=example) for spec in specs]
        for name, p in models[0].named_parameters():
            if not p.requires_grad:
                raise SpecError(f"parameter {name} of {task.name} is frozen, but all are trained: make it a buffer")
            if p.is_complex():
                raise SpecError(f"parameter {name} of {task.name} is complex: make its two parts two parameters")
        self.draws = habits.draws or habits.draws_in_evaluation
        if len(specs) > 1 and self.draws:
            raise CannotBatchError(task.name, DRAWS)
        if len(specs) > 1 and (inside := [name for name in habits.leaves if name.endswith("]")]):
            raise CannotBatchError(task.name, f"its passes leave something in {inside[0]}")
        self.task, self.specs, self.step, self.habits = task, tuple(specs), 0, habits
        self.device = torch.device(device)
        self._evaluating = False
        self._shared = shared_names(models[0])
        self._paths = {name for name, _ in named_tensors(models[0], once=True)}
        params, buffers = stack_module_state(models)
        self.params: dict[str, Tensor] = {k: p.detach().to(device).requires_grad_() for k, p in params.items()}
        self.buffers: dict[str, Tensor] = {k: b.to(device) for k, b in buffers.items()}
        self.module = models[0].to(device)
        self._single = len(specs) == 1
        self._places: list[tuple[str, nn.Module, str]] = []  # of a single run's buffers
        self._bound: list[Tensor] = []  # what is there
        self._bind()
        left = [place_of(self.module, name) for name in habits.leaves if not name.endswith("]")]
        self._left = [(place, key, {key: place[key]} if key in place else {}) for place, key in left]
        self._ones = torch.ones(len(specs), dtype=specs[0].torch_dtype, device=device)

    def __len__(self) -> int:
        return len(self._ones)

    def norm(self) -> Float[Tensor, "runs"]:
        """L2 norm of all parameters of each run, every tensor counted once (Liu et al. 2023, section 2)."""
        return torch.linalg.vector_norm(row_norms(self.theta), dim=0)

    def gradient_rows(self) -> list[Tensor]:
        """The gradients as matrices (runs, n), in the memory order of theta; to be changed in place."""
        gradients = [leaf.grad for leaf in self.leaves if leaf.grad is not None]
        return [in_memory_order(g.unsqueeze(0)) for g in gradients] if self._single else gradients

    def gradient_norm(self) -> Float[Tensor, "runs"]:
        """L2 norm of each run's gradient, of all parameters."""
        return torch.linalg.vector_norm(row_norms(self.gradient_rows()), dim=0)

    def shaped(self, rows: Float[Tensor, "runs n"], i: int) -> Float[Tensor, "runs ..."]:
        """Rows of parameter i, in the memory order of theta, as a view in the parameter's own shape."""
        p = list(self.params.values())[i]
        return rows.as_strided(p.shape, p.stride(), rows.storage_offset())

    def noise(self, name: str, step: int, i: int) -> Float[Tensor, "runs ..."]:
        """Standard normal numbers in the shape of parameter i, keyed by each run's seed, a name and the step."""
        p = list(self.params.values())[i]
        keyed = [torch.randn(p.shape[1:], generator=generator(s.seed, name, step, i)) for s in self.specs]
        return torch.stack(keyed).to(p)

    def embeddings(self) -> set[str]:
        """Names of the parameters that are tables of nn.Embedding."""
        kinds = (nn.Embedding, nn.EmbeddingBag)
        return {f"{name}.weight" for name, module in self.module.named_modules() if isinstance(module, kinds)}

    def scale_(self, factors: Float[Tensor, "runs"]) -> None:
        """Multiply every parameter of run r by factors[r]."""
        for matrix in self.theta:
            matrix.mul_(factors[:, None])

    def map(
        self,
        function: Callable[[Model, Inputs, Tensor], Any],
        inputs: Inputs,
        targets: Tensor,
        *,
        shared: bool = False,
        rows: Tensor | None = None,
    ) -> Any:
        """``function(model, inputs, targets)`` of every run (or of some rows), results stacked along a runs axis.

        Inputs and targets lead with (runs, batch), or with (batch) when all runs share them. Results may be tensors or
        dictionaries of tensors.
        """
        if self.habits.changes_inputs:
            inputs, targets, shared = self._own(inputs, targets, shared)
        if self._evaluating and (self.habits.moves_buffers or self.habits.moves_parameters):
            with self.buffers_kept():
                return self._passed(function, inputs, targets, shared, rows)
        return self._passed(function, inputs, targets, shared, rows)

    def _own(self, inputs: Inputs, targets: Tensor, shared: bool) -> tuple[Inputs, Tensor, bool]:
        """Copies, one a run, for a model that changes them in place."""
        if not shared or self._single:
            return tuple(x.clone() for x in inputs), targets.clone(), shared
        runs = len(self)
        copies = [x.expand(runs, *x.shape).clone() for x in (*inputs, targets)]
        return tuple(copies[:-1]), copies[-1], False

    def _passed(
        self, function: Callable[..., Any], inputs: Inputs, targets: Tensor, shared: bool, rows: Tensor | None
    ) -> Any:
        if not self._single:
            return self._batched(function, inputs, targets, shared, rows)
        if not shared:
            inputs, targets = tuple(x[0] for x in inputs), targets[0]
        result = function(self.module, inputs, targets)
        if self._places:
            self._read_back()
        if isinstance(result, dict):
            return {name: value.unsqueeze(0) for name, value in result.items()}
        return result.unsqueeze(0)

    def _batched(
        self, function: Callable[..., Any], inputs: Inputs, targets: Tensor, shared: bool, rows: Tensor | None
    ) -> Any:
        params, buffers = self.params, self.buffers
        if rows is not None:
            params = {k: p[rows] for k, p in params.items()}
            buffers = {k: b[rows] for k, b in buffers.items()}

        def one(params: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Inputs, targets: Tensor) -> Any:
            # A layer that two attributes hold is named by one of them, or torch would leave this call's tensors in it.
            named = self._with_shared(params | buffers)
            weights = {name: x for name, x in named.items() if name in self._paths}

            def model(*inputs: Tensor) -> Any:
                return functional_call(self.module, weights, inputs, tie_weights=False)  # puts what is assigned there

            result = function(model, inputs, targets)
            if not buffers:
                return result
            return result, {k: weights[k] for k, b in buffers.items() if weights.get(k, b) is not b}

        own = None if shared else 0
        warn_of_slow_rules(False)  # torch would tell the user
        try:
            found = vmap(one, in_dims=(0, 0, own, own), randomness="error")(params, buffers, inputs, targets)
        except RuntimeError as error:
            if "randomness" not in str(error):
                raise
            raise CannotBatchError(self.task.name, DRAWS) from error
        finally:
            warn_of_slow_rules(True)
            self._clear()
        result, assigned = found if buffers else (found, {})
        if not self._evaluating:
            for name, b in assigned.items():
                self._take(name, b)
        return result

    def _clear(self) -> None:
        """Take away what a batched pass leaves in the structure: its tensors mean nothing outside it."""
        for place, key, before in self._left:
            place.pop(key, None)
            place.update(before)

    def _read_back(self) -> None:
        """What a single run's pass has assigned to its buffers is taken in training, and undone in evaluation."""
        for i, (name, layer, key) in enumerate(self._places):
            b, own = layer._buffers[key], self.buffers[name]
            if b is self._bound[i] and b.data_ptr() == own.data_ptr():  # `b.data = x` leaves the object
                continue
            if not self._evaluating and b is not None:
                self._take(name, b.unsqueeze(0))
            layer._buffers[key] = self._bound[i] = self.buffers[name][0]

    def _take(self, name: str, new: Tensor) -> None:
        """Have a buffer of all runs be another tensor: the one before may be needed by a backward pass."""
        old = self.buffers[name]
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise SpecError(
                f"a forward pass of {self.task.name} makes buffer {name} {new.dtype} of shape {tuple(new.shape[1:])}, "
                f"it was {old.dtype} of shape {tuple(old.shape[1:])}: have it keep them"
            )
        self.buffers[name] = new.detach().clone(memory_format=torch.contiguous_format)

    def losses(self, inputs: Inputs, targets: Tensor, *, shared: bool = False) -> Float[Tensor, "runs"]:
        """Mean loss of each run on a batch. Leading axes are (runs, batch), or (batch) when shared."""

        def loss(model: Model, inputs: Inputs, targets: Tensor) -> Tensor:
            return self.example_losses(model(*inputs), targets).mean()

        losses: Tensor = self.map(loss, inputs, targets, shared=shared)
        return losses

    def example_losses(self, outputs: Any, targets: Tensor) -> Tensor:
        """The loss of each example of one run: the task's, or what the spec has instead."""
        return example_losses(self.task, self.specs[0], outputs, targets)

    @contextlib.contextmanager
    def modes_kept(self) -> Iterator[None]:
        """Each module of the model is in the mode that it was in, afterwards."""
        modes = [(module, module.training) for module in self.module.modules()]
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode within; afterwards each layer is in the mode that it had."""
        before, self._evaluating = self._evaluating, True
        try:
            with in_evaluation(self.module):
                yield
        finally:
            self._evaluating = before

    @contextlib.contextmanager
    def seeded(self, step: int, what: str = "forward") -> Iterator[None]:
        """What the model draws depends on the run's seed, the step and a word; generators are as before afterwards."""
        if not self.draws:
            yield
            return
        with keyed(self.specs[0].seed, what, step):
            yield

    def set_gradients(self, losses: Float[Tensor, "runs"]) -> None:
        """Put the gradient of each run's loss into its row of the leaves' ``grad``."""
        if self._single:
            for p in self.leaves:
                p.grad = None
            torch.autograd.backward(losses, self._ones)
            self._all_used([p.grad for p in self.leaves])
            return
        for matrix, p, g in zip(self.theta, self.params.values(), self._gradients(losses), strict=True):
            if g.stride() != p.stride():
                g = torch.empty_like(p).copy_(g)
            matrix.grad = in_memory_order(g)

    def gradients_of(self, losses: Float[Tensor, "runs"]) -> dict[str, Tensor]:
        """The gradients of each run's loss, by the parameters' names."""
        return dict(zip(self.params, self._gradients(losses), strict=True))

    def adopt_layout(self, gradients: dict[str, Tensor]) -> None:
        """Lay the parameters out in memory as their gradients come (a batched weight's is transposed): saves a copy."""
        for name, g in gradients.items():
            p, dense = self.params[name], torch.empty_like(g)
            if dense.stride() == g.stride() != p.stride() and g.stride(0) == g[0].numel():
                p.data = dense.copy_(p.detach())
        self._bind()

    @contextlib.contextmanager
    def buffers_kept(self) -> Iterator[None]:
        """Whatever is computed within, running statistics and carried states are as before afterwards.

        So are parameters, where the model changes them in place.
        """
        before, bound = self.buffers, [*self._bound]
        params = {name: p.detach().clone() for name, p in self.params.items() if self.habits.moves_parameters}
        self.buffers = {name: b.clone() for name, b in before.items()}
        self._bound = [self.buffers[name][0] for name, _, _ in self._places]
        self._place()
        try:
            yield
        finally:
            self.buffers, self._bound = before, bound
            self._place()
            for name, p in params.items():
                self.params[name].data.copy_(p)

    def _place(self) -> None:
        for (_, layer, key), b in zip(self._places, self._bound, strict=True):
            layer._buffers[key] = b

    def _gradients(self, losses: Float[Tensor, "runs"]) -> tuple[Tensor, ...]:
        """No run's loss depends on another's parameters: the gradient of the sum is each run's own."""
        gradients = torch.autograd.grad(losses, list(self.params.values()), self._ones, allow_unused=True)
        self._all_used(gradients)
        return gradients

    def _all_used(self, gradients: Sequence[Tensor | None]) -> None:
        unused = [name for name, g in zip(self.params, gradients, strict=True) if g is None]
        if unused:
            names = ", ".join(unused)
            raise SpecError(f"of {self.task.name} do not enter the loss: {names}; remove them or make them buffers")

    def _with_shared(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the further names of what layers share."""
        return named | {name: named[first] for name, first in self._shared.items()}

    def stacked(self) -> dict[str, Tensor]:
        """A copy of the parameters and buffers of all runs, by their names in the module's state_dict."""
        kept, named = self.module.state_dict(), self._with_shared(self.params | self.buffers)
        return {name: x.detach().clone() for name, x in named.items() if name in kept}

    @torch.no_grad()
    def model(self, r: int) -> nn.Module:
        """A copy of the module of run r, on the CPU."""
        module = copied(self.module).to_empty(device="cpu")
        named = self._with_shared(self.params | self.buffers)
        cached = dict(self.module.named_buffers())  # one that was None, and that a single run's pass has set
        for name, x in (*module.named_parameters(), *module.named_buffers()):
            x.copy_(named[name][r] if name in named else cached[name])
        return module

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"params": {k: p.detach() for k, p in self.params.items()}, "buffers": self.buffers}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        for kind, own in (("params", self.params), ("buffers", self.buffers)):
            shapes, saved = ({name: x.shape for name, x in each.items()} for each in (own, state[kind]))
            if shapes != saved:
                raise ValueError(f"its {kind} have other names or shapes")
            for name, x in own.items():
                x.copy_(state[kind][name])

    @torch.no_grad()
    def load_weights(self, weights: Sequence[Mapping[str, Tensor]]) -> None:
        """Take each run's parameters and buffers from the state_dict of its module, as `Store.weights` gives them."""
        kept = self.module.state_dict().keys()  # not what a module computes anew, its buffers that are not persistent
        for r, state in enumerate(weights):
            for name, x in (self.params | self.buffers).items():
                if name in kept:
                    x[r].copy_(state[name])

    def _bind(self) -> None:
        """Make theta, and the module of a single run, views of the parameters' memory."""
        self.theta = [in_memory_order(p.detach()) for p in self.params.values()]
        self.leaves: list[Tensor] = self.theta
        if not self._single:
            self.module.to("meta")  # only its structure is used
            return
        for name, p in self.module.named_parameters():
            p.data = self.params[name].data[0]
        for name, b in self.module.named_buffers():
            b.data = self.buffers[name].data[0]
        for path, layer in self.module.named_modules():
            for key, x in layer._buffers.items():
                if x is not None:
                    name = f"{path}.{key}" if path else key
                    self._places.append((self._shared.get(name, name), layer, key))
                    self._bound.append(x)
        self.leaves = list(self.module.parameters())


def in_memory_order(stacked: Float[Tensor, "runs ..."]) -> Float[Tensor, "runs n"]:
    """The memory of a dense stacked tensor as a contiguous matrix with a row a run."""
    n = stacked[0].numel()
    return stacked.as_strided((len(stacked), n), (n, 1))


def example_losses(task: Task, spec: RunSpec, outputs: Any, targets: Tensor) -> Tensor:
    """The loss of each example: the task's, or what the spec has instead."""
    return task.loss(outputs, targets) if spec.loss is None else spec.loss(task.logits(outputs), targets)
