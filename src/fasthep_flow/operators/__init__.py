"""What a task does: its arguments become an invocation; nothing is run here.

An operator is found by the name that the author writes as a task's ``type``: ours by the
table below, others by an entry point of the group ``fasthep_flow.operators`` whose name is
that ``type``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from fasthep_flow.model import Device, Invocation

__all__ = ["OPERATORS", "Operator", "find_operator"]

OPERATORS: Final[Mapping[str, str]] = {
    "fasthep_flow.operators.BashOperator": "fasthep_flow.operators.bash:BashOperator",
    "fasthep_flow.operators.PythonOperator": "fasthep_flow.operators.python:PythonOperator",
}
"""Our operators: the ``type`` that an author writes, and where the class is."""


class Operator(Protocol):
    """Turns a task's arguments into what a runtime can start.

    An operator may have an attribute ``spelled``: the names of the keyword arguments that
    it takes as text, so that numbers in them arrive as they are written (``1.10``).
    """

    def prepare(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Device, Invocation]:
        """What to run on each kind of device that the operator has a version for.

        Pure: imports and runs nothing of the author's.

        Args:
            args: Positional arguments as written in the file: plain data.
            kwargs: Keyword arguments as written in the file: plain data.

        Raises:
            ArgumentError: An argument is missing, unknown or of the wrong type.
        """
        ...


def find_operator(name: str) -> Operator | None:
    """The operator that an author calls ``name``, or ``None``."""
    if name in OPERATORS:
        module, _, attribute = OPERATORS[name].partition(":")
        return cast("Operator", getattr(importlib.import_module(module), attribute)())
    from importlib.metadata import entry_points

    for entry in entry_points(group="fasthep_flow.operators", name=name):
        return cast("Operator", entry.load()())
    return None
