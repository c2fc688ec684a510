"""Shapes written in signatures (jaxtyping) are checked at every call while the tests run: imported before omnigrok.

Only functions whose annotations name an array are checked, and of them only arguments and results that are arrays. For
the rest there is mypy, which knows protocols, and names that are imported for typing alone. jaxtyping's own import hook
wraps every function, which made the tests six times slower. Processes that a test starts are not checked.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType
from typing import Any, get_args

from beartype.door import die_if_unbearable
from jaxtyping import AbstractArray

PACKAGES = ("omnigrok", "tasks", "reproductions")


def mentions_array(annotation: Any) -> bool:
    """Whether an annotation is, or holds, one such as Float[Tensor, "runs"]."""
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(mentions_array(part) for part in get_args(annotation))


def traced(value: Any) -> bool:
    """Whether a value stands for an array that torch.fx does not know yet."""
    return type(value).__module__ == "torch.fx.proxy"


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The type checker of `jaxtyping.jaxtyped`: it gets stand-ins for a function, with annotations resolved."""
    signature = inspect.signature(function)
    arrays = {name: p.annotation for name, p in signature.parameters.items() if mentions_array(p.annotation)}
    returns_array = mentions_array(signature.return_annotation)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        for name, annotation in arrays.items():
            if name in given and not traced(given[name]):
                die_if_unbearable(given[name], annotation)
        result = function(*args, **kwargs)
        if returns_array and not traced(result):
            die_if_unbearable(result, signature.return_annotation)
        return result

    return wrapped


class Loader(SourceFileLoader):
    """Loads a module with `jaxtyped` around the functions and dataclasses whose annotations name an array."""

    def get_code(self, fullname: str) -> CodeType:
        """Never from or into the bytecode cache, which is that of the module as it is written."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:
        tree = ast.parse(data)
        kinds = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"
            for alias in node.names
        }
        for node in ast.walk(tree):
            if any(isinstance(x, ast.Name) and x.id in kinds for part in annotations(node) for x in ast.walk(part)):
                first = node.decorator_list[0] if node.decorator_list else node
                wrapper = ast.parse(f"__import__('jaxtyping').jaxtyped(typechecker=__import__({__name__!r}).checked)")
                wrapper = ast.copy_location(wrapper.body[0].value, first)
                place = 0 if isinstance(node, ast.ClassDef) else len(node.decorator_list)
                node.decorator_list.insert(place, wrapper)
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)


def annotations(node: ast.AST) -> Iterator[ast.expr]:
    """The annotations of a function's parameters and result, or of a class's fields."""
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        yield from (a.annotation for a in every if a is not None and a.annotation is not None)
        if node.returns is not None:
            yield node.returns
    elif isinstance(node, ast.ClassDef):
        yield from (statement.annotation for statement in node.body if isinstance(statement, ast.AnnAssign))


class Finder(MetaPathFinder):
    """Finds the modules of PACKAGES as the other finders do (an editable install has one), to be loaded by Loader."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if isinstance(spec.loader, SourceFileLoader):
                    spec.loader = Loader(spec.loader.name, spec.loader.path)
                return spec
        return None


if any(name in sys.modules for name in PACKAGES):
    raise ImportError("shapes must be imported before the packages whose signatures it has checked")
sys.meta_path.insert(0, Finder())
