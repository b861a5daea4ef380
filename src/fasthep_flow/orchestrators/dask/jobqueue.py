"""dask-jobqueue's classes, imported so that Ctrl-C stays whose it was.

At its import dask-jobqueue 0.9 makes SIGINT end this process at once, with exit code 0. Outside
the main thread that fails, and it cannot be imported at all.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["HTCondorCluster", "HTCondorJob", "Job", "SLURMCluster", "SLURMJob"]


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Whoever sets a signal's handler meanwhile sets none."""
    before = signal.signal
    signal.signal = lambda number, _: signal.getsignal(number)  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = before


with _signals_kept():
    from dask_jobqueue.core import Job
    from dask_jobqueue.htcondor import HTCondorCluster, HTCondorJob
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob
