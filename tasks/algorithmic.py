"""Binary operations on residues and permutations, learned by a two-layer Transformer (Power et al. 2022)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from omnigrok.errors import SpecError
from omnigrok.optimizers import AdamW
from omnigrok.schedule import Warmup
from omnigrok.spec import RunSpec, generator
from omnigrok.task import Task, TaskData, Thresholds
from tasks.decoder import EOS, OPERATOR, OPERATORS, Decoder, FullDecoder

TEST_SHARE = 0.05  # of all equations: the published sweeps end at 95 % for training
NUMBERS = OPERATOR + OPERATORS
"""The first token of a residue; the permutations' tokens follow the residues'."""
Operation = Callable[[Tensor, Tensor, int], Tensor]


def divide(x: Tensor, y: Tensor, p: int) -> Tensor:
    """x / y mod p: p is prime, so y to the power of p - 2 is the inverse of y."""
    inverse = torch.tensor([pow(i, -1, p) if i else 0 for i in range(p)])
    return x * inverse[y] % p


RESIDUES: dict[str, Operation] = {
    "x+y": lambda x, y, p: (x + y) % p,
    "x-y": lambda x, y, p: (x - y) % p,
    "x*y": lambda x, y, p: x * y % p,
    "x/y": divide,
    "x/y or x-y": lambda x, y, p: torch.where(y % 2 == 1, divide(x, y, p), (x - y) % p),
    "x^2+y^2": lambda x, y, p: (x**2 + y**2) % p,
    "x^2+xy+y^2": lambda x, y, p: (x**2 + x * y + y**2) % p,
    "x^2+xy+y^2+x": lambda x, y, p: (x**2 + x * y + y**2 + x) % p,
    "x^3+xy": lambda x, y, p: (x**3 + x * y) % p,
    "x^3+xy^2+y": lambda x, y, p: (x**3 + x * y**2 + y) % p,
}
"""Operations modulo a prime p; of "x/y" without y = 0, of "x/y or x-y" the quotient where y is odd."""
PERMUTATIONS = ("s5: xy", "s5: xyx^-1", "s5: xyx")
OPERATIONS = (*RESIDUES, *PERMUTATIONS)
DEGREE = 5


class Algorithmic(Task):
    """a o b = c from a share of all equations: <eos> a op b = c <eos>, loss and accuracy on the answer.

    Published (appendix A.1): p = 97; 2 layers, width 128, 4 heads, 394,240 parameters beside embedding and output;
    AdamW lr 1e-3, betas (0.9, 0.98), weight decay 1, a warm-up of 10 updates, batches of min(512, half of the training
    equations), 100,000 updates; Fig. 1 left is Adam without weight decay, for 10^6. The answer is c and the <eos>
    behind it, as in the published code: the loss is the mean over both, accuracy asks for both; the option `eos` =
    False takes c alone.

    Published runs hold out all equations that are not trained on. Here a fixed 5 % are the test set, so that training
    sets of different size share it; `data_seed` keys the split. `outliers` gives that many of the first equations of
    the pool the answers of others (Fig. 6), `dropout` acts on what the MLPs give (Fig. 2 left).
    """

    name = "algorithmic"
    display_name = "Binary operation"
    citation = "Power et al. 2022"
    recipe = "algorithmic/1"
    spec = RunSpec(
        task=name,
        n_train=4_656,
        steps=100_000,
        lr=1e-3,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=(Warmup(10, from_zero=True),),
        weight_decay=1.0,
        batch_size=512,
        evaluation_density=2,
        options=(("operation", "x/y"), ("p", 97)),
    )
    thresholds = Thresholds(metric="accuracy", train=0.99, test=0.99)
    optional: ClassVar[dict[str, object]] = {"eos": True, "outliers": 0, "dropout": 0.0}

    def load(self, spec: RunSpec) -> TaskData:
        equations = equations_of(str(spec.option("operation")), int(spec.option("p")))
        equations = equations[torch.randperm(len(equations), generator=generator(spec.data_seed, "equations"))]
        pool = len(equations) - int(TEST_SHARE * len(equations))
        answers = equations[:, 2].clone()
        wrong = int(spec.option("outliers", 0))
        if not 0 <= wrong <= pool:
            raise SpecError(f"outliers must be 0 to {pool}, the equations of the pool, got {wrong}")
        if wrong:
            others = torch.randint(pool, (wrong,), generator=generator(spec.data_seed, "outliers"))
            answers[:wrong] = equations[others, 2]
        tokens = torch.cat([equations[:, :2], answers.unsqueeze(1)], dim=1)
        targets = torch.stack([answers, torch.full_like(answers, EOS)], dim=1)[:, : answer_length(spec)]
        return TaskData((tokens[:pool],), targets[:pool], (tokens[pool:],), targets[pool:], source="generated")

    def model(self, spec: RunSpec) -> nn.Module:
        """With dropout the plain form: states that examples share would share their dropped units."""
        return self._decoder(spec, FullDecoder if spec.option("dropout", 0.0) else Decoder)

    def reference_model(self, spec: RunSpec) -> nn.Module:
        return self._decoder(spec, FullDecoder)

    def _decoder(self, spec: RunSpec, form: type[Decoder]) -> Decoder:
        p, permutations = int(spec.option("p")), spec.option("operation") in PERMUTATIONS
        group = len(elements())
        operands, first = (group, NUMBERS + p) if permutations else (p, NUMBERS)
        dropout = float(spec.option("dropout", 0.0))
        return form(operands, first, NUMBERS + p + group, answer_length(spec), dropout)

    def configuration(self, spec: RunSpec) -> str:
        operation = str(spec.option("operation"))
        return operation if operation in PERMUTATIONS else f"{operation} mod {spec.option('p')}"

    def landscape(self, preset: str) -> RunSpec:
        """Not of the paper. Smaller problems at the quick and default presets, which 2 cores can sweep."""
        p, n_train, steps = {"quick": (11, 60, 50), "default": (31, 480, 800), "paper": (97, 4_656, 10_000)}[preset]
        return self.spec.replace(
            alpha=1.0,
            weight_decay=0.0,
            sphere=True,
            n_train=n_train,
            steps=steps,
            batch_size=None,
            evaluation_density=1,
            options=(("operation", "x+y"), ("p", p)),
        )

    def loss(
        self, outputs: Float[Tensor, "batch answer token"], targets: Int[Tensor, "batch answer"]
    ) -> Float[Tensor, "batch"]:
        """Mean cross-entropy over the answer's tokens, of logits in float64: in float32 it would underflow."""
        if outputs.device.type != "mps":  # which has no float64
            outputs = outputs.double()
        return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(dim=1)

    def logits(self, outputs: Tensor) -> Tensor:
        """Of the answer itself."""
        return outputs[:, 0]

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (outputs.argmax(dim=2) == targets).all(dim=1).to(outputs.dtype)}


def answer_length(spec: RunSpec) -> int:
    return 2 if spec.option("eos", True) else 1


def equations_of(operation: str, p: int) -> Int[Tensor, "equation 3"]:
    """All equations of an operation as tokens a, b, c.

    Raises:
        SpecError: there is no such operation, or p is no prime.
    """
    if operation in PERMUTATIONS:
        return NUMBERS + p + products(operation)
    if operation not in RESIDUES:
        raise SpecError(f"operation must be one of {', '.join(OPERATIONS)}; got {operation!r}")
    if p < 2 or any(p % i == 0 for i in range(2, int(p**0.5) + 1)):
        raise SpecError(f"p must be a prime, got {p}")
    x, y = torch.cartesian_prod(torch.arange(p), torch.arange(p)).unbind(dim=1)
    if operation == "x/y":
        x, y = x[y > 0], y[y > 0]
    return NUMBERS + torch.stack([x, y, RESIDUES[operation](x, y, p)], dim=1)


def elements() -> list[tuple[int, ...]]:
    """The permutations of five things, in alphabetical order: x[i] is where x takes i."""
    return list(itertools.permutations(range(DEGREE)))


def products(operation: str) -> Int[Tensor, "equation 3"]:
    """All equations of an operation on S5 by the numbers of their elements; xy is first x, then y."""
    group = torch.tensor(elements())
    number = {element: i for i, element in enumerate(elements())}
    x, y = torch.cartesian_prod(torch.arange(len(group)), torch.arange(len(group))).unbind(dim=1)
    last = {"s5: xy": None, "s5: xyx^-1": group.argsort(dim=1), "s5: xyx": group}[operation]
    result = group[y].gather(1, group[x])
    if last is not None:
        result = last[x].gather(1, result)
    answers = torch.tensor([number[tuple(element)] for element in result.tolist()])
    return torch.stack([x, y, answers], dim=1)
