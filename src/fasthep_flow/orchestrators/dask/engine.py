"""Jobs on the workers of a Dask cluster, and what becomes of them when a worker is lost."""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

from fasthep_flow.errors import LimitUnenforceable, OrchestratorUnavailable, WorkerLost
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Capacity
from fasthep_flow.orchestrators.runner import Done, Errand, cancelled_reply

if TYPE_CHECKING:
    import distributed

__all__ = [
    "TEMPORARY",
    "DaskEngine",
    "abstract_resources",
    "connect",
    "import_dask",
    "quiet",
    "scheduler_settings",
    "stop_jobs",
]

TEMPORARY: Final = "temporary-directory"
"""Dask's configuration: where its scheduler, and workers that are not told, put their files."""
_TTL: Final = "distributed.scheduler.worker-ttl"
_WORKER_TTL: Final = "60s"
"""After how long a worker that says nothing is lost, unless Dask's configuration says."""
_DASKS_TTL: Final = "5 minutes"
_OVERLOOKED_S: Final = 5.0
"""How long a job that there is a worker for may take to begin."""
_MOST_UNBEGUN: Final = 100
"""How often a job that no worker has begun is handed out again before it counts as lost."""


class _Handed(NamedTuple):
    """A job that was handed to Dask: for the how manieth time, and since when."""

    handle: Any
    errand: Errand
    done: Done
    time: int
    since_s: float


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
        self._in_flight: Final[dict[str, _Handed]] = {}

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
        # In Dask's own queue is what no worker has begun: a lost worker's, until another comes.
        unbegun = [
            (key, handed)
            for key, handed in list(self._in_flight.items())
            if remote.claim_of(handed.errand.job_text) is None
        ]
        for key, handed in unbegun:
            self._end(key, cancelled_reply(handed.errand))
        remote.in_background(
            "fasthep-drop", partial(self._drop, [item.handle for _, item in unbegun])
        )

    def close(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.close`."""
        self._closing = True
        self._client.close()

    def _drop(self, handles: list[Any]) -> None:
        with suppress(Exception, CancelledError):
            self._client.cancel(handles)

    def _submit(self, errand: Errand, done: Done, time: int) -> None:
        if self._client.status != "running":
            raise OrchestratorUnavailable(self._gone)
        handle = self._hand_over(errand)
        key = str(handle.key)
        self._in_flight[key] = _Handed(handle, errand, done, time, monotonic())
        handle.add_done_callback(partial(self._finish, key))

    def mourn(self, addresses: Collection[str]) -> None:
        """Count the jobs on these workers as lost, before Dask hands them to others.

        For a scheduler that is not of this run: how often it does so by itself is its own.
        """
        for key, handed in list(self._in_flight.items()):
            claim = remote.claim_of(handed.errand.job_text)
            if claim is not None and claim.address in addresses:
                self._end(key, WorkerLost(_death(claim)))
                handed.handle.cancel()

    def hand_out_again(self) -> None:
        """Hand out anew what no worker has begun: Dask overlooks it when resources come late."""
        # What is on a worker may have begun there, and its claim not have come through yet.
        placed = {key for keys in self._client.processing().values() for key in keys}
        for key, handed in list(self._in_flight.items()):
            is_old = monotonic() - handed.since_s > _OVERLOOKED_S
            if is_old and key not in placed and remote.claim_of(handed.errand.job_text) is None:
                self._end(key, remote.NotTaken("handed out anew"))
                handed.handle.cancel()

    def _hand_over(self, errand: Errand) -> Any:  # noqa: ANN401 - a distributed.Future
        return self._client.submit(
            remote.answer_job,
            errand.job_text,
            errand.sealed,
            key=f"{errand.label}-{uuid4().hex}",
            resources=abstract_resources(errand.demand),
            retries=0,
            pure=False,
        )

    def _reply(self, errand: Errand, handle: Any) -> str:  # noqa: ANN401 - as above
        """What a job's future holds, or raises."""
        del errand
        reply: str = handle.result()
        return reply

    def _finish(self, key: str, handle: Any) -> None:  # noqa: ANN401 - a distributed.Future
        found = self._in_flight.get(key)
        if found is None:
            return
        outcome: str | BaseException
        try:
            outcome = self._reply(found.errand, handle)
        except (Exception, CancelledError) as problem:  # noqa: BLE001 - the callee tells it
            outcome = problem
        # Without this reference the scheduler and the worker forget the reply.
        handle.release()
        self._end(key, outcome)

    def _end(self, key: str, outcome: str | BaseException) -> None:
        found = self._in_flight.pop(key, None)
        if found is None:
            return
        if isinstance(outcome, str):
            found.done(outcome)
            return
        # Dask has one thread for all callbacks.
        settle = partial(self._settle, found.errand, found.done, found.time, outcome)
        threading.Thread(target=settle, name="fasthep-lost", daemon=True).start()

    def _settle(self, errand: Errand, done: Done, time: int, problem: BaseException) -> None:
        try:
            outcome = self._outcome(errand, problem)
            if outcome is None and self._closing:
                done(cancelled_reply(errand))
                return
            if outcome is None and time < _MOST_UNBEGUN:
                self._submit(errand, done, time + 1)
                return
        except Exception as error:  # noqa: BLE001 - the callee tells it
            outcome = error
        done(problem if outcome is None else outcome)

    def _outcome(self, errand: Errand, problem: BaseException) -> BaseException | None:
        """What the job's end means; ``None`` where it has not begun."""
        if isinstance(problem, remote.NotTaken):
            return None
        if isinstance(problem, LimitUnenforceable):
            return problem
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
        if claim.host == platform.node():
            # Not every batch system ends what a task has put out of its reach.
            remote.end_leftovers(errand.job_text)
        told = problem.message if isinstance(problem, WorkerLost) else _death(claim)
        return WorkerLost(told, hint=words or None)


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


@contextmanager
def quiet(dask: Any) -> Iterator[None]:  # noqa: ANN401 - the package
    """Keep Dask's log off the terminal: what it says of lost workers is told with their tasks.

    Unless the user's configuration of Dask says how it is to log.
    """
    log = logging.getLogger("distributed")
    before = log.level
    if dask.config.get("logging", None) is None:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


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
