"""What a run folder says, to whoever reads it.

A task is done if a sound line of the journal, or a sound ``result.json``, says so; nothing else
counts. Nothing is written here: what is damaged is named, and left where it lies.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec
import psutil
from msgspec import Struct

from fasthep_flow.environments.host.below import open_below
from fasthep_flow.errors import RecordError
from fasthep_flow.model import JobResult, TaskSpec, from_json
from fasthep_flow.records.claim import found_claim
from fasthep_flow.records.journal import Reader
from fasthep_flow.records.sealed import read_whole, unsealed

__all__ = [
    "FORMAT",
    "Ended",
    "PlannedTask",
    "RunFile",
    "RunRecord",
    "RunStatus",
    "UnderWay",
    "attempt_numbers",
    "ended_tasks",
    "planned_tasks",
    "read_run",
    "read_run_file",
    "resolve_run",
]

RunStatus = Literal["running", "succeeded", "failed", "cancelled", "interrupted"]

FORMAT: Final = 2
"""Of the run folder: 1 had no seals, no claim, and did not say whose workflow it was."""

_LARGEST_RUN_FILE: Final = 2**20
_LARGEST_PLAN: Final = 2**30
_LARGEST_RESULT: Final = 64 * 2**20
_T = TypeVar("_T")


class UnderWay(Struct, frozen=True, kw_only=True):
    """An attempt that was begun, and of whose end nothing is recorded.

    Args:
        task: The task's name.
        attempt: Counted from 1.
        directory: Its folder.
        host: Where the driver ran that began it.
    """

    task: str
    attempt: int
    directory: str
    host: str


class RunRecord(Struct, frozen=True, kw_only=True):
    """What a run folder says.

    Args:
        run_id: Of the run.
        name: Of the workflow.
        status: ``interrupted`` where the driver is gone without having said how it ended.
        directory: The run folder.
        started: UTC, as ISO 8601.
        host: Where the driver ran.
        results: The last result of every task that ended, by the task's name.
        unfinished: The tasks that were planned and have not ended, in the plan's order.
        damaged: What could not be read, with the reason.
        under_way: The attempts that were begun, and of whose end nothing is recorded.
        source: The absolute path of the workflow file; empty for a run of an older format.
        format: Of the folder; no driver goes on with a run of an older one.
    """

    run_id: str
    name: str
    status: RunStatus
    directory: str
    started: str
    host: str
    results: dict[str, JobResult]
    unfinished: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    under_way: tuple[UnderWay, ...] = ()
    source: str = ""
    format: int = FORMAT


class RunFile(Struct, frozen=True, kw_only=True):
    """What ``run.json`` holds; the arguments are its fields."""

    format: int
    run_id: str
    name: str
    source: str = ""
    selection: tuple[str, ...] = ()
    status: RunStatus
    started: str
    finished: str | None
    host: str
    pid: int
    process_started_s: float
    command: str
    version: str
    python: str
    platform: str


class PlannedTask(Struct, frozen=True):
    """A task as far as its records need it; the arguments are as in a plan."""

    name: str
    slug: str


class _PlannedTasks(Struct, frozen=True):
    tasks: tuple[PlannedTask, ...]


class Ended(NamedTuple):
    """What became of the tasks of a run.

    Args:
        results: The last result of every task that ended, by the task's name.
        attempts: The largest number of an attempt that the journal names, by the task's name.
        under_way: The attempts that were begun, and of whose end nothing is recorded.
        damaged: What could not be read, with the reason.
        damaged_results: The files with results that could not be.
        is_whole: Whether all of the journal is sound.
        identities: What could change the answer of the tasks that succeeded, by the task's name.
    """

    results: dict[str, JobResult]
    attempts: dict[str, int]
    under_way: tuple[UnderWay, ...]
    damaged: tuple[str, ...]
    damaged_results: tuple[Path, ...]
    is_whole: bool
    identities: dict[str, dict[str, str]]


def resolve_run(path: Path) -> Path:
    """The run folder that ``path`` means: itself, or the latest run of an output folder.

    Raises:
        RecordError: It is neither.
    """
    for candidate in (path, path / "latest"):
        if (candidate / "run.json").is_file():
            return candidate.resolve()
    raise RecordError(
        f"{path} is not a run folder: it has no run.json",
        hint="name a folder output/<run id>, or an output folder with a run in it",
    )


def read_run(path: Path) -> RunRecord:
    """What a run folder says, also while the run goes on and after its driver was killed.

    Args:
        path: The run folder, or an output folder: then its latest run.

    Raises:
        RecordError: The folder's ``run.json`` or ``plan.json`` cannot be read.
    """
    directory = resolve_run(path)
    run_file = read_run_file(directory)
    if run_file.format > FORMAT:
        raise RecordError(
            f"{directory} was written by a newer fasthep-flow: its format is {run_file.format},"
            f" and this one knows {FORMAT}",
            hint=f"read it with fasthep-flow {run_file.version}",
        )
    planned = _read_file(directory / "plan.json", _PlannedTasks, _LARGEST_PLAN).tasks
    ended = ended_tasks(directory, planned, run_file)
    return RunRecord(
        run_id=run_file.run_id,
        name=run_file.name,
        status=_current_status(directory, run_file),
        directory=str(directory),
        started=run_file.started,
        host=run_file.host,
        results=ended.results,
        unfinished=tuple(task.name for task in planned if task.name not in ended.results),
        damaged=ended.damaged,
        under_way=ended.under_way,
        source=run_file.source,
        format=run_file.format,
    )


def read_run_file(directory: Path) -> RunFile:
    """What the ``run.json`` of a run folder holds.

    Raises:
        RecordError: It cannot be read, or is damaged.
    """
    return _read_file(directory / "run.json", RunFile, _LARGEST_RUN_FILE)


def planned_tasks(directory: Path) -> tuple[PlannedTask, ...]:
    """The tasks that were planned for a run; none where that cannot be read."""
    try:
        return _read_file(directory / "plan.json", _PlannedTasks, _LARGEST_PLAN).tasks
    except RecordError:
        return ()


def ended_tasks(
    directory: Path,
    tasks: Iterable[PlannedTask | TaskSpec],
    run_file: RunFile,
    *,
    with_tails: bool = True,
) -> Ended:
    """What became of some tasks of a run.

    Args:
        directory: The run folder.
        tasks: Of which plan ever.
        run_file: Of the run.
        with_tails: Whether the ends of the logs are wanted too: a file more for each task.
    """
    slugs = {task.name: task.slug for task in tasks}
    is_sealed = run_file.format > 1
    reader = Reader(directory / "events.jsonl", is_sealed=is_sealed)
    journalled = _journalled(reader, slugs.keys(), run_file.host)
    results = journalled.results
    damaged: list[str] = []
    damaged_results: list[Path] = []
    under_way: list[UnderWay] = []
    has_begun = False
    for name, slug in slugs.items():
        known = journalled.attempts.get(name, 0)
        folder = directory / "tasks" / slug
        last = max(attempt_numbers(folder), default=0)
        result = results.get(name)
        if result is not None and last > known:
            # A newer attempt has begun: how the one before ended is history.
            del results[name]
            result = None
        if last and last >= known and (result is None or (with_tails and result.attempt == last)):
            path = folder / str(last) / "result.json"
            try:
                results[name], made_of = _result(directory, slug, name, last, is_sealed=is_sealed)
                if made_of:
                    journalled.identities.setdefault(name, made_of)
            except FileNotFoundError:
                pass
            except NotADirectoryError:
                # A task put something in its place, perhaps a link: there is no record of ours.
                damaged.append(f"{path.parent}: is no folder of an attempt")
            except (ValueError, OSError) as error:
                damaged.append(f"{path}: {error}")
                damaged_results.append(path)
        has_begun = has_begun or bool(last)
        if last and name not in results:
            under_way.append(
                UnderWay(
                    task=name,
                    attempt=last,
                    directory=str(folder / str(last)),
                    host=journalled.hosts.get((name, last), run_file.host),
                )
            )
    if has_begun and reader.is_empty and reader.is_whole:
        # Its first line is on the disk before any task is begun.
        damaged.append(f"{directory / 'events.jsonl'}: has lost its lines")
    return Ended(
        results,
        journalled.attempts,
        tuple(under_way),
        (*damaged, *reader.damaged),
        tuple(damaged_results),
        reader.is_whole,
        {name: parts for name, parts in journalled.identities.items() if name in results},
    )


def attempt_numbers(task: Path) -> Iterator[int]:
    """The numbers of the attempts whose folders are there, in no order.

    Args:
        task: The task's folder; a link to one is none.
    """
    try:
        folder = open_below(str(task.parent), (task.name,))
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a descriptor
    finally:
        os.close(folder)
    yield from (int(name) for name in names if name.isdecimal() and name.isascii())


class _Journalled(NamedTuple):
    results: dict[str, JobResult]
    attempts: dict[str, int]
    hosts: dict[tuple[str, int], str]
    identities: dict[str, dict[str, str]]


def _journalled(reader: Reader, names: Iterable[str], host: str) -> _Journalled:
    """What the journal says of the tasks that are asked for, and of no others."""
    found = _Journalled({}, {}, {}, {})
    wanted = frozenset(names)
    for event in reader:
        if event.event in {"run_started", "run_resumed"}:
            host = event.host or host
            # What kept a task from running may not do so again.
            skipped = [one for one, has in found.results.items() if has.status == "skipped"]
            for one in skipped:
                del found.results[one]
        name = event.task
        if name not in wanted or name is None:
            continue
        attempt = event.attempt or 0
        found.attempts[name] = max(attempt, found.attempts.get(name, 0))
        match event.event:
            case "task_submitted":
                found.results.pop(name, None)
                found.identities.pop(name, None)
                found.hosts[name, attempt] = host
            case "task_finished" | "task_reused" if event.result is not None:
                found.results[name] = event.result
                if event.identity is not None:
                    found.identities[name] = event.identity
            case "task_skipped":
                found.results[name] = JobResult(task=name, attempt=0, status="skipped")
            case _:
                pass
    return found


class _MadeOf(Struct, frozen=True):
    """What a ``result.json`` says beside the result."""

    identity: dict[str, str] = {}


def _result(
    run: Path, slug: str, task: str, attempt: int, *, is_sealed: bool
) -> tuple[JobResult, dict[str, str]]:
    folder = open_below(str(run), ("tasks", slug, str(attempt)))
    try:
        text = read_whole("result.json", _LARGEST_RESULT, folder)
    finally:
        os.close(folder)
    body = unsealed(text) if is_sealed else text
    if body is None:
        raise ValueError("is not as it was written")
    result = from_json(JobResult, body)
    if result.task != task:
        # Of one that had this folder before the workflow was changed.
        raise FileNotFoundError(slug)
    if result.attempt != attempt:
        raise ValueError(f"is of attempt {result.attempt}")
    return result, msgspec.json.decode(body, type=_MadeOf).identity


def _read_file(path: Path, kind: type[_T], most: int) -> _T:
    try:
        return msgspec.json.decode(read_whole(path, most), type=kind)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path} is damaged: {error}", hint="the folders of its tasks are still readable"
        ) from error


def _current_status(directory: Path, run_file: RunFile) -> RunStatus:
    if run_file.status != "running":
        return run_file.status
    claimed = found_claim(directory)
    if claimed is not None:
        return "running" if claimed.is_held else "interrupted"
    if run_file.host != platform.node():
        return "running"
    try:
        started_s = psutil.Process(run_file.pid).create_time()
    except psutil.NoSuchProcess:
        return "interrupted"
    # A process that was given the number of one that is gone started later.
    same = abs(started_s - run_file.process_started_s) < 1.0
    return "running" if same else "interrupted"
