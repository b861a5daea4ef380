"""Processes of the host's: started, waited for, measured, and ended with all they started."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Final

from msgspec import Struct

from fasthep_flow.environments.host.launch import launch

if TYPE_CHECKING:
    import psutil

__all__ = [
    "Cookies",
    "Ended",
    "Spawned",
    "end_processes",
    "end_these",
    "folder_of",
    "open_log",
    "processes_of",
    "within",
]

_LINGER_S: Final = 1.0
"""How long what a program left behind may take to end by itself: ``> >(tee log)`` does."""

_PATIENCE_S: Final = 3.0
"""How long what outlived its driver may take to end when it is asked to."""

_LOG_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND
# Linux counts memory in KiB, the others in bytes.
_MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
_TASK_DIRECTORY: Final = "FASTHEP_TASK_DIRECTORY"


class Ended(Struct, frozen=True, kw_only=True):
    """How a process ended.

    Args:
        exit_code: ``None`` where a signal ended it.
        signal: The signal that ended it.
        cpu_s: Processor time of it and of the children that it waited for.
        peak_memory: Resident bytes of the largest of these.
        peak_memory_is_bound: Whether it was at most that, and no more is known.
    """

    exit_code: int | None
    signal: int | None
    cpu_s: float
    peak_memory: int
    peak_memory_is_bound: bool


def open_log(path: str) -> int:
    """A descriptor that appends to the log; the caller closes it."""
    return os.open(path, _LOG_FLAGS, 0o666)


class Spawned:
    """A running process that leads a session of its own.

    Without a terminal to ask at, a program that wants a password fails; in a background
    group of the terminal's session it would stop for ever.

    Args:
        argv: The program, looked for on the ``PATH`` of ``environment``, and its arguments.
        environment: The whole environment.
        working_directory: Absolute path.
        stdin: What it reads; ``None`` for nothing.
        stdout: Descriptor for its output.
        stderr: Descriptor for its messages.
        task_directory: Set in the environment of all that the task starts, by which what
            left the session is found again; ``None`` for a program that is no task.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        working_directory: str,
        stdin: IO[bytes] | None,
        stdout: int,
        stderr: int,
        task_directory: str | None = None,
    ) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        pid = launch(
            argv,
            environment=environment,
            working_directory=working_directory,
            stdin=None if stdin is None else stdin.fileno(),
            stdout=stdout,
            stderr=stderr,
        )
        if pid is None:
            # close_fds=False: Python's own descriptors are closed on exec anyway, and going
            # through all possible ones costs a third of the time that a start takes.
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=working_directory,
                env=environment,
                start_new_session=True,
                close_fds=False,
            )
            pid = self._popen.pid
        self.pid: Final = pid
        self._task_directory: Final = task_directory
        self._lock: Final = threading.Lock()
        self._ended = False
        self._stopped = False

    def wait(self) -> Ended:
        """Block until it ended and nothing of its session is left; to be called once."""
        if hasattr(os, "waitid"):
            # The process is left a zombie until no other thread can signal its number,
            # which may be anyone's once the process is reaped.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._ended = True
        _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if self._popen is not None:
            self._popen.returncode = code
        self._sweep()
        return Ended(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_memory=usage.ru_maxrss * _MAXRSS_UNIT,
            # Between its start and its exec a process shares the memory of this one, and the
            # kernel counts that as its own: a lower peak than ours cannot be told.
            peak_memory_is_bound=usage.ru_maxrss
            <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        )

    def terminate(self) -> None:
        """Ask all processes of the task's to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all processes of the task's."""
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        """Kill it and wait for it, unless somebody has waited until its end."""
        if not self._ended:
            self.kill()
            with contextlib.suppress(ChildProcessError):
                self.wait()

    def _signal(self, number: int) -> None:
        # What has left the group, as what GNU timeout runs does, is not reached through it.
        apart = [process for process in self._by_cookie() if _group_of(process.pid) != self.pid]
        with self._lock:
            self._stopped = True
            if not self._ended:
                self._signal_group(number)
        _signal_all(apart, number)

    def _signal_group(self, number: int) -> bool:
        """Whether there is such a group; its number is nobody else's while it has members."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _by_cookie(self) -> list[psutil.Process]:
        return [] if self._task_directory is None else processes_of(self._task_directory)

    def _left(self) -> list[psutil.Process]:
        """What is left once the leader has ended, but for zombies that nobody has reaped yet."""
        left = {process.pid: process for process in self._by_cookie()} if self._stopped else {}
        if self._signal_group(0):
            left.update((process.pid, process) for process in _members_of(self.pid))
        return list(left.values())

    def _sweep(self) -> None:
        """End what the program left behind, once that had the time to end by itself."""
        if not self._stopped and not self._signal_group(0):
            return
        killed = False
        until_s = time.monotonic() + _LINGER_S
        while left := self._left():
            if time.monotonic() > until_s:
                if killed:
                    return
                self._signal_group(signal.SIGKILL)
                _signal_all(left, signal.SIGKILL)
                killed = True
                until_s = time.monotonic() + _LINGER_S
            time.sleep(0.01)


def processes_of(*directories: str) -> list[psutil.Process]:
    """The user's processes that tasks started whose folders are these, or lie in one of them.

    They are known by their environment, which also a daemon that left its session and its
    parent keeps.
    """
    import psutil

    wanted = frozenset(directories)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if within(process.environ().get(_TASK_DIRECTORY, ""), wanted):
                found.append(process)
    return found


def folder_of(process: psutil.Process) -> str:
    """The folder of the task that started a process; empty if none did, or nobody can tell."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(_TASK_DIRECTORY, "")
    return ""


def within(folder: str, wanted: Container[str]) -> str:
    """The one of the folders that this is or lies in, the innermost; empty if there is none."""
    while folder and folder not in wanted:
        folder = folder.rpartition("/")[0]
    return folder


class Cookies:
    """The folders of the tasks that started processes; each process is asked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, float], str] = {}

    def folders(self, processes: Iterable[psutil.Process]) -> dict[psutil.Process, str]:
        """By process; empty where no task started it, or where that is not to be known."""
        import psutil

        found = {}
        known = {}
        for process in processes:
            with contextlib.suppress(psutil.Error, OSError):
                key = process.pid, process.create_time()
                folder, is_final = self._known.get(key, ""), key in self._known
                if not is_final:
                    folder, is_final = _cookie_of(process)
                found[process] = folder
                if is_final:
                    known[key] = folder
        self._known = known
        return found


def _cookie_of(process: psutil.Process) -> tuple[str, bool]:
    """The folder of the task that started it, and whether the answer will stay the same."""
    import psutil

    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return "", True
    # One that is just becoming another program has none for a moment.
    return environment.get(_TASK_DIRECTORY, ""), bool(environment)


def end_processes(*directories: str) -> int:
    """End the processes that :func:`processes_of` finds; how many there were."""
    found = [process for process in processes_of(*directories) if process.pid != os.getpid()]
    end_these(found)
    return len(found)


def end_these(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Have processes end, by asking them at first; those that are still there.

    Args:
        processes: That are nobody's any more.
    """
    left = list(processes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal_all(left, number)
        until_s = time.monotonic() + _PATIENCE_S
        while (left := [process for process in left if _lives(process)]) and (
            time.monotonic() < until_s
        ):
            time.sleep(0.01)
    return left


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal_all(processes: Sequence[psutil.Process], number: int) -> None:
    import psutil

    for process in processes:
        # psutil looks at the time of its start first: a number that is in use again is safe.
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _members_of(group: int) -> list[psutil.Process]:
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _group_of(process.pid) == group and _lives(process):
                found.append(process)
    return found


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return 0
