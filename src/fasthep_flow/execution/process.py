"""Limits on what runs: time, memory measured on the host, and being told to stop."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from fasthep_flow.environments import Process
from fasthep_flow.environments.host.spawn import Cookies, end_processes, within
from fasthep_flow.environments.limits.peaks import peak_memory

if TYPE_CHECKING:
    import psutil

__all__ = ["Held", "Verdict", "Watch", "end_daemons"]

Verdict: TypeAlias = Literal["timeout", "memory", "cancelled"]
"""Why the watch stopped a process."""

_CANCEL_FILE: Final = "cancel"
"""In the run's folder: its driver wants all tasks of the run to stop."""

_MEMORY_TICK_S: Final = 0.1
_KILL_AGAIN_S: Final = 2.0
"""A container that was not there yet when it was killed is there by now."""

_MOST_ROUNDS: Final = 10
_LOG: Final = logging.getLogger(__name__)


class Held:
    """A running process and what it is held to.

    ``verdict`` says why the watch stopped it; ``peak_memory`` is what was measured for a
    memory limit. Both are final once the watch has released it.
    """

    __slots__ = (
        "cancel_file",
        "deadline_s",
        "directory",
        "kill_s",
        "memory_limit",
        "peak_memory",
        "process",
        "verdict",
    )

    def __init__(
        self,
        process: Process,
        *,
        deadline_s: float | None,
        memory_limit: int | None,
        cancel_file: str | None,
        directory: str | None,
    ) -> None:
        self.process: Final = process
        self.directory: Final = directory
        self.deadline_s: Final = deadline_s
        self.memory_limit: Final = memory_limit
        self.cancel_file: Final = cancel_file
        self.peak_memory = 0
        self.verdict: Verdict | None = None
        self.kill_s: float | None = None

    def due_s(self, measure_s: float, poll_s: float) -> float:
        """When the watch has to look at it again."""
        if self.verdict is not None:
            return 0.0 if self.kill_s is None else self.kill_s
        due_s = math.inf if self.deadline_s is None else self.deadline_s
        if self.memory_limit is not None:
            due_s = min(due_s, measure_s)
        if self.cancel_file is not None:
            due_s = min(due_s, poll_s)
        return due_s


class Watch:
    """Stops what runs: at its time limit, over its memory, or all of it when told to.

    One of these serves all the tasks of a driver or of a worker. Its thread starts with
    the first task that needs it. To stop is to ask, to wait for ``grace_s``, and to kill.

    Args:
        grace_s: How long a process may take to end once it is asked to.
        cancel_file_poll_s: How often to look for a run's cancel file, for a worker that
            its driver cannot call; ``None`` where the driver calls :meth:`cancel`.
    """

    def __init__(self, *, grace_s: float = 10.0, cancel_file_poll_s: float | None = None) -> None:
        self._grace_s: Final = grace_s
        self._poll_s: Final = cancel_file_poll_s
        self._changed: Final = threading.Condition()
        self._held: set[Held] = set()
        self._thread: threading.Thread | None = None
        self._cancelled = False
        self._closed = False
        self._folders: set[str] = set()
        self._cookies: Final = Cookies()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop what still runs, wait until it has ended, and end the thread.

        Daemons that tasks left behind end too.
        """
        self.cancel()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        if self._folders:
            end_processes(*self._folders)
            self._folders.clear()

    def cancel(self) -> None:
        """Stop everything, and let nothing start any more; asked again, kill. Returns at once."""
        with self._changed:
            for held in self._held:
                if held.verdict is None:
                    held.verdict = "cancelled"
                elif self._cancelled and held.kill_s is not None:
                    held.kill_s = 0.0
            self._cancelled = True
            self._wake()

    def stopped(self, run_directory: str | None = None) -> bool:
        """Whether nothing may start any more: of any run, or of the one in this folder."""
        if self._cancelled:
            return True
        cancel_file = self._cancel_file(run_directory)
        return cancel_file is not None and os.path.exists(cancel_file)  # noqa: PTH110

    @contextmanager
    def over(
        self,
        process: Process,
        *,
        timeout_s: float | None = None,
        memory_limit: int | None = None,
        run_directory: str | None = None,
        directory: str | None = None,
    ) -> Iterator[Held]:
        """Hold a process to its limits for as long as the context lasts; see :meth:`hold`."""
        held = self.hold(
            process,
            timeout_s=timeout_s,
            memory_limit=memory_limit,
            run_directory=run_directory,
            directory=directory,
        )
        try:
            yield held
        finally:
            self.release(held)

    def hold(
        self,
        process: Process,
        *,
        timeout_s: float | None = None,
        memory_limit: int | None = None,
        run_directory: str | None = None,
        directory: str | None = None,
    ) -> Held:
        """Hold a process to its limits until it is released.

        Args:
            process: Is stopped at a limit; the caller waits for it.
            timeout_s: From now.
            memory_limit: Bytes that it and all that it started may have in memory together.
            run_directory: Absolute path of its run's folder.
            directory: Absolute path of its attempt's folder.
        """
        held = Held(
            process,
            deadline_s=None if timeout_s is None else time.monotonic() + timeout_s,
            memory_limit=memory_limit,
            cancel_file=self._cancel_file(run_directory),
            directory=directory,
        )
        with self._changed:
            if directory is not None:
                self._folders.add(directory)
            self._held.add(held)
            if self._cancelled:
                held.verdict = "cancelled"
            if held.due_s(0.0, 0.0) < math.inf:
                self._wake()
        return held

    def release(self, held: Held) -> None:
        """Say that a process has ended: its verdict is final."""
        with self._changed:
            self._held.discard(held)
            if self._closed:
                self._changed.notify_all()

    def _cancel_file(self, run_directory: str | None) -> str | None:
        if self._poll_s is None or run_directory is None:
            return None
        return f"{run_directory}/{_CANCEL_FILE}"

    def _wake(self) -> None:
        if self._thread is None and self._held:
            self._thread = threading.Thread(target=self._run, name="fasthep-watch", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        measure_s = poll_s = 0.0
        while True:
            with self._changed:
                now_s = time.monotonic()
                due_s = min((one.due_s(measure_s, poll_s) for one in self._held), default=math.inf)
                if due_s > now_s:
                    if self._closed and not self._held:
                        return
                    self._changed.wait(None if due_s == math.inf else due_s - now_s)
                    continue
                held = tuple(self._held)
            if now_s >= poll_s and self._poll_s is not None:
                self._look_for_cancel_files(held)
                poll_s = now_s + self._poll_s
            if now_s >= measure_s:
                self._measure([one for one in held if one.memory_limit is not None])
                took_s = time.monotonic() - now_s
                # On a machine with very many processes to go through, this is not to be
                # what the machine does.
                measure_s = now_s + max(_MEMORY_TICK_S, 10 * took_s)
            for one in held:
                self._step(one, now_s)

    def _step(self, held: Held, now_s: float) -> None:
        """Stop it, if there is a reason to."""
        if held.verdict is None and held.deadline_s is not None and now_s >= held.deadline_s:
            self._condemn(held, "timeout")
        with self._changed:
            if held.verdict is None or held not in self._held:
                return
            kill = held.verdict == "memory" or (held.kill_s is not None and now_s >= held.kill_s)
            if not kill and held.kill_s is not None:
                return
            held.kill_s = now_s + (_KILL_AGAIN_S if kill else self._grace_s)
        # What cannot be stopped must not keep the others from it.
        try:
            if kill:
                held.process.kill()
            else:
                held.process.terminate()
        except Exception:  # noqa: BLE001 - a plug-in's process may raise anything
            _LOG.exception("cannot stop process %s", held.process.pid)

    def _condemn(self, held: Held, verdict: Verdict) -> None:
        with self._changed:
            if held in self._held and held.verdict is None:
                held.verdict = verdict

    def _look_for_cancel_files(self, held: Sequence[Held]) -> None:
        for path in {one.cancel_file for one in held if one.cancel_file is not None}:
            if os.path.exists(path):  # noqa: PTH110 - twice a second for every run
                for one in held:
                    if one.cancel_file == path:
                        self._condemn(one, "cancelled")

    def _measure(self, held: Sequence[Held]) -> None:
        if not held:
            return
        for one, used in zip(held, memory_in_use(held, self._cookies), strict=True):
            # A height between two looks is not seen otherwise.
            one.peak_memory = max(one.peak_memory, used, peak_memory(one.process.pid))
            if one.memory_limit is not None and used > one.memory_limit:
                self._condemn(one, "memory")


def end_daemons(directory: str) -> int:
    """End what a task left running on this host though it has ended; how many processes.

    What stayed in its session has ended already: these have left it, as ``setsid`` has a program
    do. They are known by their environment.

    Args:
        directory: Absolute path of the attempt's folder.
    """
    ended = 0
    # What is to be ended may start others meanwhile.
    for _ in range(_MOST_ROUNDS):
        if not _has_daemons(directory) or not (found := end_processes(directory)):
            break
        ended += found
    return ended


def _has_daemons(directory: str) -> bool:
    """Whether a process may be left; a quick look, since mostly there is none."""
    mark = os.fsencode(directory)
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return True
    for name in names:
        if name.isdecimal():
            # Others' cannot be read, and one that has ended has none.
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb", 0) as file:  # noqa: PTH123
                if mark in file.read():
                    return True
    return False


def memory_in_use(held: Sequence[Held], cookies: Cookies) -> list[int]:
    """Bytes that each of the processes has in memory, with all that it started.

    Pages that several of them share count once where the system can tell.

    Args:
        held: The processes.
        cookies: Knows what has left the session and the parent by its environment.
    """
    import psutil  # only tasks with a limit are measured

    children: dict[int, list[psutil.Process]] = {}
    sessions: dict[int, list[psutil.Process]] = {one.process.pid: [] for one in held}
    apart: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            children.setdefault(process.ppid(), []).append(process)
            if (leader := os.getsid(process.pid)) in sessions:
                sessions[leader].append(process)
            else:
                apart.append(process)
    started = _by_folder({one.directory for one in held if one.directory}, apart, cookies)
    used = []
    for one in held:
        found = (*sessions[one.process.pid], *started.get(one.directory, ()))
        members = {process.pid: process for process in found}
        above = [one.process.pid, *members]
        while above:
            for process in children.get(above.pop(), ()):
                if process.pid not in members:
                    members[process.pid] = process
                    above.append(process.pid)
        resident = sum(map(_resident, members.values()))
        if one.memory_limit is not None and resident > one.memory_limit:
            resident = sum(map(_proportional, members.values()))
        used.append(resident)
    return used


def _by_folder(
    folders: set[str], processes: Sequence[psutil.Process], cookies: Cookies
) -> dict[str | None, list[psutil.Process]]:
    """Those of the processes that the tasks with these folders started, by folder."""
    started: dict[str | None, list[psutil.Process]] = {}
    if folders:
        for process, folder in cookies.folders(processes).items():
            if own := within(folder, folders):
                started.setdefault(own, []).append(process)
    return started


def _resident(process: psutil.Process) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    """The process's share of the memory: a page that n processes share is a n-th of a page."""
    import psutil

    try:
        memory = process.memory_full_info()
    except psutil.Error:
        return _resident(process)
    return int(getattr(memory, "pss", memory.uss))
