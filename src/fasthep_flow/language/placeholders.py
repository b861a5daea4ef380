"""What an example leaves for its reader to fill in: ``<path to .env>``, ``TBC``.

Documentation is copied before it is read. A placeholder that stayed is named, instead of
becoming a file that is not found or a redirection that a shell misreads.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["EXPRESSION", "placeholders", "shell_placeholders"]

EXPRESSION: Final = "${{"
"""How an expression begins."""


_PLACEHOLDER: Final = re.compile(r"<[A-Za-z][^<>\n]*>")
_QUOTED: Final = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*"|(?:^|(?<=\s))\#[^\n]*""", re.DOTALL)
# Words within '<' and '>', where the '>' has nothing behind it that a shell could redirect
# to: the end, a newline, ';', ')', another '<', or a blank before '|' or '&'.
_IN_SHELL: Final = re.compile(
    r"(?<![<$])<[A-Za-z][\w.,/-]*(?: [\w.,/-]+)*>(?=[ \t]*(?:$|[\n;)<])|[ \t]+[|&])"
)


def placeholders(text: str) -> tuple[str, ...]:
    """The placeholders in a setting where ``<`` and ``>`` mean nothing else."""
    return tuple(_PLACEHOLDER.findall(text))


def shell_placeholders(command: str) -> tuple[str, ...]:
    """The placeholders in a shell command.

    Only what no shell would accept is one: ``sort <in >out``, ``diff <(a) <(b)`` and
    ``cat <in file> out`` are not, nor is anything in quotes, comments or here-documents.
    """
    if "<" not in command or "<<" in command:
        return ()
    # Quoted text is replaced by a character that no placeholder holds.
    return tuple(_IN_SHELL.findall(_QUOTED.sub("'", command)))
