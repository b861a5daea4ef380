"""The author's file: its plain data, and the place of everything in it.

A place is asked for by *steps*, the keys and indices that lead to it from the root:
``("tasks", 1, "environment", "image")``.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeAlias

from fasthep_flow.errors import Location, Problem, WorkflowError
from fasthep_flow.language.complaints import Broken, Complaint
from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import shown
from fasthep_flow.language.scalars import is_text
from fasthep_flow.language.tree import Tree, build, paused_collector
from fasthep_flow.redaction import is_secret, looks_secret

__all__ = ["MOST_BYTES", "Document", "Steps", "read_text", "read_workflow"]

Steps: TypeAlias = tuple[str | int, ...]

MOST_BYTES: Final = 64 * 2**20
"""Size of the largest file that is read."""

_LONGEST_LINE: Final = 200
_LOOK_BACK: Final = 1000
_LOOK_BACK_CHARACTERS: Final = 50_000
_SHOWN_LINES: Final = 100
_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_KEY: Final = re.compile(r"""(?<![\w-])["']?([A-Za-z][\w-]*)["']?\s*:(?=\s|[{\[]|$)""")
_VARIABLES: Final = "variables"
_SECRET_KEYS: Final = frozenset({"credentials", "env", "secret", "secrets", "vars"})
_ENVIRONMENT_KEYS: Final = frozenset({"environment", "global"})
_SHARED_LETTERS: Final = 5
_NO_SLIPS: Final = frozenset({_VARIABLES, "variations"})
_WORD: Final = re.compile(r"[A-Za-z_][\w-]{0,99}")


class Document:
    """A file that was read: what it says and where.

    Args:
        file: The file as the author named it.
        source: The file's absolute path.
        text: Its text, without a byte order mark.
        digest: ``sha256:...`` of its bytes.

    Raises:
        WorkflowError: The text is not YAML, or exceeds a limit.
    """

    def __init__(self, *, file: str, source: Path, text: str, digest: str) -> None:
        self.file: Final = file
        self.source: Final = source
        self.text: Final = text
        self.digest: Final = digest
        self._ordinals: dict[int, dict[str, int]] = {}
        try:
            with paused_collector():
                self._tree = build(text)
        except Broken as error:
            self._tree = Tree(None, {}, {}, [], non_finite=False)
            raise WorkflowError(self._explain(error.complaint)) from error

    @property
    def directory(self) -> Path:
        """The folder of the file: relative paths in it start there."""
        return self.source.parent

    @property
    def data(self) -> object:
        """What the file says: dicts with text keys, lists and scalars."""
        return self._tree.data

    @property
    def non_finite(self) -> bool:
        """Whether there is ``.inf`` or ``.nan`` anywhere."""
        return self._tree.non_finite

    def complaints(self) -> list[Problem]:
        """What is wrong with the file as YAML: equal keys, tags, keys that are not text."""
        return [
            self._explain(complaint, shows_line=number < _SHOWN_LINES)
            for number, complaint in enumerate(self._tree.complaints)
        ]

    def place(self, steps: Steps, *, key: bool = False) -> Location:
        """Where a value is written; where it is not, the innermost thing around it.

        Args:
            steps: Keys and indices from the root.
            key: Whether to say where the value's key is.
        """
        index, present = self._find(steps, key=key)
        return self._location(index, spell(present))

    def problem(
        self, steps: Steps, message: str, *, hint: str | None = None, key: bool = False
    ) -> Problem:
        """A problem with what is written at a place; see :meth:`place`.

        The line is shown unless a variable's value could stand on it.
        """
        location = self.place(steps, key=key)
        hidden = location.line in self._variable_lines
        return Problem(message, location, hint, None if hidden else self._shown(location.line))

    def value(self, steps: Steps) -> object:
        """What is written at a place, or ``None``."""
        value: Any = self.data
        for step in steps:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def has(self, steps: Steps) -> bool:
        """Whether anything is written at a place, be it null."""
        return self._find(steps, key=False)[1] == steps

    def items(self, mapping: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
        """Keys and values of a mapping of this document, with the offset of each value."""
        marks = self._tree.marks[id(mapping)]
        return zip(mapping, mapping.values(), marks[2::2], strict=True)

    def spelling(self, value: object, index: int) -> str:
        """A scalar as the author spelt it; ``index`` is its offset."""
        return value if isinstance(value, str) else self._tree.spellings[index]

    def spelled(self, items: list[Any]) -> list[Any]:
        """A list of this document, its scalars but null as the author spelt them."""
        return [
            value
            if value is None or isinstance(value, str | dict | list)
            else self._tree.spellings[index]
            for value, index in zip(items, self._tree.marks[id(items)][1:], strict=True)
        ]

    def line(self, index: int) -> int:
        """The line of an offset, counted from 1."""
        return bisect_right(self._line_starts, index)

    def scalars(self, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
        """Every scalar at or below a place, in the order of the file."""
        value = self.value(steps)
        waiting: list[tuple[Steps, Any]] = [(steps, value)]
        while waiting:
            here, value = waiting.pop()
            if type(value) is dict:
                waiting.extend(((*here, key), item) for key, item in reversed(value.items()))
            elif type(value) is list:
                waiting.extend(
                    ((*here, number), value[number]) for number in reversed(range(len(value)))
                )
            else:
                yield here, value

    @cached_property
    def _line_starts(self) -> list[int]:
        if "\r" in self.text:
            return [0, *(match.end() for match in _LINE_END.finditer(self.text))]
        lengths = (len(line) + 1 for line in self.text.split("\n"))
        return [0, *accumulate(lengths)][:-1]

    @cached_property
    def _variable_lines(self) -> frozenset[int]:
        """The lines on which values of variables start, and other things that may be secret."""
        lines = set()
        # With what is waiting, the key above it that says what it is; "" for any other key.
        waiting: list[tuple[Any, str]] = [(self.data, "")]
        seen = set()
        while waiting:
            value, owner = waiting.pop()
            if not isinstance(value, dict | list) or (id(value), owner) in seen:
                continue
            seen.add((id(value), owner))
            if isinstance(value, list):
                marks = self._tree.marks[id(value)][1:]
                for item, index in zip(value, marks, strict=True):
                    if _may_be_secret(item, owner):
                        lines.add(self.line(index))
                    waiting.append((item, owner))
                continue
            for key, item, index in self.items(value):
                inner = _owner(key)
                if owner in {"", "environment"}:
                    # What other tools call 'environment' is what is called 'variables' here.
                    hidden = _may_be_secret(item, inner) or (owner != "" and key.isupper())
                    hidden = hidden or (isinstance(item, str | int) and is_secret(key))
                else:
                    hidden, inner = True, owner
                if hidden:
                    lines.add(self.line(index))
                waiting.append((item, inner))
        return frozenset(lines)

    def _find(self, steps: Steps, *, key: bool) -> tuple[int, Steps]:
        """The offset of a place, and the part of the steps that exists in the file."""
        value = self.data
        index = self._tree.marks[id(value)][0] if isinstance(value, dict | list) else 0
        for depth, step in enumerate(steps):
            if isinstance(value, dict) and step in value:
                position = 1 + 2 * self._ordinal(value, str(step))
                at_key = key and depth == len(steps) - 1
                index = self._tree.marks[id(value)][position if at_key else position + 1]
                value = value[step]
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                index = self._tree.marks[id(value)][1 + step]
                value = value[step]
            else:
                return index, steps[:depth]
        return index, steps

    def _ordinal(self, mapping: dict[str, Any], key: str) -> int:
        if id(mapping) not in self._ordinals:
            self._ordinals[id(mapping)] = {name: number for number, name in enumerate(mapping)}
        return self._ordinals[id(mapping)][key]

    def _location(self, index: int, path: str = "") -> Location:
        line = self.line(index)
        return Location(self.file, line, index - self._line_starts[line - 1] + 1, path)

    def _explain(self, complaint: Complaint, *, shows_line: bool = True) -> Problem:
        location = self._location(complaint.index)
        message = complaint.message
        if complaint.other is not None:
            message = message.replace("{other}", str(self._location(complaint.other)))
        hint, source = complaint.hint, None
        is_variable = location.line in self._variable_lines
        if shows_line and not is_variable and not self._may_be_variable(location.line):
            source = self._shown(location.line)
            found = placeholders(self._line_text(location.line))
            if found:
                hint = f"{shown(found[0])} is a placeholder: put your own value there"
        return Problem(message, location, hint, source)

    def _line_text(self, line: int) -> str:
        start = self._line_starts[line - 1]
        end = self._line_starts[line] if line < len(self._line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def _shown(self, line: int) -> str | None:
        """The line as a message may show it: not endless, no control characters, no secret."""
        text = self._line_text(line)
        shows = len(text) <= _LONGEST_LINE and text.expandtabs(1).isprintable()
        return text if shows and not looks_secret(text) else None

    def _may_be_variable(self, line: int) -> bool:
        """Whether the line looks like a variable's: for broken files, that have no tree."""
        start = self._line_starts[line - 1]
        end = self._line_starts[line] if line < len(self._line_starts) else len(self.text)
        for match in _KEY.finditer(self.text, max(0, end - _LOOK_BACK_CHARACTERS), end):
            if not _hides(match[1]):
                continue
            # What stands behind the key, on this very line; '<path to .env>' is no secret.
            beside = self.text[match.end() : end].strip() if match.end() > start else ""
            if beside and not beside.startswith("<"):
                return True
            # Brackets that are open where the line starts.
            within = self.text[match.end() : start]
            if within.count("{") + within.count("[") > within.count("}") + within.count("]"):
                return True
        indent = _indent(self._line_text(line))
        for above in range(line - 1, max(0, line - _LOOK_BACK), -1):
            if indent == 0:
                return False
            text = self._line_text(above)
            if not text.strip():
                continue
            depth = _indent(text)
            # How far a tab indents is known to nobody: whatever is above may be around it.
            if indent is None or (depth is not None and depth < indent):
                if any(_hides(match[1]) for match in _KEY.finditer(text)):
                    return True
                indent = indent if indent is None else depth
        return line > _LOOK_BACK


def _indent(line: str) -> int | None:
    """How far a line is indented; ``None`` where there is a tab in that."""
    indent = line[: len(line) - len(line.lstrip(" -\t"))]
    return None if "\t" in indent else len(indent)


@lru_cache(maxsize=4096)
def _hides(key: str) -> bool:
    """Whether values below a key may be secret: ``variables``, what is like it, slips of it."""
    folded = key.casefold()
    if folded in _SECRET_KEYS or folded == _VARIABLES:
        return True
    # Comparing takes long, and a file may have a million keys.
    if folded in _NO_SLIPS or len(folded) > 2 * len(_VARIABLES):
        return False
    if len({*folded} & {*_VARIABLES}) < _SHARED_LETTERS:
        return False
    return bool(difflib.get_close_matches(folded, [_VARIABLES], n=1))


def _owner(key: str) -> str:
    """What a key makes of the values below it."""
    if key == _VARIABLES:
        return _VARIABLES
    if key in _ENVIRONMENT_KEYS:
        return "environment"
    return "secrets" if _hides(key) else ""


def _may_be_secret(value: object, owner: str) -> bool:
    """Whether a scalar may be secret for the key that it belongs to."""
    if isinstance(value, dict | list) or not owner:
        return False
    # Variables are the path of a file, but for an author who writes NAME=VALUE.
    return owner == "secrets" or (isinstance(value, str) and "=" in value)


def spell(steps: Steps) -> str:
    """Steps as an author reads them: ``tasks[1].environment.image``."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not _WORD.fullmatch(step):
            path += f"[{shown(step)}]"
        else:
            path += f".{step}" if path else step
    return path


def read_workflow(path: Path) -> Document:
    """Read a workflow file.

    Raises:
        WorkflowError: There is no such file, it cannot be read, or it is not YAML.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "name the workflow file" if isinstance(error, FileNotFoundError) else None
        raise WorkflowError(Problem(f"{path} cannot be read: {reason}", hint=hint)) from error
    except ValueError as error:
        raise WorkflowError(Problem(f"{shown(str(path))} is not the name of a file")) from error
    source = path.parent.resolve() / path.name
    if not is_text(str(source)):
        raise WorkflowError(
            Problem(
                f"the path {shown(str(source))} is not UTF-8",
                hint="rename the file or its folder: records name it",
            )
        )
    if len(content) > MOST_BYTES:
        raise WorkflowError(
            Problem(f"{path} is larger than {MOST_BYTES // 2**20} MiB: this is no workflow")
        )
    return _decode(content, file=str(path), source=source)


def read_text(text: str, *, file: str, directory: Path) -> Document:
    """Read text that is in no file of its own.

    Args:
        text: YAML or JSON.
        file: What messages call it.
        directory: Where relative paths in it start.

    Raises:
        WorkflowError: The text is not YAML.
    """
    content = text.encode("utf-8", "surrogatepass")
    return _decode(content, file=file, source=directory.resolve() / file)


def _decode(content: bytes, *, file: str, source: Path) -> Document:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        lines = _LINE_END.split(before)
        location = Location(file, len(lines), len(lines[-1].removeprefix("\ufeff")) + 1)
        raise WorkflowError(
            Problem(
                f"the byte 0x{content[error.start]:02x} is not UTF-8",
                location,
                "is this a text file? If so, save it as UTF-8",
            )
        ) from error
    return Document(file=file, source=source, text=text.removeprefix("\ufeff"), digest=digest)
