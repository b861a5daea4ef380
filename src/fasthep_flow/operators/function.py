"""Plain functions, called with the task's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from fasthep_flow.errors import ArgumentError
from fasthep_flow.model import Call, Device, Invocation
from fasthep_flow.operators.arguments import plain_data

__all__ = ["FunctionOperator", "callable_target"]


class FunctionOperator:
    """Calls a Python function with the task's ``kwargs``, once, in a process of its own.

    Args:
        targets: The function for each kind of device that there is one for: ``module:name``.
    """

    def __init__(self, targets: Mapping[Device, str]) -> None:
        self.targets: Final = dict(targets)

    def prepare(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Device, Invocation]:
        """The calls; nothing is imported, so that the function itself judges its arguments.

        Raises:
            ArgumentError: An argument is no plain data, or cannot be called so.
        """
        for name, value in kwargs.items():
            if not name.isidentifier():
                raise ArgumentError(
                    f"no function has an argument {name!r}",
                    path=("kwargs", name),
                    hint="names are letters, digits and '_', and start with no digit",
                )
            plain_data(value, path=("kwargs", name))
        return {
            device: cast("Invocation", Call(target=target, args=tuple(args), kwargs=dict(kwargs)))
            for device, target in self.targets.items()
        }


def callable_target(text: str) -> str | None:
    """``module:name`` of what is written so, or ``module.name``; ``None`` if it is neither."""
    module, separator, name = text.partition(":")
    if not separator:
        module, separator, name = text.rpartition(".")
    parts = (*module.split("."), *name.split("."))
    if not separator or not all(part.isidentifier() for part in parts):
        return None
    return f"{module}:{name}"
