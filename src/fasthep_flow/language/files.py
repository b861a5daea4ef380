"""The files that a task reads and makes, as its author names them.

An output is named before it is there, and what lies there is set aside when the task starts: so
there are places that are no task's to make. What tasks have to do with the files of others see
:mod:`fasthep_flow.language.makers`.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.paths import absolute, check_text
from fasthep_flow.language.placeholders import EXPRESSION
from fasthep_flow.language.programs import first_files
from fasthep_flow.language.refusals import Refusal, shown
from fasthep_flow.language.schema import TaskModel
from fasthep_flow.language.sources import AUTOMOUNTED, is_glob
from fasthep_flow.model import Command, Invocation

__all__ = ["FileReader", "NamedFile", "TaskFiles", "is_within"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SIGNS: Final = re.compile(r"[*?\[]")
_SYSTEM: Final = ("/dev", "/proc", "/sys")
_RUN_ID: Final = re.compile(r"\d{8}T\d{6}Z-")
_LONGEST: Final = 4095
"""Bytes, as Linux has it."""

_LONGEST_NAME: Final = 255
"""Bytes, as nearly all file systems have it; none has more."""

_DEEPEST: Final = 100
"""Folders on the way: each is looked at, and a file may name many paths."""

_BELOW: Final = "name files or folders below it"
_ADDRESS: Final = {
    "inputs": "name it under 'extra_data': that is fetched",
    "outputs": "have the task bring it there once it is made",
}
_Read: TypeAlias = Callable[[str], tuple[str, str]]


class NamedFile(NamedTuple):
    """A file or folder, or several of them.

    Args:
        text: As the author wrote it.
        path: Absolute; with a ``/`` at its end where the author says that it is a folder.
        key: The same without links on the way, as far as can be seen, and without that ``/``.
        steps: Where it is written.
    """

    text: str
    path: str
    key: str
    steps: Steps

    @property
    def is_pattern(self) -> bool:
        """Whether it may stand for several files."""
        return is_glob(self.text)


class TaskFiles(NamedTuple):
    """What a task reads and makes."""

    inputs: tuple[NamedFile, ...] = ()
    outputs: tuple[NamedFile, ...] = ()


@dataclass(slots=True)
class FileReader:
    """Reads what tasks say of files; what is wrong with it becomes findings.

    Args:
        findings: What is found.
        records: Absolute path of the folder of the run folders.
    """

    findings: Findings
    records: str
    _real: dict[str, str] = field(default_factory=dict)

    def read(
        self, model: TaskModel, invocations: Collection[Invocation], steps: Steps
    ) -> TaskFiles:
        """The files of a task; whether they, or its value, may stand for another run of it.

        Args:
            model: What the author says of the task.
            invocations: What it does.
            steps: Its place.
        """
        if model.cache is not None:
            self._check_cache(model, invocations, steps)
        if not model.inputs and not model.outputs:
            return TaskFiles()
        files = TaskFiles(
            self._named(model.inputs or (), (*steps, "inputs"), self._input),
            self._named(model.outputs or (), (*steps, "outputs"), self._output),
        )
        self._check_programs(files.outputs, invocations)
        return files

    def _check_programs(
        self, outputs: Sequence[NamedFile], invocations: Collection[Invocation]
    ) -> None:
        """Refuse an output that is what the task's command begins with, or holds it."""
        commands = [one.argv for one in invocations if outputs and isinstance(one, Command)]
        for word in dict.fromkeys(word for argv in commands for word in first_files(argv)):
            path = posixpath.join(str(self.findings.document.directory), word)
            key = self._key(path)
            for one in outputs:
                if is_within(key, one.key):
                    what = "is" if key == one.key else "holds"
                    self.findings.refuse(
                        one.steps,
                        f"{shown(one.text)} {what} what the task's command begins with,"
                        f" {shown(word)}: what lies there is set aside before the task starts",
                        "name the files that the task makes one by one, or have it make them in a"
                        " folder of their own",
                    )

    def _check_cache(
        self, model: TaskModel, invocations: Collection[Invocation], steps: Steps
    ) -> None:
        here: Steps = (*steps, "cache")
        if not model.cache:
            if model.outputs:
                self.findings.refuse(
                    here,
                    "a task with outputs is reused wherever nothing has changed",
                    "remove it, and run the task with --force where it is to be done anew",
                )
        elif not self.findings.document.value((*steps, "outputs")) and any(
            isinstance(one, Command) for one in invocations
        ):
            self.findings.refuse(
                here,
                "a command returns nothing that could stand for another run of it",
                "name the files that it makes under 'outputs': these are kept and reused",
            )

    def _named(self, texts: Sequence[str], steps: Steps, read: _Read) -> tuple[NamedFile, ...]:
        named: dict[str, NamedFile] = {}
        for number, text in enumerate(texts):
            if EXPRESSION in text:
                # It is refused wherever it stands.
                continue
            here = self.findings.written((*steps, number))
            try:
                _check_path(text, str(steps[-1]))
                path, key = read(text.strip())
                if len(path.encode()) > _LONGEST:
                    raise _too_long(text)
            except Refusal as refusal:
                self.findings.refuse(here, refusal.message, refusal.hint)
                continue
            one = NamedFile(text, path, key, here)
            if named.setdefault(key, one) is not one:
                self.findings.refuse(here, f"{shown(text)} is named twice", "remove one of them")
        return tuple(named.values())

    def _input(self, text: str) -> tuple[str, str]:
        directory = self.findings.document.directory
        path = absolute(text, directory)
        if ".." in path.split("/"):
            # What this means depends on the links before it.
            until = path.rindex("/..") + len("/..")
            path = posixpath.normpath(os.path.realpath(path[:until]) + path[until:])
        key = self._key(path, is_pattern=is_glob(text))
        if not is_glob(text) and is_within(self.records, key):
            raise Refusal(
                f"{shown(text)} holds the records of runs, which no two runs find alike", _BELOW
            )
        return _as_folder(text, path), key

    def _output(self, text: str) -> tuple[str, str]:
        if is_glob(text):
            raise Refusal(
                f"{shown(text)} is a pattern, and outputs are named one by one",
                "name the folder that they lie in, with '/' at its end",
            )
        self._check_way(text)
        directory = self.findings.document.directory
        path = posixpath.normpath(absolute(text, directory))
        if path == "/":
            raise Refusal(f"{shown(text)} is the root of everything", _BELOW)
        key = self._key(path)
        if not text.startswith(("/", "~")) and not is_within(key, str(directory)):
            raise Refusal(
                f"{shown(text)} leads out of the workflow's folder, to {shown(key)}: there is a"
                " link on the way",
                "write the whole path if that is meant",
            )
        self._check_place(text, key)
        return _as_folder(text, path), key

    def _check_way(self, text: str) -> None:
        """Refuse what leads out of where it starts."""
        if ".." not in text.split("/"):
            return
        plain = posixpath.normpath(text)
        if plain.split("/")[0] == "..":
            raise Refusal(
                f"{shown(text)} lies outside the workflow's folder",
                "write a path below it, or a whole one, such as /eos/user/a/ada/fit.root",
            )
        raise Refusal(f"{shown(text)} goes back by '..'", f"did you mean {shown(plain)}?")

    def _check_place(self, text: str, key: str) -> None:
        """Refuse what is no task's to make: it would be set aside when the task starts."""
        document = self.findings.document
        home = os.path.realpath(os.path.expanduser("~"))  # noqa: PTH111 - text
        if is_within(home, key):
            what = "is" if home == key else "holds"
            raise Refusal(f"{shown(text)} {what} your home folder", _BELOW)
        if is_within(str(document.source), key):
            if key == str(document.source):
                raise Refusal(f"{shown(text)} is the workflow file itself", "give it another name")
            what = "is" if key == str(document.directory) else "holds"
            raise Refusal(f"{shown(text)} {what} the folder of the workflow file", _BELOW)
        if is_within(self.records, key):
            raise Refusal(
                f"{shown(text)} {'is' if key == self.records else 'holds'} the folder of the"
                " records of runs",
                "name files or folders below it, or write another folder under global: output:"
                " directory",
            )
        if is_within(key, self.records):
            name = key[len(self.records) :].split("/")[1]
            if name == "latest" or name.startswith(".") or _RUN_ID.match(name):
                raise Refusal(
                    f"{shown(text)} lies among the records of runs", "give it another name"
                )
        if key.count("/") == 1 or any(is_within(key, one) for one in _SYSTEM):
            raise Refusal(f"{shown(text)} is the system's", "name a file or folder of your own")

    def _key(self, path: str, *, is_pattern: bool = False) -> str:
        """The path without links on the way; what is mounted when it is looked at is let be."""
        path = posixpath.normpath(path)
        if path.startswith("//"):
            path = path[1:]
        sign = _SIGNS.search(path) if is_pattern else None
        folder = posixpath.dirname(path if sign is None else path[: sign.start()])
        return posixpath.join(self._real_path(folder), path[len(folder) :].lstrip("/"))

    def _real_path(self, folder: str) -> str:
        if folder not in self._real:
            directory = str(self.findings.document.directory)
            is_mounted = f"{folder}/".startswith(AUTOMOUNTED) and not is_within(folder, directory)
            self._real[folder] = folder if is_mounted else os.path.realpath(folder)
        return self._real[folder]


def is_within(path: str, folder: str) -> bool:
    """Whether a path is a folder, or lies in it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _check_path(text: str, what: str) -> None:
    check_text(text, "path")
    if _URL.match(text):
        raise Refusal(f"{shown(text)} is an address, not a file", _ADDRESS[what])
    if len(text.encode()) > _LONGEST or text.count("/") > _DEEPEST:
        raise _too_long(text)
    if not is_glob(text):
        for name in text.split("/"):
            if len(name.encode()) > _LONGEST_NAME:
                raise Refusal(
                    f"{shown(name)} has {len(name.encode())} bytes, and names of files and folders"
                    f" have {_LONGEST_NAME} at most",
                    "give it a shorter one",
                )


def _too_long(text: str) -> Refusal:
    return Refusal(f"{shown(text)} is longer than paths are", "write a shorter one")


def _as_folder(text: str, path: str) -> str:
    """The path, with a ``/`` at its end where the author says by one that it is a folder."""
    return f"{path.rstrip('/')}/" if text.endswith(("/", "/.")) else path
