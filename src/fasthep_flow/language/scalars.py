"""What a plain scalar of YAML 1.2 means.

The core schema: ``null``, ``true``, ``12``, ``0o17``, ``0x1f``, ``1e3``, ``.inf`` and their
variants are values, all else is text. ``yes``, ``no``, ``on``, ``1:30`` and ``2024-01-01``
are text, therefore, and so is ``012``: with a leading zero it is an identifier more
often than a number, and readers of YAML disagree which number it would be.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

__all__ = ["LONGEST_NUMBER", "Scalar", "is_text", "resolve"]

Scalar: TypeAlias = str | int | float | bool | None

LONGEST_NUMBER: Final = 400
"""Characters of the longest number that is read; Python itself refuses 4,300 digits."""

_FIRST: Final = frozenset("0123456789+-.~nNtTfF")
_CONSTANTS: Final[dict[str, Scalar]] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_DECIMAL: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_OTHER_BASE: Final = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def resolve(text: str) -> Scalar:
    """The value of a plain scalar.

    Raises:
        ValueError: It is a number of more than ``LONGEST_NUMBER`` characters.
    """
    if text and text[0] not in _FIRST:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _DECIMAL.fullmatch(text):
        return int(_short(text))
    if _OTHER_BASE.fullmatch(text):
        return int(_short(text), 0)
    if _FLOAT.fullmatch(text):
        return float(_short(text))
    return text


def is_text(text: str) -> bool:
    """Whether every character is one: half of a surrogate pair is none, and cannot be stored."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} characters is too long")
    return text
