"""Software beside the image: what is sourced before a task, and its Python environment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fasthep_flow.errors import Location, Problem
from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.paths import absolute, check_text
from fasthep_flow.language.placeholders import shell_placeholders
from fasthep_flow.language.refusals import Refusal, shown
from fasthep_flow.language.requirements import Complaint, file_lines, requirement_line
from fasthep_flow.language.schema import EXAMPLE_VERSION, PythonModel, ScriptModel
from fasthep_flow.model import PythonSpec, Setup
from fasthep_flow.redaction import without_assigned, without_credentials

__all__ = ["SoftwareReader"]

_LONGEST: Final = 128 * 1024 - 1
"""Bytes of the lines: Linux starts no program with a longer argument."""

# What no path of a script holds, unless a shell is meant to read it.
_SHELL: Final = frozenset(" \t\n;&|<>()`'\"=\\*?{}")
_AUTOMOUNTED: Final = "/cvmfs/"
_RELEASE: Final = re.compile(r"3(?:\.[0-9]{1,2}(?:\.[0-9]{1,3})?)?(?:(?:a|b|rc)[0-9]+)?")
_RANGE: Final = re.compile(
    r"\s*(?:~=|==|!=|<=|>=|<|>)\s*[0-9]+(?:\.[0-9]+)*(?:\.\*)?(?:(?:a|b|rc)[0-9]+)?\s*"
)
_NOT_HANDED_ON: Final = re.compile(r"(?:^|[;&|\n])[ \t]*(ulimit|umask|export[ \t]+-f)\b")
"""Commands whose only use is for what comes after the setup; aliases may serve within it."""

_NO_REQUIREMENTS: Final = {
    ".toml": "list what it needs, or write '.' as a wheel",
    ".lock": "export it as a requirements file",
    ".yml": "conda's packages are not Python's: list those that pip knows",
    ".yaml": "conda's packages are not Python's: list those that pip knows",
}


@dataclass(slots=True)
class SoftwareReader:
    """Reads ``setup`` and ``python``; a requirements file that many tasks name is read once."""

    findings: Findings
    _files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _looked_at: set[str] = field(default_factory=set)

    def setup(self, items: Sequence[str | ScriptModel | None], steps: Steps) -> Setup | None:
        """What is sourced before a task; ``None`` where nothing is.

        Args:
            items: Scripts, and lines of bash; ``None`` for what was refused before.
            steps: Their place.
        """
        lines = []
        scripts = []
        for number, item in enumerate(items):
            if item is None:
                continue
            here = self.findings.written((*steps, number))
            try:
                script = self._script(item)
                if script is None and isinstance(item, str):
                    self._check_lines(item, here)
                    lines.append(item.rstrip("\n"))
                elif script is not None:
                    path, *arguments = script
                    scripts.append(path)
                    lines.append(shlex.join(["source", path, *arguments]))
                    self._look(path, here)
            except Refusal as refusal:
                self.findings.refuse(here, refusal.message, refusal.hint)
        text = "\n".join(lines)
        if len(text.encode(errors="surrogatepass")) > _LONGEST:
            self.findings.refuse(
                steps, f"this is longer than {_LONGEST // 1024 + 1} KiB", "put it into a script"
            )
        if not lines:
            return None
        place = self.findings.document.place(steps)
        return Setup(
            lines=text, scripts=tuple(dict.fromkeys(scripts)), origin=f"{place.file}:{place.line}"
        )

    def python(self, model: PythonModel, steps: Steps) -> PythonSpec | None:
        """The Python environment of a task.

        Args:
            model: What stands there.
            steps: The place.
        """
        directory = self.findings.document.directory
        if not model.version and not model.requirements:
            written = self.findings.document.value(steps)
            # What could not be read was refused before.
            if not (isinstance(written, dict) and any(written.values())):
                self.findings.refuse(
                    steps,
                    "this asks for no Python",
                    f"such as 'python: \"{EXAMPLE_VERSION}\"', "
                    "or 'python: {requirements: [numpy]}'",
                )
            return None
        if model.version is not None:
            self._check_version(model.version, steps)
        requirements: list[str] = []
        here = (*steps, "requirements")
        if isinstance(model.requirements, str):
            requirements += self._file(model.requirements, here)
        for number, text in enumerate(model.requirements or ()):
            if isinstance(model.requirements, str):
                break
            try:
                requirements.append(requirement_line(text, directory))
            except Refusal as refusal:
                self.findings.refuse((*here, number), refusal.message, refusal.hint)
        return PythonSpec(
            version=model.version.strip() if model.version is not None else None,
            requirements=tuple(requirements),
            directory=str(directory),
        )

    def _script(self, item: str | ScriptModel) -> tuple[str, ...] | None:
        """The absolute path of a script and its arguments; ``None`` for lines of bash."""
        directory = self.findings.document.directory
        if isinstance(item, ScriptModel):
            if item.script is None:
                raise Refusal("this names no script", "add 'script: PATH'")
            check_text(item.script, "script")
            for argument in item.arguments or ():
                if "\0" in argument:
                    raise Refusal("an argument holds a NUL character")
            return (absolute(item.script, directory), *(item.arguments or ()))
        text = item.strip()
        if not text:
            raise Refusal("this is empty, and nothing to source", "'setup: null' for nothing")
        if text.startswith("$") and text.endswith(".sh") and not _SHELL & set(text):
            raise Refusal(f"{shown(text)} would be run, not sourced", f"write 'source {text}'")
        if _SHELL & set(text) or not text.isprintable():
            return None
        is_path = text.endswith(".sh") or text.startswith(("/", "./", "../", "~"))
        if not is_path and not _is_file(directory / text):
            return None
        return (absolute(text, directory),)

    def _check_lines(self, text: str, steps: Steps) -> None:
        """Refuse what no bash can be handed; warn of what everyone may read."""
        if "\0" in text:
            raise Refusal("this holds a NUL character")
        found = shell_placeholders(text)
        if text.strip() == "TBC" or found:
            raise Refusal(
                f"{shown(found[0] if found else 'TBC')} is a placeholder",
                "write your own value, or put it in quotes if it is meant so",
            )
        if (command := _NOT_HANDED_ON.search(text)) is not None:
            self.findings.warn(
                steps,
                f"what {shown(command[1])} does ends with the setup: the task gets its variables "
                "alone",
                "write it in the task's command",
            )
        if without_assigned(text) != text or any(
            without_credentials(line) != line for line in text.splitlines()
        ):
            self.findings.warn(
                steps,
                "the value of a secret would stand in the records",
                "put it under 'variables', where values are kept out of them",
            )

    def _look(self, path: str, steps: Steps) -> None:
        """Warn of a script that is not there; it may be where the task runs."""
        if path in self._looked_at or path.startswith(_AUTOMOUNTED):
            return
        self._looked_at.add(path)
        if not _is_file(Path(path)):
            self.findings.warn(
                steps,
                "there is no such script on this machine",
                f"it was looked for as {shown(path)[1:-1]}",
            )

    def _check_version(self, version: str, steps: Steps) -> None:
        here: Steps = (*steps, "version")
        text = version.strip()
        if _RELEASE.fullmatch(text) or all(map(_RANGE.fullmatch, text.split(","))):
            return
        try:
            check_text(text, "version")
        except Refusal as refusal:
            self.findings.refuse(here, refusal.message, refusal.hint)
            return
        bare = re.fullmatch(
            r"(?:c?python|v|py)?[-@ ]?(3(?:\.\d+){0,2})(\.[x*])?", text, re.IGNORECASE
        )
        self.findings.refuse(
            here,
            f"{shown(text)} is no version of Python 3",
            f'did you mean "{bare[1]}"?'
            if bare
            else f'such as "{EXAMPLE_VERSION}" or ">={EXAMPLE_VERSION}"',
        )

    def _file(self, name: str, steps: Steps) -> tuple[str, ...]:
        """The lines of a requirements file."""
        if name not in self._files:
            self._files[name] = self._read(name, steps)
        return self._files[name]

    def _read(self, name: str, steps: Steps) -> tuple[str, ...]:
        directory = self.findings.document.directory
        try:
            _check_name(name)
        except Refusal as refusal:
            self.findings.refuse(steps, refusal.message, refusal.hint)
            return ()
        try:
            return tuple(line.text for line in file_lines(name, directory))
        except Complaint as error:
            self.findings.add_planning(
                Problem(
                    error.refusal.message, Location(error.file, error.number, 1), error.refusal.hint
                )
            )
        except Refusal as refusal:
            in_list = f"for a requirement write it in a list: [{name}]"
            hint = refusal.hint if _looks_like_a_file(name) else in_list
            self.findings.block(steps, f"the file {shown(name)} {refusal.message}", hint)
        return ()


def _check_name(name: str) -> None:
    check_text(name, "requirements file")
    for ending, hint in _NO_REQUIREMENTS.items():
        if name.endswith(ending):
            raise Refusal(f"{shown(name)} is no requirements file", hint)


def _looks_like_a_file(name: str) -> bool:
    return "/" in name or name.endswith((".txt", ".in"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
