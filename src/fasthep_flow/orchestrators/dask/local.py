"""A Dask cluster on this machine, for as long as the run.

One worker process holds all processors of the machine, unless the options say otherwise: a
task is a process of its own, so the worker's threads only wait, and a task may ask for more
than one processor. Scheduler and workers talk TLS with keys of this run alone, since
whoever can speak to a Dask scheduler can run code as its user.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fasthep_flow.environments.host.scratch import mark_owned
from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Capacity, machine_capacity
from fasthep_flow.orchestrators.dask.dashboard import dashboard_link, plan_pages
from fasthep_flow.orchestrators.dask.engine import (
    TEMPORARY,
    abstract_resources,
    import_dask,
    scheduler_settings,
)
from fasthep_flow.orchestrators.options import check_options, whole_number

if TYPE_CHECKING:
    import distributed

__all__ = [
    "DASK_VARIABLES",
    "LocalDask",
    "check_local_options",
    "open_local_cluster",
    "worker_capacity",
]

_LOG: Final = logging.getLogger("fasthep_flow")
_THREADS_PER_CPU: Final = 16
"""Tasks that ask for a share of a processor run beside each other on it."""
DASK_VARIABLES: Final = ("PYTHONHASHSEED", "__DASK_PARENT_PID")
_OURS: Final = frozenset(
    {"asynchronous", "ip", "loop", "processes", "resources", "self", "services", "start"}
    | {"worker_class", "worker_services"}
)
"""What Dask takes and we decide."""


class LocalDask(NamedTuple):
    """A cluster on this machine.

    Args:
        cluster: Of Dask's.
        room: What all tasks may use together.
        worker: The most that one task may use.
        slots: How many tasks may run at once.
        dashboard: Where the scheduler shows what it does.
    """

    cluster: distributed.LocalCluster
    room: Capacity
    worker: Capacity
    slots: int
    dashboard: str | None

    def bury(self, _: str, address: str) -> str:
        """Kill a lost worker that is only stuck: its nanny starts another one in its place."""
        for nanny in list(self.cluster.workers.values()):
            if address and nanny.worker_address == address and nanny.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)
        return ""


def check_local_options(flow: FlowSpec, options: Mapping[str, Any], where: str = "") -> None:
    """Refuse what :func:`open_local_cluster` would refuse, before anything is started.

    Raises:
        OrchestratorUnavailable: Dask is missing, or an option is unknown or no number.
    """
    _, distributed = import_dask(flow)
    known = {
        parameter.name
        for kind in (distributed.LocalCluster, distributed.Nanny, distributed.Worker)
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    check_options(flow, options, known - _OURS, where)
    for name in ("n_workers", "threads_per_worker"):
        whole_number(flow, name, options, 1)


def worker_capacity(flow: FlowSpec, options: Mapping[str, Any]) -> Capacity:
    """The most that one task may use on a worker of :func:`open_local_cluster`."""
    machine = machine_capacity()
    cpus = machine.cpus / whole_number(flow, "n_workers", options, 1)
    if options.get("threads_per_worker") is not None:
        cpus = max(cpus, _threads(flow, options))
    # All workers are on this machine: memory and devices are any worker's to use, and the
    # gate in front of the cluster keeps the sum.
    return Capacity(max(cpus, 1), machine.memory, machine.gpus)


def _threads(flow: FlowSpec, options: Mapping[str, Any]) -> int:
    cpus = machine_capacity().cpus / whole_number(flow, "n_workers", options, 1)
    default = math.ceil(_THREADS_PER_CPU * cpus)
    return whole_number(flow, "threads_per_worker", options, default)


@contextmanager
def open_local_cluster(
    flow: FlowSpec, options: Mapping[str, Any], where: str = "", *, preload: str | None = None
) -> Iterator[LocalDask]:
    """A Dask cluster on this machine whose workers declare processors, memory and devices.

    Args:
        flow: For messages.
        options: Keyword arguments of :class:`distributed.LocalCluster`.
        where: For messages: how the options are reached.
        preload: A module that workers import at their start, besides ours.

    Raises:
        OrchestratorUnavailable: Dask is missing, an option is unknown, or it does not start.
    """
    check_local_options(flow, options, where)
    dask, distributed = import_dask(flow)
    machine = machine_capacity()
    workers = whole_number(flow, "n_workers", options, 1)
    worker = worker_capacity(flow, options)
    threads = _threads(flow, options)
    named = options.get("preload", [])
    preloads = [remote.__name__, *([preload] if preload else [])]
    pages = plan_pages(options)
    arguments: dict[str, Any] = {
        # A task's memory is its own process's: its runtime limits it.
        "memory_limit": 0,
        "death_timeout": 60,
        # That a worker was lost is told where its task is.
        "silence_logs": logging.CRITICAL,
        **options,
        "dashboard_address": pages.options["dashboard_address"] if pages.served else None,
        "security": (options["security"] if "security" in options else _can_encrypt(flow)) or None,
        "scheduler_kwargs": pages.options | options.get("scheduler_kwargs", {}),
        "n_workers": workers,
        "threads_per_worker": threads,
        "processes": True,
        "resources": abstract_resources(worker),
        "preload": [*preloads, *([named] if isinstance(named, str) else named)],
    }
    # Dask gives its workers variables of its own, and this process with them: tasks would
    # inherit a fixed hash seed and a single thread for numpy, on Dask alone.
    environment = {name: os.environ.get(name) for name in DASK_VARIABLES}
    settings = scheduler_settings(dask) | pages.settings
    settings |= {
        "distributed.nanny.environ": {},
        "distributed.nanny.pre-spawn-environ": {},
        remote.DASK_ENVIRONMENT: environment,
    }
    with _own_folder(dask) as folder:
        if folder is not None:
            settings[TEMPORARY] = folder
            arguments["local_directory"] = options.get("local_directory") or folder
        with dask.config.set(settings):
            try:
                with remote.interrupts_held():
                    cluster = distributed.LocalCluster(**arguments)
            except Exception as error:
                raise OrchestratorUnavailable(
                    f"{flow}: Dask did not start a cluster: {remote.words_of(error)}",
                    # A new process imports the script that its parent runs.
                    hint="a Python script runs workflows below `if __name__ == '__main__':`"
                    if "Nanny failed to start" in str(error)
                    else None,
                ) from error
            finally:
                remote.restore_environment(environment)
        room = Capacity(worker.cpus * workers, machine.memory, machine.gpus)
        try:
            with cluster:
                for nanny in cluster.workers.values():
                    # What it would set again whenever it has to restart its worker.
                    nanny.pre_spawn_env.clear()
                link = dashboard_link(pages, cluster.scheduler)
                yield LocalDask(cluster, room, worker, workers * threads, link)
        finally:
            remote.restore_environment(environment)


@contextmanager
def _own_folder(dask: Any) -> Iterator[str | None]:  # noqa: ANN401 - the package
    """Where Dask puts its files, unless its configuration says: it leaves one for the next run."""
    if dask.config.get(TEMPORARY, None) is not None:
        yield None
        return
    with TemporaryDirectory(prefix="fasthep-flow-dask-", ignore_cleanup_errors=True) as folder:
        # Where this process is killed, `fasthep-flow clean` knows whose it was.
        mark_owned(Path(folder))
        yield folder


def _can_encrypt(flow: FlowSpec) -> bool:
    if find_spec("cryptography") is not None:
        return True
    _LOG.warning(
        "%s: without the package cryptography, other users of this machine can reach the cluster",
        flow,
    )
    return False
