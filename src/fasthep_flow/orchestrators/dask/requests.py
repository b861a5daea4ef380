"""What is asked of a batch system for a worker: as large as the tasks that it is to run.

Options of dask-jobqueue pass through as they are, and so does what its configuration file says.
With ``cores`` or ``memory`` among them all tasks that fit share workers of that size. A task that
does not, and every task where neither is given, gets workers that are as large as it is, with some
memory for the worker itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fasthep_flow.errors import LimitUnenforceable, OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators import ALIASES
from fasthep_flow.orchestrators.admission import Capacity, demand_of
from fasthep_flow.orchestrators.dask.directives import (
    command_extra,
    said_sizes,
    said_time_s,
    seconds_of,
    why_refused,
)

__all__ = ["WORKER_MEMORY", "Request", "Sizes"]

WORKER_MEMORY: Final = 512 * 2**20
"""Asked for besides a task's memory: a worker takes some 200 MiB, its containers' clients more."""
_LEAST_SPARE_S: Final = 60.0
_SPARE_S: Final = 300.0
"""Asked for besides a task's walltime: the worker has to start, and the task to end."""
_THREADS_PER_CPU: Final = 16
"""Tasks that ask for a share of a processor run beside each other on it."""


class Request(NamedTuple):
    """A size of worker.

    Args:
        cpus: Processors.
        memory: Bytes; ``None`` leaves it to the site.
        gpus: Devices.
        walltime_s: Seconds that the job may last; ``None`` leaves it to the site.
        room: What the tasks on it may use together.
        threads: How many tasks it may run at once.
        processes: Workers in the job; each has an equal share of it.
    """

    cpus: int
    memory: int | None
    gpus: int
    walltime_s: float | None
    room: Capacity
    threads: int
    processes: int = 1

    @property
    def share(self) -> Capacity:
        """What one task may have at most: a task is of one worker."""
        return Capacity(*(amount / self.processes for amount in self.room))

    def __str__(self) -> str:
        """For people: ``2 cpus, 8.5Gi memory``."""
        return str(Capacity(self.cpus, self.memory or 0, self.gpus))


class Sizes:
    """Which size of worker a task gets.

    Args:
        flow: For messages.
        options: With ``cores``, ``memory``, ``processes`` and ``walltime`` as dask-jobqueue
            takes them.

    Raises:
        OrchestratorUnavailable: One of these cannot be read, or another one cannot be had.

    Attributes:
        shared: The size of workers that tasks share; ``None`` where each gets its own.
        extra: What the commands that ask for jobs, and cancel them, have to be told besides.
    """

    def __init__(self, flow: FlowSpec, options: Mapping[str, Any]) -> None:
        self._flow: Final = flow
        given = self._given = _configured(flow, options) | _said(options)
        if (reason := why_refused(given)) is not None:
            raise OrchestratorUnavailable(f"{flow}: {reason}")
        self.extra: Final = command_extra(given)
        self._walltime_s: Final = said_time_s(given) or _walltime(flow, given.get("walltime"))
        cores = _count(flow, "cores", given)
        processes = _count(flow, "processes", given)
        memory = given.get("memory")
        self.shared: Final = (
            None
            if cores is None and memory is None
            else _shared(cores or 1, _memory(flow, memory), self._walltime_s, processes or 1)
        )

    def request(self, resources: Resources, label: str) -> Request:
        """The worker that a task gets.

        Args:
            resources: What the task asks for.
            label: Its name.

        Raises:
            LimitUnenforceable: It asks for more time than a worker has, or an option says that
                the worker's job is to be smaller than that.
        """
        request = self._request(resources, label)
        self._require_said(request, label)
        return request

    def _request(self, resources: Resources, label: str) -> Request:
        demand = demand_of(resources)
        needed_s = None if resources.walltime_s is None else resources.walltime_s + _SPARE_S
        asked_s = resources.walltime_s
        if asked_s and self._walltime_s and asked_s + _LEAST_SPARE_S > self._walltime_s:
            raise LimitUnenforceable(
                f"task {label!r} asks for {asked_s:g} s, and the walltime of "
                f"{self._flow} is {self._walltime_s:g} s",
                hint="leave some minutes for the worker itself, or leave the option out: then "
                "each task's own walltime is asked for",
            )
        shared = self.shared
        if shared is not None and shared.share.holds(demand):
            return shared
        cpus = max(1, math.ceil(demand.cpus))
        memory = int(demand.memory) + WORKER_MEMORY if demand.memory else None
        return Request(
            cpus,
            memory,
            int(demand.gpus),
            self._walltime_s if self._walltime_s is not None else needed_s,
            demand,
            1,
        )

    def _require_said(self, request: Request, label: str) -> None:
        """Refuse a job that the options make smaller than the worker that it is for."""
        wanted = Capacity(request.cpus, request.memory or 0, request.gpus)
        system = ALIASES["dask"].get(self._flow.runner, self._flow.runner)
        for amount, where, value in said_sizes(system, self._given, wanted):
            need: float = getattr(wanted, amount)
            if value is not None and value >= need:
                continue
            if not need or (request is self.shared and where.startswith("job_directives_skip")):
                # How large a job is that nothing is asked for is what cores and memory say.
                continue
            why = "asks for less" if value is not None else "cannot be compared with that"
            raise LimitUnenforceable(
                f"task {label!r} needs a worker of {request}, and what {self._flow} is told "
                f"{why}: {where}",
                hint=_hint(where),
            )


def _hint(where: str) -> str:
    if where.startswith("job_directives_skip"):
        return "say with cores and memory how large a job is of which this is not asked"
    return "leave it out of the options, and each task gets what it asks for; or say more there"


def _configured(flow: FlowSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the user's and the site's files of Dask's configuration say; no default of Dask's."""
    import dask.config

    section = options.get("config_name") or ALIASES["dask"].get(flow.runner, flow.runner)
    found = dask.config.get(
        f"jobqueue.{section}", {}, config=dask.config.collect(dask.config.paths)
    )
    return _said(found or {})


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    # A file of Dask's may write job-mem.
    return {key.replace("-", "_"): value for key, value in options.items() if value is not None}


def _count(flow: FlowSpec, name: str, given: Mapping[str, Any]) -> int | None:
    value = given.get(name)
    if value is not None and not (type(value) is int and value >= 1):
        raise OrchestratorUnavailable(f"{name} of {flow} is {value!r}: it is a whole number")
    return value


def _shared(cores: int, memory: int | None, walltime_s: float | None, processes: int) -> Request:
    usable = 0 if memory is None else max(memory - processes * WORKER_MEMORY, 0)
    threads = cores * _THREADS_PER_CPU
    return Request(cores, memory, 0, walltime_s, Capacity(cores, usable, 0), threads, processes)


def _memory(flow: FlowSpec, value: Any) -> int | None:  # noqa: ANN401 - what a file says
    if value is None:
        return None
    from dask.utils import parse_bytes

    try:
        # As dask-jobqueue reads it: 24GB, 24GiB; and as Kubernetes writes it: 24Gi.
        read: int = parse_bytes(re.sub(r"(?<=\d)([kKMGTP]i?)$", r"\1B", str(value).strip()))
    except ValueError:
        raise OrchestratorUnavailable(
            f"memory of {flow} is {value!r}: it is an amount such as 8Gi or 8GB"
        ) from None
    return read


def _walltime(flow: FlowSpec, value: Any) -> float | None:  # noqa: ANN401 - what a file says
    if value is None:
        return None
    seconds = seconds_of(str(value))
    if seconds is None:
        raise OrchestratorUnavailable(
            f"walltime of {flow} is {value!r}: it is written as 02:30:00 or 1-12:00:00"
        )
    return seconds
