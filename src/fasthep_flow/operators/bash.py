"""Shell lines and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fasthep_flow.errors import ArgumentError
from fasthep_flow.model import Command, Device, Invocation
from fasthep_flow.operators.arguments import keyword_arguments, kind_of, plain_text, text_of

__all__ = ["BashOperator", "own_variables"]

_SHELL: Final = ("bash", "-e", "-o", "pipefail", "-c")
_SET_BY_BASH: Final = frozenset(
    {
        *("BASH", "BASHOPTS", "BASHPID", "BASH_COMMAND", "BASH_EXECUTION_STRING"),
        *("BASH_SUBSHELL", "BASH_VERSINFO", "BASH_VERSION", "COMP_WORDBREAKS", "EPOCHREALTIME"),
        *("EPOCHSECONDS", "HISTCMD", "IFS", "LINENO", "OLDPWD", "OPTERR", "OPTIND", "PPID"),
        *("PS1", "PS2", "PWD", "RANDOM", "SECONDS", "SHELLOPTS", "SHLVL", "SRANDOM", "_"),
    }
)
"""Of these bash 5.2 hands on some other value than the one that it is given, or none."""

_SET_FOR_ROOT: Final = frozenset({"PS4"})
"""What it shows of a trace may run programs: bash takes no such text over where root runs it."""

_READ_ONLY: Final = frozenset({"BASHOPTS", "EUID", "GROUPS", "PPID", "SHELLOPTS", "UID"})
"""These no bash lets anyone set."""


def own_variables(invocation: Invocation, *, in_image: bool, as_root: bool) -> frozenset[str]:
    """The names of variables whose value from outside would not reach what is run.

    Args:
        invocation: What is run.
        in_image: Whether a shell of an image, which may be bash, sets the variables first.
        as_root: Whether the user who runs it is root.
    """
    names: frozenset[str] = _READ_ONLY if in_image else frozenset()
    if isinstance(invocation, Command) and invocation.argv[:-1] == _SHELL:
        names |= _SET_BY_BASH
        if as_root:
            names |= _SET_FOR_ROOT
    return names


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
