"""Prefect runs the tasks: the runners that the specification names.

A run of a workflow is one flow run of Prefect's, and every attempt of a task a task run in
it, whichever of the runners it is on. Prefect schedules, shows and records; the order of the
tasks, their retries and their results stay with the driver.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan, Resources
from fasthep_flow.orchestrators import RUNNERS, Orchestrator, TaskRunner
from fasthep_flow.orchestrators.options import check_options, whole_number
from fasthep_flow.orchestrators.prefect.options import DASK, RAY, inner_options, misfits
from fasthep_flow.orchestrators.signatures import is_installed, read_parameters

if TYPE_CHECKING:
    from fasthep_flow.orchestrators.prefect.flow_run import FlowRun

__all__ = ["PREFECT", "PrefectOrchestrator", "import_deployment", "mapping_of"]

_TARGETS: Final[Mapping[str, str]] = {
    DASK: "prefect_dask.task_runners:DaskTaskRunner",
    RAY: "prefect_ray.task_runners:RayTaskRunner",
}
_POOLS: Final[Mapping[str, frozenset[str]]] = {
    "SequentialTaskRunner": frozenset(),
    "ConcurrentTaskRunner": frozenset({"max_workers"}),
    "ThreadPoolTaskRunner": frozenset({"max_workers"}),
    "ProcessPoolTaskRunner": frozenset({"max_workers", "allowed_failures"}),
}


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
        if runner in {DASK, RAY}:
            known = read_parameters(_TARGETS[runner])
            return None if known is None else (known | ours) - {"cluster"}
        return _POOLS.get(runner)

    def inner_options(self, flow: FlowSpec) -> Mapping[str, frozenset[str]]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.inner_options`."""
        return inner_options(flow)

    def misfits(self, flow: FlowSpec) -> Mapping[str, str]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.misfits`."""
        return misfits(flow)

    def why_not(self, flow: FlowSpec) -> str | None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.why_not`."""
        more = {DASK: ("prefect_dask",), RAY: ("prefect_ray", "ray")}
        extra = "ray" if flow.runner == RAY else "prefect"
        for package in ("prefect", *more.get(flow.runner, ())):
            if not is_installed(package):
                name = package.replace("_", "-")
                return f"the package {name} is not installed: pip install 'fasthep-flow[{extra}]'"
        cluster = flow.options.get("cluster_class")
        if isinstance(cluster, str) and not is_installed(cluster):
            package = cluster.partition(".")[0]
            return f"there is no package {package}, of the option cluster_class"
        return None

    def require_answer(self, flow: FlowSpec) -> None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.require_answer`."""
        from fasthep_flow.orchestrators.prefect.answering import require_engine, require_server

        require_server()
        require_engine(flow)

    def is_elsewhere(self, flow: FlowSpec) -> bool:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.is_elsewhere`."""
        return bool(flow.options.get("address") or flow.options.get("cluster_class"))

    def require(self, flow: FlowSpec, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.require`."""
        options = flow.options
        if options.get("address") or options.get("cluster_class"):
            # What its workers have is theirs to say.
            return
        from fasthep_flow.orchestrators.admission import demand_of, machine_capacity, require_room

        room = machine_capacity()
        if flow.runner == DASK:
            from fasthep_flow.orchestrators.dask.local import worker_capacity

            room = worker_capacity(flow, mapping_of(flow, "cluster_kwargs"))
        require_room(f"a worker of {flow}", room, demand_of(resources), label)

    @contextmanager
    def open(self, flow: FlowSpec, plan: Plan, directory: Path) -> Iterator[TaskRunner]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        if flow.runner not in RUNNERS["prefect"]:
            raise OrchestratorUnavailable(
                f"there is no runner {flow}", hint=f"known are {', '.join(RUNNERS['prefect'])}"
            )
        from fasthep_flow.orchestrators.prefect.opening import (
            prepare_dask,
            prepare_pool,
            prepare_ray,
        )
        from fasthep_flow.orchestrators.runner import ALLOWED_FAILURES

        with _quiet_environment(), ExitStack() as stack:
            _import_engines(flow)
            known = self.options(flow.runner)
            if known is not None:
                check_options(flow, flow.options, known)
            whole_number(flow, "allowed_failures", flow.options, ALLOWED_FAILURES, least=0)
            prepare = {DASK: prepare_dask, RAY: prepare_ray}.get(flow.runner, prepare_pool)
            begin = prepare(flow, directory)
            # Prefect's server and Dask's cluster take their time side by side.
            run = stack.enter_context(self._flow_run(plan))
            runner = begin(stack, run)
            stack.callback(runner.close)
            run.on_cancel(runner.ask_for_stop)
            yield runner

    @contextmanager
    def _flow_run(self, plan: Plan) -> Iterator[FlowRun]:
        """The plan's flow run: all its runners are opened in the same one."""
        from fasthep_flow.orchestrators.prefect.flow_run import open_flow_run

        with self._lock:
            shared = self._shared.get(id(plan))
            if shared is None:
                stack = ExitStack()
                may_fail = frozenset(task.name for task in plan.tasks if task.allow_failure)
                run = stack.enter_context(open_flow_run(plan.name, may_fail=may_fail))
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


def mapping_of(flow: FlowSpec, name: str) -> Mapping[str, Any]:
    """An option that holds options.

    Raises:
        OrchestratorUnavailable: It does not.
    """
    value = flow.options.get(name) or {}
    if not isinstance(value, Mapping):
        raise OrchestratorUnavailable(f"{name} of {flow} is not a mapping")
    return value


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
        from fasthep_flow.orchestrators.remote import words_of

        raise OrchestratorUnavailable(
            f"{flow} needs Prefect, which cannot be imported: {words_of(error)}",
            hint="pip install 'fasthep-flow[prefect]', which keeps fastapi below 0.150",
        ) from error


PREFECT: Final = PrefectOrchestrator()
