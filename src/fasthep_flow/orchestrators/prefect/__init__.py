"""Prefect runs the tasks: the runners that the specification names.

A run of a workflow is one flow run of Prefect's, and every attempt of a task a task run in
it, whichever of the runners it is on. Prefect schedules, shows and records; the order of the
tasks, their retries and their results stay with the driver.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan, Resources
from fasthep_flow.orchestrators import RUNNERS, Orchestrator, TaskRunner, remote
from fasthep_flow.orchestrators.admission import (
    Admission,
    Capacity,
    demand_of,
    machine_capacity,
    require_room,
    shared_room,
)
from fasthep_flow.orchestrators.options import check_options, whole_number
from fasthep_flow.orchestrators.runner import ALLOWED_FAILURES, EngineRunner
from fasthep_flow.orchestrators.signatures import is_installed, read_parameters

if TYPE_CHECKING:
    from fasthep_flow.orchestrators.prefect.flow_run import FlowRun

__all__ = ["PREFECT", "PrefectOrchestrator", "import_deployment"]

_LOG: Final = logging.getLogger("fasthep_flow")
_DASK: Final = "DaskTaskRunner"
_RAY: Final = "RayTaskRunner"
_RAY_MODE: Final = "RAY_CLIENT_MODE"
"""What Ray sets when it is imported: tasks would inherit it."""
_INSIDE: Final = " in cluster_kwargs"
_TARGETS: Final[Mapping[str, str]] = {
    _DASK: "prefect_dask.task_runners:DaskTaskRunner",
    _RAY: "prefect_ray.task_runners:RayTaskRunner",
}
_POOLS: Final[Mapping[str, frozenset[str]]] = {
    "SequentialTaskRunner": frozenset(),
    "ConcurrentTaskRunner": frozenset({"max_workers"}),
    "ThreadPoolTaskRunner": frozenset({"max_workers"}),
    "ProcessPoolTaskRunner": frozenset({"max_workers", "allowed_failures"}),
}
_THREADS_PER_CPU: Final = 16
"""Tasks that ask for a share of a processor run beside each other on it."""


class PrefectOrchestrator(Orchestrator):
    """Opens ``prefect::DaskTaskRunner`` and its kin.

    The option ``max_workers`` of the thread and process pools is the most tasks that run at
    once. Those of ``DaskTaskRunner`` are Prefect's: ``cluster_kwargs`` for a cluster on this
    machine, ``address`` or ``cluster_class`` for another; so are those of ``RayTaskRunner``:
    ``address`` and ``init_kwargs``. Where workers can be lost, ``allowed_failures`` says how
    often a task is started again because of that.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._shared: Final[dict[int, _Shared]] = {}

    @property
    def runners(self) -> Sequence[str]:
        """See :attr:`fasthep_flow.orchestrators.Orchestrator.runners`."""
        return RUNNERS["prefect"]

    def options(self, runner: str) -> frozenset[str] | None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.options`."""
        ours = frozenset({"allowed_failures"})
        if runner in {_DASK, _RAY}:
            known = read_parameters(_TARGETS[runner])
            return None if known is None else (known | ours) - {"cluster"}
        return _POOLS.get(runner)

    def why_not(self, flow: FlowSpec) -> str | None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.why_not`."""
        more = {_DASK: ("prefect_dask",), _RAY: ("prefect_ray", "ray")}
        extra = "ray" if flow.runner == _RAY else "prefect"
        for package in ("prefect", *more.get(flow.runner, ())):
            if not is_installed(package):
                name = package.replace("_", "-")
                return f"the package {name} is not installed: pip install 'fasthep-flow[{extra}]'"
        cluster = flow.options.get("cluster_class")
        if isinstance(cluster, str) and not is_installed(cluster):
            package = cluster.partition(".")[0]
            return f"there is no package {package}, of the option cluster_class"
        return None

    def is_elsewhere(self, flow: FlowSpec) -> bool:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.is_elsewhere`."""
        return bool(flow.options.get("address") or flow.options.get("cluster_class"))

    def require(self, flow: FlowSpec, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.require`."""
        options = flow.options
        if options.get("address") or options.get("cluster_class"):
            # What its workers have is theirs to say.
            return
        room = machine_capacity()
        if flow.runner == _DASK:
            from fasthep_flow.orchestrators.dask.local import worker_capacity

            room = worker_capacity(flow, _mapping(flow, "cluster_kwargs"))
        require_room(f"a worker of {flow}", room, demand_of(resources), label)

    @contextmanager
    def open(self, flow: FlowSpec, plan: Plan, directory: Path) -> Iterator[TaskRunner]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        if flow.runner not in RUNNERS["prefect"]:
            raise OrchestratorUnavailable(
                f"there is no runner {flow}", hint=f"known are {', '.join(RUNNERS['prefect'])}"
            )
        with _quiet_environment(), ExitStack() as stack:
            _import_engines(flow)
            known = self.options(flow.runner)
            if known is not None:
                check_options(flow, flow.options, known)
            whole_number(flow, "allowed_failures", flow.options, ALLOWED_FAILURES, least=0)
            prepare = {_DASK: _prepare_dask, _RAY: _prepare_ray}.get(flow.runner, _prepare_pool)
            begin = prepare(flow, directory)
            # Prefect's server and Dask's cluster take their time side by side.
            run = stack.enter_context(self._flow_run(plan))
            runner = begin(stack, run)
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


_Begin: TypeAlias = "Callable[[ExitStack, FlowRun], EngineRunner]"
"""Starts what the runner needs; its options are found to be right."""


def _prepare_pool(flow: FlowSpec, directory: Path) -> _Begin:
    from fasthep_flow.orchestrators.prefect.engines import PrefectEngine, Processes, Threads

    del directory
    sequential = flow.runner == "SequentialTaskRunner"
    machine = machine_capacity()
    processes = flow.runner == "ProcessPoolTaskRunner"
    # A process that is ready to run Prefect's tasks takes memory and a second to start.
    default = int(machine.cpus) * (1 if processes else _THREADS_PER_CPU)
    workers = 1 if sequential else whole_number(flow, "max_workers", flow.options, default)
    room = _widened(machine, flow.options.get("max_workers"))
    if sequential:
        _LOG.info("Prefect 3 has no SequentialTaskRunner: a pool of one thread serves")

    def begin(_: ExitStack, run: FlowRun) -> EngineRunner:
        return EngineRunner(
            PrefectEngine(run, partial(Processes if processes else Threads, workers)),
            Admission(shared_room(room), workers),
            machine,
            place=f"a worker of {flow}",
            on_this_machine=True,
            allowed_failures=_allowed_failures(flow),
        )

    return begin


def _prepare_dask(flow: FlowSpec, directory: Path) -> _Begin:
    try:
        from fasthep_flow.orchestrators.prefect.dask import (
            AdaptiveRunner,
            PrefectDaskEngine,
            cluster_environment,
            open_task_runner,
        )
    except ImportError as error:
        raise OrchestratorUnavailable(
            f"{flow} needs prefect-dask, which cannot be imported: {error}",
            hint="pip install 'fasthep-flow[prefect]'",
        ) from error
    from fasthep_flow.orchestrators.dask.existing import ExistingRunner, fit_workers
    from fasthep_flow.orchestrators.dask.local import check_local_options, open_local_cluster

    options = {key: value for key, value in flow.options.items() if key != "allowed_failures"}
    inner = _mapping(flow, "cluster_kwargs")
    _mapping(flow, "adapt_kwargs")
    client = _mapping(flow, "client_kwargs")
    if isinstance(client.get("security"), Mapping):
        # A workflow file has no objects.
        from distributed import Security

        make: Any = Security
        options["client_kwargs"] = {**client, "security": make(**client["security"])}
    foreign = options.get("address") or options.get("cluster_class")
    if not foreign:
        check_local_options(flow, inner, _INSIDE)
        options.pop("cluster_kwargs", None)

    def join(stack: ExitStack, run: FlowRun) -> EngineRunner:
        # Somebody else's cluster, or of somebody else's kind: its workers say what they have.
        if not options.get("address"):
            stack.enter_context(cluster_environment())
        kind = AdaptiveRunner if options.get("adapt_kwargs") else ExistingRunner
        task_runner = run.call(partial(open_task_runner, flow, options))
        try:
            fit_workers(flow, task_runner.client, directory)
            engine = partial(PrefectDaskEngine, run=run, task_runner=task_runner)
            return kind(flow, task_runner.client, engine)
        except BaseException:
            run.call(partial(task_runner.__exit__, None, None, None))
            raise

    def begin(stack: ExitStack, run: FlowRun) -> EngineRunner:
        local = stack.enter_context(
            open_local_cluster(flow, inner, _INSIDE, preload=f"{__name__}.worker")
        )
        settings = options | {"cluster": local.cluster}
        task_runner = run.call(partial(open_task_runner, flow, settings))
        return EngineRunner(
            PrefectDaskEngine(task_runner.client, local.bury, run=run, task_runner=task_runner),
            Admission(shared_room(local.room), local.slots),
            local.worker,
            place=f"a worker of {flow}",
            on_this_machine=True,
            allowed_failures=_allowed_failures(flow),
            dashboard=local.dashboard,
        )

    return join if foreign else begin


def _prepare_ray(flow: FlowSpec, directory: Path) -> _Begin:
    del directory
    before = os.environ.get(_RAY_MODE)
    try:
        from fasthep_flow.orchestrators.prefect.ray import (
            ForeignRayRunner,
            RayCluster,
            check_ray_options,
        )
    except ImportError as error:
        raise OrchestratorUnavailable(
            f"{flow} needs Ray, which cannot be imported: {remote.words_of(error)}",
            hint="pip install 'fasthep-flow[ray]'",
        ) from error
    finally:
        remote.restore_environment({_RAY_MODE: before})
    from fasthep_flow.orchestrators.prefect.engines import PrefectEngine

    init = _mapping(flow, "init_kwargs")
    check_ray_options(flow, init)
    address = flow.options.get("address")
    machine = machine_capacity()
    cpus = whole_number(flow, "num_cpus", init, max(1, int(machine.cpus)))
    room = _widened(machine, init.get("num_cpus"))

    def begin(_: ExitStack, run: FlowRun) -> EngineRunner:
        engine = PrefectEngine(run, partial(RayCluster, flow, address, init, cpus))
        if address:
            machines = run.call(RayCluster.machines)
            return ForeignRayRunner(flow, engine, machines, _allowed_failures(flow))
        return EngineRunner(
            engine,
            Admission(shared_room(room), cpus),
            machine,
            place=f"a worker of {flow}",
            on_this_machine=True,
            allowed_failures=_allowed_failures(flow),
        )

    return begin


def _mapping(flow: FlowSpec, name: str) -> Mapping[str, Any]:
    value = flow.options.get(name) or {}
    if not isinstance(value, Mapping):
        raise OrchestratorUnavailable(f"{name} of {flow} is not a mapping")
    return value


def _widened(machine: Capacity, workers: int | None) -> Capacity:
    """As many processors as workers were asked for, if that is more than there are."""
    return machine._replace(cpus=max(machine.cpus, workers or 0))


def _allowed_failures(flow: FlowSpec) -> int:
    return whole_number(flow, "allowed_failures", flow.options, ALLOWED_FAILURES, least=0)


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
