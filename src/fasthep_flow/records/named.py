"""The files that a command line names.

A word of it that is the path of a file is taken for one that the command reads, be it in the text
that a shell is handed; but not behind a ``>``. Paths start at the folder where tasks work. What a
shell makes of wildcards, variables and ``cd`` is not known before it runs, nor what a script reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["module_words", "path_words"]

_SHELLS: Final = frozenset({"ash", "bash", "dash", "ksh", "sh", "zsh"})
_WITH_VALUE: Final = frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file"})
_PYTHON: Final = re.compile(r"(?:.*/)?python[0-9.]*")
_WORD: Final = re.compile(
    r"""(>[>|&]?\s*)?((?:[^\s;&|<>()'"\\`]+|'[^']*'|"(?:\\.|[^"\\])*"|\\.)+)""", re.DOTALL
)
_SEPARATOR: Final = re.compile(r"[\s;&|<>()`]")
_UNRESOLVED: Final = frozenset("$*?[]{}~\0\n")
_LONGEST: Final = 4096
_DEEPEST: Final = 3


def path_words(argv: Sequence[str]) -> Iterator[str]:
    """The words that could be paths, as they are written; some more than once.

    Args:
        argv: The program and its arguments.
    """
    at = _shell_text(argv)
    if at is None:
        for word in argv:
            yield from _paths(word)
        return
    yield from _in_text(argv[at], 0)
    for word in argv[at + 1 :]:
        yield from _paths(word)


def module_words(argv: Sequence[str]) -> Iterator[str]:
    """The modules that are run by ``python -m``.

    Args:
        argv: The program and its arguments.
    """
    words = argv
    if (place := _shell_text(argv)) is not None:
        if " -m" not in argv[place]:
            return
        words = [found[2] for found in _WORD.finditer(argv[place])]
    for at, word in enumerate(words[:-1]):
        if word == "-m" and any(_PYTHON.fullmatch(one) for one in words[max(0, at - 4) : at]):
            yield words[at + 1]


def _shell_text(argv: Sequence[str]) -> int | None:
    """Where in it stands what a shell is told to run; ``None`` where there is no such thing."""
    if argv[0].rpartition("/")[2] not in _SHELLS:
        return None
    at = 1
    while at < len(argv) - 1 and argv[at][:1] in {"-", "+"}:
        # Its options may stand together, as in -ec.
        if argv[at][:2] != "--" and argv[at][-1:] == "c":
            return at + 1
        at += 2 if argv[at] in _WITH_VALUE else 1
    return None


def _in_text(text: str, depth: int) -> Iterator[str]:
    for found in _WORD.finditer(text):
        if found[1]:
            continue
        word = found[2]
        if "'" in word or '"' in word or "\\" in word:
            try:
                word = _unquoted(word)
            except ValueError:
                continue
            # Quoted it may be a command line of its own: ssh, bash -c, "$(...)".
            if depth < _DEEPEST and _SEPARATOR.search(word):
                yield from _in_text(word, depth + 1)
        yield from _paths(word)


def _unquoted(word: str) -> str:
    """A word as the command gets it.

    Raises:
        ValueError: It has no end.
    """
    quote, inner = word[0], word[1:-1]
    if quote in {"'", '"'} and word[-1] == quote and quote not in inner and "\\" not in inner:
        return inner
    return "".join(shlex.split(word))


def _paths(word: str) -> Iterator[str]:
    if len(word) > _LONGEST or not _UNRESOLVED.isdisjoint(word):
        return
    if "=" in word:
        yield word.rpartition("=")[2]
    if word and not word.startswith("-"):
        yield word
