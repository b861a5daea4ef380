"""The plan of a run that is to go on: as that run had it, unless somebody says otherwise."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from fasthep_flow.errors import Problem, RecordError, WorkflowError
from fasthep_flow.language import select_tasks
from fasthep_flow.language.flow_settings import COMMAND, PYTHON
from fasthep_flow.language.refusals import listed
from fasthep_flow.model import FlowSpec, Plan
from fasthep_flow.records.attempts import run_folder
from fasthep_flow.records.claim import found_claim, refusal
from fasthep_flow.records.record import RunFile, read_run_file
from fasthep_flow.records.sealed import read_whole
from fasthep_flow.workflow import load_plan

__all__ = ["Again", "Given", "plan_again"]

_USUAL: Final = Path("workflow.yaml")
_LARGEST: Final = 2**30


class Given(NamedTuple):
    """What was said with the name of the run; what is empty is as it was.

    Args:
        file: The workflow file.
        flow: As for :func:`~fasthep_flow.workflow.load_plan`.
        workflow: As for :func:`~fasthep_flow.workflow.load_plan`.
        output: The folder under which runs lie.
        tasks: Only these, and those that they need: the same as before.
        locked: Whether to use what the lock file names.
        offline: Whether nothing may be fetched.
    """

    file: Path | None = None
    flow: str | None = None
    workflow: str | None = None
    output: Path | None = None
    tasks: tuple[str, ...] = ()
    locked: bool = False
    offline: bool = False


class Again(NamedTuple):
    """A run, and what it is to go on with.

    Args:
        run: Its folder.
        plan: What is to be run.
        locked: Whether to use what the lock file names.
        offline: Whether nothing may be fetched.
        words: Options that nobody has given and that hold: for the record.
        notes: What is to be known before it begins, in sentences.
    """

    run: Path
    plan: Plan
    locked: bool
    offline: bool
    words: tuple[str, ...]
    notes: tuple[str, ...]


class _Planned(Struct, frozen=True):
    """What is wanted of a ``plan.json``."""

    flow: FlowSpec
    flow_origin: str = "default"
    offline: bool = False


def plan_again(which: str, given: Given) -> Again:
    """The plan of a run that is to go on.

    Args:
        which: Its id, ``latest``, or a path.
        given: What was said with it.

    Raises:
        RunClaimed: A driver on this machine has it.
        RecordError: There is no such run, or its records cannot be read.
        WorkflowError: With every problem of the workflow file; or the run is of other tasks.
    """
    run = run_folder(_output_folder(given), which)
    found = found_claim(run)
    if found is not None and found.is_held and found.is_certain:
        # Before anything is fetched: only a look, who goes on with it claims it.
        raise refusal(found, f"the run {run.name}")
    run_file = read_run_file(run)
    before = _planned(run)
    file, notes = _file(run_file, given)
    flow, workflow = given.flow, given.workflow
    words: list[str] = []
    if flow is None and workflow is None and before is not None:
        flow, workflow = _asked_for(before)
        for option, value in ((COMMAND.flow, flow), (COMMAND.workflow, workflow)):
            if value is not None:
                words += [option, value]
    plan = load_plan(file, flow=flow, workflow=workflow, output=run.parent)
    tasks = _selection(run_file, plan)
    if given.tasks:
        _require_same(run_file.run_id, plan, tasks, given.tasks)
    elif tasks:
        notes.append(f"as before, the run is of {_alone(tasks)}")
        words += [word for name in tasks for word in ("--tasks", name)]
    plan = select_tasks(plan, tasks) if tasks else plan
    options = set(_words_of(run_file.command))
    locked = given.locked or "--locked" in options
    offline = given.offline or (before is not None and before.offline)
    words += ["--locked"] if locked and not given.locked else []
    words += ["--offline"] if offline and not given.offline else []
    return Again(run, plan, locked, offline, tuple(words), tuple(notes))


def _selection(run_file: RunFile, plan: Plan) -> tuple[str, ...]:
    """The tasks that were asked for, as far as they are there still; empty for all.

    Raises:
        WorkflowError: None of them is.
    """
    there = {task.name for task in plan.tasks}
    tasks = tuple(name for name in run_file.selection if name in there)
    if run_file.selection and not tasks:
        raise WorkflowError(
            Problem(
                f"the run {run_file.run_id} is of {_alone(run_file.selection)}, and the workflow"
                " has nothing of that any more",
                hint="start another run",
            )
        )
    return tasks


def _require_same(run_id: str, plan: Plan, tasks: Sequence[str], asked_for: Sequence[str]) -> None:
    """Refuse to make a run one of other tasks: what is not done of it would be forgotten.

    Raises:
        WorkflowError: It would be one.
    """
    own = select_tasks(plan, tasks).selection if tasks else ()
    wanted = select_tasks(plan, asked_for).selection
    if own == wanted:
        return
    raise WorkflowError(
        Problem(
            f"the run {run_id} is of {_alone(own) if own else 'the whole workflow'}, and not of"
            f" {_alone(wanted) if wanted else 'the whole workflow'}",
            hint="leave out --tasks to go on with it; 'run' with --tasks has runs of their own",
        )
    )


def _alone(tasks: Sequence[str]) -> str:
    return f"{listed(tasks)} and what that needs alone"


def _output_folder(given: Given) -> Path:
    """Where runs are looked for by their ids."""
    if given.output is not None:
        return given.output
    file = given.file or _USUAL
    with suppress(WorkflowError):
        return Path(load_plan(file).output_directory)
    return file.absolute().parent / "output"


def _file(run_file: RunFile, given: Given) -> tuple[Path, list[str]]:
    """The workflow file, and what to say of it."""
    if not run_file.source and given.file is None:
        raise RecordError(
            f"the run {run_file.run_id} is of an older format, and does not say of which workflow",
            hint="start another run",
        )
    if given.file is None:
        source = Path(run_file.source)
        if not source.exists():
            raise RecordError(
                f"{source}, the workflow file of the run {run_file.run_id}, is not there any more",
                hint="if it was moved, name it behind the run: resume RUN FILE",
            )
        return source, []
    if str(given.file.absolute()) == run_file.source:
        return given.file, []
    moved = (
        f"the run {run_file.run_id} was of {run_file.source}, and goes on with"
        f" {given.file.absolute()}"
    )
    return given.file, [moved]


def _planned(run: Path) -> _Planned | None:
    """What was planned; ``None`` where that is damaged: the run itself does not stand on it."""
    try:
        return msgspec.json.decode(read_whole(run / "plan.json", _LARGEST), type=_Planned)
    except (OSError, ValueError):
        return None


def _asked_for(before: _Planned) -> tuple[str | None, str | None]:
    """What chose the flow beside the file, in the short form or in the long one."""
    if before.flow_origin in {COMMAND.flow, PYTHON.flow}:
        return str(before.flow), None
    if before.flow_origin in {COMMAND.workflow, PYTHON.workflow}:
        flow = before.flow
        kwargs: dict[str, Any] = {"runner": flow.runner, **flow.options}
        return None, json.dumps({"transform": flow.transform, "kwargs": kwargs})
    return None, None


def _words_of(command: str) -> list[str]:
    with suppress(ValueError):
        return shlex.split(command)
    return []
