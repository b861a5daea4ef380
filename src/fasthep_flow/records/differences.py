"""What changed between two attempts of a task, in the words of people.

The parts of an identity have names of a kind, and of a thing of that kind: ``variable LUMI``,
``file select.sh``. What is said of a kind is written here, once; the reference of the
documentation is made of the same table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from fasthep_flow.records.content import ABSENT, UNKNOWN
from fasthep_flow.records.identity import PENDING
from fasthep_flow.records.invocation_parts import MADE

__all__ = ["KINDS", "PartKind", "differences"]

_SHOWN_DIGITS: Final = 12
_LONGEST: Final = 60


class PartKind(NamedTuple):
    """A kind of part.

    Args:
        thing: What it is to people; ``{}`` is the name of the thing.
        meaning: What stands for it.
        is_shown: Whether what stands for it says something to people: a version, a digest.
    """

    thing: str
    meaning: str
    is_shown: bool = False


KINDS: Final[Mapping[str, PartKind]] = {
    "name": PartKind("its name", "the task's name, which it finds in `FASTHEP_TASK_NAME`"),
    "command": PartKind("its command", "the program and its arguments, or the line of shell"),
    "function": PartKind("its function", "`module:name` of the Python function", is_shown=True),
    "arguments": PartKind("its arguments", "what the function is called with, in order"),
    "module": PartKind("{}, where its function stands,", "the content of the module's file"),
    "import": PartKind(
        "{}, which its code imports,",
        "the content of a file that the module or script imports, or one that it imports imports",
    ),
    "package": PartKind(
        "{}, which its code imports,",
        "the version of an installed package that these import; of tasks that have the Python of"
        " `fasthep-flow`",
        is_shown=True,
    ),
    "interpreter": PartKind("Python", "the version of Python; of the same tasks", is_shown=True),
    "file": PartKind(
        "{}, which its command names,",
        "the content of a file below the workflow's folder; above 64 MiB its size and time of"
        " change",
    ),
    "argument": PartKind("{}, which its arguments name,", "the same, of a function"),
    "variable": PartKind(
        "variable {}", "a hash of its value, with a key that nobody has but the user"
    ),
    "key": PartKind("the key by which values of variables are compared", "which key that is"),
    "image": PartKind("the image", "its digest", is_shown=True),
    "gpu-image": PartKind("the image for GPUs", "its digest", is_shown=True),
    "platform": PartKind("the platform of its image", "as the task asks for it", is_shown=True),
    "network": PartKind("its network", "`none`, where it has none", is_shown=True),
    "options": PartKind("the options of its runtime", "the words of `options`"),
    "device": PartKind("its device", "`process_on`, unless that is `cpu`", is_shown=True),
    "setup": PartKind("its setup", "the lines that are sourced"),
    "script": PartKind("{}, which its setup sources,", "the content of the script"),
    "python": PartKind(
        "its Python environment",
        "version and requirements; the distributions themselves where a lock file has them",
    ),
    "requirement": PartKind(
        "{}, which its requirements name,",
        "the content of a file, or size and time of the files of a folder",
    ),
    "data": PartKind("extra data {}", "its digest", is_shown=True),
    "place": PartKind("the place of extra data {}", "where the task sees it, and how"),
    "input": PartKind(
        "input {}", "the content of the file, of all files of the folder, or of the pattern"
    ),
    "output": PartKind("output {}", "that it is declared"),
    "need": PartKind(
        "needs {}", "what the needed task made, or returned; else which attempt it was"
    ),
}
"""The kinds of parts, by the first word of a part's name; ``cpu-`` and ``gpu-`` may stand before
it where what runs depends on the device."""

_DEVICES: Final = {"cpu": " on the processor", "gpu": " on a GPU"}


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """What is other than it was, a clause for each thing; empty if nothing is.

    What is yet to be made is passed over: nobody can tell.

    Args:
        before: The parts of an earlier attempt.
        after: The parts of the one that would follow.
    """
    has_new_key = "key" in before and "key" in after and before["key"] != after["key"]
    found = []
    for name in dict.fromkeys((*after, *before)):
        old, new = before.get(name), after.get(name)
        if PENDING in {old, new} or (old == new and UNKNOWN not in {old, new}):
            continue
        # With another key all of them are other ones, and nobody can tell which are.
        if has_new_key and name.startswith("variable ") and old is not None and new is not None:
            continue
        found.append((name, old, new))
    return tuple(_said(found))


def _said(found: list[tuple[str, str | None, str | None]]) -> Iterator[str]:
    for name, old, new in found:
        kind, _, thing = name.partition(" ")
        device = ""
        if kind not in KINDS and kind[:4] in {"cpu-", "gpu-"}:
            device, kind = _DEVICES[kind[:3]], kind[4:]
        known = KINDS.get(kind)
        if known is None:
            yield f"{name} changed"
        elif kind == "need":
            yield _said_of_need(thing, old, new)
        elif kind == "key" and None not in {old, new}:
            yield f"{known.thing} is a new one, so that all variables count as changed"
        # It comes and goes with variables, of which it is said already.
        elif kind != "key" or len(found) == 1:
            yield _said_of(known, known.thing.format(thing) + device, old, new)


def _said_of_need(name: str, old: str | None, new: str | None) -> str:
    if old is None:
        return f"needs {name!r} now"
    if new is None:
        return f"needs {name!r} no more"
    if old.partition(" ")[0] == new.partition(" ")[0] != "attempt":
        return f"needs {name!r}, which {'made' if new.startswith('outputs') else 'returned'} others"
    return f"needs {name!r}, which ran anew"


def _said_of(kind: PartKind, thing: str, old: str | None, new: str | None) -> str:
    if UNKNOWN in {old, new}:
        return f"nobody can tell whether {thing} is the same"
    if None in {old, new}:
        return f"{thing} is {'new' if old is None else 'there no more'}"
    if new == ABSENT:
        return f"{thing} is not there"
    if old in {ABSENT, MADE}:
        return f"{thing} was not there before"
    shown = f": {_short(old or '')} -> {_short(new or '')}" if kind.is_shown else ""
    return f"{thing} changed{shown}"


def _short(text: str) -> str:
    algorithm, separator, digits = text.partition(":")
    if separator and len(digits) > _SHOWN_DIGITS and digits.isalnum():
        return f"{algorithm}:{digits[:_SHOWN_DIGITS]}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
