"""Variables: ``.env`` files and mappings.

``.env`` files are read as python-dotenv reads them without interpolation: a ``$`` is a
``$``. In a mapping a scalar becomes text as YAML spells it (``1e3`` stays ``1e3``), and a
null passes the host's value through.

Values never become part of a message: they may be secrets.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fasthep_flow.errors import Location, Problem
from fasthep_flow.language.document import Document, Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import shown
from fasthep_flow.model import Variable

__all__ = ["LONGEST", "MOST_BYTES", "RESERVED", "VariableReader", "is_name", "name_fault"]

RESERVED: Final = "FASTHEP_"
"""Names that start so tell a task about itself; an author cannot set them."""

_MARKERS: Final[Mapping[str, str]] = {
    "CH_RUNNING": "charliecloud tells a program by it that it runs in a container"
}
"""Names of which a runtime has the last word, so that they could mean one thing on it only."""

MOST_BYTES: Final = 2**20
"""Size of the largest ``.env`` file that is read."""

LONGEST: Final = 128 * 1024 - 1
"""Bytes of ``NAME=VALUE``: Linux starts no process with more."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE_PLACEHOLDER: Final = "<value>"
_NEWLINE: Final = re.compile(r"\r\n|\n|\r")


@dataclass(slots=True)
class VariableReader:
    """Reads the variables of one document; a ``.env`` file that many tasks name is read once.

    Args:
        document: Where the author wrote ``variables``.
        host: The host's environment, for values that are passed through.
        findings: Where problems go.
    """

    document: Document
    host: Mapping[str, str]
    findings: Findings
    _files: dict[Path, dict[str, Variable]] = field(default_factory=dict)

    def read(self, value: object, steps: Steps) -> dict[str, Variable]:
        """The variables that stand at a place: a path, a mapping, or a list of these.

        Mappings win over files; of two of the same kind the later one wins.
        """
        merged: dict[str, Variable] = {}
        for layer in self.layers(value, steps):
            merged |= layer
        return merged

    def layers(self, value: object, steps: Steps) -> list[dict[str, Variable]]:
        """What :meth:`read` merges, the weakest first: a file or a mapping each."""
        files: list[dict[str, Variable]] = []
        mappings: list[dict[str, Variable]] = []
        listed = value if isinstance(value, list) else [value]
        for number, item in enumerate(listed):
            here = (*steps, number) if isinstance(value, list) else steps
            if isinstance(item, str) and "=" in item:
                self._refuse_assignment(item, here)
            elif isinstance(item, str):
                files.append(self._file(item, here))
            elif isinstance(item, dict):
                mappings.append(self._mapping(item, here))
            elif item is not None:
                self.findings.refuse(
                    here,
                    "variables are the path of a .env file, a mapping, or a list of these",
                )
        return [*files, *mappings]

    def _mapping(self, mapping: dict[str, Any], steps: Steps) -> dict[str, Variable]:
        document = self.document
        variables = {}
        for name, value, index in document.items(mapping):
            if "=" in name:
                # Neither the key nor its path, which holds it: a part of it is the value.
                self._refuse_assignment(name, steps)
                continue
            fault = name_fault(name)
            if fault is not None:
                self.findings.refuse((*steps, name), *fault, key=True)
                continue
            origin = f"{document.file}:{document.line(index)}"
            if value is None:
                if name in self.host:
                    variables[name] = Variable(self.host[name], f"the host, {origin}")
                else:
                    self.findings.block(
                        (*steps, name),
                        f"{name} has no value, and the host has none to pass through",
                        f'set it before the run, or write {name}: "" for an empty one',
                    )
            elif isinstance(value, dict | list):
                self.findings.refuse(
                    (*steps, name), f"the value of {name} must be text", "put it in quotes"
                )
            elif value == _VALUE_PLACEHOLDER:
                self.findings.refuse((*steps, name), f"the value of {name} is a placeholder")
            else:
                text = document.spelling(value, index)
                flaw = _value_fault(name, text)
                if flaw is not None:
                    self.findings.refuse((*steps, name), flaw)
                else:
                    variables[name] = Variable(text, origin)
        return variables

    def _refuse_assignment(self, text: str, steps: Steps) -> None:
        """Refuse ``NAME=VALUE``; the message holds the name alone, if it is one for sure."""
        name, _, value = text.partition("=")
        # Base64 ends with '=', so that all of it stands before.
        is_name = _NAME.fullmatch(name) is not None and value.strip("=") != ""
        self.findings.refuse(
            steps,
            "variables are a mapping or the path of a .env file, and no text with '='",
            f"write '{name if is_name else 'NAME'}: value'",
        )

    def _file(self, name: str, steps: Steps) -> dict[str, Variable]:
        found = placeholders(name)
        if found:
            self.findings.refuse(
                steps,
                f"{shown(found[0])} is a placeholder",
                "write the path of your own .env file, or a mapping of names to values",
            )
            return {}
        path = self.document.directory / name
        if path not in self._files:
            self._files[path] = self._read_file(name, path, steps)
        return self._files[path]

    def _read_file(self, name: str, path: Path, steps: Steps) -> dict[str, Variable]:
        try:
            # A device or a pipe could be endless, or be read but once.
            if not path.is_file():
                reason = "is not a file" if path.exists() else "does not exist"
                self.findings.block(
                    steps,
                    f"the .env file {shown(name)} {reason}",
                    f"it was looked for as {shown(str(path))[1:-1]}",
                )
                return {}
            with path.open("rb") as stream:
                content = stream.read(MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "this is no file name"
            self.findings.block(steps, f"the .env file {shown(name)} cannot be read: {reason}")
            return {}
        if len(content) > MOST_BYTES:
            self.findings.block(
                steps, f"the .env file {shown(name)} is larger than {MOST_BYTES // 2**20} MiB"
            )
            return {}
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = len(_NEWLINE.findall(content[: error.start].decode("utf-8-sig"))) + 1
            self._complain(name, line, f"the byte 0x{content[error.start]:02x} is not UTF-8")
            return {}
        return self._parse(name, text)

    def _parse(self, name: str, text: str) -> dict[str, Variable]:
        from dotenv.parser import parse_stream  # most workflows need it not

        variables: dict[str, Variable] = {}
        lines: dict[str, int] = {}
        again: dict[str, list[int]] = {}
        # python-dotenv opens files so that every kind of line end becomes '\n'.
        for binding in parse_stream(io.StringIO(text, newline=None)):
            original = binding.original
            blank = original.string[: -len(original.string.lstrip()) or None]
            line = original.line + blank.count("\n")
            key = binding.key
            if binding.error:
                self._complain(name, line, "this line is not NAME=VALUE")
                continue
            if key is None:
                continue
            fault = name_fault(key)
            if fault is not None:
                self._complain(name, line, *fault)
            elif binding.value is None:
                self._complain(
                    name,
                    line,
                    f"{key} has no value",
                    f"write {key}=VALUE, or {key}= for an empty one",
                )
            elif (flaw := _value_fault(key, binding.value)) is not None:
                self._complain(name, line, flaw)
            else:
                if key in variables:
                    again.setdefault(key, []).append(lines[key])
                lines[key] = line
                variables[key] = Variable(binding.value, f"{name}:{line}")
        for key, before in again.items():
            more = f" and {len(before) - 1} more" if len(before) > 1 else ""
            self.findings.add_warning(
                Problem(
                    f"{key} is set again; this value wins over line {before[0]}{more}",
                    Location(name, lines[key], 1),
                )
            )
        return variables

    def _complain(self, name: str, line: int, message: str, hint: str | None = None) -> None:
        # Never the line itself: it may hold a secret.
        self.findings.add_planning(Problem(message, Location(name, line, 1), hint))


def is_name(text: str) -> bool:
    """Whether a variable can be called so."""
    return _NAME.fullmatch(text) is not None


def name_fault(name: str) -> tuple[str, str | None] | None:
    """Why a variable cannot be called so, and what to do about it."""
    if not is_name(name):
        if placeholders(name):
            return f"{shown(name)} is a placeholder", "write your own variable's name"
        return (
            f"{shown(name)} is not the name of a variable",
            "names are letters, digits and '_', and start with no digit",
        )
    if name.startswith(RESERVED):
        return f"{name} cannot be set: {RESERVED}* tells a task about itself", None
    if name in _MARKERS:
        return f"{name} cannot be set: {_MARKERS[name]}", "give it another name"
    return None


def _value_fault(name: str, value: str) -> str | None:
    """Why no process can be handed a value."""
    if "\0" in value:
        return f"the value of {name} holds a NUL character"
    if len(name) + 1 + len(value.encode()) > LONGEST:
        return f"the value of {name} is longer than the {LONGEST // 1024 + 1} KiB of a process"
    return None
