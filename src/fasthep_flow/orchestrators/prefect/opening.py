"""What a runner of Prefect's needs, found to be right before anything is started."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import (
    Admission,
    Capacity,
    machine_capacity,
    shared_room,
)
from fasthep_flow.orchestrators.options import whole_number
from fasthep_flow.orchestrators.prefect import mapping_of
from fasthep_flow.orchestrators.runner import ALLOWED_FAILURES, Engine, EngineRunner

if TYPE_CHECKING:
    from fasthep_flow.orchestrators.prefect.flow_run import FlowRun

__all__ = ["Begin", "prepare_dask", "prepare_pool", "prepare_ray"]

_LOG: Final = logging.getLogger("fasthep_flow")
_RAY_MODE: Final = "RAY_CLIENT_MODE"
"""What Ray sets when it is imported: tasks would inherit it."""
_INSIDE: Final = " in cluster_kwargs"
_THREADS_PER_CPU: Final = 16
"""Tasks that ask for a share of a processor run beside each other on it."""

Begin: TypeAlias = "Callable[[ExitStack, FlowRun], EngineRunner]"
"""Starts what the runner needs; its options are found to be right."""


def prepare_pool(flow: FlowSpec, directory: Path) -> Begin:
    """For threads and processes of Prefect's own.

    Args:
        flow: Which runner, with its options.
        directory: For files of the engine's own.

    Raises:
        OrchestratorUnavailable: The engine is missing, or an option is wrong.
    """
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
        engine = PrefectEngine(run, partial(Processes if processes else Threads, workers))
        return _runner_here(flow, engine, Admission(shared_room(room), workers), machine)

    return begin


def prepare_dask(flow: FlowSpec, directory: Path) -> Begin:
    """For a Dask cluster of any kind.

    Args:
        flow: Which runner, with its options.
        directory: For files of the engine's own.

    Raises:
        OrchestratorUnavailable: The engine is missing, or an option is wrong.
    """
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
    inner = mapping_of(flow, "cluster_kwargs")
    mapping_of(flow, "adapt_kwargs")
    client = mapping_of(flow, "client_kwargs")
    if isinstance(client.get("security"), Mapping):
        options["client_kwargs"] = {**client, "security": _security(flow, client["security"])}
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
            open_local_cluster(flow, inner, _INSIDE, preload=f"{__package__}.worker")
        )
        settings = options | {"cluster": local.cluster}
        task_runner = run.call(partial(open_task_runner, flow, settings))
        engine = PrefectDaskEngine(task_runner.client, local.bury, run=run, task_runner=task_runner)
        gate = Admission(shared_room(local.room), local.slots)
        return _runner_here(flow, engine, gate, local.worker, local.dashboard)

    return join if foreign else begin


def prepare_ray(flow: FlowSpec, directory: Path) -> Begin:
    """For a Ray on this machine, or one that is there.

    Args:
        flow: Which runner, with its options.
        directory: For files of the engine's own.

    Raises:
        OrchestratorUnavailable: The engine is missing, or an option is wrong.
    """
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

    init = mapping_of(flow, "init_kwargs")
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
        return _runner_here(flow, engine, Admission(shared_room(room), cpus), machine)

    return begin


def _security(flow: FlowSpec, given: Mapping[str, Any]) -> object:
    """What a workflow file has no objects for."""
    from distributed import Security

    make: Any = Security
    try:
        return make(**given)
    except (TypeError, ValueError) as error:
        raise OrchestratorUnavailable(
            f"security in client_kwargs of {flow}: {remote.words_of(error)}"
        ) from error


def _runner_here(
    flow: FlowSpec,
    engine: Engine,
    gate: Admission,
    largest: Capacity,
    dashboard: str | None = None,
) -> EngineRunner:
    """A runner all of whose workers are processes of this machine."""
    return EngineRunner(
        engine,
        gate,
        largest,
        place=f"a worker of {flow}",
        on_this_machine=True,
        allowed_failures=_allowed_failures(flow),
        dashboard=dashboard,
    )


def _widened(machine: Capacity, workers: int | None) -> Capacity:
    """As many processors as workers were asked for, if that is more than there are."""
    return machine._replace(cpus=max(machine.cpus, workers or 0))


def _allowed_failures(flow: FlowSpec) -> int:
    return whole_number(flow, "allowed_failures", flow.options, ALLOWED_FAILURES, least=0)
