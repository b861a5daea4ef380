"""The run folder: written by the one driver of a run, read by everybody else.

::

    output/<run id>/  run.json workflow.yaml plan.json events.jsonl
                      tasks/<slug>/<attempt>/{job.json,result.json,stdout.log,stderr.log}
    output/latest ->  <run id>

``events.jsonl`` is the journal: a line an event, appended as it happens, with the result of
every attempt that ended. It is forced to disk before the driver acts on a result. A line
that a crash cut short is the last one, and readers leave it out. ``result.json`` says the
same with the ends of the logs; it appears whole or not at all.
"""

from __future__ import annotations

import errno
import os
import platform
import secrets
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Self, TypeVar

import msgspec
import psutil
from msgspec import Struct

from fasthep_flow.errors import RecordError, RunInterrupted
from fasthep_flow.model import Job, JobResult, Plan, from_json, to_json

__all__ = ["Event", "RunFolder", "RunRecord", "RunStatus", "read_run", "resolve_run"]

RunStatus = Literal["running", "succeeded", "failed", "cancelled", "interrupted"]

_FORMAT_VERSION: Final = 1
_CANCEL_FILE: Final = "cancel"
_T = TypeVar("_T")


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the journal.

    Args:
        time: UTC, as ISO 8601.
        event: ``run_started``, ``task_submitted``, ``task_finished``, ``task_retried``,
            ``task_skipped``, ``note`` or ``run_finished``.
        task: The task's name.
        attempt: Counted from 1.
        status: How the attempt or the run ended.
        message: The cause of a failure, or a note.
        result: Of an attempt that ended, without the ends of its logs.
    """

    time: str
    event: str
    task: str | None = None
    attempt: int | None = None
    status: str | None = None
    message: str | None = None
    result: JobResult | None = None


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
        damaged: Files that could not be read, with the reason.
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


class _RunFile(Struct, frozen=True, kw_only=True):
    format: int
    run_id: str
    name: str
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


class _PlannedTask(Struct, frozen=True):
    name: str
    slug: str


class _PlannedTasks(Struct, frozen=True):
    tasks: tuple[_PlannedTask, ...]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _record_error(error: OSError, path: Path | str, verb: str) -> RecordError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return RecordError(
        f"cannot {verb} {error.filename or path}: {error.strerror or error}",
        hint="make room there, or choose another folder with --output"
        if full
        else "choose another folder with --output",
    )


@contextmanager
def _as_record_error(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _record_error(error, path, verb) from error


class RunFolder:
    """The folder of a run that goes on; only its driver writes there.

    Every method raises :class:`~fasthep_flow.errors.RecordError` where the folder cannot be
    written.
    """

    def __init__(self, path: Path, run_file: _RunFile) -> None:
        self.path: Final = path
        self.run_id: Final = run_file.run_id
        self._tasks: Final = path / "tasks"
        self._run_file = run_file
        with _as_record_error(path, "write in"):
            self._journal = os.open(
                path / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666
            )
        self._encode = msgspec.json.Encoder().encode
        self._slugs_seen: set[str] = set()

    @classmethod
    def create(cls, plan: Plan, *, version: str, argv: tuple[str, ...] = ()) -> Self:
        """A new folder under the plan's output directory; ``latest`` points to it.

        Args:
            plan: What is to be run.
            version: Of this package.
            argv: The command, for people who look at the record.

        Raises:
            RecordError: The output directory cannot be written.
        """
        started_s = time.time()
        output = Path(plan.output_directory)
        with _as_record_error(output, "make the folder"):
            output.mkdir(parents=True, exist_ok=True)
            while True:
                stamp = datetime.fromtimestamp(started_s, UTC).strftime("%Y%m%dT%H%M%SZ")
                run_id = f"{stamp}-{secrets.token_hex(2)}"
                try:
                    (output / run_id).mkdir()
                    break
                except FileExistsError:
                    continue
            path = output / run_id
            (path / "tasks").mkdir()
            process = psutil.Process()
            run_file = _RunFile(
                format=_FORMAT_VERSION,
                run_id=run_id,
                name=plan.name,
                status="running",
                started=_now(),
                finished=None,
                host=platform.node(),
                pid=process.pid,
                process_started_s=process.create_time(),
                command=shlex.join(argv),
                version=version,
                python=platform.python_version(),
                platform=platform.platform(),
            )
            _write_whole(path / "workflow.yaml", Path(plan.source).read_bytes())
            _write_whole(path / "plan.json", to_json(plan).encode())
            folder = cls(path, run_file)
            folder._write_run_file()
            folder._point_latest(output)
        folder.append("run_started", message=plan.name)
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        try:
            if self._run_file.status == "running":
                stopped = isinstance(error, RunInterrupted | KeyboardInterrupt)
                # A full disk is told once, by the error that is on its way already.
                with suppress(RecordError) if kind is RecordError else nullcontext():
                    self.append("note", message=None if error is None else str(error))
                    self.finish("cancelled" if stopped else "failed")
        finally:
            os.close(self._journal)

    @property
    def cancel_file(self) -> Path:
        """Workers in other processes stop their tasks when this file is there."""
        return self.path / _CANCEL_FILE

    def request_cancel(self) -> None:
        """Tell workers in other processes to stop their tasks."""
        with _as_record_error(self.cancel_file, "write"):
            self.cancel_file.touch()

    def attempt_directory(self, slug: str, attempt: int) -> str:
        """The folder of an attempt, made new."""
        task = f"{self._tasks}/{slug}"
        path = f"{task}/{attempt}"
        try:
            if slug not in self._slugs_seen:
                os.mkdir(task)
                self._slugs_seen.add(slug)
            os.mkdir(path)
        except OSError as error:
            raise _record_error(error, path, "make the folder") from error
        return path

    def write_job(self, job: Job, text: str) -> None:
        """Keep the job's text beside its logs."""
        path = f"{job.directory}/job.json"
        try:
            _write(path, text.encode())
        except OSError as error:
            raise _record_error(error, path, "write") from error

    def write_result(self, event: str, job: Job, result: JobResult) -> None:
        """Record how an attempt ended, in its folder and in the journal; see :meth:`sync`.

        Args:
            event: ``task_finished`` or ``task_retried``.
            job: Of the attempt.
            result: How it ended.
        """
        path = f"{job.directory}/result.json"
        try:
            _write_whole(path, to_json(result).encode())
        except OSError as error:
            raise _record_error(error, path, "write") from error
        self.append(
            event,
            task=job.task,
            attempt=job.attempt,
            status=result.status,
            message=None if result.failure is None else result.failure.message,
            result=msgspec.structs.replace(result, stdout_tail="", stderr_tail=""),
        )

    def append(
        self,
        event: str,
        *,
        task: str | None = None,
        attempt: int | None = None,
        status: str | None = None,
        message: str | None = None,
        result: JobResult | None = None,
    ) -> None:
        """Add a line to the journal."""
        line = self._encode(
            Event(
                time=_now(),
                event=event,
                task=task,
                attempt=attempt,
                status=status,
                message=message,
                result=result,
            )
        )
        try:
            _write_all(self._journal, line + b"\n")
        except OSError as error:
            raise _record_error(error, self.path / "events.jsonl", "write") from error

    def sync(self) -> None:
        """Have on disk what was appended, before anything is done that builds on it."""
        try:
            os.fdatasync(self._journal)
        except OSError as error:
            raise _record_error(error, self.path / "events.jsonl", "write") from error

    def finish(self, status: RunStatus) -> None:
        """Record how the run ended."""
        self.append("run_finished", status=status)
        with _as_record_error(self.path, "write in"):
            os.fsync(self._journal)
            self._run_file = msgspec.structs.replace(self._run_file, status=status, finished=_now())
            self._write_run_file()

    def _write_run_file(self) -> None:
        text = msgspec.json.format(self._encode(self._run_file), indent=2)
        _write_whole(self.path / "run.json", text + b"\n", sync=True)

    def _point_latest(self, output: Path) -> None:
        latest = output / "latest"
        if latest.exists() and not latest.is_symlink():
            self.append("note", message=f"{latest} is not a link of ours: left as it is")
            return
        link = output / f".latest-{self.run_id}"
        try:
            link.symlink_to(self.run_id, target_is_directory=True)
            link.replace(latest)
        except OSError as error:
            # Some mounts (FAT, some EOS and CIFS mounts) have no symbolic links.
            self.append("note", message=f"no link {latest}: {error.strerror}")


def _write_all(descriptor: int, data: bytes) -> None:
    while len(data) > (written := os.write(descriptor, data)):
        data = data[written:]


def _write(path: str, data: bytes, *, sync: bool = False) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        _write_all(descriptor, data)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_whole(path: Path | str, data: bytes, *, sync: bool = False) -> None:
    temporary = f"{path}.tmp"
    try:
        _write(temporary, data, sync=sync)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


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
    run_file = _decode_file(directory / "run.json", _RunFile)
    planned = _decode_file(directory / "plan.json", _PlannedTasks)
    damaged: list[str] = []
    results = _journalled(directory / "events.jsonl")
    for task in planned.tasks:
        for attempt in _attempts(directory / "tasks" / task.slug)[-1:]:
            record = attempt / "result.json"
            journalled = results.get(task.name)
            if journalled is not None and journalled.attempt != int(attempt.name):
                # A newer attempt has begun: how the one before ended is history.
                del results[task.name]
            try:
                results[task.name] = from_json(JobResult, record.read_bytes())
            except FileNotFoundError:
                continue
            except (ValueError, OSError) as error:
                damaged.append(f"{record}: {error}")
    return RunRecord(
        run_id=run_file.run_id,
        name=run_file.name,
        status=_current_status(run_file),
        directory=str(directory),
        started=run_file.started,
        host=run_file.host,
        results=results,
        unfinished=tuple(task.name for task in planned.tasks if task.name not in results),
        damaged=tuple(damaged),
    )


def _attempts(task: Path) -> list[Path]:
    if not task.is_dir():
        return []
    numbered = [(int(child.name), child) for child in task.iterdir() if child.name.isdigit()]
    return [child for _, child in sorted(numbered)]


def _journalled(path: Path) -> dict[str, JobResult]:
    results: dict[str, JobResult] = {}
    for event in _read_journal(path):
        if event.task is None:
            continue
        if event.event == "task_finished" and event.result is not None:
            results[event.task] = event.result
        elif event.event == "task_skipped":
            results[event.task] = JobResult(task=event.task, attempt=0, status="skipped")
    return results


def _read_journal(path: Path) -> Iterator[Event]:
    decode = msgspec.json.Decoder(Event).decode
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield decode(line)
        except msgspec.DecodeError:
            # The last line of a driver that was killed while it wrote.
            continue


def _decode_file(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise RecordError(
            f"{path} is damaged: {error}", hint="the folders of its tasks are still readable"
        ) from error


def _current_status(run_file: _RunFile) -> RunStatus:
    if run_file.status != "running" or run_file.host != platform.node():
        return run_file.status
    try:
        started_s = psutil.Process(run_file.pid).create_time()
    except psutil.NoSuchProcess:
        return "interrupted"
    # A process that was given the number of one that is gone started later.
    same = abs(started_s - run_file.process_started_s) < 1.0
    return "running" if same else "interrupted"
