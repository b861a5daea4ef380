"""The lock file: YAML, in an order that does not change, made for ``git diff``."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from fasthep_flow.errors import Problem, RecordError, WorkflowError
from fasthep_flow.language.document import Document, Steps, read_workflow
from fasthep_flow.locking.lock import Lock, LockedData, LockedImage, LockedPython

_Entry: TypeAlias = "list[tuple[str, str | Sequence[str | _Entry]]]"

__all__ = ["VERSION", "lock_path", "lock_text", "previous_lock", "read_lock", "write_lock"]

VERSION: Final = 1
"""Of the format."""

_NEWER: Final = "use a newer fasthep-flow"
_HINT: Final = "write it anew: fasthep-flow lock"
_DIGEST: Final = re.compile(r"[a-z0-9]+:[0-9a-f]{8,128}|[0-9A-Za-z_-]{8,128}")
# What every reader of YAML takes for text without quotes.
_PLAIN: Final = re.compile(r"(?:[A-Za-z]|\.?/)[\w./@+-]*(?::[\w./@+-]+)*", re.ASCII)
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_HASH: Final = " --hash="
_FIELDS: Final = {
    "images": frozenset({"name", "platform", "digest", "unlockable"}),
    "data": frozenset({"source", "digest"}),
    "python": frozenset({"version", "requirements", "directory", "image", "setup", "resolved"}),
}


def lock_path(workflow: Path) -> Path:
    """Where the lock of a workflow file is: ``workflow.lock`` beside ``workflow.yaml``."""
    return workflow.with_suffix(".lock")


def lock_text(lock: Lock, workflow: str) -> str:
    """The text of the file.

    Args:
        lock: What it is to say.
        workflow: The name of the workflow file.
    """
    lines = [
        f"# Made by 'fasthep-flow lock' of {_inline(workflow)}: do not edit, make it anew.",
        f"version: {VERSION}",
        *_section("images", [[*_image(one)] for one in lock.images]),
        *_section(
            "data",
            [[("source", one.source), ("digest", one.digest)] for one in lock.data],
        ),
        *_section("python", [[*_python(one)] for one in lock.python]),
    ]
    return "\n".join(lines) + "\n"


def write_lock(path: Path, text: str) -> None:
    """Write the file: whole, or not at all.

    Raises:
        RecordError: It cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="may you write to the workflow's folder, and is there room?",
        ) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_lock(path: Path) -> Lock | None:
    """What the file says; ``None`` where there is none.

    Raises:
        WorkflowError: It is damaged, or of a newer version; with every place.
    """
    if not os.path.lexists(path):
        return None
    document = _read(path)
    data, problems = document.data, [*_anew(document.complaints())]
    if not isinstance(data, dict):
        raise WorkflowError(document.problem((), "this is no lock file", hint=_HINT))
    version = data.get("version")
    if version != VERSION or isinstance(version, bool):
        raise WorkflowError(_wrong_version(document, version))
    reader = _Reader(document, problems)
    problems += [
        document.problem((key,), "a lock file has no such part", hint=_HINT, key=True)
        for key in data
        if key not in {"version", *_FIELDS}
    ]
    lock = Lock(
        images=tuple(reader.image(steps, one) for steps, one in reader.entries("images")),
        data=tuple(reader.item(steps, one) for steps, one in reader.entries("data")),
        python=tuple(reader.python(steps, one) for steps, one in reader.entries("python")),
    )
    reader.require_distinct(lock)
    if problems:
        raise WorkflowError(*problems)
    return lock


def previous_lock(path: Path) -> tuple[Lock | None, str | None]:
    """What the file says that is to be written anew, and its text; a damaged one says nothing.

    Raises:
        WorkflowError: It is of a newer version: who wrote it knew more.
    """
    if not os.path.lexists(path):
        return None, None
    text = ""
    with suppress(OSError, ValueError):
        text = path.read_text(encoding="utf-8")
    try:
        return read_lock(path), text
    except WorkflowError as error:
        if any(_NEWER in (one.hint or "") for one in error.problems):
            raise
        return None, text


def _read(path: Path) -> Document:
    """The file; what is wrong with it as YAML is told with what to do about it."""
    try:
        return read_workflow(path)
    except WorkflowError as error:
        raise WorkflowError(*_anew(error.problems)) from None


def _anew(problems: Iterable[Problem]) -> Iterator[Problem]:
    """The problems, with what to do about them: nobody is to mend the file by hand."""
    for one in problems:
        yield Problem(one.message, one.location, _HINT, one.source)


def _wrong_version(document: Document, version: object) -> Problem:
    if not document.has(("version",)):
        return document.problem((), "a lock file says its 'version', this one does not", hint=_HINT)
    if isinstance(version, int) and version > VERSION and not isinstance(version, bool):
        return document.problem(
            ("version",),
            f"this lock file is of version {version}; this fasthep-flow reads version {VERSION}",
            hint=_NEWER,
        )
    return document.problem(("version",), "this is no version of a lock file", hint=_HINT)


class _Reader:
    """Reads the entries of the file, and gathers what is wrong with them."""

    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self._document: Final = document
        self._problems: Final = problems

    def entries(self, part: str) -> Iterator[tuple[Steps, dict[str, Any]]]:
        """The entries of a part, and where each stands."""
        found = self._document.value((part,))
        if found is None:
            return
        if not isinstance(found, list):
            self._complain((part,), "this is no list")
            return
        for number, one in enumerate(found):
            steps = (part, number)
            if not isinstance(one, dict):
                self._complain(steps, "this is no entry of a lock file")
                continue
            for key in one:
                if key not in _FIELDS[part]:
                    self._complain((*steps, key), "an entry has no such key", key=True)
            yield steps, one

    def image(self, steps: Steps, entry: dict[str, Any]) -> LockedImage:
        """An image."""
        unlockable = self._text(steps, entry, "unlockable", required=False)
        digest = self._digest(steps, entry, required=not unlockable)
        return LockedImage(
            name=self._text(steps, entry, "name"),
            platform=self._text(steps, entry, "platform", required=False),
            digest="" if unlockable else digest,
            unlockable=unlockable,
        )

    def item(self, steps: Steps, entry: dict[str, Any]) -> LockedData:
        """A data item."""
        return LockedData(
            source=self._text(steps, entry, "source"), digest=self._digest(steps, entry)
        )

    def python(self, steps: Steps, entry: dict[str, Any]) -> LockedPython:
        """A Python environment."""
        return LockedPython(
            version=self._text(steps, entry, "version", required=False),
            requirements=self._lines(steps, entry, "requirements"),
            directory=self._text(steps, entry, "directory", required=False) or ".",
            image=self._text(steps, entry, "image", required=False),
            setup=self._text(steps, entry, "setup", required=False),
            resolved=self._distributions(steps, entry),
        )

    def require_distinct(self, lock: Lock) -> None:
        """Complain of entries that are there twice: which of them counts?"""
        parts: dict[str, Sequence[LockedImage | LockedData | LockedPython]] = {
            "images": lock.images,
            "data": lock.data,
            "python": lock.python,
        }
        for part, entries in parts.items():
            seen = set()
            for number, one in enumerate(entries):
                if one.key in seen:
                    self._complain((part, number), "there is an entry for the same already")
                seen.add(one.key)

    def _digest(self, steps: Steps, entry: dict[str, Any], *, required: bool = True) -> str:
        text = self._text(steps, entry, "digest", required=required)
        if text and not _DIGEST.fullmatch(text):
            self._complain((*steps, "digest"), "this is no digest")
        return text

    def _text(self, steps: Steps, entry: dict[str, Any], key: str, *, required: bool = True) -> str:
        value = entry.get(key)
        if isinstance(value, str) and value:
            return value
        if value is not None or required:
            place = (*steps, key) if key in entry else steps
            self._complain(place, f"{key!r} is to be text")
        return ""

    def _lines(self, steps: Steps, entry: dict[str, Any], key: str) -> tuple[str, ...]:
        value = entry.get(key) or []
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            return tuple(value)
        self._complain((*steps, key), f"{key!r} is to be a list of texts")
        return ()

    def _distributions(self, steps: Steps, entry: dict[str, Any]) -> tuple[str, ...]:
        lines = []
        value = entry.get("resolved") or []
        if not isinstance(value, list):
            self._complain((*steps, "resolved"), "this is no list")
            return ()
        for number, one in enumerate(value):
            place = (*steps, "resolved", number)
            if not isinstance(one, dict) or one.keys() - {"name", "hashes"}:
                self._complain(place, "this is no distribution: it has 'name' and 'hashes'")
                continue
            digests = self._lines(place, one, "hashes")
            lines.append(_HASH.join((self._text(place, one, "name"), *digests)))
        return tuple(lines)

    def _complain(self, steps: Steps, message: str, *, key: bool = False) -> None:
        self._problems.append(self._document.problem(steps, message, hint=_HINT, key=key))


def _section(name: str, entries: list[_Entry]) -> Iterator[str]:
    if not entries:
        return
    yield ""
    yield f"{name}:"
    for entry in entries:
        yield from _entry_lines(entry, "  ")


def _entry_lines(entry: _Entry, indent: str) -> Iterator[str]:
    mark = f"{indent}- "
    if not entry:
        yield f"{mark}{{}}"
    for key, value in entry:
        if isinstance(value, str):
            yield f"{mark}{key}: {_scalar(value)}"
        else:
            yield f"{mark}{key}:"
            for one in value:
                if isinstance(one, str):
                    yield f"{indent}    - {_scalar(one)}"
                else:
                    yield from _entry_lines(one, f"{indent}    ")
        mark = f"{indent}  "


def _image(one: LockedImage) -> Iterator[tuple[str, str]]:
    yield "name", one.name
    if one.platform:
        yield "platform", one.platform
    if one.unlockable:
        yield "unlockable", one.unlockable
    else:
        yield "digest", one.digest


def _python(one: LockedPython) -> Iterator[tuple[str, str | Sequence[str | _Entry]]]:
    texts = {"image": one.image, "setup": one.setup, "version": one.version}
    if one.directory != ".":
        texts["directory"] = one.directory
    yield from ((key, text) for key, text in texts.items() if text)
    if one.requirements:
        yield "requirements", one.requirements
    if one.resolved:
        yield "resolved", [_distribution(line) for line in one.resolved]


def _distribution(line: str) -> _Entry:
    """A line of a requirements file, with each of its digests on a line."""
    name, *digests = line.split(_HASH)
    return [("name", name), *([("hashes", digests)] if digests else [])]


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in quoted)


def _inline(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)
