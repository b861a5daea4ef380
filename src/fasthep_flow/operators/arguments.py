"""What operators say about arguments that they cannot take."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from fasthep_flow.errors import ArgumentError

__all__ = ["keyword_arguments", "kind_of", "plain_data", "plain_text", "text_of"]

_KINDS: Final[Mapping[type, str]] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    type(None): "empty",
}


def kind_of(value: object) -> str:
    """The value's type in an author's words."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def keyword_arguments(
    operator: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    known: Collection[str],
) -> Mapping[str, Any]:
    """``kwargs``, where all of them are known and there are no positional ones.

    Raises:
        ArgumentError: There is one that the operator does not know.
    """
    if args:
        raise ArgumentError(
            f"{operator} takes no positional arguments",
            path=("args",),
            hint=f"name them under kwargs: {', '.join(known)}",
        )
    for name in kwargs:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ArgumentError(
                f"{operator} has no argument {name!r}",
                path=("kwargs", name),
                hint=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}",
            )
    return kwargs


def plain_text(value: object, *, path: tuple[str | int, ...]) -> str:
    """``value``, where it is text that a process can be handed.

    Raises:
        ArgumentError: It is something else, is blank, or holds a NUL.
    """
    if not isinstance(value, str):
        raise ArgumentError(f"{path[-1]!r} must be text, not {kind_of(value)}", path=path)
    if not value.strip():
        raise ArgumentError(f"{path[-1]!r} is empty", path=path)
    return _without_nul(value, path)


def text_of(value: object, *, path: tuple[str | int, ...]) -> str:
    """A scalar as text, spelled as YAML spells it: ``true``, ``4.9``.

    Raises:
        ArgumentError: It is no scalar, or holds a NUL.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise ArgumentError(
            f"an argument must be text or a number, not {kind_of(value)}",
            path=path,
            hint="quote it where it is meant as text",
        )
    return _without_nul(value, path)


def plain_data(value: object, *, path: tuple[str | int, ...]) -> None:
    """Refuse what would reach the callable as something else.

    Raises:
        ArgumentError: It holds a number or a key that JSON has no way to say.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ArgumentError(
                    f"a key must be text, not {kind_of(key)}",
                    path=(*path, key),
                    hint=f"quote it: '{key}'",
                )
            plain_data(item, path=(*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            plain_data(item, path=(*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ArgumentError(
            f"{value} cannot be handed over as a number", path=path, hint="write it as text"
        )


def _without_nul(value: str, path: tuple[str | int, ...]) -> str:
    if "\0" in value:
        raise ArgumentError("no program can be handed a NUL character", path=path)
    return value
