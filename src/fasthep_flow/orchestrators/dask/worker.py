"""A Dask worker that is a batch job: where it is, when it has to end, and how it ends.

Dask imports this by name in the worker, where it needs this package and no workflow file.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psutil

from fasthep_flow.orchestrators import remote

__all__ = ["SECONDS_VARIABLE", "batch_job", "dask_setup", "dask_teardown"]

SECONDS_VARIABLE: Final = "FASTHEP_WORKER_SECONDS"
"""For how long the batch system lets the job live, if it was told."""
_POLL_S: Final = 0.05
_FLUSH_S: Final = 0.5
"""What a message of Dask's takes to leave the process."""


def dask_setup(worker: Any) -> None:  # noqa: ANN401 - a distributed.Worker; Dask calls this hook
    """Dask's preload hook: runs in the worker's main thread before it takes any task."""
    seconds = os.environ.pop(SECONDS_VARIABLE, None)
    # Tasks inherit what is here, and this one is Dask's own.
    os.environ.pop("__DASK_PARENT_PID", None)
    started_s = psutil.Process().create_time()
    remote.serve_as(
        str(worker.name),
        batch_job=batch_job(),
        ends_s=None if not seconds else started_s + float(seconds),
        retire=lambda: _retire(worker),
    )
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            _leave_on(number, worker)


async def dask_teardown(_: Any) -> None:  # noqa: ANN401 - as above
    """Dask's hook for the end of a worker, whatever the reason."""
    remote.leave("Dask closed it, or its scheduler went away")
    # What the tasks answer is still sent by the loop that calls this.
    await asyncio.to_thread(_end)


def batch_job() -> str:
    """The id of the batch job that this process runs in; empty if it is in none."""
    if number := os.environ.get("SLURM_JOB_ID"):
        return number
    try:
        text = Path(os.environ["_CONDOR_JOB_AD"]).read_text(errors="replace")
    except (KeyError, OSError):
        return ""
    found = dict(re.findall(r"(?m)^(ClusterId|ProcId) = (\d+)$", text))
    return f"{found['ClusterId']}.{found.get('ProcId', '0')}" if "ClusterId" in found else ""


def _take_no_more(worker: Any) -> None:  # noqa: ANN401 - a distributed.Worker
    """Have Dask give its tasks to others."""
    from distributed.core import Status

    worker.loop.add_callback(setattr, worker, "status", Status.paused)


def _retire(worker: Any) -> None:  # noqa: ANN401 - a distributed.Worker
    """End the worker once it has nothing in hand."""
    _take_no_more(worker)

    def end() -> None:
        while remote.is_busy():
            time.sleep(_POLL_S)
        reason = "the batch system will end it before its next task could end"
        worker.loop.add_callback(worker.close, reason=reason)

    remote.in_background("fasthep-retire", end)


def _leave_on(number: signal.Signals, worker: Any) -> None:  # noqa: ANN401 - as above
    """On this signal, which a batch system sends some seconds before it kills, end the tasks.

    Then whoever answered the signal before answers it.
    """
    before = signal.getsignal(number)

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(number, before)
        remote.leave(f"the batch system, or somebody, sent it {number.name}")

        def end() -> None:
            _take_no_more(worker)
            _end()
            os.kill(os.getpid(), number)

        remote.in_background("fasthep-leave", end)

    signal.signal(number, handle)


def _end() -> None:
    until_s = time.monotonic() + remote.PATIENCE_S
    while remote.is_busy() and time.monotonic() < until_s:
        time.sleep(_POLL_S)
    # What the tasks' threads answered is still to be sent.
    time.sleep(_FLUSH_S)
    remote.close_own()
