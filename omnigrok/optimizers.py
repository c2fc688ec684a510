"""Optimizers as parts: what becomes of the gradients of all runs of a batch.

Parameters are rows, one a run (`Ensemble.theta`), so what torch.optim does number by number is done to all runs at
once; weight decay may differ from row to row. What needs a matrix's own shape (Muon) takes `Ensemble.shaped`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnigrok.errors import SpecError
from omnigrok.part import Part, plain

if TYPE_CHECKING:
    from omnigrok.ensemble import Ensemble

Gradients = Callable[[], None]
"""Puts the gradients of all runs, where their weights are now, into the leaves' ``grad``."""


class Stepper(Protocol):
    """An optimizer at work on a batch of runs; its state is all that a checkpoint needs."""

    def step(self, gradients: Gradients, lr: float) -> None: ...

    def decay(self, rates: Sequence[float]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Optimizer(Part):
    """Base of the optimizers."""

    def start(self, ensemble: Ensemble, decays: Sequence[float]) -> Stepper:
        """The optimizer at its first step, on runs with these weight decays."""
        raise NotImplementedError

    def as_costly(self) -> Optimizer:
        """One whose steps take as long: batch sizes are measured once for all that are the same in this."""
        return self

    def plain(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, fused: bool = False
    ) -> torch.optim.Optimizer:
        """The same of torch.optim for one model, for the plain loop."""
        raise SpecError(f"{type(self).__name__} is none of torch's: the plain loop does not know it")


@dataclass(frozen=True)
class _OfTorch(Optimizer):
    """What torch.optim does to each number on its own."""

    def start(self, ensemble: Ensemble, decays: Sequence[float]) -> Stepper:
        return _Rows(self, ensemble, decays)

    def of_torch(self, leaves: Iterable[Tensor], weight_decay: float, **how: Any) -> torch.optim.Optimizer:
        raise NotImplementedError

    def plain(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, fused: bool = False
    ) -> torch.optim.Optimizer:
        if getattr(self, "decay_to", "zero") != "zero":
            return super().plain(parameters, lr, weight_decay, fused)
        return self.of_torch(parameters, weight_decay, lr=lr, fused=fused)

    @property
    def decoupled(self) -> bool:
        """Whether weight decay is taken off the weights, not added to the gradient."""
        return False


@dataclass(frozen=True)
class _Adams(_OfTorch):
    betas: tuple[float, float] = (0.9, 0.999)
    decay_to: Literal["zero", "init"] = "zero"

    def __post_init__(self) -> None:
        try:
            first, second = map(float, self.betas)
        except (TypeError, ValueError):
            raise SpecError(f"betas must be two numbers in [0, 1), got {self.betas!r}") from None
        if not (0 <= first < 1 and 0 <= second < 1):
            raise SpecError(f"betas must be two numbers in [0, 1), got {self.betas!r}")
        if self.decay_to not in ("zero", "init"):
            raise SpecError(f"decay_to must be zero or init, got {self.decay_to!r}")
        object.__setattr__(self, "betas", (first, second))

    def as_costly(self) -> Optimizer:
        return replace(self, betas=_Adams.betas)

    def canonical(self) -> dict[str, Any]:
        """Those that decay to zero keep the keys that they had when they were fields of the spec."""
        if self.decay_to != "zero":
            return {"optimizer": super().canonical()}
        named = {} if isinstance(self, AdamW) else {"optimizer": "adam"}
        return named if self.betas == _Adams.betas else {**named, "betas": plain(self.betas)}


@dataclass(frozen=True)
class Adam(_Adams):
    """torch.optim.Adam (Kingma and Ba 2015): weight decay is an L2 gradient, g + wd * w, or with `decay_to="init"`
    g + wd * (w - w_0)."""

    def of_torch(self, leaves: Iterable[Tensor], weight_decay: float, **how: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(leaves, betas=self.betas, weight_decay=weight_decay, **how)


@dataclass(frozen=True)
class AdamW(_Adams):
    """torch.optim.AdamW (Loshchilov and Hutter 2019): weight decay takes lr * wd * w off the weights, or with
    `decay_to="init"` lr * wd * (w - w_0)."""

    def of_torch(self, leaves: Iterable[Tensor], weight_decay: float, **how: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(leaves, betas=self.betas, weight_decay=weight_decay, **how)

    @property
    def decoupled(self) -> bool:
        return True


@dataclass(frozen=True)
class SGD(_OfTorch):
    """torch.optim.SGD, with momentum and Nesterov's form of it; weight decay is an L2 gradient."""

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise SpecError(f"momentum must be a number in [0, 1), got {self.momentum!r}")
        if self.nesterov and not self.momentum:
            raise SpecError("Nesterov's form needs a momentum above 0")

    def canonical(self) -> dict[str, Any]:
        return {"optimizer": super().canonical()}

    def of_torch(self, leaves: Iterable[Tensor], weight_decay: float, **how: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            leaves, momentum=self.momentum, nesterov=self.nesterov, weight_decay=weight_decay, **{"lr": 0.0, **how}
        )


@dataclass(frozen=True)
class Muon(Optimizer):
    """Matrices move by their orthogonalised momentum (Jordan et al. 2024), all else by Adam at the same rate.

    The momentum of a weight of two dimensions or more, flattened to (outputs, rest), goes through five Newton-Schulz
    steps with the published coefficients; its step is times sqrt(max(1, outputs / rest)), as published. Vectors, and
    the embeddings of nn.Embedding, take a plain Adam. Weight decay is decoupled. All is in the spec's dtype: torch's
    own takes bfloat16.

    Attributes:
        momentum: of the matrices' gradients, as SGD's; `nesterov` as well.
        steps: Newton-Schulz steps.
        betas: of the Adam of the others.
    """

    momentum: float = 0.95
    nesterov: bool = True
    steps: int = 5
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1 or not self.steps >= 1:
            raise SpecError("Muon takes a momentum in [0, 1) and 1 or more steps")
        object.__setattr__(self, "betas", Adam(self.betas).betas)

    def canonical(self) -> dict[str, Any]:
        return {"optimizer": super().canonical()}

    def start(self, ensemble: Ensemble, decays: Sequence[float]) -> Stepper:
        return _Muon(self, ensemble, decays)


@dataclass(frozen=True)
class SAM(Optimizer):
    """Sharpness-aware minimisation (Foret et al. 2021): another optimizer takes the gradient from where a step of
    length rho up each run's gradient leads.

    Gradients are taken twice a step, on the same examples. Running statistics of a batch normalisation are updated
    twice, too.
    """

    rho: float = 0.05
    optimizer: Optimizer = field(default=AdamW())

    def __post_init__(self) -> None:
        if not 0 < self.rho < math.inf:
            raise SpecError(f"rho must be a finite number above 0, got {self.rho!r}")

    def canonical(self) -> dict[str, Any]:
        return {"optimizer": super().canonical()}

    def start(self, ensemble: Ensemble, decays: Sequence[float]) -> Stepper:
        return _SAM(self.rho, ensemble, self.optimizer.start(ensemble, decays))


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD, "muon": Muon, "sam": SAM}
"""By the names that commands know them by."""


class _Decay:
    """Weight decay row by row: towards zero or towards the init, off the weights or into the gradient."""

    def __init__(self, ensemble: Ensemble, rates: Sequence[float], to_init: bool, decoupled: bool) -> None:
        self.ensemble, self.decoupled = ensemble, decoupled
        self.init = [row.clone() for row in ensemble.theta] if to_init else None
        self.set(rates)

    def set(self, rates: Sequence[float]) -> None:
        theta = self.ensemble.theta[0]
        self.rates: Float[Tensor, "runs"] = torch.tensor(list(rates), dtype=theta.dtype, device=theta.device)

    @torch.no_grad()
    def __call__(self, lr: float) -> None:
        """Before the step, as torch.optim does it."""
        for i, (matrix, gradient) in enumerate(zip(self.ensemble.theta, self.ensemble.gradient_rows(), strict=True)):
            away = matrix if self.init is None else matrix - self.init[i]
            if self.decoupled:
                matrix.addcmul_(away, (lr * self.rates)[:, None], value=-1)
            else:
                gradient.addcmul_(away, self.rates[:, None])


class _Rows:
    """torch.optim on the leaves; weight decay that differs from row to row, or ends at the init, is done by hand."""

    def __init__(self, part: _OfTorch, ensemble: Ensemble, decays: Sequence[float]) -> None:
        self.part, self.ensemble = part, ensemble
        self.optimizer = part.of_torch(ensemble.leaves, 0.0, fused=True)
        self.to_init = getattr(part, "decay_to", "zero") == "init"
        self.by_hand: _Decay | None = None
        self.decay(decays)

    def decay(self, rates: Sequence[float]) -> None:
        apart = len(set(rates)) > 1 or self.to_init
        if apart and self.by_hand is None:
            self.by_hand = _Decay(self.ensemble, rates, self.to_init, self.part.decoupled)
        elif apart and self.by_hand is not None:
            self.by_hand.set(rates)
        else:
            self.by_hand = None
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.0 if apart else rates[0]

    def step(self, gradients: Gradients, lr: float) -> None:
        gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.by_hand is not None:
            self.by_hand(lr)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay


class _Muon:
    def __init__(self, part: Muon, ensemble: Ensemble, decays: Sequence[float]) -> None:
        self.part, self.ensemble = part, ensemble
        embeddings = ensemble.embeddings()
        self.matrices = [i for i, (n, p) in enumerate(ensemble.params.items()) if p.ndim > 2 and n not in embeddings]
        self.others = [i for i in range(len(ensemble.theta)) if i not in self.matrices]
        self.momenta = [torch.zeros_like(ensemble.theta[i]) for i in self.matrices]
        self.adam = Adam(part.betas).of_torch([ensemble.leaves[i] for i in self.others], 0.0) if self.others else None
        self.by_hand = _Decay(ensemble, decays, to_init=False, decoupled=True)

    def decay(self, rates: Sequence[float]) -> None:
        self.by_hand.set(rates)

    def step(self, gradients: Gradients, lr: float) -> None:
        gradients()
        self.move(lr)

    @torch.no_grad()
    def move(self, lr: float) -> None:
        self.by_hand(lr)
        rows = self.ensemble.gradient_rows()
        for i, momentum in zip(self.matrices, self.momenta, strict=True):
            momentum.mul_(self.part.momentum).add_(rows[i])
            ahead = rows[i] + self.part.momentum * momentum if self.part.nesterov else momentum
            shaped = self.ensemble.shaped(ahead, i).flatten(2)
            scale = max(1.0, shaped.shape[1] / shaped.shape[2]) ** 0.5
            weight = self.ensemble.shaped(self.ensemble.theta[i], i)
            weight.add_(orthogonal(shaped, self.part.steps).reshape(weight.shape), alpha=-lr * scale)
        if self.adam is not None:
            for group in self.adam.param_groups:
                group["lr"] = lr
            self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        return {"momenta": self.momenta, "adam": self.adam.state_dict() if self.adam is not None else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for own, saved in zip(self.momenta, state["momenta"], strict=True):
            own.copy_(saved)
        if self.adam is not None:
            self.adam.load_state_dict(state["adam"])


def orthogonal(matrices: Float[Tensor, "runs n m"], steps: int) -> Float[Tensor, "runs n m"]:
    """Nearly the orthogonal factor of each matrix: singular values near 1, by Newton-Schulz steps of degree five."""
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan et al. 2024: steep at zero, not convergent
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class _SAM:
    def __init__(self, rho: float, ensemble: Ensemble, inner: Stepper) -> None:
        self.rho, self.ensemble, self.inner = rho, ensemble, inner

    def decay(self, rates: Sequence[float]) -> None:
        self.inner.decay(rates)

    def step(self, gradients: Gradients, lr: float) -> None:
        def from_above() -> None:
            gradients()
            with torch.no_grad():
                rows = self.ensemble.gradient_rows()
                up = self.rho / (self.ensemble.gradient_norm() + 1e-12)
                before = [matrix.clone() for matrix in self.ensemble.theta]
                for matrix, row in zip(self.ensemble.theta, rows, strict=True):
                    matrix.addcmul_(row, up[:, None])
            gradients()
            with torch.no_grad():
                for matrix, old in zip(self.ensemble.theta, before, strict=True):
                    matrix.copy_(old)

        self.inner.step(from_above, lr)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)
