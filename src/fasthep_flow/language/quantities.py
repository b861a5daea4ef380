"""Quantities as Kubernetes writes them, and times: ``8Gi``, ``500m``, ``1h30m``.

Kubernetes' suffixes: ``Ki Mi Gi Ti Pi Ei`` are powers of 1024, ``k M G T P E`` of 1000, and
``m`` is a thousandth. A number may have an exponent: ``1e3``.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from fasthep_flow.language.refusals import Refusal, shown

__all__ = ["LEAST_MEMORY", "NO_LIMIT", "parse_cpus", "parse_memory", "parse_time"]

LEAST_MEMORY: Final = 2**20
"""Less than this is a unit that was forgotten: no program starts in it."""

NO_LIMIT: Final = "leave it out for no limit"
"""The hint for a time that is no limit."""

_MOST_MEMORY: Final = 2**63 - 1
_LEAST_CPUS: Final = Decimal("0.001")
_MOST_CPUS: Final = 1_000_000
_LEAST_SECONDS: Final = Decimal("0.001")
_MOST_SECONDS: Final = 100 * 365 * 86400

_NUMBER: Final = re.compile(
    r"(\+?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,2})?)(.*)", re.DOTALL
)
_BYTES: Final = {
    "": 1,
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", start=1)},
    **{letter: 1000**power for power, letter in enumerate("kMGTPE", start=1)},
}
_TIME: Final = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:w|d|h|ms|m|s))+")
_TIME_PART: Final = re.compile(r"([0-9.]+)([a-z]+)")
_SECONDS: Final = {
    "w": Decimal(604800),
    "d": Decimal(86400),
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}


def parse_memory(value: object) -> int:
    """Bytes: ``8Gi``, ``512M``, or a number of bytes.

    Raises:
        Refusal: It is no amount of memory, or one that no task can run in.
    """
    number, suffix = _split(value, "an amount of memory", "such as 8Gi or 500M")
    if suffix == "m":
        raise Refusal(
            f"{shown(value)} is thousandths of a byte",
            f"write {number:f}M or {number:f}Mi for megabytes",
        )
    if suffix not in _BYTES:
        raise Refusal(
            f"{shown(value)} is not an amount of memory", _memory_hint(f"{number:f}", suffix)
        )
    amount = number * _BYTES[suffix]
    if amount > _MOST_MEMORY:
        raise Refusal(f"{shown(value)} is more memory than any machine has")
    if amount < LEAST_MEMORY:
        raise Refusal(
            f"{shown(value)} is {_plainly(amount)} bytes, too little to start a program in",
            f"did you mean {number:f}Gi?" if amount > 0 and not suffix else "such as 8Gi or 500M",
        )
    return int(amount.to_integral_value("ROUND_CEILING"))


def parse_cpus(value: object) -> float:
    """Processors: ``2``, ``0.5`` or ``500m``.

    Raises:
        Refusal: It is no number of processors.
    """
    what, example = "a number of processors", "such as 2, 0.5 or 500m"
    number, suffix = _split(value, what, example)
    if suffix not in {"", "m"}:
        raise Refusal(f"{shown(value)} is not {what}", example)
    amount = number / 1000 if suffix else number
    if amount <= 0:
        raise Refusal(f"{shown(value)} is no processor at all", example)
    if amount < _LEAST_CPUS:
        raise Refusal(f"{shown(value)} is less than a thousandth of a processor", example)
    if amount > _MOST_CPUS:
        raise Refusal(f"{shown(value)} is more processors than any machine has", example)
    return float(amount)


def parse_time(value: object) -> float:
    """Seconds: ``90s``, ``2h``, ``1h30m``, ``1d``, ``500ms``, or a number of seconds.

    Raises:
        Refusal: It is no time, or none at all.
    """
    what, example = "a time", "such as 90s, 2h or 1h30m"
    if isinstance(value, str) and _TIME.fullmatch(value):
        amount = sum(
            (Decimal(number) * _SECONDS[unit] for number, unit in _TIME_PART.findall(value)),
            start=Decimal(0),
        )
    else:
        amount, suffix = _split(value, what, example)
        if suffix:
            raise Refusal(f"{shown(value)} is not {what}", _time_hint(str(value)) or example)
    if amount <= 0:
        raise Refusal(f"{shown(value)} is no time at all", NO_LIMIT)
    if amount < _LEAST_SECONDS:
        raise Refusal(f"{shown(value)} is less than a thousandth of a second", example)
    if amount > _MOST_SECONDS:
        raise Refusal(f"{shown(value)} is longer than a century", NO_LIMIT)
    return float(amount)


def _split(value: object, what: str, example: str) -> tuple[Decimal, str]:
    """The number that a quantity starts with, and what follows it."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Refusal(f"this is not {what}", f"write {example.removeprefix('such as ')}")
    # repr() is the shortest text that means this very number.
    text = value if isinstance(value, str) else repr(value)
    if text.startswith("-"):
        raise Refusal(f"{shown(value)} is negative", example)
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise Refusal(f"{shown(value)} is not {what}", example)
    return Decimal(match[1]), match[2]


def _plainly(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _memory_hint(number: str, suffix: str) -> str:
    """What a misspelt suffix was meant to be: ``gb`` is G, ``GiB`` and `` gib`` are Gi."""
    match = re.fullmatch(r"\s*([kmgtpe])(i?)b?(?:ytes?)?\s*", suffix, re.IGNORECASE)
    if match is None:
        return "such as 8Gi or 500M"
    letter = match[1].upper()
    if match[2]:
        return f"did you mean '{number}{letter}i'?"
    decimal = letter.replace("K", "k")
    return f"did you mean '{number}{decimal}', or '{number}{letter}i'?"


def _time_hint(text: str) -> str | None:
    clock = re.fullmatch(r"([0-9]{1,4}):([0-9]{2})(?::([0-9]{2}))?", text)
    if clock:
        seconds = f"{int(clock[3])}s" if clock[3] else ""
        return f"did you mean '{int(clock[1])}h{int(clock[2])}m{seconds}'?"
    short = re.sub(
        r"([0-9])\s*(w|d|h|m(?!s)|s)(?:eek|ay|our|in(?:ute)?|ec(?:ond)?|rs?|r)?s?(?![a-z])\s*",
        r"\1\2",
        text.strip().lower(),
    )
    return f"did you mean {short!r}?" if _TIME.fullmatch(short) else None
