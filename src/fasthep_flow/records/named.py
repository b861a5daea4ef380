"""The files that a command line names.

A word of it that is the path of a file is taken for one that the command reads, be it in the text
that a shell is handed; but not behind a ``>``. So are the parts of a word at ``=``, ``,``, ``:``
and brackets; ROOT's ``fit.C+`` is ``fit.C``. What is no file does not count, so that one too many
does no harm. Paths start at the folder where tasks work, and at each one that the command changes
to. What a shell makes of wildcards and variables is not known before it runs, nor what a script
reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["path_words", "shell_text", "word_lists", "working_folders"]

_SHELLS: Final = frozenset({"ash", "bash", "dash", "ksh", "sh", "zsh"})
_WITH_VALUE: Final = frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file"})
_PARTS: Final = re.compile(r"[=,:;@#()'\"\s]+")
_COMPILED: Final = re.compile(r"\+{1,2}[A-Za-z]*$")
"""How ROOT is told to compile a macro."""

_CHANGES: Final = frozenset({"cd", "pushd", "-C", "--chdir", "--directory"})
_MAY_CHANGE: Final = re.compile(r"\b(?:cd|pushd)\b|-C|--chdir|--directory")
_MOST_FOLDERS: Final = 16
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
    folders, _ = working_folders(argv)
    for word in _words(argv):
        yield word
        if folders and not word.startswith("/"):
            yield from (f"{folder}/{word}" for folder in folders)


def working_folders(argv: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The folders that a command changes to, as they are written, and whether these are all.

    Args:
        argv: The program and its arguments.
    """
    if not any(_MAY_CHANGE.search(word) for word in argv):
        return (), True
    folders: dict[str, None] = {}
    is_whole = True
    for words in word_lists(argv):
        for at, word in enumerate(words):
            option, _, value = word.partition("=")
            if option not in _CHANGES:
                continue
            target = value or (words[at + 1] if at + 1 < len(words) else "")
            if target.startswith("-") or not _UNRESOLVED.isdisjoint(target):
                is_whole = False
            elif target and not target.startswith("/"):
                known = [target, *(f"{folder}/{target}" for folder in folders)]
                folders.update(dict.fromkeys(known))
            elif target:
                folders[target] = None
    return tuple(folders)[:_MOST_FOLDERS], is_whole and len(folders) <= _MOST_FOLDERS


def word_lists(argv: Sequence[str]) -> Iterator[list[str]]:
    """The words of a command line, and of each one that is handed on in it as a text.

    Args:
        argv: The program and its arguments.
    """
    at = shell_text(argv)
    if at is None:
        yield [*argv]
        for word in argv:
            if _SEPARATOR.search(word):
                yield from _lists(word, 1)
    else:
        yield from _lists(argv[at], 0)


def shell_text(argv: Sequence[str]) -> int | None:
    """Where in it stands what a shell is told to run; ``None`` where there is no such thing.

    Args:
        argv: The program and its arguments.
    """
    if argv[0].rpartition("/")[2] not in _SHELLS:
        return None
    at = 1
    while at < len(argv) - 1 and argv[at][:1] in {"-", "+"}:
        # Its options may stand together, as in -ec.
        if argv[at][:2] != "--" and argv[at][-1:] == "c":
            return at + 1
        at += 2 if argv[at] in _WITH_VALUE else 1
    return None


def _words(argv: Sequence[str]) -> Iterator[str]:
    at = shell_text(argv)
    if at is None:
        for word in argv:
            yield from _paths(word)
        return
    yield from _in_text(argv[at], 0)
    for word in argv[at + 1 :]:
        yield from _paths(word)


def _lists(text: str, depth: int) -> Iterator[list[str]]:
    words, nested = [], []
    for found in _WORD.finditer(text):
        word = found[2]
        if "'" in word or '"' in word or "\\" in word:
            try:
                word = _unquoted(word)
            except ValueError:
                continue
            if depth < _DEEPEST and _SEPARATOR.search(word):
                nested.append(word)
        if not found[1]:
            words.append(word)
    yield words
    for one in nested:
        yield from _lists(one, depth + 1)


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
    if not word or len(word) > _LONGEST:
        return
    if not word.startswith("-") and _UNRESOLVED.isdisjoint(word):
        yield word
    # A value may stand right behind an option's letter.
    parts = [word[2:]] if word.startswith("-") and not word.startswith("--") else []
    if _PARTS.search(word):
        parts += _PARTS.split(word)
    for part in parts:
        if part and not part.startswith("-") and _UNRESOLVED.isdisjoint(part):
            yield part
    for part in (word, *parts):
        if "+" in part and _UNRESOLVED.isdisjoint(bare := _COMPILED.sub("", part)):
            yield bare
