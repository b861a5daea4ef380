"""Options of engines: known names and whole numbers, refused where an engine would fail later."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec

__all__ = ["check_options", "misfits", "whole_number"]

_LEAST: Final[Mapping[str, int]] = {
    "allowed_failures": 0,
    "cores": 1,
    "max_workers": 1,
    "maximum_jobs": 1,
    "minimum_jobs": 0,
    "n_workers": 0,
    "threads_per_worker": 1,
}
"""Whole numbers to every engine that has an option of that name, and the least that they are."""


def misfits(options: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the values of options, as far as no engine need be asked.

    Args:
        options: Of a runner, whichever it is.
    """
    return {
        name: f"must be a whole number, {_LEAST[name]} or more"
        for name, value in options.items()
        if name in _LEAST
        and value is not None
        and (not isinstance(value, int) or isinstance(value, bool) or value < _LEAST[name])
    }


def check_options(
    flow: FlowSpec, options: Iterable[str], known: Iterable[str], where: str = ""
) -> None:
    """Refuse an option that the engine would ignore, or fail on much later.

    Raises:
        OrchestratorUnavailable: One of ``options`` is not ``known``.
    """
    names = sorted(known)
    for option in options:
        if option not in names:
            close = difflib.get_close_matches(option, names, n=1)
            raise OrchestratorUnavailable(
                f"{flow} knows no option {option!r}{where}",
                hint=f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}",
            )


def whole_number(
    flow: FlowSpec, name: str, options: Mapping[str, Any], default: int, *, least: int = 1
) -> int:
    """The option of that name, or ``default``.

    Raises:
        OrchestratorUnavailable: It is not a whole number, or less than ``least``.
    """
    value = options.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OrchestratorUnavailable(
            f"{name} of {flow} is {value!r}: it is a whole number, {least} or more"
        )
    return value
