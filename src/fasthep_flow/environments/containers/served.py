"""A container that is served by a shell inside: the jobs that run in it, one after the other.

What differs between engines is in an
:class:`~fasthep_flow.environments.containers.enclosure.Enclosure`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from fasthep_flow.environments import ContainerSpec, NotStarted, Outcome, Process
from fasthep_flow.environments.containers.client import ENGINE_LOG, Client
from fasthep_flow.environments.containers.enclosure import Enclosure, EndedClient
from fasthep_flow.environments.containers.shell import (
    Dialect,
    Order,
    Report,
    job_text,
    read_report,
    unsettable,
)
from fasthep_flow.environments.devices.presence import lost, nodes_of
from fasthep_flow.environments.host.scratch import SCRATCH_FOLDERS
from fasthep_flow.environments.host.spawn import open_log
from fasthep_flow.model import Call, Command, Failure, Invocation

__all__ = ["ServedContainer"]

_STDIN: Final = "stdin"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class ServedContainer:
    """A container for one job after the other.

    It is started with its first job. :meth:`settle` says, after each, whether it can have
    another one; :meth:`close` leaves nothing of it.

    Args:
        enclosure: What the engine supplies.
        spec: Of the container.
        scratch: A new folder of its own, removed with it.
        dialect: What serves in it, where its image is known to have no shell.
        is_kept: Whether it may have another job after its first.
        runtime: Whose container it is, for messages.
    """

    def __init__(
        self,
        enclosure: Enclosure,
        spec: ContainerSpec,
        scratch: Path,
        *,
        dialect: Dialect = "sh",
        is_kept: bool = True,
        runtime: str = "the engine",
    ) -> None:
        self._runtime: Final = runtime
        self._enclosure: Final = enclosure
        self._spec: Final = spec
        self._scratch: Final = scratch
        self._dialect: Dialect = dialect
        self._client: Client | None = None
        self._is_kept: Final = is_kept
        self._jobs = 0
        self._process: _ServedProcess | None = None
        self._usable = True
        self._peak_before = 0
        self._cpu_before_s = 0.0
        self._oom_before = 0

    @property
    def dialect(self) -> Dialect:
        """What serves in it."""
        return self._dialect

    def start(
        self,
        invocation: Invocation,
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
        directory: str,
    ) -> Process:
        """See :meth:`fasthep_flow.environments.Container.start`."""
        if (name := unsettable(environment)) is not None:
            return NotStarted(
                Failure(
                    kind="environment",
                    message=f"a shell in a container cannot set a variable by the name of {name!r}",
                    hint="letters, digits and underscores can be set",
                )
            )
        if self._dialect == "python" and isinstance(invocation, Command):
            # The first job of a container would be told so by the engine.
            return NotStarted(
                Failure(
                    kind="not_started",
                    message=f"the image {self._image_name()} has no /bin/sh",
                    hint="a command needs a shell in the image, if only to be started",
                )
            )
        # The user's own files: the container's user could not make them in every folder.
        for log in ("stdout.log", "stderr.log"):
            os.close(open_log(f"{directory}/{log}"))
        stdin = _write_stdin(invocation, directory)
        self._jobs += 1
        order = Order(
            # One that a job cannot guess, to tell of others in their place.
            number=secrets.randbits(60),
            invocation=invocation,
            environment=environment,
            working_directory=working_directory,
            directory=directory,
            nodes=nodes_of(self._spec.devices),
        )
        if self._client is not None and not self._client.is_alive():
            # Somebody removed it while it was idle; nothing of a job is lost.
            self._restart()
        try:
            self._say(order, stdin)
        except OSError as error:
            return NotStarted(_not_started(error))
        self._process = _ServedProcess(self, order, stdin)
        return self._process

    def settle(self) -> bool:
        """Whether it can have another job; clears away what the last one left in ``/tmp``."""
        process, client = self._process, self._client
        if process is None:
            return client is None
        if not self._usable or not process.was_clean or client is None:
            return False
        self._process = None
        return (
            self._is_kept
            and client.is_first
            and client.is_alive()
            and self._clear_scratch()
            and self._enclosure.is_pristine(client.ready_ns)
        )

    def close(self) -> None:
        """Leave nothing of it."""
        if self._process is not None:
            self._process.abandon()
        self._end_client()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _say(self, order: Order, stdin: str | None) -> None:
        if self._client is None:
            # The driver is asked once in a container: that may take seconds.
            listed = tuple(gpu.id for gpu in self._spec.devices if gpu.vendor == "nvidia")
            order = msgspec.structs.replace(order, listed=listed)
            for folder in SCRATCH_FOLDERS:
                path = self._scratch / folder
                path.mkdir(exist_ok=True)
                path.chmod(0o1777)
            self._client = Client(
                self._enclosure, self._scratch, self._dialect, is_kept=self._is_kept
            )
        elif (account := self._enclosure.account()) is not None and account.reset_peak():
            self._peak_before = 0
        self._client.say(job_text(order, self._dialect, stdin=stdin))

    def _restart(self) -> None:
        self._end_client()
        self._peak_before, self._cpu_before_s, self._oom_before = 0, 0.0, 0

    def _end_client(self) -> None:
        if self._client is not None:
            ended = self._client.end()
            self._client = None
            self._enclosure.remove(ended)

    def wait_for(self, order: Order, stdin: str | None) -> tuple[Report, EndedClient | None]:
        """What was said of the job; and, where that is not all, what is left of the client."""
        fresh = self._jobs == 1
        while True:
            client = self._client
            if client is None:
                raise RuntimeError("there is no client")
            report = read_report(client.lines(), order.number)
            if report.ended:
                return report, None
            ended = client.end()
            self._usable = False
            if report.begun or (self._process is not None and self._process.was_stopped):
                return report, ended
            if not fresh:
                # Removed in the moment that the order was given: it began nowhere.
                fresh = True
            elif (
                self._dialect == "sh"
                and isinstance(order.invocation, Call)
                and self._enclosure.lacks_shell(ended)
            ):
                self._dialect = "python"
            else:
                return report, ended
            self._restart()
            self._usable = True
            self._say(order, stdin)
            if self._process is not None and self._process.was_stopped:
                # What was to stop it met the container before.
                self.kill()

    def outcome(self, report: Report, order: Order) -> Outcome:
        """What is known of a job that was told of to its end."""
        peak, oom_kills, cpu_s = report.peak_memory, report.oom_kills, report.cpu_s
        if not self._enclosure.counts_inside:
            peak, oom_kills, cpu_s = None, 0, None
        if (account := self._enclosure.account()) is not None:
            counters = account.counters()
            peak = counters.peak_memory or peak
            oom_kills = max(oom_kills, counters.oom_kills or 0)
            cpu_s = counters.cpu_s if counters.cpu_s is not None else cpu_s
        killed = oom_kills - self._oom_before
        self._oom_before = oom_kills
        used_s = None
        if cpu_s is not None:
            used_s, self._cpu_before_s = max(0.0, cpu_s - self._cpu_before_s), cpu_s
        # Where it cannot be counted anew, it was not above the highest of all jobs so far.
        is_bound = bool(peak) and (peak or 0) <= self._peak_before
        self._peak_before = max(self._peak_before, peak or 0)
        if report.left or killed or report.signal or not report.started:
            self._usable = False
        failure = self._lost_device(report) or _what_is_lacking(report, self._image_name(), order)
        exit_code, by_signal = report.exit_code, report.signal
        if isinstance(order.invocation, Call) and by_signal is None:
            exit_code, by_signal = _of_callable(exit_code)
        return Outcome(
            exit_code=exit_code if failure is None and by_signal is None else None,
            signal=by_signal,
            failure=failure,
            out_of_memory=killed > 0,
            cpu_s=used_s,
            peak_memory=peak or None,
            peak_memory_is_bound=is_bound,
        )

    def _lost_device(self, report: Report) -> Failure | None:
        if report.lacks is None:
            return None
        why = f"{report.lacks} is no device there"
        if not report.lacks.startswith("/"):
            why = f"nvidia-smi does not list {report.lacks} there"
        where = f"in the container of the image {self._image_name()} that {self._runtime} made"
        return lost(self._spec.devices, where, why)

    def explain(self, ended: EndedClient) -> Outcome:
        """Why the container did not live to tell of its job."""
        return self._enclosure.explain(ended)

    def terminate(self, directory: str) -> None:
        """Ask the job to end."""
        self._usable = False
        self._enclosure.terminate(directory, self._dialect)

    def kill(self) -> None:
        """Kill the container."""
        self._usable = False
        if self._client is not None:
            self._enclosure.kill()

    def _image_name(self) -> str:
        return "" if self._spec.image is None else self._spec.image.name

    @property
    def pid(self) -> int:
        """Of the client; 0 where there is none."""
        return 0 if self._client is None else self._client.popen.pid

    def _clear_scratch(self) -> bool:
        """Empty ``/tmp`` and ``/var/tmp``; whether all of it went."""
        try:
            for folder, target in SCRATCH_FOLDERS.items():
                Path(self._scratch, folder).chmod(0o1777)
                # What is mounted below has its mount points in there.
                kept = {
                    f"{self._scratch}/{folder}{mount.target.removeprefix(target)}"
                    for mount in self._spec.mounts
                    if mount.target.startswith(f"{target}/")
                }
                _empty(f"{self._scratch}/{folder}", kept)
        except OSError:
            return False
        return True


def _empty(folder: str, kept: Collection[str]) -> None:
    """Remove what is in the folder, but for what is kept and the way to it."""
    for entry in list(os.scandir(folder)):
        if entry.path in kept:
            continue
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)  # noqa: PTH108 - a DirEntry has the path as text
        elif any(path.startswith(f"{entry.path}/") for path in kept):
            _empty(entry.path, kept)
        else:
            shutil.rmtree(entry.path)


class _ServedProcess:
    """A job in a served container."""

    def __init__(self, container: ServedContainer, order: Order, stdin: str | None) -> None:
        self._container: Final = container
        self._order: Final = order
        self._stdin: Final = stdin
        self._made: Final = os.stat(order.directory)  # noqa: PTH116 - text
        self._lock: Final = threading.Lock()
        self._ended = False
        self.was_stopped = False
        self.was_clean = False

    @property
    def pid(self) -> int:
        return self._container.pid

    def wait(self) -> Outcome:
        try:
            report, ended = self._container.wait_for(self._order, self._stdin)
        except OSError as error:
            self._has_ended()
            return Outcome(failure=_not_started(error))
        # Not where a signal's exception ends the wait: then it is still to be abandoned.
        self._has_ended()
        if self._stdin is not None:
            self._in_folder(_remove_stdin)
        if ended is None:
            self.was_clean = not self.was_stopped
            return self._container.outcome(report, self._order)
        if self.was_stopped:
            return Outcome(signal=signal.SIGKILL)
        if ended.said:
            said = ended.said.encode("utf-8", "backslashreplace")
            self._in_folder(lambda folder: _write_engine_log(folder, said))
        return self._container.explain(ended)

    def _in_folder(self, action: Callable[[int], None]) -> None:
        """Do something in the attempt's folder, unless the job has put another one there."""
        with suppress(OSError):
            folder = os.open(self._order.directory, _FOLDER)
            try:
                if os.path.samestat(self._made, os.fstat(folder)):
                    action(folder)
            finally:
                os.close(folder)

    def terminate(self) -> None:
        with self._lock:
            if not self._ended:
                self.was_stopped = True
                self._container.terminate(self._order.directory)

    def kill(self) -> None:
        with self._lock:
            if not self._ended:
                self.was_stopped = True
                self._container.kill()

    def _has_ended(self) -> None:
        with self._lock:
            self._ended = True

    def abandon(self) -> None:
        """Kill it, unless somebody has waited until its end."""
        if not self._ended:
            self.kill()


def _remove_stdin(folder: int) -> None:
    os.unlink(_STDIN, dir_fd=folder)


def _write_engine_log(folder: int, said: bytes) -> None:
    with suppress(FileNotFoundError):
        os.unlink(ENGINE_LOG, dir_fd=folder)
    with os.fdopen(os.open(ENGINE_LOG, _NEW, 0o666, dir_fd=folder), "wb") as log:
        log.write(said)


def _not_started(error: OSError) -> Failure:
    return Failure(kind="environment", message=f"cannot start the container's client: {error}")


def _what_is_lacking(report: Report, image: str, order: Order) -> Failure | None:
    if report.refused is not None:
        return Failure(
            kind="environment",
            message=f"the shell of the image {image} does not let {report.refused} be set",
            hint="choose another name for the variable",
        )
    if report.lost:
        return Failure(
            kind="environment",
            message=f"the working directory {order.working_directory} is not there",
            hint="every machine that runs tasks must see the workflow's folder",
        )
    if report.missing:
        if isinstance(order.invocation, Call):
            message = f"the image {image} has no python3"
            hint = "a callable needs python3 in the image, and nothing else"
            return Failure(kind="not_started", message=message, hint=hint)
        program = order.invocation.argv[0]
        hint = "is it on the PATH of the image and the task?"
        if program == "bash":
            hint = "with 'arguments' a program is started without a shell"
        return Failure(
            kind="not_started", message=f"the image {image} has no program {program}", hint=hint
        )
    if not report.started:
        return Failure(
            kind="environment",
            message=f"the container cannot write the task's logs in {order.directory}",
            hint="may the user of the container write there, and is there room on the disk?",
        )
    return None


def _of_callable(exit_code: int | None) -> tuple[int | None, int | None]:
    """Exit code or signal, out of what a shell answers for either."""
    if exit_code is not None and exit_code > 128:  # noqa: PLR2004 - 128 and the signal's number
        with suppress(ValueError):
            # No shell stands between the interpreter and the one that serves.
            return None, signal.Signals(exit_code - 128)
    return exit_code, None


def _write_stdin(invocation: Invocation, directory: str) -> str | None:
    if not isinstance(invocation, Command) or invocation.stdin is None:
        return None
    path = f"{directory}/{_STDIN}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(invocation.stdin.encode("utf-8", "surrogateescape"))
    return path
