"""What operators say about arguments that they cannot take."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from fasthep_flow.errors import ArgumentError

__all__ = [
    "LONGEST",
    "UnknownArgumentsError",
    "keyword_arguments",
    "kind_of",
    "plain_data",
    "plain_text",
    "text_of",
]

LONGEST: Final = 128 * 1024 - 1
"""Bytes of one argument: Linux starts no program with a longer one."""

_KINDS: Final[Mapping[type, str]] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    type(None): "empty",
}


class UnknownArgumentsError(ArgumentError):
    """An operator is given arguments that it does not know.

    Args:
        each: What is said of each of them; one at least.
        has_slips: Whether one of them is nearly a known one.
    """

    def __init__(self, each: Sequence[ArgumentError], *, has_slips: bool) -> None:
        first = each[0]
        message = "; ".join(error.message for error in each)
        super().__init__(message, path=first.path, hint=first.hint)
        self.each = tuple(each)
        self.has_slips = has_slips


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
        UnknownArgumentsError: There are some that the operator does not know.
        ArgumentError: There are positional ones.
    """
    if args:
        raise ArgumentError(
            f"{operator} takes no positional arguments",
            path=("args",),
            hint=f"name them under kwargs: {', '.join(known)}",
        )
    unknown = []
    has_slips = False
    for name in kwargs:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            has_slips = has_slips or bool(near)
            unknown.append(
                ArgumentError(
                    f"{operator} has no argument {name!r}",
                    path=("kwargs", name),
                    hint=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}",
                )
            )
    if unknown:
        raise UnknownArgumentsError(unknown, has_slips=has_slips)
    return kwargs


def plain_text(value: object, *, path: tuple[str | int, ...]) -> str:
    """``value``, where it is text that a process can be handed.

    Raises:
        ArgumentError: It is something else, is blank, is too long, or holds a NUL.
    """
    if not isinstance(value, str):
        raise ArgumentError(f"{path[-1]!r} must be text, not {kind_of(value)}", path=path)
    if not value.strip():
        raise ArgumentError(f"{path[-1]!r} is empty", path=path)
    return _fit_for_a_process(value, path)


def text_of(value: object, *, path: tuple[str | int, ...]) -> str:
    """A scalar as text, spelled as YAML spells it: ``true``, ``4.9``.

    Raises:
        ArgumentError: It is no scalar, is too long, or holds a NUL.
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
    return _fit_for_a_process(value, path)


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


def _fit_for_a_process(value: str, path: tuple[str | int, ...]) -> str:
    if "\0" in value:
        raise ArgumentError("no program can be handed a NUL character", path=path)
    if len(value.encode(errors="surrogatepass")) > LONGEST:
        raise ArgumentError(
            f"this is longer than the {LONGEST // 1024 + 1} KiB that a program can be handed "
            "in one argument",
            path=path,
            hint="put it into a file beside the workflow",
        )
    return value
