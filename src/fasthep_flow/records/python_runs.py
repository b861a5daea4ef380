"""What Python is told to run by a command line, and where it looks for modules."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from fasthep_flow.records.named import shell_text, word_lists

__all__ = ["PythonRun", "SearchPath", "python_runs", "search_path"]

_PYTHON: Final = re.compile(r"(?:.*/)?(?:i?python|pypy)[0-9.]*", re.DOTALL)
_OPTION: Final = re.compile(r"-[bBdEhiIOPqsSuvVx]*([cmWX])(.*)", re.DOTALL)
_IMPORT: Final = re.compile(
    r"\bfrom\s+([\w.]+)\s+import\s+\(?([\w\s,]+)"
    r"|\bimport\s+([\w.]+(?:\s+as\s+\w+)?(?:\s*,\s*[\w.]+(?:\s+as\s+\w+)?)*)"
)
_ASSIGNED: Final = re.compile(r"""PYTHONPATH\+?=((?:"[^"]*"|'[^']*'|\$\([^)]*\)|[^\s;&|"'])*)""")
_PASSED_ON: Final = re.compile(r"\b(?:export|unset)\s+PYTHONPATH\b(?!\s*\+?=)")
_ITSELF: Final = re.compile(r"\$PYTHONPATH\b|\$\{PYTHONPATH(?::?[-+][^}]*)?\}")
_HERE: Final = re.compile(r"\$PWD\b|\$\{PWD\}|\$\(pwd\)|`pwd`")
_UNRESOLVED: Final = frozenset("$`*?[]{}~")


class PythonRun(NamedTuple):
    """What Python runs.

    Args:
        kind: A script's path, a module by ``-m``, or one that code in the command imports.
        what: Of that kind.
    """

    kind: Literal["script", "run", "imported"]
    what: str


class SearchPath(NamedTuple):
    """Folders.

    Args:
        folders: Absolute paths.
        is_whole: Whether these are all.
    """

    folders: tuple[str, ...]
    is_whole: bool


def python_runs(argv: Sequence[str]) -> Iterator[PythonRun]:
    """What Python is told to run; some more than once.

    Args:
        argv: The program and its arguments.
    """
    if not any("py" in word for word in argv):
        return
    for words in word_lists(argv):
        for at, word in enumerate(words):
            if _PYTHON.fullmatch(word):
                yield from _run(words[at + 1 :])
    at_text = shell_text(argv)
    if at_text is not None and "<<" in argv[at_text]:
        # It may be what Python reads.
        yield from _imported(argv[at_text])


def search_path(text: str, folder: str) -> SearchPath:
    """Where Python looks for modules, as a text of shell says it by ``PYTHONPATH``.

    Args:
        text: Lines of shell, or the words of a command.
        folder: Absolute path of the one that relative paths start from.
    """
    if "PYTHONPATH" not in text:
        return SearchPath((), is_whole=True)
    folders = []
    rest = _PASSED_ON.sub("", _ASSIGNED.sub("", text))
    is_whole = "PYTHONPATH" not in _ITSELF.sub("", rest)
    for found in _ASSIGNED.finditer(text):
        value = _HERE.sub(lambda _: folder, _ITSELF.sub("", found[1]))
        for one in re.sub("[\"']", "", value).split(":"):
            if not _UNRESOLVED.isdisjoint(one):
                is_whole = False
            elif one:
                folders.append(os.path.normpath(os.path.join(folder, one)))  # noqa: PTH118 - text
    return SearchPath(tuple(folders), is_whole)


def _run(words: Sequence[str]) -> Iterator[PythonRun]:
    """What is run by the words behind Python's name."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            yield PythonRun("script", word)
            return
        option = _OPTION.fullmatch(word)
        if option is None:
            continue
        value = option[2] or next(rest, "")
        if option[1] == "m":
            yield PythonRun("run", value)
            return
        if option[1] == "c":
            yield from _imported(value)
            return


def _imported(text: str) -> Iterator[PythonRun]:
    for found in _IMPORT.finditer(text):
        if found[1]:
            yield PythonRun("imported", found[1])
        for item in (found[2] or found[3]).split(","):
            name = item.split()[0] if item.strip() else ""
            if name:
                yield PythonRun("imported", f"{found[1]}.{name}" if found[1] else name)
