"""Jobs on the workers of a Dask cluster, and what becomes of them when a worker is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from fasthep_flow.errors import OrchestratorUnavailable, WorkerLost
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Capacity
from fasthep_flow.orchestrators.runner import Done, Errand

if TYPE_CHECKING:
    import distributed

__all__ = [
    "DaskEngine",
    "abstract_resources",
    "connect",
    "import_dask",
    "scheduler_settings",
    "stop_jobs",
]

_TTL: Final = "distributed.scheduler.worker-ttl"
_WORKER_TTL: Final = "60s"
"""After how long a worker that says nothing is lost, unless Dask's configuration says."""
_DASKS_TTL: Final = "5 minutes"
_MOST_UNBEGUN: Final = 100
"""How often a job that no worker has begun is handed out again before it counts as lost."""


class DaskEngine:
    """Starts jobs on the workers of a Dask cluster.

    Args:
        client: Of the cluster.
        bury: Is told the name and the address of a worker that was lost, and returns once
            nothing of it can run any more, with its last words; called from a thread that
            may wait.
        stop: Stops the jobs that run; as for workers that serve this run alone, if not given.
        gone: What it means when the scheduler does not answer any more.
    """

    name = "Dask"

    def __init__(
        self,
        client: distributed.Client,
        bury: Callable[[str, str], str] | None = None,
        *,
        stop: Callable[[], None] | None = None,
        gone: str = "the Dask scheduler of this run is gone",
    ) -> None:
        self._client: Final[Any] = client
        self._bury: Final = bury
        self._stop: Final = stop
        self._gone: Final = gone
        self._closing = False

    def start(self, errand: Errand, done: Done) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.start`."""
        self._submit(errand, done, 1)

    def stop_jobs(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.stop_jobs`."""
        self._closing = True
        if self._stop is None:
            stop_jobs(self._client)
        else:
            self._stop()

    def close(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.close`."""
        self._closing = True
        self._client.close()

    def _submit(self, errand: Errand, done: Done, time: int) -> None:
        if self._client.status != "running":
            raise OrchestratorUnavailable(self._gone)
        handle = self._client.submit(
            remote.run_job,
            errand.job_text,
            errand.sealed,
            key=f"{errand.label}-{uuid4().hex}",
            resources=abstract_resources(errand.demand),
            retries=0,
            pure=False,
        )
        handle.add_done_callback(partial(self._finish, errand, done, time))

    def _finish(self, errand: Errand, done: Done, time: int, handle: Any) -> None:  # noqa: ANN401
        outcome: str | BaseException
        try:
            outcome = handle.result()
        except (Exception, CancelledError) as problem:  # noqa: BLE001 - the callee tells it
            outcome = problem
        # Without this reference the scheduler and the worker forget the reply.
        handle.release()
        if isinstance(outcome, str):
            done(outcome)
            return
        # Dask has one thread for all callbacks.
        settle = partial(self._settle, errand, done, time, outcome)
        threading.Thread(target=settle, name="fasthep-lost", daemon=True).start()

    def _settle(self, errand: Errand, done: Done, time: int, problem: BaseException) -> None:
        try:
            outcome = self._outcome(errand, problem)
            if outcome is None and not self._closing and time < _MOST_UNBEGUN:
                self._submit(errand, done, time + 1)
                return
        except Exception as error:  # noqa: BLE001 - the callee tells it
            outcome = error
        done(problem if outcome is None else outcome)

    def _outcome(self, errand: Errand, problem: BaseException) -> BaseException | None:
        """What the job's end means; ``None`` where it has not begun."""
        if isinstance(problem, remote.NotTaken):
            return None
        if isinstance(problem, CancelledError) or _is_cancelled(problem):
            if self._client.status == "running":
                return problem
            return OrchestratorUnavailable(self._gone)
        claim = remote.claim_of(errand.job_text)
        name, address = _last_worker(problem)
        if claim is None:
            # It waited behind another job on a worker that was lost.
            return None if name or address else problem
        words = self._bury(claim.worker or name, address) if self._bury is not None else ""
        told = problem.message if isinstance(problem, WorkerLost) else _death(claim)
        return WorkerLost(f"{told}\n{words}".strip())


def _is_cancelled(problem: BaseException) -> bool:
    import distributed.client

    return isinstance(problem, distributed.client.FutureCancelledError)


def _last_worker(problem: BaseException) -> tuple[str, str]:
    """Name and address of the worker that Dask says was lost; empty where it says none."""
    import distributed

    if not isinstance(problem, distributed.scheduler.KilledWorker):
        return "", ""
    last: Any = problem.last_worker
    return str(last.name), str(last.address)


def _death(claim: remote.Claim) -> str:
    parts = [f"worker {claim.worker or claim.pid}"]
    if claim.batch_job:
        parts.append(f"batch job {claim.batch_job}")
    return f"{' of '.join(parts)} on {claim.host} died"


def stop_jobs(client: Any) -> None:  # noqa: ANN401 - a distributed.Client, untyped
    """Stop all jobs on the workers of a cluster that serves this run alone."""

    def ask() -> None:
        with suppress(Exception):
            client.run(remote.stop_jobs, on_error="ignore")

    # Nobody waits for workers that do not answer.
    remote.in_background("fasthep-stop", ask)


def abstract_resources(capacity: Capacity) -> dict[str, float]:
    """What Dask schedules by: names and amounts; zero is left out."""
    return {name: float(value) for name, value in capacity._asdict().items() if value}


def connect(cluster: Any, **options: Any) -> Any:  # noqa: ANN401 - Dask's classes are untyped
    """A client of a cluster; not the one that Dask's own collections would use."""
    import distributed

    client: Any = distributed.Client
    return client(cluster, set_as_default=False, **options)


def scheduler_settings(dask: Any) -> dict[str, Any]:  # noqa: ANN401 - the package
    """Dask's configuration for the scheduler of a cluster of this run's own."""
    settings: dict[str, Any] = {
        # Who starts a task again, and where, is the driver's to say.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.profile.enabled": False,
    }
    if dask.config.get(_TTL, _DASKS_TTL) == _DASKS_TTL:
        settings[_TTL] = _WORKER_TTL
    return settings


def import_dask(flow: FlowSpec) -> tuple[Any, Any]:
    """The packages dask and distributed.

    Raises:
        OrchestratorUnavailable: They are not installed.
    """
    try:
        import dask
        import dask.config
        import distributed
    except ImportError as error:
        raise OrchestratorUnavailable(
            f"{flow} needs Dask, which cannot be imported: {error}",
            hint="pip install 'fasthep-flow[dask]'",
        ) from error
    return dask, distributed
