"""Shell lines and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fasthep_flow.errors import ArgumentError
from fasthep_flow.model import Command, Device, Invocation
from fasthep_flow.operators.arguments import keyword_arguments, kind_of, plain_text, text_of

__all__ = ["BashOperator"]

_SHELL: Final = ("bash", "-e", "-o", "pipefail", "-c")


class BashOperator:
    """Runs a line of shell, or a program with its arguments.

    ``bash_command`` alone is a line for bash, which stops at the first command that fails,
    also inside a pipeline (``bash -e -o pipefail``, as GitLab CI has it). With
    ``arguments``, an empty list included, it is the program itself: no shell reads it, and
    each argument arrives as it is written.

    The same command serves either kind of device: what it does with one is its own matter.
    """

    spelled: Final = ("bash_command", "arguments")

    def prepare(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Device, Invocation]:
        """The command, for either kind of device.

        Raises:
            ArgumentError: An argument is missing, unknown or of the wrong type.
        """
        known = keyword_arguments("BashOperator", args, kwargs, known=("bash_command", "arguments"))
        if "bash_command" not in known:
            raise ArgumentError(
                "BashOperator needs 'bash_command'",
                path=("kwargs",),
                hint="a line of shell, or a program if there are 'arguments'",
            )
        path = ("kwargs", "bash_command")
        program = plain_text(known["bash_command"], path=path)
        if "arguments" not in known:
            command = Command(argv=(*_SHELL, program))
            return {"cpu": command, "gpu": command}
        arguments = known["arguments"]
        if not isinstance(arguments, list):
            raise ArgumentError(
                f"'arguments' must be a list, not {kind_of(arguments)}",
                path=("kwargs", "arguments"),
                hint="leave it out where 'bash_command' is a line of shell",
            )
        command = Command(
            argv=(
                program,
                *(
                    text_of(argument, path=("kwargs", "arguments", index))
                    for index, argument in enumerate(arguments)
                ),
            )
        )
        return {"cpu": command, "gpu": command}
