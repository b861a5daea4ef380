"""Dask as one of Prefect's task runners: jobs are task runs on the workers of a Dask cluster.

What becomes of them when a worker is lost is as on Dask alone.

Imports Prefect and Dask, so it is imported when a runner is opened.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final
from uuid import uuid4

import dask
import dask.config
from prefect_dask.task_runners import DaskTaskRunner

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Capacity
from fasthep_flow.orchestrators.dask.engine import (
    DaskEngine,
    abstract_resources,
    quiet,
    scheduler_settings,
)
from fasthep_flow.orchestrators.dask.existing import ExistingRunner
from fasthep_flow.orchestrators.dask.local import DASK_VARIABLES
from fasthep_flow.orchestrators.prefect import worker
from fasthep_flow.orchestrators.prefect.engines import parameters_of
from fasthep_flow.orchestrators.prefect.flow_run import FlowRun
from fasthep_flow.orchestrators.prefect.worker import TASK, drain
from fasthep_flow.orchestrators.runner import Done, Errand

__all__ = ["AdaptiveRunner", "PrefectDaskEngine", "cluster_environment", "open_task_runner"]

_DRAIN_S: Final = 20.0
_NO_BOUND: Final = Capacity(1e18, 1e18, 1e18)


def open_task_runner(flow: FlowSpec, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - untyped
    """Prefect's task runner with these options, connected; called inside the flow run.

    Raises:
        OrchestratorUnavailable: Its cluster cannot be started or reached.
    """
    kind: Any = DaskTaskRunner
    try:
        if str(options.get("cluster_class") or "").startswith("dask_jobqueue"):
            # In a way of ours: it would change what Ctrl-C does.
            importlib.import_module("fasthep_flow.orchestrators.dask.jobqueue")
        task_runner = kind(**options).__enter__()
    except Exception as error:
        raise OrchestratorUnavailable(f"{flow}: {remote.words_of(error)}") from error
    try:
        # Connects; left to itself, it would do so with the first task.
        task_runner.client  # noqa: B018
    except BaseException as error:
        task_runner.__exit__(None, None, None)
        if not isinstance(error, Exception):
            raise
        raise OrchestratorUnavailable(f"{flow}: {remote.words_of(error)}") from error
    return task_runner


@contextmanager
def cluster_environment() -> Iterator[None]:
    """What a cluster of any class is started in, and starts its workers in.

    As far as they are processes of this machine, they are out of the terminal's reach and have
    the driver's environment.
    """
    before = dict(os.environ)
    settings = scheduler_settings(dask) | {
        "distributed.nanny.environ": {},
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.worker.preload": [remote.__name__, worker.__name__],
        remote.DASK_ENVIRONMENT: {name: before.get(name) for name in DASK_VARIABLES},
    }
    try:
        with dask.config.set(settings), quiet(dask):
            yield
    finally:
        remote.restore_environment({name: before.get(name) for name in DASK_VARIABLES})


class PrefectDaskEngine(DaskEngine):
    """Starts jobs as task runs on the workers of a Dask cluster.

    Args:
        client: Of the cluster.
        bury: See :class:`fasthep_flow.orchestrators.dask.engine.DaskEngine`.
        run: The flow run.
        task_runner: Prefect's, opened in the flow run; this closes it.
        stop: See there.
        gone: See there.
    """

    name = "Prefect"

    def __init__(
        self,
        client: Any,  # noqa: ANN401 - untyped
        bury: Callable[[str, str], str] | None = None,
        *,
        run: FlowRun,
        task_runner: Any,  # noqa: ANN401 - untyped
        stop: Callable[[], None] | None = None,
        gone: str = "the Dask scheduler of this run is gone",
    ) -> None:
        super().__init__(client, bury, stop=stop, gone=gone)
        self._run: Final = run
        self._task_runner: Final = task_runner

    def stop_jobs(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.stop_jobs`."""
        self._run.note_cancel()
        super().stop_jobs()

    def close(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.close`."""
        self._closing = True
        # The workers report to Prefect in the background, and the server may end with the run.
        # A client that lost its scheduler would wait for it.
        if self._client.status == "running":
            self._drain_workers()
        self._run.call(partial(self._task_runner.__exit__, None, None, None))

    def _submit(self, errand: Errand, done: Done, time: int) -> None:
        self._run.post(partial(self._submit_inside, errand, done, time))

    def _submit_inside(self, errand: Errand, done: Done, time: int) -> None:
        try:
            super()._submit(errand, done, time)
        except Exception as problem:  # noqa: BLE001 - the callee tells it
            done(problem)

    def _hand_over(self, errand: Errand) -> Any:  # noqa: ANN401 - a distributed.Future
        # Prefect's runner does just this, without the resources.
        return self._client.submit(
            TASK,
            parameters=parameters_of(errand),
            return_type="state",
            key=f"{errand.label}-{uuid4().hex}",
            resources=abstract_resources(errand.demand),
            retries=0,
            pure=False,
        )

    def _reply(self, errand: Errand, handle: Any) -> str:  # noqa: ANN401 - as above
        try:
            state = handle.result()
        except (Exception, CancelledError):
            self._run.note_loss(errand.label)
            raise
        return self._run.reply_of(errand.label, state)

    def _drain_workers(self) -> None:
        drained: Future[None] = Future()

        def ask() -> None:
            # A lost worker has nothing to report.
            with suppress(Exception):
                self._client.run(drain, _DRAIN_S, on_error="ignore")
            drained.set_result(None)

        remote.in_background("fasthep-drain", ask)
        wait([drained], timeout=_DRAIN_S)


class AdaptiveRunner(ExistingRunner):
    """Tasks on a cluster that gets its workers when tasks wait for them: none wait before."""

    _is_open = False

    def look(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.dask.existing.ExistingRunner.look`."""
        before = set(self._known)
        super().look()
        if self._known.keys() - before:
            # Dask looks at what waits when a worker comes, and ours offer their room after that.
            self._client.run_on_scheduler(_seat)
        if not self._is_open:
            self._is_open = True
            self._room.change(_NO_BOUND)

    def require(self, resources: Any, label: str) -> None:  # noqa: ANN401 - of no use here
        """Refuse nothing: a worker that comes later may have it."""
        del resources, label


def _seat(dask_scheduler: Any) -> None:  # noqa: ANN401 - a distributed.Scheduler
    """Have the scheduler hand what no worker could take to those that can now."""
    tasks: dict[Any, Any] = {}
    for worker_state in dask_scheduler.workers.values():
        tasks |= dask_scheduler.bulk_schedule_unrunnable_after_adding_worker(worker_state)
    dask_scheduler.transitions(tasks, "fasthep-flow-seat")
