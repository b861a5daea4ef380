"""Parts of a task's environment, each with its value, where that came from, what it replaced.

A secret does not leave this module, nor do the credentials in an address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import Struct

from fasthep_flow.redaction import HIDDEN, is_secret, without_credentials

__all__ = ["DEFAULT", "Chain", "Entry", "Explained", "Former", "redacted"]

DEFAULT: Final = "default"
"""The origin of what nobody set."""


class Former(Struct, frozen=True, kw_only=True):
    """A value that another one replaced.

    Args:
        value: Plain data; ``None`` where it is hidden, or none was set.
        origin: Where it came from.
    """

    value: Any
    origin: str


class Entry(Struct, frozen=True, kw_only=True):
    """A variable or a setting of a task.

    Args:
        name: Of the variable or the setting.
        value: Plain data; ``None`` where it is hidden, not set, or known only when the task
            runs.
        note: What there is to say in place of a value.
        hidden: Whether the values are a secret.
        origin: Where it came from: ``file:line``, ``default``, ...
        replaced: What it replaced, the latest first; defaults are left out.
    """

    name: str
    value: Any
    note: str = ""
    hidden: bool = False
    origin: str
    replaced: tuple[Former, ...] = ()


class Explained(Struct, frozen=True, kw_only=True):
    """The environment of a task, each part with its origin.

    Args:
        task: The task's name.
        location: Where the task is written.
        base: What lies under the variables: that of the ``host``, or that of the ``image``.
        settings: All there is to set.
        variables: By name.
        host: What the host's environment holds besides; empty where there is an image, or
            nobody asked.
    """

    task: str
    location: str
    base: str
    settings: tuple[Entry, ...]
    variables: tuple[Entry, ...]
    host: tuple[Entry, ...] = ()


@dataclass(slots=True)
class Chain:
    """The values of one part, the latest last."""

    values: list[Former] = field(default_factory=list)

    def add(self, value: object, origin: str) -> None:
        """Lay a value over those that there are."""
        self.values.append(Former(value=value, origin=origin))

    def entry(self, name: str, *, hidden: bool = False, note: str = "") -> Entry:
        """What came of them.

        Args:
            name: Of the part.
            hidden: Whether the values are a secret.
            note: What there is to say in place of the last value.
        """
        *former, last = self.values
        replaced = [value for value in reversed(former) if value.origin != DEFAULT]
        if hidden:
            last = Former(value=None, origin=last.origin)
            replaced = [Former(value=None, origin=value.origin) for value in replaced]
        return Entry(
            name=name,
            value=redacted(last.value),
            note=note,
            hidden=hidden,
            origin=last.origin,
            replaced=tuple(
                Former(value=redacted(value.value), origin=value.origin) for value in replaced
            ),
        )


def redacted(value: object) -> object:
    """Plain data of a setting without what may be a secret."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {name: HIDDEN if is_secret(name) else redacted(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value
