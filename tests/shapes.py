"""Shapes written in signatures (jaxtyping) are checked at every call while the tests run: imported before omnigrok.

Only arguments and results whose annotation names an array are checked. For the rest there is mypy, which knows
protocols, and names that are imported for typing alone. Processes that a test starts are not checked.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

from beartype.door import die_if_unbearable
from jaxtyping import AbstractArray, install_import_hook


def mentions_array(annotation: Any) -> bool:
    """Whether an annotation is, or holds, one such as Float[Tensor, "runs"]."""
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(mentions_array(part) for part in get_args(annotation))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """What the import hook is given as a type checker: it gets jaxtyping's stand-ins, with annotations resolved."""
    signature = inspect.signature(function)
    arrays = {name: p.annotation for name, p in signature.parameters.items() if mentions_array(p.annotation)}
    if not arrays and not mentions_array(signature.return_annotation):
        return function

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if any(type(value).__name__ == "Proxy" for value in given.values()):  # of torch.fx: traced, no array is there
            return function(*args, **kwargs)
        for name, annotation in arrays.items():
            if name in given:
                die_if_unbearable(given[name], annotation)
        result = function(*args, **kwargs)
        if mentions_array(signature.return_annotation):
            die_if_unbearable(result, signature.return_annotation)
        return result

    return wrapped


install_import_hook(("omnigrok", "tasks", "reproductions"), f"{__name__}.checked")
