"""What runs where an engine puts it: on a worker, in a process or thread of the engine's.

Imported by name there, so this package must be installed on the workers too.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.environments.host.spawn import processes_of
from fasthep_flow.execution.execute import execute_job
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import Job, Secrets, from_json

__all__ = [
    "DASK_ENVIRONMENT",
    "PATIENCE_S",
    "Sealed",
    "dask_setup",
    "end_leftovers",
    "in_background",
    "interrupts_free",
    "interrupts_held",
    "restore_environment",
    "run_job",
    "settle_process",
    "stop_jobs",
    "words_of",
]

_HELD: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
"""What a terminal or a batch system sends to all processes of a job at once."""
_POLL_S: Final = 0.5

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
    # A task must be able to use the signals that the engine's own threads hold.
    with interrupts_free():
        return execute_job(
            job_text,
            sealed.reveal(),
            watch=_own_watch(os.getpid()) if watch is None else watch,
            pool=_own_pool(os.getpid()) if pool is None else pool,
        )


def stop_jobs() -> None:
    """Stop all jobs of this worker process, and let none start; asked again, kill them.

    For a worker that serves one run.
    """
    _own_watch(os.getpid()).cancel()


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
            _own_watch(os.getpid()).close()
            _own_pool(os.getpid()).close()
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
