"""Making workers of somebody else's Dask cluster ready for tasks, where they can be.

Dask sends this to every worker of the cluster, to those that come later too. A worker that has
this package in the driver's version and sees the run folder is given resources by the names that
tasks ask for; the others get none, and so no task.

Imports Dask, so it is imported when a runner is opened, and by the workers.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin

from fasthep_flow.environments.devices.inventory import inventory
from fasthep_flow.environments.host.machine import memory_bytes
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Capacity
from fasthep_flow.orchestrators.dask.worker import batch_job, dask_teardown

__all__ = ["Fitting", "misfit_of"]

_ATTRIBUTES_S = 5.0
"""How long a network file system may keep a new file from another machine."""


class Fitting(WorkerPlugin):
    """Gives a worker resources, if tasks can run there.

    Args:
        mark: A file in the run folder.
        text: What is in it.
        package: The version of this package.
    """

    name = "fasthep-flow"

    def __init__(self, mark: str, text: str, package: str) -> None:
        self.mark = mark
        self.text = text
        self.package = package

    async def setup(self, worker: Any) -> None:  # noqa: ANN401 - a distributed.Worker
        """See Dask's plug-ins of workers."""
        if misfit_of(self.mark, self.text, self.package) is not None:
            return
        remote.serve_as(str(worker.name), batch_job=batch_job(), address=worker.address)
        declared = worker.state.total_resources
        offered = _offer(worker)
        missing = {name: amount for name, amount in offered.items() if name not in declared}
        if missing:
            await worker.set_resources(**missing)

    async def teardown(self, worker: Any) -> None:  # noqa: ANN401 - as above
        """When the worker closes; not when only this run ends."""
        if worker.status.name in {"closing", "closed", "failed"}:
            await dask_teardown(worker)


def _offer(worker: Any) -> dict[str, float]:  # noqa: ANN401 - as above
    """What tasks may use on it: its threads, its limit of memory, the devices that it sees."""
    devices = inventory()
    memory = worker.memory_manager.memory_limit or memory_bytes()
    return Capacity(
        float(worker.state.nthreads),
        float(memory),
        0.0 if isinstance(devices, str) else float(len(devices)),
    )._asdict()


def misfit_of(mark: str, text: str, package: str) -> str | None:
    """Why no task can run in this process; ``None`` if one can.

    Args:
        mark: A file in the run folder.
        text: What is in it.
        package: The version of this package on the driver.
    """
    here = version("fasthep-flow")
    if here != package:
        return f"it has fasthep-flow {here}, and this run is of {package}"
    until_s = time.monotonic() + _ATTRIBUTES_S
    while True:
        try:
            if Path(mark).read_text() == text:
                return None
            reason = "its folder of that name is another one"
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > until_s:
            return f"it does not see the run folder {Path(mark).parent}: {reason}"
        time.sleep(0.2)
