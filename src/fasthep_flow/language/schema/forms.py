"""The forms in which a value may be written: text alone for a mapping, one for a list of them.

Each takes what the author wrote and gives the long form, or refuses it in plain words.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, TypeAdapter

from fasthep_flow.language.quantities import NO_LIMIT, parse_time
from fasthep_flow.language.refusals import Refusal, shown

__all__ = [
    "EXAMPLE_VERSION",
    "LEFT_OUT",
    "MOST_DELAY_S",
    "kind_of",
    "lines",
    "listed",
    "long_image",
    "long_python",
    "long_retries",
    "long_version",
    "names",
    "parse_delay",
    "sizes",
    "text_or",
]

EXAMPLE_VERSION: Final = "3.12"
"""Of Python, for messages."""

LEFT_OUT: Final = object()
"""Stands in a list where something was wrong: those behind it keep their numbers."""

MOST_DELAY_S: Final = 86_400
"""Whoever waits longer than a day for another attempt had better look what is wrong."""

_TEXTS: Final = TypeAdapter(list[str])


def names(value: object) -> object:
    """A list of texts, or one text alone."""
    return [value] if isinstance(value, str) else value


def _long(key: str, value: object) -> object:
    """The long form of what may be text alone: a mapping with the text at its key."""
    if isinstance(value, str):
        return {key: value}
    if value is not None and not isinstance(value, dict):
        raise Refusal(f"must be text or a mapping, not {kind_of(value)}")
    return value


def long_image(value: object) -> object:
    """An image, or its name alone."""
    return _long("name", value)


def long_python(value: object) -> object:
    """A ``python``, or its version alone."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Refusal(
            "the version must be text: as a number 3.10 would be 3.1",
            f'put it in quotes, such as "{EXAMPLE_VERSION}"',
        )
    return _long("version", value)


def long_version(value: object) -> object:
    """A version; as a number it would be another one."""
    return value if isinstance(value, str | None) else long_python(value)


def long_retries(value: object) -> object:
    """A ``retries``, or a number of them alone."""
    return value if value is None or isinstance(value, dict) else {"times": value}


def parse_delay(value: object) -> float:
    """Seconds between two attempts, of which there may be none."""
    if value in (0, "0", "0s") and not isinstance(value, bool):
        return 0.0
    try:
        seconds = parse_time(value)
    except Refusal as refusal:
        hint = "leave it out to try again at once" if refusal.hint == NO_LIMIT else refusal.hint
        raise Refusal(refusal.message, hint) from None
    if seconds > MOST_DELAY_S:
        raise Refusal(f"{shown(value)} is more than a day", "a day, 1d, is the most")
    return seconds


def sizes(value: object) -> object:
    """A size for each attempt, or one for all of them."""
    if value is None:
        return value
    if not isinstance(value, list):
        return [value]
    if not value:
        raise Refusal("this list names no size", "leave it out for no limit")
    return value


def lines(value: object) -> object:
    """Requirements, or the path of a file of them."""
    if isinstance(value, list):
        return _TEXTS.validate_python(value, strict=True)
    if value is None or isinstance(value, str):
        return value
    raise Refusal(
        f"must be a list, or the path of a requirements file, not {kind_of(value)}",
        "start each requirement with '- '",
    )


def listed(value: object) -> object:
    """A list of what may be one thing alone."""
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, str | dict):
        return [value]
    raise Refusal(f"must be text, a mapping, or a list of these, not {kind_of(value)}")


def text_or(model: type[BaseModel], value: object) -> object:
    """Text as it is; a mapping as what it must be."""
    if isinstance(value, str):
        return value
    if value is LEFT_OUT:
        return None
    if not isinstance(value, dict):
        raise Refusal(f"must be text or a mapping, not {kind_of(value)}")
    return model.model_validate(value)


def kind_of(value: object) -> str:
    """What a value is, in an author's words, without the value."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a number"
    if isinstance(value, float):
        return "a number with a fraction"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "a mapping"
