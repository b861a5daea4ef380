"""Dask runs the tasks: ``dask::local`` is a cluster on this machine for as long as the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan
from fasthep_flow.orchestrators import RUNNERS, Orchestrator, TaskRunner, remote
from fasthep_flow.orchestrators.admission import Admission, shared_room
from fasthep_flow.orchestrators.dask.engine import DaskEngine, connect
from fasthep_flow.orchestrators.dask.local import open_local_cluster
from fasthep_flow.orchestrators.runner import EngineRunner

__all__ = ["DASK", "DaskOrchestrator"]


class DaskOrchestrator(Orchestrator):
    """Opens ``dask::local``.

    Options are the keyword arguments of :class:`distributed.LocalCluster`, such as
    ``n_workers``, ``threads_per_worker`` and ``dashboard_address``.
    """

    @property
    def runners(self) -> Sequence[str]:
        """See :attr:`fasthep_flow.orchestrators.Orchestrator.runners`."""
        return RUNNERS["dask"]

    @contextmanager
    def open(self, flow: FlowSpec, plan: Plan, directory: Path) -> Iterator[TaskRunner]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        del plan, directory
        if flow.runner not in RUNNERS["dask"]:
            raise OrchestratorUnavailable(
                f"there is no runner {flow}", hint=f"known are {', '.join(RUNNERS['dask'])}"
            )
        if flow.runner != "local":
            raise OrchestratorUnavailable(f"{flow} is missing from this version")
        with open_local_cluster(flow, flow.options) as local:
            with remote.interrupts_held():
                client = connect(local.cluster)
            runner = EngineRunner(
                DaskEngine(client),
                Admission(shared_room(local.room), local.slots),
                local.worker,
                place="a Dask worker",
                on_this_machine=True,
            )
            try:
                yield runner
            finally:
                runner.close()


DASK: Final = DaskOrchestrator()
