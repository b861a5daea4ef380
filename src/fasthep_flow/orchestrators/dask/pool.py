"""Workers of one size on a batch farm: as many as there are tasks for, within bounds.

A pool is a cluster of dask-jobqueue. What is handed to Dask is what its workers have room for at
the moment, so that a worker that is lost takes no task along that waited behind another.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import dask.config
import distributed

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Resources, Secrets
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Admission, Capacity, Room, demand_of
from fasthep_flow.orchestrators.dask.batch import SCRATCH, Book, System, job_options
from fasthep_flow.orchestrators.dask.dashboard import dashboard_link, plan_pages
from fasthep_flow.orchestrators.dask.ends import await_ends, note_job, tail_of
from fasthep_flow.orchestrators.dask.engine import (
    TEMPORARY,
    DaskEngine,
    connect,
    scheduler_settings,
)
from fasthep_flow.orchestrators.dask.measure import ToMeasure, bounds_of, workers_for
from fasthep_flow.orchestrators.dask.queues import JobState, QueueSilent
from fasthep_flow.orchestrators.dask.requests import Request
from fasthep_flow.orchestrators.runner import EngineRunner

__all__ = ["POOL_OPTIONS", "Pool"]

_LOG: Final = logging.getLogger("fasthep_flow")
POOL_OPTIONS: Final = frozenset(
    {"allowed_failures", "dashboard_address", "interval", "maximum_jobs", "minimum_jobs"}
    | {"wait_count"}
)
"""Options that are not of the cluster's class: ours, and those of Dask's ``cluster.adapt``."""
_LEFT_S: Final = 8.0
"""How long the batch jobs of a run that ends may take to go."""
_FEW: Final = 5
"""So many are named."""
_LOOK_S: Final = 0.25
_STILLBORN: Final = 3
"""So many jobs in a row that end without their worker having called: none ever will."""
_REFUSED_S: Final = 600.0
"""How long a batch system may refuse every job before that is no bad moment."""
_USUAL: Final = frozenset({"", "None", "Priority", "Resources"})
"""Why a job waits that only has to wait its turn."""


class Pool:
    """Opened workers of one size.

    Args:
        flow: For messages, with the user's options.
        system: The batch system.
        request: The size.
        directory: For keys and logs; there already, and closed to others.
        name: Of the batch jobs.
        notes: Where their ids are written down.
        extra: What the batch system's commands have to be told besides.

    Raises:
        OrchestratorUnavailable: The cluster cannot be opened.

    Attributes:
        request: The size.
        has_left: Once it is closed, whether a batch job of it may still be there.
    """

    def __init__(
        self,
        flow: FlowSpec,
        system: System,
        request: Request,
        directory: Path,
        *,
        name: str,
        notes: Path,
        extra: Sequence[str] = (),
    ) -> None:
        options = flow.options
        self.request: Final = request
        self._flow: Final = flow
        self._system: Final = system
        self._extra: Final = tuple(extra)
        self._book: Final = Book(lambda job: note_job(notes, system.queue.name, job, extra))
        self._room: Final = Room(request.room)
        self._room.change(Capacity(*(-amount for amount in request.room)))
        self._known: Final[dict[str, Capacity]] = {}
        self._unfinished: Final[dict[Future[str], Capacity]] = {}
        self._lock: Final = threading.Lock()
        self._told: Final[set[str]] = set()
        self._called: Final[set[str]] = set()
        self._stillborn: Final[list[str]] = []
        self._refused_since_s: float | None = None
        self._closed: Final = threading.Event()
        self._stopped: Final = threading.Event()
        self.has_left = False
        self._ends: Final[dict[str, threading.Event]] = {}
        self._pages: Final = plan_pages(options)
        self._cluster: Final[Any] = self._open(options, directory, name)
        try:
            with remote.interrupts_held():
                client = connect(self._cluster)
                self._watch: Final = threading.Thread(
                    target=self._look_often, name="fasthep-pool", daemon=True
                )
                self._watch.start()
            self._adapt(options)
            self._runner: Final = EngineRunner(
                DaskEngine(client, self._bury),
                Admission(self._room, None),
                None,
                place=f"a worker of {flow}",
                on_this_machine=False,
            )
        except BaseException:
            self._end_cluster()
            raise

    @property
    def dashboard(self) -> str | None:
        """Where its scheduler shows what it does."""
        return dashboard_link(self._pages, self._cluster.scheduler)

    def submit(
        self, job_text: str, secrets: Secrets, resources: Resources, label: str
    ) -> Future[str]:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.submit`."""
        future = self._runner.submit(job_text, secrets, resources, label)
        with self._lock:
            self._unfinished[future] = demand_of(resources)
        future.add_done_callback(self._forget)
        return future

    def cancel(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.cancel`."""
        self._stopped.set()
        self._runner.cancel()

    def close(self) -> None:
        """End the tasks, the workers and their batch jobs."""
        self._stopped.set()
        try:
            self._runner.close()
        finally:
            self._end_cluster()

    def jobs(self) -> list[str]:
        """The batch jobs that should be there, by what the cluster knows."""
        found = [getattr(job, "job_id", None) for job in list(self._cluster.workers.values())]
        return [str(job) for job in found if job is not None]

    def look(self, states: Mapping[str, JobState], asked: Collection[str]) -> None:
        """Act on what the batch system says of the jobs.

        Args:
            states: Of those that have not ended.
            asked: The jobs that it was asked for. It takes its time to answer, and says nothing
                of jobs that were submitted meanwhile.
        """
        connected = {str(info["name"]) for info in self._workers()}
        for name, job in list(self._cluster.workers.items()):
            number = getattr(job, "job_id", None)
            if any(other == name or other.startswith(f"{name}-") for other in connected):
                self._stillborn.clear()
                self._called.add(name)
                continue
            if number is None:
                self._drop(name)
                continue
            if str(number) not in asked:
                continue
            state = states.get(str(number))
            if state is None and name in self._called:
                # It has served, and is gone: for another one to come, it must not be counted.
                self._drop(name)
            elif state is None:
                self._note_stillborn(name, str(number), "ended before its worker had called")
            elif state.state == "held":
                self._system.queue.cancel([str(number)], self._extra)
                self._note_stillborn(name, str(number), f"was held: {state.reason}")
            elif state.state == "waits" and state.reason not in _USUAL:
                self._tell_once(f"job {number} of {self._flow} waits: {state.reason}", state.reason)
        self._note_refusals()

    def fail(self, error: OrchestratorUnavailable) -> None:
        """No worker will ever come: end every task with this error."""
        self._runner.fail(error)
        self._room.change(Capacity(math.inf, math.inf, math.inf))

    def _open(self, options: Mapping[str, Any], directory: Path, name: str) -> Any:  # noqa: ANN401
        given = {key: value for key, value in options.items() if key not in POOL_OPTIONS}
        told = job_options(self._system, given, self.request, directory, name)
        asked = {**told.pop("scheduler_options", {})}
        security = told.pop("security", True)
        settings = scheduler_settings(dask) | self._pages.settings
        if dask.config.get(TEMPORARY, None) is None:
            settings[TEMPORARY] = str(directory / SCRATCH)
        with (
            dask.config.set(settings),
            remote.interrupts_held(),
        ):
            try:
                cluster = self._system.cluster(
                    name=self._system.section,
                    job_cls=self._system.job,
                    book=self._book,
                    silence_logs=told.pop("silence_logs", "critical"),
                    security=_temporary() if security is True else security,
                    scheduler_options={**self._pages.options, **asked},
                    **told,
                )
            except Exception as error:
                raise OrchestratorUnavailable(
                    f"{self._flow}: Dask did not start a cluster: {remote.words_of(error)}"
                ) from error
        return cluster

    def _adapt(self, options: Mapping[str, Any]) -> None:
        self._cluster.adapt(Adaptive=ToMeasure, wanted=self._wanted, **bounds_of(options))

    def _wanted(self) -> int:
        """How many workers hold all that is unfinished."""
        with self._lock:
            demands = list(self._unfinished.values())
        return workers_for(demands, self.request)

    def _forget(self, future: Future[str]) -> None:
        with self._lock:
            self._unfinished.pop(future, None)

    def _workers(self) -> list[Any]:
        return [info for _, info in sorted(self._cluster.scheduler_info["workers"].items())]

    def _look_often(self) -> None:
        """Let in as many tasks as the workers that are there have room for."""
        while not self._closed.wait(_LOOK_S):
            states = list(self._cluster.scheduler.workers.values())
            there = {
                state.address: Capacity(
                    *(state.resources.get(name, 0.0) for name in Capacity._fields)
                )
                for state in states
            }
            for address in there.keys() - self._known.keys():
                self._known[address] = there[address]
                self._room.change(there[address])
            for address in self._known.keys() - there.keys():
                lost = self._known.pop(address)
                self._room.change(Capacity(*(-amount for amount in lost)))

    def _bury(self, name: str, _: str) -> str:
        """Have the batch job of a lost worker gone; its last words."""
        job = self._book.job_of(name)
        if job is None:
            return ""
        self._drop(name if name in self._cluster.worker_spec else name.rpartition("-")[0])
        with self._lock:
            is_first = job not in self._ends
            ended = self._ends.setdefault(job, threading.Event())
        if is_first:
            # Its other tasks wait for the same.
            try:
                await_ends(self._system.queue, [job], self._extra, self._tell, self._stopped)
            finally:
                ended.set()
        ended.wait()
        return self._last_words(job)

    def _last_words(self, job: str) -> str:
        log = self._book.log_of(job)
        words = "" if log is None else tail_of(log)
        return f"the end of {log}:\n{words}" if words else ""

    def _drop(self, name: str) -> None:
        """Let the cluster forget a worker, so that it asks for another one."""

        def forget() -> None:
            self._cluster.worker_spec.pop(name, None)
            self._cluster.workers.pop(name, None)

        self._cluster.loop.add_callback(forget)

    def _note_stillborn(self, name: str, number: str, what: str) -> None:
        self._drop(name)
        with self._lock:
            if not self._unfinished:
                return
        words = self._last_words(number)
        self._stillborn.append(number)
        _LOG.warning("%s: batch job %s %s", self._flow, number, what)
        if len(self._stillborn) < _STILLBORN or self._workers():
            return
        self.fail(
            OrchestratorUnavailable(
                f"{self._flow}: {_STILLBORN} batch jobs in a row had no worker in them; "
                f"the last one, {number}, {what}\n{words}".strip(),
                hint="a worker needs the Python and the packages of this process, the run "
                "folder, and a way through the network to this machine",
            )
        )

    def _note_refusals(self) -> None:
        refusals = self._book.refusals[:]
        if not refusals:
            self._refused_since_s = None
            return
        words = refusals[-1]
        self._tell_once(f"{self._system.queue.name} takes no job of {self._flow}: {words}", words)
        now_s = time.monotonic()
        if self._refused_since_s is None:
            self._refused_since_s = now_s
        if now_s - self._refused_since_s > _REFUSED_S and not self._workers():
            self.fail(
                OrchestratorUnavailable(
                    f"{self._system.queue.name} takes no job of {self._flow}: {words}"
                )
            )

    def _tell(self, message: str) -> None:
        _LOG.warning("%s: %s", self._flow, message)

    def _tell_once(self, message: str, key: str) -> None:
        with self._lock:
            if key in self._told or not self._unfinished:
                return
            self._told.add(key)
        _LOG.warning("%s", message)

    def _end_cluster(self) -> None:
        self._closed.set()
        with suppress(Exception):
            self._cluster.close(timeout=20)
        # Whatever became of the cluster: nothing that was asked for stays.
        if jobs := self._book.jobs():
            self._system.queue.cancel(self._left(jobs), self._extra)
            until_s = time.monotonic() + _LEFT_S
            while (left := self._left(jobs)) and time.monotonic() < until_s:
                time.sleep(_LOOK_S)
            self.has_left = bool(left)
            if left:
                more = f" and {len(left) - _FEW} more" if len(left) > _FEW else ""
                self._tell(
                    f"{self._system.queue.name} still lists batch job {', '.join(left[:_FEW])}"
                    f"{more}, which was cancelled: if the run is gone on with, that waits for its "
                    "end"
                )
        # dask-jobqueue leaves the files with the workers' keys to chance.
        for key in ("ca_file", "cert", "key"):
            if (file := getattr(self._cluster, f"_job_{key}", None)) is not None:
                file.close()

    def _left(self, jobs: Sequence[str]) -> list[str]:
        try:
            return [*self._system.queue.states(jobs, self._extra)]
        except QueueSilent:
            return list(jobs)


def _temporary() -> Any:  # noqa: ANN401 - untyped
    make: Any = distributed.Security.temporary
    return make()
