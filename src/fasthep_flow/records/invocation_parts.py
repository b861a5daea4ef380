"""The parts of a task's identity that what it runs has: the command, or the call, and the code."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, Literal, NamedTuple, TypeAlias

from fasthep_flow.model import Call, Command, Device, Environment, Invocation, Plan, TaskSpec
from fasthep_flow.records.content import PENDING, UNKNOWN, Content
from fasthep_flow.records.environment_parts import setup_files
from fasthep_flow.records.framing import digest_of, json_text
from fasthep_flow.records.named import path_words, working_folders
from fasthep_flow.records.python_runs import python_runs, search_path
from fasthep_flow.records.sources import Sources, module_sources, script_sources

__all__ = ["MADE", "InvocationParts"]

MADE: Final = "made"
"""Stands for a file that was not there before the task, and was there after it."""

_Kind: TypeAlias = Literal["module", "script", "run", "imported"]
_FIRST: Final[Mapping[_Kind, str]] = {"module": "module", "run": "file", "imported": "import"}
"""What the first file of some code is to the task."""

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
    is_script: bool
    """Whether its name, or Python's before it, says that it is a script of Python."""


class _Searched(NamedTuple):
    """Where Python looks for modules, and what is known of it."""

    folders: tuple[str, ...]
    working: tuple[str, ...]
    """Those that the command changes to."""
    is_whole: bool
    """Whether it is known what was said of further folders."""
    is_own: bool
    """Whether it is the Python of fasthep-flow."""
    is_brought: bool
    """Whether its packages are all brought by what is a part of its own."""


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
        self._code: Final[dict[tuple[_Kind, str, _Searched], _Known]] = {}

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
                searched = self._searched(task.environment)
                parts |= self._of_code("module", module, searched, pending)
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
        invocation: Invocation,
        past: Mapping[str, str],
        pending: Collection[str],
    ) -> None:
        count = 0
        searched = None
        command = invocation if isinstance(invocation, Command) else None
        for one in self._named(task, invocation):
            if one.counts:
                value = self._value(one, past, pending, is_read=count < _MOST_READ)
                if value is None:
                    continue
                parts[one.label] = value
                count += value not in {MADE, PENDING}
                if value == MADE:
                    continue
            if one.is_script or self._content.is_python(one.path):
                searched = searched or self._searched(task.environment, command)
                parts |= self._of_code("script", one.path, searched, pending)
        for kind, what in () if command is None else python_runs(command.argv):
            if kind != "script":
                searched = searched or self._searched(task.environment, command)
                parts |= self._of_code(kind, what, searched, pending)

    def _value(
        self, one: _Named, past: Mapping[str, str], pending: Collection[str], *, is_read: bool
    ) -> str | None:
        """What stands for a file that a command names; ``None`` where there is none."""
        if self._is_below(one.path, pending):
            return PENDING
        if past.get(one.label) == MADE:
            return MADE
        value = self._content.of_named(one.path, is_read=is_read)
        if value is None and one.path in self._declared and self._content.is_folder(one.path):
            # Another task reads or makes all of it, so this one may.
            return self._content.of(one.path)
        return value

    def _named(self, task: TaskSpec, invocation: Invocation) -> Iterator[_Named]:
        """The files below the workflow's folder that a command, or call, could name."""
        made = _plain(task.outputs)
        known = _plain(task.inputs).union(*(self._outputs.get(name, ()) for name in task.needs))
        if isinstance(invocation, Call):
            kind, scripts = "argument", set[str]()
            words = _texts([invocation.args, invocation.kwargs])
        else:
            kind, scripts = "file", {*_script_words(invocation)}
            # A folder may be a script.
            mains = [f"{one}/__main__.py" for one in scripts]
            words = chain(path_words(invocation.argv), mains)
        seen = set()
        for word in words:
            path = word if word.startswith("/") else f"{self._inside}{word}"
            if "./" in path or "//" in path or path.endswith(("/", "/.")):
                path = os.path.normpath(path)
            if path in seen or not path.startswith(self._inside):
                continue
            seen.add(path)
            if not self._is_record(path) and not self._is_below(path, made):
                yield _Named(
                    self._content.label(kind, path),
                    path,
                    counts=not self._is_below(path, known),
                    is_script=path.endswith(".py") or word in scripts,
                )

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

    def _searched(self, environment: Environment, command: Command | None = None) -> _Searched:
        """Where Python looks for modules before its own folders."""
        folder = self._content.folder
        texts = [] if command is None else ["\n".join(command.argv)]
        setup = environment.setup
        if setup is not None:
            texts.append(setup.lines)
            # What is loaded from elsewhere sets so much that nothing could be told.
            scripts = setup_files(setup, self._content)
            texts += [self._content.text(one) for one in scripts if one.startswith(self._inside)]
        working, is_whole = ((), True) if command is None else working_folders(command.argv)
        changed = tuple(os.path.join(folder, one) for one in working)  # noqa: PTH118 - text
        variable = environment.variables.get("PYTHONPATH")
        value = "" if variable is None else variable.value
        if variable is None and environment.image is None:
            value = os.environ.get("PYTHONPATH", "")
        said = [search_path(text, one) for text in texts for one in (folder, *changed)]
        folders = [one for each in said for one in each.folders]
        folders += [os.path.join(folder, one) for one in value.split(":") if one]  # noqa: PTH118
        return _Searched(
            tuple(dict.fromkeys((folder, *changed, *folders))),
            changed,
            is_whole and all(each.is_whole for each in said),
            # Another Python's packages are known by what brings it: image, setup, requirements.
            not any((environment.image, setup, environment.python)),
            setup is None and not (environment.image is None and environment.python is None),
        )

    def _of_code(
        self, kind: _Kind, what: str, searched: _Searched, pending: Collection[str]
    ) -> dict[str, str]:
        """The parts of a module, or of a script, and of all that it imports."""
        key = (kind, what, searched)
        known = self._code.get(key)
        if known is None or not all(
            self._content.of(file) == known.parts[label] for label, file in known.files
        ):
            known = self._code[key] = self._found(kind, what, searched)
        if not pending:
            return known.parts
        to_come = [label for label, file in known.files if self._is_below(file, pending)]
        return {**known.parts, **dict.fromkeys(to_come, PENDING)}

    def _found(self, kind: _Kind, what: str, searched: _Searched) -> _Known:
        folders, is_own = searched.folders, searched.is_own
        if kind == "script":
            sources = script_sources(what, folders, installed=is_own)
        else:
            sources = module_sources(what, folders, installed=is_own, is_run=kind == "run")
        # A script counts as a file that the command names.
        files = [(_FIRST[kind], file) for file in sources.files[:1]] if kind != "script" else []
        files += [("import", file) for file in sources.files[1:]]
        labelled = tuple((self._label(label, file, folders), file) for label, file in files)
        parts = {label: self._content.of(file) for label, file in labelled}
        parts |= {f"package {name}": version for name, version in sources.packages.items()}
        parts |= self._unknown(kind, what, sources, searched)
        if is_own:
            parts["interpreter"] = platform.python_version()
        return _Known(labelled, parts)

    def _unknown(
        self, kind: _Kind, what: str, sources: Sources, searched: _Searched
    ) -> dict[str, str]:
        """The parts of what nobody can tell."""
        labels = [("package", name) for name in sources.unknown]
        if sources.looks_elsewhere or not searched.is_whole:
            labels += [("import", name) for name in sources.missing]
        # What is not found is what an image or requirements bring, or nobody can tell.
        is_somewhere = sources.files or sources.packages or sources.unknown
        if kind == "module" and not is_somewhere and not searched.is_brought:
            is_python = what.partition(".")[0] in sys.stdlib_module_names
            labels += [] if is_python else [("module", what)]
        return {self._content.label(*one): UNKNOWN for one in labels}

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


def _texts(value: object) -> Iterator[str]:
    """The texts in what a function is called with that could be paths."""
    if isinstance(value, str):
        yield from path_words((value,))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts(one)


def _script_words(command: Command) -> Iterator[str]:
    scripts = [what for kind, what in python_runs(command.argv) if kind == "script"]
    yield from scripts
    if scripts:
        for folder in working_folders(command.argv)[0]:
            yield from (f"{folder}/{what}" for what in scripts)


def _plain(paths: Sequence[str]) -> frozenset[str]:
    return frozenset(path.rstrip("/") for path in paths)


def _stdin(command: Command) -> tuple[str, ...]:
    # Behind a NUL, which no argument holds.
    return () if command.stdin is None else ("\0stdin", command.stdin)
