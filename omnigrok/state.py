"""A network's weights from a file of the user's: a state_dict, a checkpoint with one in it, or what a run has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnigrok import sealed
from omnigrok.errors import OmnigrokError, first_line

INSIDE = ("state_dict", "model_state_dict", "model")
"""Where checkpoints have the state_dict, in this order."""
WRAPPED = ("module.", "_orig_mod.")
"""What nn.DataParallel and torch.compile put before the names."""
SHOWN = 4


def load_weights(model: nn.Module, path: Path, name: str, step: int | None = None) -> None:
    """Have a module take the weights of a file. No code that the file may hold is run.

    Args:
        name: of the model, for messages.
        step: of weights that a run of this suite has kept; None: the last.

    Raises:
        OmnigrokError: there is no state_dict in the file, or it does not fit; the message names the keys.
    """
    does_not_fit = f"the weights {path} do not fit {name}: "
    try:
        sealed.check(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OmnigrokError:
        raise
    except Exception as error:
        advice = "save them as torch.save(net.state_dict(), path)"
        raise OmnigrokError(f"{does_not_fit}{first_line(error)}; {advice}") from error
    try:
        state = unwrapped(found_in(loaded, step), model)
        missing, unexpected = model.load_state_dict(state, strict=False)
    except OmnigrokError as error:
        raise OmnigrokError(f"{does_not_fit}{error}") from error
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise OmnigrokError(f"{does_not_fit}{lines[min(1, len(lines) - 1)] if lines else error!r}") from error
    wrong = [f"{what} {some(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
    if wrong:
        raise OmnigrokError(f"{does_not_fit}{'; '.join(wrong)}")


def found_in(loaded: Any, step: int | None) -> dict[str, Tensor]:
    """The state_dict in what a file holds."""
    if is_kept(loaded):
        chosen = max(loaded) if step is None else step
        if chosen not in loaded:
            raise OmnigrokError(f"there are none of step {step}; there are: {', '.join(map(str, sorted(loaded)))}")
        loaded = loaded[chosen]
    elif step is not None:
        raise OmnigrokError("--step is for weights that a run has kept (omnigrok run --keep); leave it out")
    if not isinstance(loaded, Mapping):
        raise OmnigrokError(f"the file holds a {type(loaded).__name__}, no state_dict")
    inner = next((loaded[key] for key in INSIDE if isinstance(loaded.get(key), Mapping)), loaded)
    if not inner or not all(isinstance(x, Tensor) for x in inner.values()):
        where = "" if inner is loaded else " in it"
        raise OmnigrokError(f"there is no state_dict, but {some([str(key) for key in inner])}{where}; save it alone")
    return dict(inner)


def is_kept(loaded: Any) -> bool:
    """Whether it is {step: state_dict}, as runs keep weights."""
    return (
        isinstance(loaded, Mapping)
        and len(loaded) > 0
        and all(isinstance(step, int) and isinstance(state, Mapping) for step, state in loaded.items())
    )


def unwrapped(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights by the model's own names, without what wraps them."""
    own = model.state_dict().keys()

    def plain(name: str) -> str:
        while name not in own and (prefix := next((p for p in WRAPPED if name.startswith(p)), "")):
            name = name.removeprefix(prefix)
        return name if name in own else name.replace(f".{WRAPPED[1]}", ".")  # of a part that is compiled

    return {plain(name): x for name, x in state.items()}


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
