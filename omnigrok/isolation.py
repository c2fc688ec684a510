"""Torch's settings that all code of a process shares: the suite works in its own, and the caller finds theirs again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from operator import attrgetter

import torch

AUTOCAST = ("cpu", "cuda", "mps")
"""The kinds of device whose operations a caller may have put into another precision."""
BACKENDS = {
    ("cudnn", "enabled"): True,
    ("cudnn", "benchmark"): False,
    ("cudnn", "deterministic"): False,
    ("cudnn.conv", "fp32_precision"): "tf32",
    ("cudnn.rnn", "fp32_precision"): "tf32",
    ("cuda.matmul", "fp32_precision"): "ieee",
    ("mkldnn.matmul", "fp32_precision"): "ieee",
    ("mkldnn.conv", "fp32_precision"): "ieee",
    ("mkldnn.rnn", "fp32_precision"): "ieee",
}
"""Settings below ``torch.backends`` that change numbers, as a new process has them."""


@contextlib.contextmanager
def own_state() -> Iterator[None]:
    """Torch as it is in a new process within: default dtype and device, gradients, no autocast, full precision.

    What a caller has set comes back afterwards, also where an error ends the work. A decorator, too.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in filter(torch.is_autocast_enabled, AUTOCAST):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_anomaly_enabled():  # it would end a run that diverges
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        if torch.are_deterministic_algorithms_enabled():
            warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(torch.use_deterministic_algorithms, True, warn_only=warn_only)
            torch.use_deterministic_algorithms(False)
        _set_backends(stack)
        yield


def _set_backends(stack: contextlib.ExitStack) -> None:
    """Set those of BACKENDS that differ, until the stack ends."""
    if not hasattr(torch.backends, "fp32_precision"):  # torch before 2.9 has one setting for all
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
    for (place, name), value in BACKENDS.items():
        with contextlib.suppress(AttributeError):
            backend = attrgetter(place)(torch.backends)
            found = getattr(backend, name)
            if found not in (value, "none"):  # none: as by default
                stack.callback(setattr, backend, name, found)
                setattr(backend, name, value)
