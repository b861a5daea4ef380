"""The task that Prefect runs, wherever its runner puts it: in a thread, process or Dask worker.

Imports Prefect, so it is imported by the orchestrator and by workers alone.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, cast
from uuid import UUID

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.states import Cancelled, Crashed, Failed
from prefect.task_engine import run_task_sync

from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.errors import WorkerLost
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import JobResult, from_json
from fasthep_flow.orchestrators import remote

__all__ = [
    "TASK",
    "dask_setup",
    "drain",
    "quieten",
    "ray_variables",
    "run_on_ray",
    "settle_process",
]


_RAY_DRAIN_S: Final = 5.0
_RAY_LOOK_S: Final = 0.2
_DEVICES: Final = "_VISIBLE_DEVICES"
_RAY_SETS: Final = frozenset({"OMP_NUM_THREADS", "PYTHONBREAKPOINT", "SPT_NOENV"})

_AT_START: Final[dict[str, str]] = {}
"""The environment that a process of Prefect's pool was started with; empty elsewhere."""


class _Reply(str):
    """A reply that Prefect does not show: its log, which goes to its server, tells of states.

    It holds the last words of the task's own output, which are not for everybody there.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "..."


def run_task(
    job_text: str,
    sealed: remote.Sealed,
    label: str,
    watch: Watch | None = None,
    pool: Pool | None = None,
) -> str | State[Any]:
    """Run a job; its reply, in a failed state if the task did not succeed."""
    del label  # Prefect reads it, for the name of the task run
    if watch is None:
        # Not in the driver's own process. Somebody else's worker was not settled by us.
        quieten()
    _forget_settings()
    try:
        reply = remote.run_job(job_text, sealed, watch, pool)
    except remote.NotTaken as notice:
        return Cancelled(message=f"handed back: {notice}", data=notice)
    except WorkerLost as loss:
        return Crashed(message=loss.message, data=loss)
    result = from_json(JobResult, reply)
    if result.status == "succeeded":
        return reply
    failure = result.failure
    message = result.status if failure is None else failure.message
    # Prefect does not send a state's data anywhere, and shows of it what `repr` says.
    if result.status == "cancelled":
        return Cancelled(message=message, data=_Reply(reply))
    return Failed(message=message, data=_Reply(reply))


TASK: Final[Task[Any, Any]] = Task(
    fn=run_task,
    name="task",
    task_run_name="{label}",
    # Retries are the scheduler's; results and inputs are not Prefect's to keep.
    retries=0,
    persist_result=False,
    cache_policy=NO_CACHE,
    log_prints=False,
)


def quieten() -> None:
    """Let Prefect's log through to the terminal from warnings on, unless the user set it up.

    Importing Prefect puts its own handler on the root logger: here it goes back to Prefect's.
    What is said about a run of a flow or task still reaches the server.
    """
    if any(name.startswith("PREFECT_LOGGING_") for name in os.environ):
        return
    root, prefect = logging.getLogger(), logging.getLogger("prefect")
    for handler in root.handlers[:]:
        if type(handler).__module__.startswith("prefect."):
            root.removeHandler(handler)
            prefect.addHandler(handler)
    prefect.propagate = False
    prefect.setLevel(logging.WARNING)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        runs = logging.getLogger(name)
        runs.propagate = False
        runs.setLevel(logging.INFO)
    for name in ("APILogWorker", "EventsWorker"):
        # They count what they still have to send.
        logging.getLogger(name).setLevel(logging.ERROR)


def settle_process(*asked: Callable[[], object]) -> None:
    """For the start of a process; see :func:`fasthep_flow.orchestrators.remote.settle_process`."""
    _AT_START.update(os.environ)
    remote.settle_process(*asked)
    quieten()


def _forget_settings() -> None:
    # With every task, Prefect writes its settings, keys among them, into the environment of a
    # process of its pool. It does not read them there, and tasks must not inherit them.
    if _AT_START:
        variables = dict.fromkeys(os.environ.keys() - _AT_START.keys())
        remote.restore_environment(variables | _AT_START)


async def drain(timeout_s: float) -> None:
    """Send off what this process still has to report to Prefect's server."""
    # Both work in the background.
    for kind in (EventsWorker, APILogWorker):
        waiting = kind.drain_all(timeout=timeout_s)
        if inspect.isawaitable(waiting):
            await waiting


def dask_setup(_: Any) -> None:  # noqa: ANN401 - a distributed.Worker; Dask calls this hook
    """Dask's preload hook."""
    quieten()


def ray_variables() -> dict[str, str]:
    """Of this process's environment, what Ray sets to something else in its workers."""
    return {name: value for name, value in os.environ.items() if _is_rays(name)}


def run_on_ray(
    parameters: dict[str, Any],
    task_run_id: UUID,
    context: dict[str, Any],
    variables: Mapping[str, str] | None,
) -> State[Any]:
    """Run the task in a worker process of Ray's, which serves this run alone.

    Args:
        parameters: Of the task.
        task_run_id: Chosen for it.
        context: Of the flow run, from ``prefect.context.serialize_context``.
        variables: What :func:`ray_variables` says of the driver; ``None`` on somebody else's
            Ray, where the devices are those that it gives the task.

    Returns:
        The final state of the task run.
    """
    # Ray's way to cancel a task is to pretend an interrupt, which wakes no thread that waits:
    # this one looks up now and then.
    signal.signal(signal.SIGINT, lambda *_: remote.stop_jobs())
    theirs = [name for name in os.environ if _is_rays(name)]
    if variables is None:
        theirs = [name for name in theirs if not name.endswith(_DEVICES)]
    remote.restore_environment(dict.fromkeys(theirs) | dict(variables or {}))
    quieten()
    with ThreadPoolExecutor(1) as thread:
        handle = thread.submit(
            run_task_sync,
            TASK,
            task_run_id=task_run_id,
            parameters=parameters,
            return_type="state",
            context=context,
        )
        while not wait([handle], timeout=_RAY_LOOK_S).done:
            pass
    # The process may be ended as soon as this is back, and nobody can ask it to report.
    asyncio.run(drain(_RAY_DRAIN_S))
    return cast("State[Any]", handle.result())


def _is_rays(name: str) -> bool:
    return name.startswith("RAY_") or name in _RAY_SETS or name.endswith(_DEVICES)
