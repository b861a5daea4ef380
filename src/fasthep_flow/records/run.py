"""The run folder: written by the one driver of a run, read by everybody else.

::

    output/<run id>/  run.json workflow.yaml plan.json events.jsonl
                      tasks/<slug>/<attempt>/{job.json,result.json,stdout.log,stderr.log}
                      drivers/<number>.json former/<number>/ damaged/
    output/latest ->  <run id>

``events.jsonl`` is the journal: a sealed line an event, appended as it happens, with the result of
every attempt that ended. It is forced to disk before the driver acts on a result.
``result.json`` says the same with the ends of the logs; it appears whole or not at all.
"""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final, Self

import msgspec
import psutil

from fasthep_flow.environments.host.below import move_aside, open_below, restore_below
from fasthep_flow.errors import RecordError, RunInterrupted
from fasthep_flow.model import Job, JobResult, Plan, to_json
from fasthep_flow.records.claim import Claim, Found
from fasthep_flow.records.files import as_record_error, record_error, write, write_whole
from fasthep_flow.records.former import clear_damage, keep_former, mode_of, plan_texts
from fasthep_flow.records.history import new_run_folder
from fasthep_flow.records.journal import Event, Journal, now_text
from fasthep_flow.records.record import (
    FORMAT,
    Ended,
    RunFile,
    RunRecord,
    RunStatus,
    UnderWay,
    attempt_numbers,
    ended_tasks,
    planned_tasks,
    read_run,
    read_run_file,
    resolve_run,
)
from fasthep_flow.records.sealed import sealed

__all__ = [
    "Event",
    "RunFolder",
    "RunRecord",
    "RunStatus",
    "UnderWay",
    "read_run",
    "resolve_run",
]

_CANCEL_FILE: Final = "cancel"
_DONE_BY_TASKS: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EPERM,
    }
)
"""What the system says where a task left something odd in its folder, or took its rights away."""


class RunFolder:
    """The folder of a run that goes on; only its driver writes there.

    Every method raises :class:`~fasthep_flow.errors.RecordError` where the folder cannot be
    written, and :class:`~fasthep_flow.errors.RunClaimed` where another driver has taken the run
    over: then nothing is written any more.
    """

    def __init__(self, path: Path, run_file: RunFile, held: Claim) -> None:
        self.path: Final = path
        self.run_id: Final = run_file.run_id
        self.before: Ended | None = None
        """What the drivers before this one left; ``None`` in a new run."""
        self._tasks: Final = path / "tasks"
        self._run_file = run_file
        self._claim: Final = held
        self._descriptor: Final = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._journal: Final = Journal(path / "events.jsonl")
        self._encode: Final = msgspec.json.Encoder().encode
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
        output = Path(plan.output_directory)
        with as_record_error(output, "make the folder"):
            output.mkdir(parents=True, exist_ok=True)
            path = new_run_folder(output)
        held = Claim.take(path / "drivers", what=f"the run {path.name}")
        try:
            with as_record_error(path, "write in"):
                (path / "tasks").mkdir()
                run_file = _run_file(plan, path.name, now_text(), version, argv)
                for name, text in plan_texts(plan).items():
                    write_whole(path / name, text, mode=mode_of(name, text, plan))
                folder = cls(path, run_file, held)
                folder._write_run_file()
            folder._point_latest(output)
            folder.append("run_started", message=plan.name, host=run_file.host)
        except BaseException:
            held.release()
            raise
        return folder

    @classmethod
    def reopen(
        cls,
        path: Path,
        plan: Plan,
        *,
        version: str,
        argv: tuple[str, ...] = (),
        gone: Collection[str] = (),
    ) -> Self:
        """The folder of a run whose driver has ended, to go on with it; ``latest`` points to it.

        What of it is damaged is set aside, and not believed. What an earlier driver started is
        not looked for: that it has ended is to be made sure of before a task is started.

        Args:
            path: The run folder.
            plan: What is to be run now.
            version: Of this package.
            argv: The command, for people who look at the record.
            gone: Names of machines whose processes are known to be gone.

        Raises:
            RunClaimed: Another driver has the run.
            RecordError: The folder cannot be read or written, or is of another format.
        """
        path = path.absolute()
        former = read_run_file(path)
        if former.format != FORMAT:
            age = "an older" if former.format < FORMAT else "a newer"
            raise RecordError(
                f"{path} was written by {age} fasthep-flow, {former.version}, and cannot be"
                " gone on with",
                hint="--fresh starts another run",
            )
        held = Claim.take(path / "drivers", what=f"the run {path.name}", gone=gone)
        try:
            # Until it was claimed, another driver may have written there.
            former = read_run_file(path)
            before = ended_tasks(
                path, [*planned_tasks(path), *plan.tasks], former, with_tails=False
            )
            with as_record_error(path, "write in"):
                notes = clear_damage(path, before, held.former)
                number = keep_former(path, plan)
                run_file = _run_file(plan, path.name, former.started, version, argv)
                _remove(path / _CANCEL_FILE)
                folder = cls(path, run_file, held)
                folder.before = before
                folder._write_run_file()
            folder._point_latest(path.parent)
            told = "" if number is None else f"; the plan before is in former/{number}"
            folder.append("run_resumed", message=f"{plan.name}{told}", host=run_file.host)
            for note in notes:
                folder.append("note", message=note)
            with as_record_error(path, "write in"):
                os.close(folder._restored(("tasks",)))
            folder.sync()
        except BaseException:
            held.release()
            raise
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        try:
            if self._run_file.status == "running" and not self._claim.is_lost:
                stopped = isinstance(error, RunInterrupted | KeyboardInterrupt)
                # A full disk is told once, by the error that is on its way already.
                is_told = isinstance(error, RecordError)
                with suppress(RecordError) if is_told else nullcontext():
                    if error is not None:
                        self.append("note", message=str(error))
                    self.finish("cancelled" if stopped else "failed")
        finally:
            self._journal.close()
            os.close(self._descriptor)
            self._claim.release()

    @property
    def former_driver(self) -> Found | None:
        """The claim of the driver before this one; ``None`` in a new run."""
        return self._claim.former

    def when_lost(self, action: Callable[[], None]) -> None:
        """Have something done, in another thread, once another driver has taken the run over."""
        self._claim.when_lost(action)

    @property
    def cancel_file(self) -> Path:
        """Workers in other processes stop their tasks when this file is there."""
        return self.path / _CANCEL_FILE

    def request_cancel(self) -> None:
        """Tell workers in other processes to stop their tasks."""
        self._claim.require()
        with as_record_error(self.cancel_file, "write"), suppress(IsADirectoryError):
            write(str(self.cancel_file), b"")

    def next_attempt(self, task: str, slug: str) -> int:
        """The number of the attempt that would be the next one; 1 in a new run.

        Args:
            task: The task's name.
            slug: The name of its folder.
        """
        if self.before is None:
            return 1
        known = self.before.attempts.get(task, 0)
        return 1 + max(known, max(attempt_numbers(self._tasks / slug), default=0))

    def attempt_directory(self, slug: str, attempt: int, *, is_private: bool = False) -> str:
        """The folder of an attempt, made new.

        Args:
            slug: The name of the task's folder.
            attempt: Counted from 1.
            is_private: Whether nobody else may look into it, however the user's mask is.
        """
        path = f"{self._tasks}/{slug}/{attempt}"
        names = ("tasks", slug)
        try:
            # Where another task has put anything there: that is not followed.
            if slug in self._slugs_seen:
                folder = self._opened(names)
            else:
                folder = self._restored(names, is_new=True)
                self._slugs_seen.add(slug)
            try:
                self._make_attempt(folder, (*names, str(attempt)), 0o700 if is_private else 0o777)
            finally:
                os.close(folder)
        except OSError as error:
            raise _record_error(error, path, "make the folder") from error
        return path

    def _make_attempt(self, task: int, names: Sequence[str], mode: int) -> None:
        name = names[-1]
        try:
            os.mkdir(name, mode, dir_fd=task)
        except FileExistsError:
            self._note_aside([move_aside(self._descriptor, task, name, names)])
            os.mkdir(name, mode, dir_fd=task)

    def _opened(self, names: Sequence[str]) -> int:
        """A folder of the run's, made where it is not there."""
        try:
            return open_below(self._descriptor, names)
        except (FileNotFoundError, NotADirectoryError):
            return self._restored(names)

    def _restored(self, names: Sequence[str], *, is_new: bool = False) -> int:
        folder, aside = restore_below(self._descriptor, names, is_new=is_new)
        self._note_aside(aside)
        return folder

    def _note_aside(self, aside: Sequence[str]) -> None:
        for one in aside:
            self.append("note", message=f"{self.path}/{one}: lay in the place of a folder of ours")

    def write_job(self, job: Job, text: str) -> None:
        """Keep the job's text beside its logs."""
        try:
            folder = self._opened(self._names_of(job))
            try:
                write("job.json", text.encode(), folder=folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _record_error(error, f"{job.directory}/job.json", "write") from error

    def _names_of(self, job: Job) -> list[str]:
        return job.directory.removeprefix(f"{self.path}/").split("/")

    def write_result(
        self,
        event: str,
        job: Job,
        result: JobResult,
        *,
        identity: dict[str, str] | None = None,
    ) -> None:
        """Record how an attempt ended, in its folder and in the journal; see :meth:`sync`.

        Args:
            event: ``task_finished`` or ``task_retried``.
            job: Of the attempt.
            result: How it ended.
            identity: Of a success: the parts of what could change its answer.
        """
        self._claim.require()
        try:
            result = self._write_result_file(job, result, identity)
        except OSError as error:
            raise _record_error(error, f"{job.directory}/result.json", "write") from error
        self.append(
            event,
            task=job.task,
            attempt=job.attempt,
            status=result.status,
            message=None if result.failure is None else result.failure.message,
            result=msgspec.structs.replace(result, stdout_tail="", stderr_tail=""),
            identity=identity,
        )

    def _write_result_file(
        self, job: Job, result: JobResult, identity: dict[str, str] | None
    ) -> JobResult:
        """The result, with what is odd about the folder that it lies in.

        Raises:
            OSError: Nothing that a task did to its folder keeps it from being written.
        """
        names = self._names_of(job)
        try:
            try:
                folder = open_below(self._descriptor, names)
            except (FileNotFoundError, NotADirectoryError):
                # Below a run folder that was removed nothing is made anew.
                os.stat("run.json", dir_fd=self._descriptor)
                folder, aside = restore_below(self._descriptor, names, mode=0o700)
                result = _with_remark(result, self._why_restored(aside))
            try:
                text = self._result_text(result, identity)
                write_whole("result.json", text, folder=folder)
            finally:
                os.close(folder)
        except OSError as error:
            if error.errno not in _DONE_BY_TASKS:
                raise
            os.stat("run.json", dir_fd=self._descriptor)
            why = (
                f"its result.json cannot be written, and is in the journal alone: {error.strerror}"
            )
            return _with_remark(result, why)
        return result

    def _why_restored(self, aside: Sequence[str]) -> str:
        if not aside:
            return "its folder was removed while it ran, and its logs with it"
        places = ", ".join(f"{self.path}/{one}" for one in aside)
        return f"its folder was replaced, and what lay there was set aside: {places}"

    def _result_text(self, result: JobResult, identity: dict[str, str] | None) -> bytes:
        text = to_json(result).encode()
        if identity is not None:
            text = b'%s,"identity":%s}' % (text[:-1], self._encode(identity))
        return sealed(text) + b"\n"

    def append(
        self,
        event: str,
        *,
        task: str | None = None,
        attempt: int | None = None,
        status: str | None = None,
        message: str | None = None,
        host: str | None = None,
        result: JobResult | None = None,
        identity: dict[str, str] | None = None,
    ) -> None:
        """Add a line to the journal."""
        self._claim.require()
        self._journal.append(
            Event(
                time=now_text(),
                event=event,
                task=task,
                attempt=attempt,
                status=status,
                message=message,
                host=host,
                result=result,
                identity=identity,
            )
        )

    def sync(self) -> None:
        """Have on disk what was appended, before anything is done that builds on it."""
        self._journal.sync()

    def finish(self, status: RunStatus) -> None:
        """Record how the run ended."""
        self.append("run_finished", status=status)
        self._journal.sync(is_last=True)
        with as_record_error(self.path, "write in"):
            self._run_file = msgspec.structs.replace(
                self._run_file, status=status, finished=now_text()
            )
            self._write_run_file()

    def _write_run_file(self) -> None:
        text = msgspec.json.format(self._encode(self._run_file), indent=2)
        write_whole(self.path / "run.json", text + b"\n", sync=True)

    def _point_latest(self, output: Path) -> None:
        latest = output / "latest"
        if latest.exists() and not latest.is_symlink():
            self.append("note", message=f"{latest} is not a link of ours: left as it is")
            return
        link = output / f".latest-{self.run_id}"
        try:
            with suppress(FileNotFoundError):
                link.unlink()
            link.symlink_to(self.run_id, target_is_directory=True)
            link.replace(latest)
        except OSError as error:
            # Some mounts (FAT, some EOS and CIFS mounts) have no symbolic links.
            self.append("note", message=f"no link {latest}: {error.strerror}")


def _record_error(error: OSError, path: str, verb: str) -> RecordError:
    # What it names is a path from some folder's descriptor.
    error.filename = None
    return record_error(error, path, verb)


def _remove(path: Path) -> None:
    """Have nothing there, whatever a task left."""
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(path)


def _with_remark(result: JobResult, remark: str) -> JobResult:
    return msgspec.structs.replace(result, remarks=(*result.remarks, remark))


def _run_file(plan: Plan, run_id: str, started: str, version: str, argv: Sequence[str]) -> RunFile:
    process = psutil.Process()
    return RunFile(
        format=FORMAT,
        run_id=run_id,
        name=plan.name,
        source=plan.source,
        selection=plan.selection,
        status="running",
        started=started,
        finished=None,
        host=platform.node(),
        pid=process.pid,
        process_started_s=process.create_time(),
        command=shlex.join(argv),
        version=version,
        python=platform.python_version(),
        platform=platform.platform(),
    )
