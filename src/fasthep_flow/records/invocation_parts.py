"""The parts of a task's identity that what it runs has: the command, or the call, and the code."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from fasthep_flow.model import Call, Command, Device, Environment, Invocation, Plan, TaskSpec
from fasthep_flow.records.content import PENDING, Content
from fasthep_flow.records.framing import digest_of, json_text
from fasthep_flow.records.named import module_words, path_words
from fasthep_flow.records.sources import module_sources, script_sources

__all__ = ["MADE", "InvocationParts"]

MADE: Final = "made"
"""Stands for a file that was not there before the task, and was there after it."""

_MOST_READ: Final = 256
"""Files that one command names, and that are read; further ones count by size and time."""


_RECORDS: Final = re.compile(r"(?:latest|\.cache|\.claims|[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4})(?:/|$)")
"""What runs write into the output folder."""


class _Named(NamedTuple):
    """A path below the workflow's folder that a command could name, there or not."""

    label: str
    path: str
    counts: bool
    """Whether its content is a part; else another part of the task has it."""


class _Known(NamedTuple):
    """The files of some code, and all parts that come of it."""

    files: tuple[tuple[str, str], ...]
    parts: dict[str, str]


class InvocationParts:
    """Tells the parts of what tasks run.

    Args:
        plan: With all tasks: what one declares as its output, no other one makes by the way.
        content: Of files.
    """

    def __init__(self, plan: Plan, content: Content) -> None:
        self._content: Final = content
        self._inside: Final = f"{content.folder}/"
        self._records: Final = f"{os.path.normpath(plan.output_directory)}/"
        self._outputs: Final = {task.name: _plain(task.outputs) for task in plan.tasks}
        self._made: Final = frozenset(path for each in self._outputs.values() for path in each)
        self._declared: Final = self._made.union(*(_plain(task.inputs) for task in plan.tasks))
        self._code: Final[dict[tuple[str, ...], _Known]] = {}

    def of(
        self,
        task: TaskSpec,
        past: Mapping[str, str],
        pending: Collection[str] = (),
    ) -> dict[str, str]:
        """The parts of what a task runs.

        Args:
            task: Of the plan.
            past: The parts of an earlier attempt, if there was one.
            pending: Absolute paths that are yet to be made by other tasks.
        """
        parts: dict[str, str] = {}
        for device, invocation in _invocations(task):
            where = "" if device is None else f"{device}-"
            if isinstance(invocation, Call):
                parts[f"{where}function"] = invocation.target
                arguments = json_text([invocation.args, invocation.kwargs])
                parts[f"{where}arguments"] = digest_of(arguments)
                module = invocation.target.partition(":")[0]
                parts |= self._of_code("module", module, task.environment)
            else:
                parts[f"{where}command"] = digest_of(*invocation.argv, *_stdin(invocation))
                self._add_named(parts, task, invocation, past, pending)
        return parts

    def made(self, task: TaskSpec, before: Mapping[str, str]) -> dict[str, str]:
        """The parts of files that were not there before a task, and are now.

        What another task declares as its output is that one's, whenever it came.

        Args:
            task: One that has run.
            before: Its parts when it began.
        """
        return {
            one.label: MADE
            for _, invocation in _invocations(task)
            if isinstance(invocation, Command)
            for one in self._named(task, invocation)
            if one.counts
            and one.label not in before
            and not self._is_below(one.path, self._made)
            and self._content.is_file(one.path)
        }

    def _add_named(
        self,
        parts: dict[str, str],
        task: TaskSpec,
        command: Command,
        past: Mapping[str, str],
        pending: Collection[str],
    ) -> None:
        count = 0
        for label, path, counts in self._named(task, command):
            if counts and self._is_below(path, pending):
                parts[label] = PENDING
                continue
            if counts and past.get(label) == MADE:
                parts[label] = MADE
                continue
            if counts:
                value = self._content.of_named(path, is_read=count < _MOST_READ)
                if value is None and path in self._declared and self._content.is_folder(path):
                    # Another task reads or makes all of it, so this one may.
                    value = self._content.of(path)
                if value is None:
                    continue
                parts[label] = value
                count += 1
            if path.endswith(".py"):
                parts |= self._of_code("script", path, task.environment)
        for module in module_words(command.argv):
            parts |= self._of_code("module", module, task.environment)

    def _named(self, task: TaskSpec, command: Command) -> Iterator[_Named]:
        """The files below the workflow's folder that a command could name, there or not."""
        made = _plain(task.outputs)
        known = _plain(task.inputs).union(*(self._outputs.get(name, ()) for name in task.needs))
        seen = set()
        for word in path_words(command.argv):
            path = word if word.startswith("/") else f"{self._inside}{word}"
            if "./" in path or "//" in path or path.endswith(("/", "/.")):
                path = os.path.normpath(path)
            if path in seen or not path.startswith(self._inside):
                continue
            seen.add(path)
            if not self._is_record(path) and not self._is_below(path, made):
                label = self._content.label("file", path)
                yield _Named(label, path, counts=not self._is_below(path, known))

    def _is_record(self, path: str) -> bool:
        """Whether runs wrote it, to tell of themselves."""
        if not path.startswith(self._records):
            return False
        return _RECORDS.match(path, len(self._records)) is not None

    def _is_below(self, path: str, declared: Collection[str]) -> bool:
        while declared and len(path) > len(self._inside):
            if path in declared:
                return True
            path = path.rpartition("/")[0]
        return False

    def _folders(self, environment: Environment) -> tuple[str, ...]:
        """Where Python looks for modules before its own folders."""
        variable = environment.variables.get("PYTHONPATH")
        text = "" if variable is None else variable.value
        if variable is None and environment.image is None:
            text = os.environ.get("PYTHONPATH", "")
        folder = self._content.folder
        return (folder, *(os.path.join(folder, one) for one in text.split(":") if one))  # noqa: PTH118 - text

    def _of_code(self, kind: str, what: str, environment: Environment) -> dict[str, str]:
        """The parts of a module, or of a script, and of all that it imports."""
        folders = self._folders(environment)
        # Another Python's packages are known by what brings it: image, setup, requirements.
        is_own = not any((environment.image, environment.setup, environment.python))
        key = (kind, what, *folders, str(is_own))
        known = self._code.get(key)
        if known is not None and all(
            self._content.of(file) == known.parts[label] for label, file in known.files
        ):
            return known.parts
        find = script_sources if kind == "script" else module_sources
        sources = find(what, folders, installed=is_own)
        if kind == "script":
            # It counts as a file that the command names.
            files = [("import", file) for file in sources.files[1:]]
        else:
            files = [("module", file) for file in sources.files[:1]]
            files += [("import", file) for file in sources.files[1:]]
        labelled = tuple((self._label(label, file, folders), file) for label, file in files)
        parts = {label: self._content.of(file) for label, file in labelled}
        parts |= {f"package {name}": version for name, version in sources.packages.items()}
        if is_own:
            parts["interpreter"] = platform.python_version()
        self._code[key] = _Known(labelled, parts)
        return parts

    def _label(self, kind: str, file: str, folders: Sequence[str]) -> str:
        # Where it was found may be the value of a variable: that is not told.
        for folder in folders:
            if file.startswith(f"{folder}/"):
                file = file.removeprefix(f"{folder}/")
                break
        return self._content.label(kind, file)


def _invocations(task: TaskSpec) -> Sequence[tuple[Device | None, Invocation]]:
    """What may run, and on which device that is, where it depends on this."""
    process_on = task.environment.resources.process_on
    if process_on != "gpu_if_available":
        return [(None, task.invocations[process_on])] if process_on in task.invocations else []
    found = [*task.invocations.items()]
    if all(one == found[0][1] for _, one in found[1:]):
        return [(None, one) for _, one in found[:1]]
    return found


def _plain(paths: Sequence[str]) -> frozenset[str]:
    return frozenset(path.rstrip("/") for path in paths)


def _stdin(command: Command) -> tuple[str, ...]:
    # Behind a NUL, which no argument holds.
    return () if command.stdin is None else ("\0stdin", command.stdin)
