"""Ensemble: the parameters of R models as one matrix theta (runs x parameters), held tensor by tensor.

The mechanisms of Omnigrok are arithmetic on the rows of theta: scaled init and weight decay multiply a row, the norm
sphere divides it by its norm. A batch of one run is an ordinary module and takes torch's native kernels.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from omnigrok.errors import SpecError
from omnigrok.spec import RunSpec, generator, seed_of
from omnigrok.sphere import row_norms
from omnigrok.task import Inputs, Task

Model = Callable[..., Tensor]
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def widest_dtype(device: torch.device) -> torch.dtype:
    """What means are taken in: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def scaled_model(task: Task, spec: RunSpec, *, reference: bool = False) -> nn.Module:
    """The module of one run at step 0: the library's default init times alpha, on the CPU, in the spec's dtype.

    Every parameter is scaled, biases and embeddings too (Liu et al. 2023, section 3). The draw depends on the seed
    alone; torch's global generator is left as it was. `reference` gives the task's plain form of the same network.
    """
    state = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed_of(spec.seed, "init"))
        model = task.model(spec)
        if reference:
            plain = task.reference_model(spec)
            plain.load_state_dict(model.state_dict())
            model = plain
        model = model.to(spec.torch_dtype)
    finally:
        torch.default_generator.set_state(state)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(spec.alpha)
    return model


class Ensemble:
    """The stacked parameters and buffers of one batch of runs: what optimizers step and probes look at.

    A parameter that several layers share is one parameter. In a batch the model's forward pass may not draw random
    numbers, as runs would depend on their neighbours; alone, what dropout modules draw depends on seed and step.

    Attributes:
        task: the task of all runs.
        specs: one spec a run; where settings change at a step, those of now.
        step: updates so far, which the trainer counts.
        device: of the parameters.
        params: each of the module's parameters with a leading axis of runs.
        theta: the same memory as one (runs, n) matrix a parameter, for the row arithmetic.
        leaves: what the optimizer steps: theta, or the module's own parameters for a single run.
        draws: whether the model draws random numbers when it trains (dropout).

    Raises:
        SpecError: a parameter is frozen, or does not enter the loss; or a model of a batch draws random numbers.
    """

    def __init__(self, task: Task, specs: Sequence[RunSpec], device: torch.device | str) -> None:
        models = [scaled_model(task, spec) for spec in specs]
        for name, p in models[0].named_parameters():
            if not p.requires_grad:
                raise SpecError(f"parameter {name} of {task.name} is frozen, but all are trained: make it a buffer")
        self.task, self.specs, self.step = task, tuple(specs), 0
        self.device = torch.device(device)
        self._seed = specs[0].seed
        self._shared = shared_names(models[0])
        self._paths = {name for name, _ in named_tensors(models[0], once=True)}
        self.draws = any(map(draws, models[0].modules()))
        params, buffers = stack_module_state(models)
        self.params: dict[str, Tensor] = {k: p.detach().to(device).requires_grad_() for k, p in params.items()}
        self.buffers: dict[str, Tensor] = {k: b.to(device) for k, b in buffers.items()}
        self.module = models[0].to(device)
        self._single = len(specs) == 1
        self._bind()
        self._seeds = [spec.seed for spec in specs]
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
        keyed = [torch.randn(p.shape[1:], generator=generator(seed, name, step, i)) for seed in self._seeds]
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
        if self._single:
            if not shared:
                inputs, targets = tuple(x[0] for x in inputs), targets[0]
            result = function(self.module, inputs, targets)
            if isinstance(result, dict):
                return {name: value.unsqueeze(0) for name, value in result.items()}
            return result.unsqueeze(0)
        params, buffers = self.params, self.buffers
        if rows is not None:
            params = {k: p[rows] for k, p in params.items()}
            buffers = {k: b[rows] for k, b in buffers.items()}

        def one(params: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Inputs, targets: Tensor) -> Any:
            # A layer that two attributes hold is named by one of them, or torch would leave this call's tensors in it.
            named = self._with_shared(params | buffers)
            weights = {name: x for name, x in named.items() if name in self._paths}

            def model(*inputs: Tensor) -> Tensor:
                return functional_call(self.module, weights, inputs, tie_weights=False)

            return function(model, inputs, targets)

        own = None if shared else 0
        try:
            return vmap(one, in_dims=(0, 0, own, own), randomness="error")(params, buffers, inputs, targets)
        except RuntimeError as error:
            if "randomness" not in str(error):
                raise
            raise SpecError(
                f"the model of {self.task.name} draws random numbers (dropout): set batchable = False in its task"
            ) from error

    def losses(self, inputs: Inputs, targets: Tensor, *, shared: bool = False) -> Float[Tensor, "runs"]:
        """Mean loss of each run on a batch. Leading axes are (runs, batch), or (batch) when shared."""

        def loss(model: Model, inputs: Inputs, targets: Tensor) -> Tensor:
            return self.example_losses(model(*inputs), targets).mean()

        losses: Tensor = self.map(loss, inputs, targets, shared=shared)
        return losses

    def example_losses(self, outputs: Any, targets: Tensor) -> Tensor:
        """The loss of each example of one run: the task's, or what the spec has instead."""
        own = self.specs[0].loss
        return self.task.loss(outputs, targets) if own is None else own(outputs, targets)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model is in evaluation mode within; afterwards each of its modules is in the mode that it was in."""
        with self.modes_kept():
            self.module.eval()
            yield

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
    def seeded(self, step: int) -> Iterator[None]:
        """Dropout modules draw by the run's seed and the step within; torch's generators are as before afterwards."""
        if not self.draws:
            yield
            return
        device = self._ones.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of(self._seed, "forward", step))
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

    def adopt_layout(self, losses: Float[Tensor, "runs"]) -> None:
        """Lay the parameters out in memory as their gradients come (a batched weight's is transposed): saves a copy."""
        for p, g in zip(self.params.values(), self._gradients(losses), strict=True):
            dense = torch.empty_like(g)
            if dense.stride() == g.stride() != p.stride() and g.stride(0) == g[0].numel():
                p.data = dense.copy_(p.detach())
        self._bind()

    @contextlib.contextmanager
    def buffers_kept(self) -> Iterator[None]:
        """Whatever is computed within, running statistics and carried states are as before afterwards."""
        before = {name: b.clone() for name, b in self.buffers.items()}
        yield
        for name, b in self.buffers.items():
            b.copy_(before[name])

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
        module = copy.deepcopy(self.module).to_empty(device="cpu")
        named = self._with_shared(self.params | self.buffers)
        for name, x in (*module.named_parameters(), *module.named_buffers()):
            x.copy_(named[name][r])
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
        self.leaves = list(self.module.parameters())


def shared_names(module: nn.Module) -> dict[str, str]:
    """The further names of parameters and buffers that layers share, with the first name of each."""
    first: dict[Tensor, str] = {}  # a tensor's hash is its identity
    return {name: first[x] for name, x in named_tensors(module) if first.setdefault(x, name) != name}


def named_tensors(module: nn.Module, *, once: bool = False) -> Iterator[tuple[str, Tensor]]:
    """All parameters, then all buffers, by all their names; with `once` each layer's by one path to it."""
    layers = list(module.named_modules(remove_duplicate=once))
    for kind in ("_parameters", "_buffers"):
        for path, layer in layers:
            for name, x in getattr(layer, kind).items():
                if x is not None:
                    yield f"{path}.{name}" if path else name, x


def draws(module: nn.Module) -> bool:
    """Whether a module draws random numbers when it trains."""
    rate = module.p if isinstance(module, DROPOUT) else getattr(module, "dropout", 0.0)  # of nn.LSTM and attention
    return isinstance(rate, float) and rate > 0


def in_memory_order(stacked: Float[Tensor, "runs ..."]) -> Float[Tensor, "runs n"]:
    """The memory of a dense stacked tensor as a contiguous matrix with a row a run."""
    n = stacked[0].numel()
    return stacked.as_strided((len(stacked), n), (n, 1))
