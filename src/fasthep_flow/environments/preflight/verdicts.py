"""What a check of an environment found: rows of a table, plain data."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from fasthep_flow.errors import (
    EnvironmentRefused,
)

__all__ = ["Check", "Examined", "Verdict", "noted", "passed", "refused", "unknown"]

Verdict: TypeAlias = Literal[
    "ok",  # it is so, or can be had
    "note",  # it is not quite as asked for, and the task said that it may be so
    "unknown",  # it cannot be known before the image is here
    "refused",  # it cannot be honoured; nothing would run
]


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Args:
        what: ``runtime``, ``image``, ``platform``, ``options``, ``shell``, ``python``,
            ``limits``, ``network``, ``device``, ``data``, ``variables``, ``lock``, ``folder`` or
            ``flow``.
        verdict: What was found.
        detail: The same in words.
        hint: What to do about it.
        error: The name of the error that a run would end with, where it is refused.
    """

    what: str
    verdict: Verdict
    detail: str
    hint: str | None = None
    error: str | None = None


class Examined(Struct, frozen=True, kw_only=True):
    """An environment, and all that was looked at for it.

    Args:
        tasks: Those that ask for it; none where it is the machine that was looked at.
        image: As the author named it, in full; ``None`` for the host.
        runtime: The one that would run it; ``None`` where none can.
        checks: In the order in which they were made.
    """

    tasks: tuple[str, ...]
    image: str | None
    runtime: str | None
    checks: tuple[Check, ...]

    @property
    def is_refused(self) -> bool:
        """Whether anything of it cannot be honoured."""
        return any(check.verdict == "refused" for check in self.checks)


def passed(what: str, detail: str) -> Check:
    """It is so."""
    return Check(what=what, verdict="ok", detail=detail)


def noted(what: str, detail: str) -> Check:
    """It is so in a way."""
    return Check(what=what, verdict="note", detail=detail)


def unknown(what: str, detail: str) -> Check:
    """Nobody can tell yet."""
    return Check(what=what, verdict="unknown", detail=detail)


def refused(what: str, error: EnvironmentRefused) -> Check:
    """It cannot be."""
    return Check(
        what=what,
        verdict="refused",
        detail=error.message,
        hint=error.hint,
        error=_kind(error).__name__,
    )


def _kind(error: EnvironmentRefused) -> type[EnvironmentRefused]:
    """The error's class in the tree that authors of programs know."""
    for kind in EnvironmentRefused.__subclasses__():
        if isinstance(error, kind):
            return kind
    return EnvironmentRefused
