"""The parts of a task's identity that what it runs has: the command, or the call, and the code."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from fasthep_flow.model import Call, Command, Device, Environment, Invocation, Plan, TaskSpec
from fasthep_flow.records.content import Content
from fasthep_flow.records.framing import digest_of, json_text
from fasthep_flow.records.named import module_words, path_words
from fasthep_flow.records.sources import module_sources, script_sources

__all__ = ["MADE", "InvocationParts"]

MADE: Final = "made"
"""Stands for a file that was not there before the task, and was there after it."""

_MOST_READ: Final = 256
"""Files that one command names, and that are read; further ones count by size and time."""


class _Known(NamedTuple):
    """The files of some code, and all parts that come of it."""

    files: tuple[tuple[str, str], ...]
    parts: dict[str, str]


class InvocationParts:
    """Tells the parts of what tasks run.

    Args:
        plan: With all tasks: what one declares, no command names as its own.
        content: Of files.
    """

    def __init__(self, plan: Plan, content: Content) -> None:
        self._content: Final = content
        self._inside: Final = f"{content.folder}/"
        self._outputs: Final = f"{os.path.normpath(plan.output_directory)}/"
        self._declared: Final = frozenset(
            path.rstrip("/") for task in plan.tasks for path in (*task.inputs, *task.outputs)
        )
        self._code: Final[dict[tuple[str, ...], _Known]] = {}

    def of(self, task: TaskSpec, past: Mapping[str, str]) -> dict[str, str]:
        """The parts of what a task runs.

        Args:
            task: Of the plan.
            past: The parts of an earlier attempt, if there was one.
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
                self._add_named(parts, invocation, task.environment, past)
        return parts

    def made(self, task: TaskSpec, before: Mapping[str, str]) -> dict[str, str]:
        """The parts of files that were not there before a task, and are now.

        Args:
            task: One that has run.
            before: Its parts when it began.
        """
        return {
            label: MADE
            for _, invocation in _invocations(task)
            if isinstance(invocation, Command)
            for label, path in self._named(invocation)
            if label not in before and self._content.is_file(path)
        }

    def _add_named(
        self,
        parts: dict[str, str],
        command: Command,
        environment: Environment,
        past: Mapping[str, str],
    ) -> None:
        count = 0
        for label, path in self._named(command):
            if past.get(label) == MADE:
                parts[label] = MADE
                continue
            value = self._content.of_named(path, is_read=count < _MOST_READ)
            if value is None:
                continue
            parts[label] = value
            count += 1
            if path.endswith(".py"):
                parts |= self._of_code("script", path, environment)
        for module in module_words(command.argv):
            parts |= self._of_code("module", module, environment)

    def _named(self, command: Command) -> Iterator[tuple[str, str]]:
        """The files below the workflow's folder that a command could name, there or not."""
        seen = set()
        for word in path_words(command.argv):
            path = word if word.startswith("/") else f"{self._inside}{word}"
            if "./" in path or "//" in path or path.endswith(("/", "/.")):
                path = os.path.normpath(path)
            if path in seen or not path.startswith(self._inside):
                continue
            seen.add(path)
            if not path.startswith(self._outputs) and not self._is_declared(path):
                yield self._content.label("file", path), path

    def _is_declared(self, path: str) -> bool:
        while self._declared and len(path) > len(self._inside):
            if path in self._declared:
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


def _stdin(command: Command) -> tuple[str, ...]:
    # Behind a NUL, which no argument holds.
    return () if command.stdin is None else ("\0stdin", command.stdin)
