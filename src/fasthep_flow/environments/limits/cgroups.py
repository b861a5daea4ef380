"""Control groups of our own: the kernel holds what is in one to limits, and counts what it uses.

A group lies below the one that this process is in, so that the limits of a batch slot hold
above it. What starts in a group stays in it, also what leaves its session, its parent and its
environment behind: so a group tells what belongs to a task, and all of it can be ended.

Version 1 and version 2 of the kernel's interface are spoken; which of them has a controller,
the kernel says. A group of version 2 has processes or groups below it, not both. So where
this process's own group is to have groups, this process moves to one of them, and so do its
ancestors, its descendants and others of its session that are in the group; they stay there.
Where there are still others, there are no groups: we move what is ours alone. See
``cgroups(7)``, and in the kernel's documentation ``admin-guide/cgroup-v1`` and
``admin-guide/cgroup-v2``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from fasthep_flow.environments.host.owner import is_gone, owner_labels
from fasthep_flow.environments.host.reading import read_whole
from fasthep_flow.environments.host.scratch import scratch_folder
from fasthep_flow.environments.limits.accounts import Account, Counters
from fasthep_flow.environments.limits.cgroupfs import (
    PERIOD_US,
    folders_of,
    groups_below,
    make_group,
    mounts,
    oom_event,
    pids_below,
    remove_tree,
    room_below,
    set_limit,
    write,
)
from fasthep_flow.environments.limits.enforcement import Limit

__all__ = [
    "GROUPS",
    "LEAST_CPUS",
    "Account",
    "ControlGroups",
    "Counters",
    "Group",
    "NotStarted",
    "read_report",
]

_LIMITS: Final[tuple[Limit, ...]] = ("memory", "cpus")
REPORT: Final = "not-started"
"""In an attempt's folder: why its program did not start in its group."""

LEAST_CPUS: Final = 0.01
"""The kernel hands out no less than 1 ms, and that every 100 ms."""

_NAME: Final = re.compile(r"fasthep-(\d*)-(\d+)-(\d*)-\d+-[^/]*")
"""Whose a group is: the space of process numbers, the number, and when that process started."""

_SPACE: Final = re.compile(r"\[(\d+)\]$")
_ODD: Final = re.compile(r"[^A-Za-z0-9_-]+")
_LARGEST_REPORT: Final = 2**16
_COUNT: Final = itertools.count(1)
_PATIENCE_S: Final = 10.0
_TICK_S: Final = 0.005
_ENTER: Final = f"{os.path.dirname(__file__)}/enter.py"  # noqa: PTH120
_LOG: Final = logging.getLogger(__name__)


class NotStarted(Struct, frozen=True, kw_only=True):
    """Why a program did not start in a group.

    Args:
        entered: Whether its process had come into the group.
        error: What the kernel said to the next step.
    """

    entered: bool
    error: OSError


class Group(Account):
    """A group of our own; see :meth:`ControlGroups.group`.

    When there is no memory left in it, all of its processes end: what goes on without one of
    them goes wrong later, and holds on to what others wait for. The kernel sees to that in
    version 2, a thread in version 1.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        super().__init__(folders)
        self._oom: int | None = None
        self._removed = False
        self._thread: threading.Thread | None = None
        if (memory := self._folders.get("memory")) is not None:
            self._oom = oom_event(memory)
        if self._oom is not None:
            self._thread = threading.Thread(
                target=self._kill_on_oom, args=(self._oom,), name="fasthep-oom", daemon=True
            )
            self._thread.start()

    def _kill_on_oom(self, event: int) -> None:
        os.eventfd_read(event)
        until_s = time.monotonic() + _PATIENCE_S
        # It is told before the kernel chooses what to kill, and is to be counted as the kernel's.
        while not self._removed and not self.counters().oom_kills:
            if time.monotonic() > until_s:
                break
            time.sleep(_TICK_S)
        if not self._removed:
            self.kill()

    def enter_argv(self, argv: Sequence[str], report: str) -> list[str]:
        """The words that start the program in the group, from its first instruction on.

        The program keeps the number of the process that these words start, its environment,
        its folder and its files. What it takes: about 8 ms.

        Args:
            argv: The program, looked for on the ``PATH``, and its arguments.
            report: Path of a file to be; it is there once the program could not be started
                (then the exit code is 127), and :func:`read_report` says why.
        """
        files = [f"{folder}/cgroup.procs" for folder in self._own()]
        # What the environment says to Python is meant for the program. UTF-8 keeps all bytes.
        python = (sys.executable, "-I", "-S", "-X", "utf8", _ENTER)
        return [*python, report, str(len(files)), *files, *argv]

    def pids(self) -> set[int]:
        """The processes in it, and in groups that they made below it."""
        found: set[int] = set()
        return found.union(*(pids_below(folder) for folder in self._own()))

    def signal(self, number: int, only: Collection[int] | None = None) -> None:
        """Send its processes a signal; returns at once.

        Args:
            number: Of the signal.
            only: The numbers of those that get it; all of them by default.
        """
        with contextlib.ExitStack() as opened:
            descriptors = {}
            wanted = (self.pids() if only is None else set(only)) - {0}
            for pid in wanted:
                # They may not be had (gVisor, Linux before 5.3): then numbers have to do.
                with contextlib.suppress(OSError):
                    descriptors[pid] = os.pidfd_open(pid)
                    opened.callback(os.close, descriptors[pid])
            # One that is still in the group is the one that the descriptor stands for.
            for pid in self.pids().intersection(wanted):
                with contextlib.suppress(OSError):
                    if pid in descriptors:
                        signal.pidfd_send_signal(descriptors[pid], number)
                    else:
                        os.kill(pid, number)

    def kill(self) -> None:
        """End all of its processes; returns at once."""
        for folder in self._own():
            with contextlib.suppress(OSError):
                write(f"{folder}/cgroup.kill", "1")
                return
        self.signal(signal.SIGKILL)

    def end(self, linger_s: float = 0.0) -> bool:
        """Kill what is left and wait until it has ended; whether nothing is left.

        Args:
            linger_s: How long that may take to end by itself.
        """
        kill_s = time.monotonic() + linger_s
        until_s = kill_s + _PATIENCE_S
        while self.pids():
            now_s = time.monotonic()
            if now_s > until_s:
                return False
            if now_s >= kill_s:
                self.kill()
            time.sleep(_TICK_S)
        return True

    def remove(self) -> None:
        """End what is in it, and let it be no more."""
        self.close()
        self._removed = True
        if self._oom is not None and self._thread is not None:
            os.eventfd_write(self._oom, 1)
            self._thread.join()
            os.close(self._oom)
        if not self.end():
            _LOG.warning("processes %s do not end, though they are killed", sorted(self.pids()))
        for folder in self._own():
            try:
                remove_tree(folder)
            except OSError as error:
                _LOG.warning("cannot remove the control group %s: %s", folder, error.strerror)

    def _own(self) -> list[str]:
        return list(dict.fromkeys(self._folders.values()))


class ControlGroups:
    """The control groups of this machine, as far as this process may have its own.

    Args:
        proc: Where the kernel tells of processes.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc: Final = proc
        self._lock: Final = threading.Lock()
        self._obstacles: dict[Limit, str] | None = None

    def available(self) -> frozenset[Limit]:
        """The limits that a group of our own can hold here.

        Found out by making one and starting a process in it, once in a process. What dead
        owners left behind is removed on that occasion.
        """
        return frozenset(_LIMITS) - self._tried().keys()

    def why_not(self, limit: Limit) -> str | None:
        """Why no group of our own can hold the limit; ``None`` where one can."""
        return self._tried().get(limit)

    @contextmanager
    def group(
        self, name: str, *, memory: int | None = None, cpus: float | None = None
    ) -> Iterator[Group]:
        """A group below this process's own; it ends with the context, and all that is in it.

        Args:
            name: Something to know it by.
            memory: Bytes that its processes may use together, swap included.
            cpus: How many processors' time they may use together.

        Raises:
            OSError: There can be none.
        """
        settings: dict[str, int] = {}
        if memory is not None:
            settings["memory"] = memory
        if cpus is not None:
            settings["cpu"] = round(max(cpus, LEAST_CPUS) * PERIOD_US)
        group = Group(self._make(_full_name(name), settings))
        try:
            yield group
        finally:
            group.remove()

    def of_process(self, pid: int) -> Account:
        """What the kernel counts of a process's groups; nothing where it does not show them.

        Args:
            pid: Its number here. When it has ended, its groups are still the ones looked at.
        """
        with contextlib.suppress(OSError, ValueError):
            return Account(folders_of(str(pid), self._proc))
        return Account({})

    def leftovers(self) -> dict[str, Group]:
        """The groups of this user's whose owners are gone, by their folders."""
        labels = owner_labels()
        found = {}
        with contextlib.suppress(OSError):
            for top in dict.fromkeys(mount.point for mount in mounts(self._proc)):
                for folder in groups_below(top):
                    name = _NAME.fullmatch(folder.rpartition("/")[2])
                    if name is None or name[1] != _space(labels):
                        continue
                    owner = {**labels, "fasthep.pid": name[2], "fasthep.started": name[3]}
                    group = Group({"": folder})
                    if is_gone(owner) and _is_own(folder) and os.getpid() not in group.pids():
                        found[folder] = group
        return found

    def remove_leftovers(self) -> int:
        """End and remove what :meth:`leftovers` finds; how many there were."""
        found = self.leftovers()
        for group in found.values():
            group.remove()
        return len(found)

    def _tried(self) -> dict[Limit, str]:
        with self._lock:
            if self._obstacles is None:
                self.remove_leftovers()
                self._obstacles = {}
                for limit in _LIMITS:
                    try:
                        self._try(limit)
                    except OSError as error:
                        self._obstacles[limit] = error.strerror or str(error)
            return self._obstacles

    def _try(self, limit: Limit) -> None:
        memory, cpus = (2**30, None) if limit == "memory" else (None, 1.0)
        with (
            scratch_folder() as folder,
            self.group("trial", memory=memory, cpus=cpus) as group,
        ):
            report = f"{folder}/report"
            subprocess.run(
                group.enter_argv(["/bin/sh", "-c", ":"], report),
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if (failed := read_report(report)) is not None:
                raise failed.error

    def _make(self, name: str, settings: Mapping[str, int]) -> dict[str, str]:
        """The folders of a new group, by controller.

        Raises:
            OSError: It cannot be made, or not be given the limits.
        """
        above = folders_of("self", self._proc)
        made: dict[str, str] = {}
        try:
            for controller, value in settings.items():
                parent = room_below(above, controller)
                folder = f"{parent}/{name}"
                if folder not in made.values():
                    make_group(folder)
                made[controller] = folder
                set_limit(folder, controller, value)
                if above.get("cpuacct") == parent:
                    made["cpuacct"] = folder
        except BaseException:
            for folder in made.values():
                with contextlib.suppress(OSError):
                    remove_tree(folder)
            raise
        return made


def read_report(report: str) -> NotStarted | None:
    """Why a program did not start in a group; ``None`` where it did.

    Args:
        report: The path that was given to :meth:`Group.enter_argv`; the file is removed.
    """
    try:
        # A task may have put anything there.
        said = read_whole(report, _LARGEST_REPORT).decode("utf-8", "backslashreplace")
        step, _, text = said.partition(" ")
        os.unlink(report)  # noqa: PTH108 - strings throughout
    except OSError:
        return None
    code = int(text) if text.isdecimal() else 0
    return NotStarted(entered=step == "start", error=OSError(code, os.strerror(code)))


def _full_name(name: str) -> str:
    labels = owner_labels()
    owner = f"{_space(labels)}-{labels['fasthep.pid']}-{labels['fasthep.started']}"
    return f"fasthep-{owner}-{next(_COUNT)}-{_ODD.sub('-', name)[:40]}"


def _space(labels: Mapping[str, str]) -> str:
    """Where process numbers mean the same; a machine that starts anew has no groups yet."""
    found = _SPACE.search(labels["fasthep.space"])
    return found[1] if found else ""


def _is_own(folder: str) -> bool:
    with contextlib.suppress(OSError):
        return os.stat(folder).st_uid == os.geteuid()  # noqa: PTH116
    return False


GROUPS: Final = ControlGroups()
"""Of this machine."""
