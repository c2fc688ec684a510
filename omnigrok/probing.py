"""How probes are asked, alike while a run is trained and of kept weights, and what their answers must be."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnigrok.ensemble import Ensemble
from omnigrok.errors import SpecError
from omnigrok.spec import global_states
from omnigrok.task import kinds

if TYPE_CHECKING:
    from omnigrok.trainer import Probe

Question = tuple["Probe", tuple[Any, ...]]
"""A probe and the arguments that it is called with."""


def asked(questions: Sequence[Question], ensemble: Ensemble) -> dict[str, Tensor]:
    """The answers of probes, together. Modes and buffers of the model are as before afterwards.

    Raises:
        SpecError: an answer is not a number a run and metric, a metric has two sources, or a probe draws from a global
            generator.
    """
    answers: dict[str, Tensor] = {}
    for probe, arguments in questions:
        with torch.enable_grad(), no_global_draws(probe, ensemble), ensemble.modes_kept(), ensemble.buffers_kept():
            found = probe(*arguments)
        check_answer(probe, found, ensemble)
        if twice := sorted(answers.keys() & found.keys()):
            raise SpecError(
                f"{type(probe).__name__} answers with {', '.join(twice)}, as another probe of the run does: keep one, "
                "and measure the other on kept weights (omnigrok.probes.kept)"
            )
        answers |= found
    return answers


def takes_trainer(probe: Probe) -> bool:
    """Whether a probe is called as `probe(trainer)`, as all were once: it has one positional parameter.

    Raises:
        SpecError: it can be called neither so nor as `probe(ensemble, data)`.
    """
    if takes(probe, 2):
        return False
    if takes(probe, 1):
        return True
    raise SpecError(f"{type(probe).__name__} cannot be called as a probe is: __call__(self, ensemble, data)")


def takes(part: object, count: int) -> bool:
    """Whether a part can be called with so many arguments."""
    try:
        inspect.signature(part).bind(*[None] * count)  # type: ignore[arg-type]
    except TypeError:
        return False
    except ValueError:  # compiled code has no signature
        return True
    return True


def check_answer(probe: Probe, found: Any, ensemble: Ensemble) -> None:
    """Raises SpecError where an answer is not a dict of names and floating-point tensors of one number a run."""
    runs, wrong = len(ensemble), ""
    if not isinstance(found, dict):
        wrong = described(found)
    else:
        for name, value in found.items():
            if not isinstance(name, str):
                wrong = f"a metric named {name!r}"
            elif not (isinstance(value, Tensor) and value.shape == (runs,) and value.is_floating_point()):
                wrong = f"{name!r}: {described(value)}"
    if wrong:
        raise SpecError(
            f"{type(probe).__name__} must answer with a dict of metrics, each a floating-point tensor of one number a "
            f"run, here of shape ({runs},); at step {ensemble.step} it gave {wrong}"
        )


def described(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else kinds(value)


@contextlib.contextmanager
def no_global_draws(part: object, ensemble: Ensemble) -> Iterator[None]:
    """Raises SpecError where a part draws from a global generator: its numbers would be others at each run."""
    if ensemble.draws:  # a model with dropout does, and is seeded
        yield
        return
    before = global_states()
    yield
    if global_states() != before:
        raise SpecError(
            f"{type(part).__name__} draws from a global random generator, so no run could be repeated; draw from "
            "omnigrok.spec.generator(spec.seed, 'a name', ensemble.step) instead"
        )
