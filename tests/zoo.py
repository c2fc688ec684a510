"""A page of a model zoo: small networks of 8 features and 3 classes, each with something that users' models have."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from omnigrok import RunSpec, Task, TaskData
from omnigrok.optimizers import SGD
from omnigrok.task import Thresholds

FEATURES, CLASSES, EXAMPLES, STEPS = 8, 3, 64, 20


@dataclass(frozen=True)
class Kept:
    """A network and what is expected of it.

    Attributes:
        alone: its runs are trained one by one.
        activations: it has some that are counted.
        exact: its linear regions are computed exactly.
    """

    make: Callable[[], nn.Module]
    alone: bool = False
    activations: bool = True
    exact: bool = False


def mlp(activation: nn.Module | None = None, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 16, bias=bias), activation or nn.ReLU(), nn.Linear(16, CLASSES, bias=bias))


class Through(nn.Module):
    """Layers by name, and a function of them and the input."""

    def __init__(self, function: Callable, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def linears(function: Callable, **more: nn.Module | nn.Parameter) -> Through:
    return Through(function, first=nn.Linear(FEATURES, 16), last=nn.Linear(16, CLASSES), **more)


class Assigned(nn.Module):
    """Its buffer is a new tensor after each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.register_buffer("mean", torch.zeros(FEATURES))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return self.net(x - self.mean)


class Fourier(nn.Module):
    """Random features that are fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", torch.randn(FEATURES, 8))
        self.net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def forward(self, x):
        z = x @ self.waves
        return self.net(torch.cat([z.sin(), z.cos()], dim=-1))


class Attention(nn.Module):
    """The features are eight tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.last = nn.Linear(1, 4), nn.Linear(4, CLASSES)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = self.lift(x.unsqueeze(-1))
        return self.last(F.relu(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(dim=-2)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.lift, self.last = nn.Linear(1, 4), nn.Linear(4, CLASSES)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x):
        return self.last(self.encoder(self.lift(x.unsqueeze(-1))).mean(dim=-2))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.last = kind(1, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.last(F.relu(self.rnn(x.unsqueeze(-1))[0][:, -1]))


class Embedded(nn.Module):
    """The features, rounded, are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.net = nn.Embedding(4, 5), nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def forward(self, x):
        return self.net(self.table((x.detach() * 4).long().clamp(0, 3)).flatten(-2))


def tied() -> nn.Module:
    made = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)
    )
    made[4].weight = made[2].weight
    return made


def with_old_weight_norm() -> nn.Module:
    made = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(made[0])
    return made


def normed(kind: Callable) -> nn.Module:
    made = mlp()
    kind(made[0])
    return made


def frozen_batch_norm() -> nn.Module:
    made = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))
    made[1].eval()
    return made


def branch(m: Through, x):
    h = m.first(x)
    return m.last(F.relu(h) if float(h.detach().mean()) > -10 else h)


def changes_input(m: Through, x):
    return m.last(F.relu(m.first(x.sub_(0.5).div_(0.25))))


def shared_module() -> nn.Module:
    layer = nn.Linear(16, 16)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(16, CLASSES))


ZOO: dict[str, Kept] = {
    "mlp": Kept(mlp, exact=True),
    "no bias": Kept(lambda: mlp(bias=False), exact=True),
    "leaky": Kept(lambda: mlp(nn.LeakyReLU(0.1)), exact=True),
    "tied weights": Kept(tied, exact=True),
    "shared module": Kept(shared_module, exact=True),
    "in place": Kept(lambda: mlp(nn.ReLU(inplace=True)), exact=True),
    "residual": Kept(lambda: linears(lambda m, x: m.last(m.first(x) + F.relu(m.first(x)))), exact=True),
    "functional": Kept(lambda: linears(lambda m, x: m.last(F.relu(m.first(x)))), exact=True),
    "method": Kept(lambda: linears(lambda m, x: m.last(m.first(x).relu())), exact=True),
    "module and function": Kept(
        lambda: Through(
            lambda m, x: m.last(F.relu(m.middle(m.relu(m.first(x))))),
            first=nn.Linear(FEATURES, 16), middle=nn.Linear(16, 16), last=nn.Linear(16, CLASSES), relu=nn.ReLU(),
        ),
        exact=True,
    ),
    "gelu": Kept(lambda: linears(lambda m, x: m.last(F.gelu(m.first(x))))),
    "silu": Kept(lambda: mlp(nn.SiLU())),
    "elu": Kept(lambda: mlp(nn.ELU())),
    "prelu": Kept(lambda: mlp(nn.PReLU())),
    "tanh": Kept(lambda: mlp(nn.Tanh()), activations=False),
    "glu": Kept(
        lambda: nn.Sequential(nn.Linear(FEATURES, 32), nn.GLU(), nn.ReLU(), nn.Linear(16, CLASSES))
    ),
    "weight norm": Kept(lambda: normed(nn.utils.parametrizations.weight_norm)),
    "old weight norm": Kept(with_old_weight_norm),
    "spectral norm": Kept(lambda: normed(nn.utils.parametrizations.spectral_norm), alone=True),
    "batch norm": Kept(
        lambda: nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES)),
        exact=True,
    ),
    "frozen batch norm": Kept(frozen_batch_norm, exact=True),
    "layer norm": Kept(
        lambda: nn.Sequential(nn.Linear(FEATURES, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, CLASSES))
    ),
    "group norm": Kept(
        lambda: nn.Sequential(nn.Linear(FEATURES, 16), nn.GroupNorm(4, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    ),
    "convolution": Kept(
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, CLASSES)
        ),
        exact=True,
    ),
    "convolution of a signal": Kept(
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES)
        )
    ),
    "attention": Kept(Attention),
    "encoder": Kept(Encoder),
    "gru": Kept(lambda: Recurrent(nn.GRU), alone=True),
    "lstm": Kept(lambda: Recurrent(nn.LSTM), alone=True),
    "embedding": Kept(Embedded),
    "scalar parameter": Kept(
        lambda: linears(lambda m, x: m.last(F.relu(m.first(x))) * m.scale, scale=nn.Parameter(torch.tensor(1.5)))
    ),
    "parameter list": Kept(
        lambda: linears(
            lambda m, x: m.last(F.relu(m.first(x) * m.scales[0] + m.scales[1])),
            scales=nn.ParameterList([torch.ones(16), torch.zeros(16)]),
        )
    ),
    "bilinear": Kept(lambda: linears(lambda m, x: m.last(F.relu(m.twice(x, x))) + 0 * m.last(m.first(x)),
                                     twice=nn.Bilinear(FEATURES, FEATURES, 16))),
    "fourier features": Kept(Fourier),
    "assigned buffer": Kept(Assigned),
    "dropout": Kept(
        lambda: nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES)),
        alone=True, exact=True,
    ),
    "dropout as a function": Kept(
        lambda: linears(lambda m, x: m.last(F.dropout(F.relu(m.first(x)), 0.3, m.training))), alone=True
    ),
    "branch on a value": Kept(lambda: linears(branch), alone=True),
    "changes its input": Kept(lambda: linears(changes_input)),
    "dictionary": Kept(lambda: linears(lambda m, x: {"logits": m.last(F.relu(m.first(x)))})),
    "tuple": Kept(lambda: linears(lambda m, x: (m.last(F.relu(m.first(x))), x.sum()))),
    "double": Kept(lambda: mlp().double(), exact=True),
    "lazy": Kept(lambda: nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(CLASSES)), exact=True),
}  # fmt: skip


class Zoo(Task):
    """Three classes of points in a box, with a network of the zoo."""

    name = "zoo"
    display_name = "Zoo"
    citation = "these tests"
    # not Adam, which makes a rounding large where the gradient is zero, of a bias before a batch norm say
    spec = RunSpec(
        task=name, n_train=EXAMPLES, steps=STEPS, lr=0.05, optimizer=SGD(momentum=0.9), batch_size=16, dtype="float64",
        evaluation_density=0,
    )  # fmt: skip
    thresholds = Thresholds(metric="accuracy", train=0.9, test=0.9)

    def __init__(self, which: str = "mlp") -> None:
        self.which = which

    def load(self, spec):
        x = torch.rand(2 * EXAMPLES, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        y = x[:, :CLASSES].argmax(dim=1)
        x = x.to(spec.torch_dtype)
        return TaskData((x[:EXAMPLES],), y[:EXAMPLES], (x[EXAMPLES:],), y[EXAMPLES:], "generated")

    def model(self, spec):
        return ZOO[self.which].make()

    def logits(self, outputs):
        if isinstance(outputs, dict):
            return outputs["logits"]
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def loss(self, outputs, targets):
        return F.cross_entropy(self.logits(outputs), targets, reduction="none")

    def metrics(self, outputs, targets):
        return {"accuracy": (self.logits(outputs).argmax(dim=1) == targets).double()}
