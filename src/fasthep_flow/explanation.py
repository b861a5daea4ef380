"""What people ask of a task: what its environment is, where each part came from; why it runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from fasthep_flow.language.entries import Entry, Explained
from fasthep_flow.records.report import memory_text, one_line, printable, seconds_text
from fasthep_flow.redaction import HIDDEN
from fasthep_flow.tables import table_lines

if TYPE_CHECKING:
    from fasthep_flow.forecasting import Foretold, Prospect

__all__ = ["environment_lines", "fate_lines", "prospect_lines"]

_DIRECTORY: Final = "working directory"
_OVER: Final[Mapping[str, str]] = {
    "setup": "the setup script",
    "python": "the Python environment",
}
_INSTEAD: Final = "  instead of"
_UNITS: Final[Mapping[str, Callable[[float], str]]] = {
    "memory": lambda value: memory_text(int(value)),
    "retries delay": seconds_text,
    "timeout": seconds_text,
    "walltime": seconds_text,
}


def environment_lines(explained: Explained, width: int | None) -> Iterator[str]:
    """A task's environment as tables.

    Args:
        explained: What there is to tell.
        width: Columns of the screen; ``None`` for as wide as need be.
    """
    of_host = explained.base == "host"
    yield f"{one_line(explained.task)}, the task at {one_line(explained.location)}"
    settings = [entry for entry in explained.settings if entry.name != _DIRECTORY]
    # As long as paths are, one in a column would leave no room for the others.
    for entry in explained.settings:
        if entry.name == _DIRECTORY:
            yield f"starts in {one_line(entry.value)}"
    yield ""
    groups: list[tuple[str, Sequence[Entry]]] = [
        ("setting", settings),
        ("variable", explained.variables),
    ]
    if explained.host:
        groups.append(("variable of the host", explained.host))
    tables = [[(name, "value", "from"), *_rows(entries)] for name, entries in groups]
    # All tables alike: the eye goes down one column.
    for number, table in enumerate(tables):
        if number:
            yield ""
        yield from table_lines(table, width)
    yield ""
    if not of_host:
        yield "Under these lie the variables of the image and its runtime, and none of the host's."
    elif not explained.host:
        yield "Under these lies the environment of the command; --all shows it."
    over = [
        words
        for name, words in _OVER.items()
        if any(entry.name == name and entry.value for entry in settings)
    ]
    if over:
        yield f"Over these lies what {' and '.join(over)} {'set' if over[1:] else 'sets'}."


def _rows(entries: Sequence[Entry]) -> Iterator[tuple[str, str, str]]:
    for entry in entries:
        name = one_line(entry.name)
        yield name, _text(entry.name, entry.value, entry), one_line(entry.origin)
        for former in entry.replaced:
            yield _INSTEAD, _text(entry.name, former.value, entry), one_line(former.origin)


def _text(name: str, value: object, entry: Entry) -> str:
    if entry.hidden:
        return f"{HIDDEN} (hidden)"
    if value is None or value == []:
        return f"({entry.note})" if entry.note else "(none)"
    match value:
        case int() | float() if name in _UNITS:
            told = _UNITS[name](value)
        case bool() | dict():
            told = printable(json.dumps(value, ensure_ascii=False))
        case float():
            told = f"{value:g}"
        case list() if all(isinstance(item, int | float) for item in value):
            text = _UNITS.get(name, "{:g}".format)
            told = ", then ".join(text(item) for item in value)
        case list() if any(isinstance(item, dict) for item in value):
            told = _one_line(", ".join(map(_item_text, value)))
        case list():
            told = printable(shlex.join(value))
        case _:
            told = _one_line(str(value))
    return told


def _item_text(item: Mapping[str, object]) -> str:
    """The first of its facts, and the others in brackets."""
    first, *others = item.items()
    told = ", ".join(f"{name} {value}" for name, value in others)
    return f"{first[1]} ({told})" if told else str(first[1])


def _one_line(text: str) -> str:
    r"""The text as it is; in quotes, with escapes such as ``\n``, where it would not be seen."""
    told = text.replace("\\", "\\\\").replace('"', '\\"')
    told = printable(told.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t"))
    is_plain = text and text == text.strip() and printable(text) == text and "\t" not in text
    return text if is_plain and "\n" not in text else f'"{told}"'


def prospect_lines(prospect: Prospect | None) -> Iterator[str]:
    """Which run the tasks would be in, and how many of them would run.

    Args:
        prospect: What would become of them; ``None`` where nothing ever ran.
    """
    if prospect is None:
        return
    fates: list[str] = [one.fate for one in prospect.tasks.values()]
    words = {"done": "done", "reused": "reused", "runs": "to run", "may_run": "that may run"}
    counts = [f"{count} {told}" for fate, told in words.items() if (count := fates.count(fate))]
    total = f"{len(fates)} {'task' if len(fates) == 1 else 'tasks'}"
    yield f"{_run_text(prospect)}; {total}: {', '.join(counts)}"


def fate_lines(one: Foretold, prospect: Prospect | None) -> Iterator[str]:
    """Whether a task would run, and why.

    Args:
        one: What would become of it.
        prospect: What would become of all; ``None`` where nothing ever ran.
    """
    name = one_line(repr(one.task))
    match one.fate:
        case "done":
            yield f"{name} need not run: it is done, and nothing has changed since"
        case "reused":
            yield (
                f"{name} need not run: the run {one_line(one.made_by)} did the same, and nothing"
                " has changed since"
            )
        case fate:
            word = "runs" if fate == "runs" else "may run"
            if len(one.reasons) == 1:
                yield f"{name} {word}: {one_line(one.reasons[0])}"
            else:
                yield f"{name} {word}:"
                yield from (f"  {one_line(reason)}" for reason in one.reasons)
            if fate == "may_run":
                yield "it need not if what it reads and needs comes out as it was"
    if prospect is not None:
        yield _run_text(prospect)


def _run_text(prospect: Prospect) -> str:
    if prospect.run_id is None:
        return "this would be a new run"
    if prospect.driver is not None:
        return (
            f"the run {one_line(prospect.run_id)} is under way, driven by"
            f" {one_line(prospect.driver)}"
        )
    return f"the run {one_line(prospect.run_id)} would go on"
