"""``dask::slurm`` and ``dask::htcondor``: a pool of workers for each size that tasks ask for."""

from __future__ import annotations

import logging
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from fasthep_flow.errors import EnvironmentRefused, LimitUnenforceable, OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan, Resources, Secrets
from fasthep_flow.orchestrators import TaskRunner, remote
from fasthep_flow.orchestrators.admission import demand_of
from fasthep_flow.orchestrators.dask.batch import SCRATCH, Book, System, find_system, job_options
from fasthep_flow.orchestrators.dask.ends import NOTES, await_former
from fasthep_flow.orchestrators.dask.pool import POOL_OPTIONS, Pool
from fasthep_flow.orchestrators.dask.queues import QueueSilent
from fasthep_flow.orchestrators.dask.requests import Request, Sizes
from fasthep_flow.orchestrators.runner import ALLOWED_FAILURES

__all__ = ["open_farm", "require_batch_job"]

_LOG: Final = logging.getLogger("fasthep_flow")
_POLL_S: Final = 5.0
_MOST_NAME: Final = 40
_KEYS: Final = ".dask-jobqueue.worker.*"
"""What dask-jobqueue calls the files that workers find their keys in."""


class FarmRunner(TaskRunner):
    """A :class:`fasthep_flow.orchestrators.TaskRunner` over pools of batch jobs.

    Args:
        flow: For messages, with the user's options.
        system: The batch system.
        directory: For keys and logs.
        name: Of the batch jobs.
    """

    def __init__(self, flow: FlowSpec, system: System, directory: Path, name: str) -> None:
        options = flow.options
        self._flow: Final = flow
        self._options: Final = options
        self._directory: Final = directory
        self._name: Final = name
        self._system: Final = system
        self._sizes: Final = Sizes(flow, options)
        self._extra: Final = self._sizes.extra
        self._pools: Final[dict[Request, Pool]] = {}
        self._refusals: Final[dict[Request, str | None]] = {}
        self._lock: Final = threading.Lock()
        self._closed: Final = threading.Event()
        with remote.interrupts_held():
            self._watch: Final = threading.Thread(
                target=self._look, name="fasthep-farm", daemon=True
            )
            self._watch.start()

    @property
    def allowed_failures(self) -> int:
        """See :attr:`fasthep_flow.orchestrators.TaskRunner.allowed_failures`."""
        given = self._options.get("allowed_failures")
        return ALLOWED_FAILURES if given is None else int(given)

    @property
    def dashboard(self) -> str | None:
        """See :attr:`fasthep_flow.orchestrators.TaskRunner.dashboard`."""
        links = {request: pool.dashboard for request, pool in self._pools.items()}
        found = {request: link for request, link in links.items() if link is not None}
        if len(found) < 2:  # noqa: PLR2004 - one needs no telling apart
            return next(iter(found.values()), None)
        return ", ".join(f"{link} ({request})" for request, link in found.items())

    def require(self, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.require`."""
        request = self._sizes.request(resources, label)
        if request not in self._refusals:
            self._refusals[request] = _refusal(self._flow, self._system, request)
        _raise_refusal(self._flow, self._system, request, label, self._refusals[request])

    def size(self, resources: Resources) -> float:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.size`."""
        # Each size has workers of its own, so that no task keeps another one waiting for room.
        return demand_of(resources).cpus

    def submit(
        self, job_text: str, secrets: Secrets, resources: Resources, label: str
    ) -> Future[str]:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.submit`."""
        self.require(resources, label)
        pool = self.pool(self._sizes.request(resources, label))
        return pool.submit(job_text, secrets, resources, label)

    def pool(self, request: Request) -> Pool:
        """The workers of that size, opened if they are not yet."""
        with self._lock:
            if request not in self._pools:
                self._require_port(request)
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._pools[request] = Pool(
                    self._flow,
                    self._system,
                    request,
                    self._directory,
                    name=self._name,
                    notes=self._directory / NOTES,
                    extra=self._extra,
                )
            return self._pools[request]

    def _require_port(self, request: Request) -> None:
        """Refuse a port that is taken: Dask does not say that it is that."""
        port = (self._options.get("scheduler_options") or {}).get("port")
        if not port:
            return
        if self._pools:
            raise OrchestratorUnavailable(
                f"{self._flow}: workers of {request} need a Dask scheduler of their own beside "
                f"that for workers of {next(iter(self._pools))}, and scheduler_options gives both "
                f"the port {port}",
                hint="say cores and memory that all tasks fit into, or leave the port out",
            )
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise OrchestratorUnavailable(
                f"{self._flow}: the port {port} of scheduler_options cannot be had: "
                f"{error.strerror}",
                hint="another run on this machine may have it until it ends",
            ) from error

    def end_former(self) -> None:
        """Have what this run left behind, before it was cut short, end: jobs, then their keys."""
        await_former(
            self._directory / NOTES,
            lambda message: _LOG.warning("%s: %s", self._flow, message),
        )
        for key in self._directory.glob(_KEYS):
            key.unlink(missing_ok=True)
        self._tidy()

    def _tidy(self) -> None:
        shutil.rmtree(self._directory / SCRATCH, ignore_errors=True)

    def open_for(self, plan: Plan) -> None:
        """Open the pools that the plan's tasks need; what is refused comes with :meth:`require`."""
        for task in plan.tasks:
            if task.environment.flow != self._flow:
                continue
            try:
                self.require(task.environment.resources, task.name)
            except EnvironmentRefused:
                continue
            self.pool(self._sizes.request(task.environment.resources, task.name))

    def cancel(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.cancel`."""
        for pool in list(self._pools.values()):
            pool.cancel()

    def close(self) -> None:
        """End everything, and cancel every batch job."""
        self._closed.set()
        with self._lock, ExitStack() as stack:
            threads = [
                threading.Thread(target=pool.close, name="fasthep-close")
                for pool in self._pools.values()
            ]
            for thread in threads:
                # Pools beside each other: each may have tasks that take their time to end.
                stack.callback(thread.join)
                thread.start()
        self._tidy()
        if not any(pool.has_left for pool in self._pools.values()):
            (self._directory / NOTES).unlink(missing_ok=True)

    def _look(self) -> None:
        """Look now and then what became of the batch jobs, of all pools in one question."""
        while not self._closed.wait(_POLL_S):
            pools = list(self._pools.values())
            jobs = {job for pool in pools for job in pool.jobs()}
            try:
                states = self._system.queue.states(jobs, self._extra) if jobs else {}
            except QueueSilent:
                # It has bad moments; workers that are there go on without it.
                continue
            for pool in pools:
                pool.look(states, jobs)


_NOT_OF_A_JOB: Final = frozenset(
    {"scheduler_options", "security", "shared_temp_directory", "silence_logs", "dashboard_address"}
)


def require_batch_job(flow: FlowSpec, runner: str, resources: Resources, label: str) -> None:
    """Refuse a task whose worker the batch system would never start, as far as it can say.

    Args:
        flow: For messages, with the user's options.
        runner: Which batch system.
        resources: What the task asks for.
        label: Its name.

    Raises:
        LimitUnenforceable: In the batch system's words.
        OrchestratorUnavailable: An option cannot be read.
    """
    system = find_system(runner)
    request = Sizes(flow, flow.options).request(resources, label)
    _raise_refusal(flow, system, request, label, _refusal(flow, system, request))


def _refusal(flow: FlowSpec, system: System, request: Request) -> str | None:
    """What the batch system says against such a job, asked before any is submitted."""
    given = {key: value for key, value in flow.options.items() if key not in POOL_OPTIONS}
    given = {key: value for key, value in given.items() if key not in _NOT_OF_A_JOB}
    told = job_options(system, given, request, Path(), "fasthep-check")
    told = {key: value for key, value in told.items() if key not in _NOT_OF_A_JOB}
    # The script alone: no folder is made for it.
    told["log_directory"] = None
    try:
        job = system.job("tls://127.0.0.1:1", "check", book=Book(), **told)
    except Exception as error:
        raise OrchestratorUnavailable(f"{flow}: {remote.words_of(error)}") from error
    extra = map(str, flow.options.get("submit_command_extra") or ())
    return system.queue.refusal(job.job_script(), tuple(extra))


def _raise_refusal(
    flow: FlowSpec, system: System, request: Request, label: str, words: str | None
) -> None:
    if words:
        raise LimitUnenforceable(
            f"task {label!r} asks for a worker of {request}, and {system.queue.name} "
            f"refuses such a job: {words}",
            hint=f"ask for less, or change the options of {flow.transform}::{flow.runner}",
        )


@contextmanager
def open_farm(flow: FlowSpec, runner: str, plan: Plan, directory: Path) -> Iterator[TaskRunner]:
    """Workers on a batch farm for as long as the context lasts.

    Args:
        flow: For messages, with the user's options.
        runner: Which batch system.
        plan: What is to be run.
        directory: For keys and logs.

    Raises:
        OrchestratorUnavailable: An option cannot be read, or a cluster cannot be opened.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"fasthep-{plan.name}").strip("-")[:_MOST_NAME]
    farm = FarmRunner(flow, find_system(runner), directory, name)
    try:
        farm.end_former()
        farm.open_for(plan)
        yield farm
    finally:
        farm.close()
