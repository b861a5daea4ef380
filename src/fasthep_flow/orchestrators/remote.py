"""What runs where an engine puts it: on a worker, in a process or thread of the engine's.

Imported by name there, so this package must be installed on the workers too.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.environments.host.reading import read_whole
from fasthep_flow.environments.host.spawn import processes_of
from fasthep_flow.errors import EnvironmentRefused, LimitUnenforceable, WorkerLost
from fasthep_flow.execution.execute import execute_job
from fasthep_flow.execution.place import open_place
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import Job, JobResult, Secrets, from_json

__all__ = [
    "DASK_ENVIRONMENT",
    "PATIENCE_S",
    "Claim",
    "NotTaken",
    "Sealed",
    "answer_job",
    "claim_of",
    "close_own",
    "dask_setup",
    "end_leftovers",
    "in_background",
    "interrupts_free",
    "interrupts_held",
    "is_busy",
    "leave",
    "restore_environment",
    "run_job",
    "serve_as",
    "settle_process",
    "stop_jobs",
    "words_of",
]

_HELD: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)
"""What a terminal or a batch system sends to all processes of a job at once."""
_POLL_S: Final = 0.5
_CLAIM_FILE: Final = "worker.json"
_CLAIM_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_LARGEST_CLAIM: Final = 2**16
_SAME_SIGNAL_S: Final = 1.0
_GRACE_S: Final = 15.0
"""What a task may take to end after its own time limit."""
_FRESH_S: Final = 60.0
"""What has not the time for a task within that of its start has never had it."""

DASK_ENVIRONMENT: Final = "fasthep-flow.environment"
"""Where a Dask worker's configuration says what variables were before Dask set them."""
PATIENCE_S: Final = 15.0
"""How long jobs that were told to stop may take; they are killed after ten seconds."""


class Sealed:
    """Secrets on their way to a worker: engines log, hash and show what they are handed."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def __repr__(self) -> str:
        return "Sealed(***)"

    def reveal(self) -> Secrets:
        """The values, for the job alone."""
        return self._secrets


class NotTaken(Exception):  # noqa: N818 - a notice: the job did not begin
    """The worker takes this job no more, and has not begun it: it can go to another worker."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which worker an attempt was begun on; the file ``worker.json`` of its folder.

    Args:
        host: The name of the machine.
        pid: The worker's process there.
        worker: What the engine calls the worker, if it has a name.
        batch_job: The batch job that the worker is, if it is one.
        address: Where the engine reaches it.
    """

    host: str
    pid: int
    worker: str = ""
    batch_job: str = ""
    address: str = ""


class _Service:
    """What this process is, as a worker, and what it has in hand."""

    def __init__(self) -> None:
        self.name = ""
        self.batch_job = ""
        self.address = ""
        self.ends_s: float | None = None
        self.since_s = time.time()
        self.has_begun = False
        self.retire: Callable[[], object] = lambda: None
        self.leaving = ""
        self.told: Final = threading.Event()
        self.busy = 0
        self.lock: Final = threading.Lock()


@functools.lru_cache(maxsize=1)
def _own_service(pid: int) -> _Service:  # noqa: ARG001 - as for the watch below
    return _Service()


def serve_as(
    name: str,
    *,
    batch_job: str = "",
    address: str = "",
    ends_s: float | None = None,
    retire: Callable[[], object] = lambda: None,
) -> None:
    """Say what this process is called as a worker, and when it has to end.

    Args:
        name: What the engine calls it.
        batch_job: The batch job that it is.
        address: Where the engine reaches it.
        ends_s: The time, as :func:`time.time` has it, at which a batch system ends it.
        retire: Called when a job would take longer than that: the worker is to take no more,
            and to end when what it has in hand has ended.
    """
    service = _own_service(os.getpid())
    service.name, service.batch_job, service.address = name, batch_job, address
    service.ends_s, service.retire, service.since_s = ends_s, retire, time.time()


def leave(reason: str) -> None:
    """Take no more jobs, and stop those that run: they count as lost; returns at once.

    Args:
        reason: Why this worker ends, for whoever reads why a task was started again.
    """
    service = _own_service(os.getpid())
    service.leaving = reason
    service.told.set()
    stop_jobs()


def is_busy() -> bool:
    """Whether this process has a job in hand."""
    return _own_service(os.getpid()).busy > 0


def run_job(
    job_text: str, sealed: Sealed, watch: Watch | None = None, pool: Pool | None = None
) -> str:
    """Run a job in this thread; its reply.

    Args:
        job_text: The JSON of a :class:`~fasthep_flow.model.Job`.
        sealed: The values of its variables.
        watch: The runner's, where this is the driver's own process; else this process's,
            which also looks for the run's cancel file.
        pool: The runner's, as above.
    """
    if watch is not None:
        with interrupts_free():
            return execute_job(job_text, sealed.reveal(), watch=watch, pool=pool)
    service = _own_service(os.getpid())
    with service.lock:
        if _is_leaving(service):
            raise NotTaken(service.leaving)
        service.busy += 1
    try:
        _claim(job_text, service)
        # A task must be able to use the signals that the engine's own threads hold.
        with interrupts_free():
            reply = execute_job(
                job_text,
                sealed.reveal(),
                watch=_own_watch(os.getpid()),
                pool=_own_pool(os.getpid()) if pool is None else pool,
            )
        if _is_cut_short(service, reply):
            raise WorkerLost(f"{_called(service)} had to end: {service.leaving}")
        return reply
    finally:
        with service.lock:
            service.busy -= 1


def answer_job(job_text: str, sealed: Sealed) -> str | NotTaken | WorkerLost | LimitUnenforceable:
    """As :func:`run_job`, with what it raises as an answer: engines log exceptions at length."""
    try:
        return run_job(job_text, sealed)
    except (NotTaken, WorkerLost, LimitUnenforceable) as problem:
        return problem


def _is_cut_short(service: _Service, reply: str) -> bool:
    """Whether a job ended as it did because its worker ends.

    A batch system may signal all processes of a batch job at once: a task that dies of it must
    not be taken for one that failed, if the worker hears of it a moment later.
    """
    status = from_json(JobResult, reply).status
    if status == "succeeded":
        return False
    if status == "failed" and service.batch_job:
        service.told.wait(_SAME_SIGNAL_S)
    return _is_leaving(service)


def _is_leaving(service: _Service) -> bool:
    # Asked for anew: meanwhile another thread may have said so.
    return bool(service.leaving)


def _called(service: _Service) -> str:
    parts = [f"worker {service.name or os.getpid()}"]
    if service.batch_job:
        parts.append(f"batch job {service.batch_job}")
    return f"{' of '.join(parts)} on {platform.node()}"


def _claim(job_text: str, service: _Service) -> None:
    """Take the attempt for this worker alone.

    Whoever has lost a worker may hand its jobs to another one by itself, while what the first
    one started lives on.
    """
    try:
        job = from_json(Job, job_text)
    except ValueError:
        # The reply says what is wrong with it.
        return
    needed_s = job.resources.walltime_s
    left_s = None if service.ends_s is None else service.ends_s - time.time()
    if left_s is not None and left_s < (needed_s or 0.0) + (_GRACE_S if needed_s else 0.0):
        if needed_s and not service.has_begun and time.time() - service.since_s < _FRESH_S:
            raise LimitUnenforceable(
                f"task {job.task!r} asks for {needed_s:g} s, and {_called(service)}, which has "
                f"only just begun, has to end in {max(left_s, 0):.0f} s, as would any other",
                hint="the walltime of the options has to hold a task's, the start of its worker, "
                f"and {_GRACE_S:g} s",
            )
        service.retire()
        raise NotTaken(f"{_called(service)} has to end in {max(left_s, 0):.0f} s")
    claim = Claim(
        host=platform.node(),
        pid=os.getpid(),
        worker=service.name,
        batch_job=service.batch_job,
        address=service.address,
    )
    try:
        folder = open_place(job)
    except EnvironmentRefused:
        # The reply says what is wrong with its folder.
        return
    try:
        descriptor = os.open(_CLAIM_FILE, _CLAIM_FLAGS, 0o666, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(claim))
    except FileExistsError:
        first = claim_of(job_text)
        where = "another worker" if first is None else f"worker {first.worker} on {first.host}"
        raise WorkerLost(f"{where} was lost while it ran this attempt") from None
    finally:
        os.close(folder)
    service.has_begun = True


def claim_of(job_text: str) -> Claim | None:
    """Which worker has begun a job; ``None`` where none has, as far as can be seen from here."""
    folder = from_json(Job, job_text).directory
    claim = _read_claim(folder)
    if claim is not None:
        return claim
    # A network file system goes on for a while saying that there is none, unless it lists.
    for above in (os.path.dirname(folder), folder):  # noqa: PTH120 - names, as above
        with contextlib.suppress(OSError):
            os.listdir(above)  # noqa: PTH208 - as above
    return _read_claim(folder)


def _read_claim(folder: str) -> Claim | None:
    try:
        return msgspec.json.decode(
            read_whole(f"{folder}/{_CLAIM_FILE}", _LARGEST_CLAIM), type=Claim
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        # Begun, and cut short by whatever ended the worker.
        return Claim(host="", pid=0)


def stop_jobs() -> None:
    """Stop all jobs of this worker process, and let none start; asked again, kill them.

    For a worker that serves one run.
    """
    _own_watch(os.getpid()).cancel()


def close_own() -> None:
    """End the containers that this worker process keeps, and what its tasks left behind."""
    _own_watch(os.getpid()).close()
    _own_pool(os.getpid()).close()


def end_leftovers(job_text: str) -> None:
    """Kill what a lost worker of this machine left of a job: the next attempt must be alone."""
    for process in processes_of(from_json(Job, job_text).directory):
        # psutil looks at the time of its start first: a number that is in use again is safe.
        with contextlib.suppress(Exception):
            process.kill()


def words_of(problem: BaseException) -> str:
    """What an engine's exception says, in a line."""
    return " ".join(str(problem).split()) or type(problem).__name__


@functools.lru_cache(maxsize=1)
def _own_watch(pid: int) -> Watch:  # noqa: ARG001 - a forked process has no thread of its parent's
    return Watch(cancel_file_poll_s=_POLL_S)


@functools.lru_cache(maxsize=1)
def _own_pool(pid: int) -> Pool:  # noqa: ARG001 - as above
    pool = Pool()
    atexit.register(pool.close)
    return pool


def interrupts_held() -> contextlib.AbstractContextManager[None]:
    """Threads and processes that are started within do not see the terminal's signals.

    Ctrl-C reaches every process of the terminal's group. The driver alone answers it: it
    asks the tasks to stop and records how they ended, for which it needs the engine alive.
    """
    return _masked(signal.SIG_BLOCK)


def interrupts_free() -> contextlib.AbstractContextManager[None]:
    """Processes that are started within see these signals, whatever this thread holds."""
    return _masked(signal.SIG_UNBLOCK)


@contextlib.contextmanager
def _masked(how: int) -> Iterator[None]:
    # Threads and processes inherit the mask of the thread that starts them.
    mask = signal.pthread_sigmask(how, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def restore_environment(variables: Mapping[str, str | None]) -> None:
    """Set each variable to its value here and in what is started from now on; no value, none."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def settle_process(*asked: Callable[[], object]) -> None:
    """Make the calling process a worker: out of the terminal's reach, and not outliving it.

    For the main thread of a process that :func:`interrupts_held` covered at its start.

    Args:
        asked: Each blocks until all jobs of this process are to stop, or are to be killed.
    """
    # A session of its own: signals to the driver's group, which the driver answers, end here.
    with contextlib.suppress(PermissionError):
        os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    _keep_descriptors()
    for wait in asked:
        in_background("fasthep-stop", functools.partial(_stop_after, wait))
    parent = multiprocessing.parent_process()
    if parent is not None:

        def leave_with_parent() -> None:
            parent.join()
            close_own()
            os._exit(1)

        in_background("fasthep-parent", leave_with_parent)


def _stop_after(wait: Callable[[], object]) -> None:
    wait()
    stop_jobs()


def _keep_descriptors() -> None:
    # A process tells its parent that it ended by closing a pipe, whose end multiprocessing
    # leaves open to whatever the process starts: a task would keep a dead worker alive.
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - a list: the descriptors are to stay put
        if int(name) > 2:  # noqa: PLR2004 - standard streams
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)


def in_background(name: str, function: Callable[[], object]) -> None:
    """Call ``function`` in a thread that nobody waits for."""
    threading.Thread(target=function, name=name, daemon=True).start()


def dask_setup(_: Any) -> None:  # noqa: ANN401 - a distributed.Worker; Dask calls this hook
    """Dask's preload hook: runs in the worker's main thread before it takes any task."""
    import dask.config

    restore_environment(dask.config.get(DASK_ENVIRONMENT, {}))
    settle_process()
