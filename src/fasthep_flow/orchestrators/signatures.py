"""The parameters of an engine's classes, read from the text of the installed package.

Importing Dask or Prefect takes a second, reading a file of theirs some milliseconds: ``lint``
knows the options of a runner without its engine.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ["is_installed", "is_module", "read_names", "read_parameters"]

_BOUND: Final = frozenset({"self", "cls"})
_OPEN_ENDED: Final = frozenset({"*", "__getattr__"})
"""What lets a module have names that its text does not say."""


def read_parameters(*targets: str) -> frozenset[str] | None:
    """The names of all parameters that the targets take together.

    What is gathered in ``*args`` and ``**kwargs`` is not among them: name the class that takes
    it too.

    Args:
        targets: ``package.module:Class`` for what makes one of it, else
            ``package.module:Class.method`` or ``package.module:function``; where the text is,
            not where it is exported again.

    Returns:
        ``None`` where nobody can say: a package is not installed, has no text, or is of a
        version that has no such target.
    """
    found = [_parameters(target) for target in targets]
    known = [names for names in found if names is not None]
    return frozenset().union(*known) if len(known) == len(found) else None


def is_installed(package: str) -> bool:
    """Whether there is a package of that name; imports nothing."""
    try:
        return find_spec(package.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def is_module(module: str) -> bool:
    """Whether an installed package has that module; imports nothing."""
    package, *inner = module.split(".")
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    if spec is None or not inner:
        return spec is not None
    places = [Path(place, *inner) for place in spec.submodule_search_locations or ()]
    # Not all modules are text.
    return any(place.is_dir() or any(place.parent.glob(f"{place.name}.*")) for place in places)


def read_names(module: str) -> frozenset[str] | None:
    """The names that a module defines or imports, wherever it does that.

    Args:
        module: Of an installed package.

    Returns:
        ``None`` where nobody can say: it has no text, or makes names as it is asked for them.
    """
    tree = _read(module)
    if tree is None:
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return None if names & _OPEN_ENDED else frozenset(names)


@lru_cache(maxsize=64)
def _parameters(target: str) -> frozenset[str] | None:
    module, _, name = target.partition(":")
    tree = _read(module)
    owner, _, method = name.partition(".")
    found = _named(tree.body, owner) if tree is not None else None
    if isinstance(found, ast.ClassDef):
        found = _named(found.body, method or "__init__")
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    arguments = found.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return frozenset(argument.arg for argument in every) - _BOUND


def _named(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """The last definition of that name: an overload stands before what it is of."""
    found = None
    for statement in body:
        kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(statement, kinds) and statement.name == name:
            found = statement
    return found


@lru_cache(maxsize=16)
def _read(module: str) -> ast.Module | None:
    package, *inner = module.split(".")
    try:
        # Of the package alone: for what is in it, `find_spec` would import it.
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        files = [Path(spec.origin or "")] if not inner else []
    else:
        places = [Path(place, *inner) for place in spec.submodule_search_locations]
        files = [file for place in places for file in (place / "__init__.py", _module(place))]
    for file in files:
        try:
            return ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
    return None


def _module(place: Path) -> Path:
    return place.with_name(f"{place.name}.py")
