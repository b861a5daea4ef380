"""A task's process in a control group of its own."""

from __future__ import annotations

import os
import signal
from typing import Final

from fasthep_flow.environments import Outcome
from fasthep_flow.environments.host.spawn import Spawned, processes_of
from fasthep_flow.environments.host.starting import why_not_started
from fasthep_flow.environments.limits.cgroups import REPORT, Group, read_report
from fasthep_flow.model import Failure

__all__ = ["GroupedProcess"]

_NOT_STARTED: Final = 127
_LINGER_S: Final = 1.0
"""How long what a program left behind may take to end by itself."""


class GroupedProcess:
    """A process in a control group of its own.

    Args:
        spawned: The process, which may not have entered the group yet.
        group: The group.
        program: What it is to become.
        working_directory: Where.
        directory: The attempt's folder.
    """

    def __init__(
        self, spawned: Spawned, group: Group, program: str, working_directory: str, directory: str
    ) -> None:
        self._spawned: Final = spawned
        self._group: Final = group
        self._program: Final = program
        self._working_directory: Final = working_directory
        self._directory: Final = directory
        self._linger_s = _LINGER_S
        self.pid: Final = spawned.pid

    def wait(self) -> Outcome:
        """See :meth:`fasthep_flow.environments.Process.wait`."""
        ended = self._spawned.wait()
        self._group.end(self._linger_s)
        counted = self._group.counters()
        failure = None
        if ended.exit_code == _NOT_STARTED and (why := read_report(f"{self._directory}/{REPORT}")):
            failure = why_not_started(why.error, self._program, self._working_directory)
            if not why.entered:
                message = f"the process cannot enter its control group: {why.error.strerror}"
                failure = Failure(kind="environment", message=message)
        by_kernel = counted.peak_memory is not None
        return Outcome(
            exit_code=None if failure else ended.exit_code,
            signal=ended.signal,
            failure=failure,
            out_of_memory=bool(counted.oom_kills),
            cpu_s=ended.cpu_s if counted.cpu_s is None else counted.cpu_s,
            peak_memory=counted.peak_memory if by_kernel else ended.peak_memory,
            peak_memory_is_bound=ended.peak_memory_is_bound and not by_kernel,
        )

    def terminate(self) -> None:
        """See :meth:`fasthep_flow.environments.Process.terminate`."""
        self._linger_s = 0.0
        # What is found by its process group or its environment is not to be asked twice.
        known = {process.pid for process in processes_of(self._directory)}
        apart = {pid for pid in self._group.pids() - known if _group_of(pid) != self.pid}
        self._spawned.terminate()
        self._group.signal(signal.SIGTERM, only=apart)

    def kill(self) -> None:
        """See :meth:`fasthep_flow.environments.Process.kill`."""
        self._linger_s = 0.0
        self._spawned.kill()
        self._group.kill()


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0
