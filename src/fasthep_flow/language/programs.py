"""The program and the script that a command begins with: these must be there when the task starts.

What lies at a task's outputs is set aside before that. So a command that begins with a file of its
own outputs finds none. One that comes later in a line of shell may be what the line itself made.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

__all__ = ["first_files"]

_SHELLS: Final = frozenset({"ash", "bash", "dash", "ksh", "sh", "zsh"})
_READERS: Final = (
    (re.compile(r"ash|bash|dash|ksh|sh|zsh|source|\."), re.compile(r"-[A-Za-z]*c|-s|-")),
    (re.compile(r"python[0-9.]*"), re.compile(r"-[A-Za-z]*[cm].*|-", re.DOTALL)),
    (re.compile(r"perl|Rscript"), re.compile(r"-[A-Za-z]*[eE].*|-", re.DOTALL)),
)
"""What reads a script, and its options that say what is read instead."""

_PASSED_OVER: Final = re.compile(r"[A-Za-z_]\w*\+?=|-|[0-9]+$")
_WITH_VALUE: Final = frozenset({"-o", "+o", "-O", "+O", "-W", "-X", "--rcfile", "--init-file"})
_BEFORE: Final = frozenset({"command", "env", "exec", "nice", "nohup", "time"})
"""Words behind which the program stands."""

_HARMLESS: Final = frozenset({":", "echo", "export", "set", "true", "ulimit", "umask"})
"""Commands that make no file which a later one could run."""

_END: Final = re.compile(r"[;&|<>()\n]+")


def first_files(argv: Sequence[str]) -> Iterator[str]:
    """The paths of what a command begins with, as they are written: its program, and its script.

    A program that is looked for in ``PATH`` is none; nor is what a shell is yet to work out.

    Args:
        argv: The program and its arguments.
    """
    words = [*argv]
    if posixpath.basename(argv[0]) in _SHELLS:
        for at, word in enumerate(argv[1:-1], start=1):
            if word[:1] == "-" and word[:2] != "--" and word.endswith("c"):
                words = _first_command(argv[at + 1])
                break
            if word[:1] not in {"-", "+"} and argv[at - 1] != "-o":
                break
    while words and (words[0] in _BEFORE or _PASSED_OVER.match(words[0])):
        del words[0]
    if not words or any("\0" in word for word in words):
        return
    if "/" in words[0]:
        yield words[0]
    reader = posixpath.basename(words[0])
    for name, instead in _READERS:
        if name.fullmatch(reader):
            yield from _script(words[1:], instead)


def _script(words: Sequence[str], instead: re.Pattern[str]) -> Iterator[str]:
    """The first word that is no option; none where an option says what is run instead."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            yield word
            return
        if instead.fullmatch(word):
            return
        if word in _WITH_VALUE:
            next(rest, None)


def _first_command(text: str) -> list[str]:
    """The words of the first command in a line of shell that may do something to files."""
    words: list[str] = []
    with suppress(ValueError):
        lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|<>()\n")
        lexer.whitespace = " \t\r"
        lexer.whitespace_split = True
        lexer.commenters = ""
        for word in lexer:
            if not _END.fullmatch(word):
                words.append(word)
            elif words and words[0] not in _HARMLESS:
                return words
            else:
                words = []
    return words
