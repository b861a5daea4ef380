"""Prefect runs the tasks: the runners that the specification names.

A run of a workflow is one flow run of Prefect's, and every attempt of a task a task run in
it, whichever of the runners it is on. Prefect schedules, shows and records; the order of the
tasks, their retries and their results stay with the driver.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeAlias

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan
from fasthep_flow.orchestrators import RUNNERS, Orchestrator, TaskRunner, remote
from fasthep_flow.orchestrators.admission import Admission, Capacity, machine_capacity, shared_room
from fasthep_flow.orchestrators.dask.local import check_local_options, open_local_cluster
from fasthep_flow.orchestrators.options import check_options, whole_number
from fasthep_flow.orchestrators.runner import EngineRunner

if TYPE_CHECKING:
    from fasthep_flow.orchestrators.prefect.engines import Submitter
    from fasthep_flow.orchestrators.prefect.flow_run import FlowRun

__all__ = ["PREFECT", "PrefectOrchestrator", "import_deployment"]

_LOG: Final = logging.getLogger("fasthep_flow")
_DASK: Final = "DaskTaskRunner"
_THREADS_PER_CPU: Final = 16
"""Tasks that ask for a share of a processor run beside each other on it."""


class PrefectOrchestrator(Orchestrator):
    """Opens ``prefect::DaskTaskRunner`` and its kin.

    The option ``max_workers`` of the thread and process pools is the most tasks that run at
    once. Those of ``DaskTaskRunner`` are Prefect's: ``cluster_kwargs`` for a cluster on this
    machine, ``address`` or ``cluster_class`` for another.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._shared: Final[dict[int, _Shared]] = {}

    @property
    def runners(self) -> Sequence[str]:
        """See :attr:`fasthep_flow.orchestrators.Orchestrator.runners`."""
        return RUNNERS["prefect"]

    @contextmanager
    def open(self, flow: FlowSpec, plan: Plan, directory: Path) -> Iterator[TaskRunner]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        del directory
        if flow.runner not in RUNNERS["prefect"]:
            raise OrchestratorUnavailable(
                f"there is no runner {flow}", hint=f"known are {', '.join(RUNNERS['prefect'])}"
            )
        with _quiet_environment(), ExitStack() as stack:
            engines = _import_engines(flow)
            begin = _PREPARE.get(flow.runner, _prepare_pool)(flow)
            # Prefect's server and Dask's cluster take their time side by side.
            run = stack.enter_context(self._flow_run(plan))
            opener, gate, largest = begin(stack)
            runner = EngineRunner(
                engines.PrefectEngine(run, opener),
                gate,
                largest,
                place=f"a worker of {flow}",
                on_this_machine=largest is not None,
            )
            stack.callback(runner.close)
            yield runner

    @contextmanager
    def _flow_run(self, plan: Plan) -> Iterator[FlowRun]:
        """The plan's flow run: all its runners are opened in the same one."""
        from fasthep_flow.orchestrators.prefect.flow_run import open_flow_run

        with self._lock:
            shared = self._shared.get(id(plan))
            if shared is None:
                stack = ExitStack()
                run = stack.enter_context(open_flow_run(plan.name))
                shared = self._shared[id(plan)] = _Shared(plan, run, stack)
            shared.users += 1
        try:
            yield shared.run
        finally:
            with self._lock:
                shared.users -= 1
                if not shared.users:
                    del self._shared[id(plan)]
                    shared.stack.close()


@dataclass
class _Shared:
    """A flow run and how many runners are open in it."""

    plan: Plan  # held, so that no other plan is given its id
    run: FlowRun
    stack: ExitStack
    users: int = 0


_Begun: TypeAlias = "tuple[Callable[[], Submitter], Admission, Capacity | None]"
_Begin: TypeAlias = Callable[[ExitStack], _Begun]
"""Starts what the runner needs; its options are found to be right."""


def _prepare_pool(flow: FlowSpec) -> _Begin:
    from fasthep_flow.orchestrators.prefect.engines import Processes, Threads

    sequential = flow.runner == "SequentialTaskRunner"
    check_options(flow, flow.options, () if sequential else ("max_workers",))
    machine = machine_capacity()
    processes = flow.runner == "ProcessPoolTaskRunner"
    # A process that is ready to run Prefect's tasks takes memory and a second to start.
    default = int(machine.cpus) * (1 if processes else _THREADS_PER_CPU)
    workers = 1 if sequential else whole_number(flow, "max_workers", flow.options, default)
    cpus = max(machine.cpus, workers) if "max_workers" in flow.options else machine.cpus
    gate = Admission(shared_room(machine._replace(cpus=cpus)), workers)
    if sequential:
        _LOG.info("Prefect 3 has no SequentialTaskRunner: a pool of one thread serves")
    opener = partial(Processes if processes else Threads, workers)
    return lambda _: (opener, gate, machine)


def _prepare_dask(flow: FlowSpec) -> _Begin:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise OrchestratorUnavailable(
            f"{flow} needs prefect-dask, which cannot be imported: {error}",
            hint="pip install 'fasthep-flow[prefect]'",
        ) from error
    from fasthep_flow.orchestrators.prefect import worker
    from fasthep_flow.orchestrators.prefect.engines import DaskCluster

    options = dict(flow.options)
    check_options(flow, options, set(inspect.signature(DaskTaskRunner).parameters) - {"cluster"})
    if options.get("address") or options.get("cluster_class"):
        # Somebody else's cluster: what its workers have is not ours to say.
        foreign = partial(DaskCluster, flow, options, own=False)
        return lambda _: (foreign, Admission(None, None), None)
    cluster_options = options.pop("cluster_kwargs", None) or {}
    if not isinstance(cluster_options, Mapping):
        raise OrchestratorUnavailable(f"cluster_kwargs of {flow} is not a mapping")
    where = " in cluster_kwargs"
    check_local_options(flow, cluster_options, where)

    def begin(stack: ExitStack) -> _Begun:
        local = stack.enter_context(
            open_local_cluster(flow, cluster_options, where, preload=worker.__name__)
        )
        own = partial(DaskCluster, flow, options | {"cluster": local.cluster}, own=True)
        return own, Admission(shared_room(local.room), local.slots), local.worker

    return begin


def _prepare_ray(flow: FlowSpec) -> _Begin:
    try:
        from fasthep_flow.orchestrators.prefect.ray import RayCluster, check_ray_options
    except ImportError as error:
        raise OrchestratorUnavailable(
            f"{flow} needs Ray, which cannot be imported: {remote.words_of(error)}",
            hint="pip install 'fasthep-flow[ray]'",
        ) from error
    check_options(flow, flow.options, ("address", "init_kwargs"))
    init = check_ray_options(flow, flow.options)
    address = flow.options.get("address")
    machine = machine_capacity()
    cpus = whole_number(flow, "num_cpus", init, max(1, int(machine.cpus)))
    opener = partial(RayCluster, flow, address, init, cpus)
    if address:
        return lambda _: (opener, Admission(None, None), None)
    room = machine._replace(cpus=max(machine.cpus, cpus)) if "num_cpus" in init else machine
    gate = Admission(shared_room(room), cpus)
    return lambda _: (opener, gate, room)


_PREPARE: Final[Mapping[str, Callable[[FlowSpec], _Begin]]] = {
    _DASK: _prepare_dask,
    "RayTaskRunner": _prepare_ray,
}


@contextmanager
def _quiet_environment() -> Iterator[None]:
    """Tell Prefect, here and in its processes, to report to nobody, unless the user did."""
    names = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    missing = {} if names.keys() & os.environ.keys() else names
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def import_deployment(flow: FlowSpec) -> ModuleType:
    """The module :mod:`fasthep_flow.orchestrators.prefect.deployment`.

    Raises:
        OrchestratorUnavailable: Prefect is missing.
    """
    return _import_room(flow, "deployment")


def _import_engines(flow: FlowSpec) -> ModuleType:
    engines = _import_room(flow, "engines")
    from prefect.context import FlowRunContext

    # Whoever runs a flow of Prefect's wants to hear of it what Prefect says.
    if FlowRunContext.get() is None:
        from fasthep_flow.orchestrators.prefect.worker import quieten

        quieten()
    return engines


def _import_room(flow: FlowSpec, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise OrchestratorUnavailable(
            f"{flow} needs Prefect, which cannot be imported: {remote.words_of(error)}",
            hint="pip install 'fasthep-flow[prefect]', which keeps fastapi below 0.150",
        ) from error


PREFECT: Final = PrefectOrchestrator()
