"""This machine runs the tasks: no server, no extra package.

``local::concurrent`` starts as many tasks at once as the machine has room for: a task
counts with the processors, the memory and the devices that it asks for, and with one
processor if it asks for none. ``local::sequential`` runs one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan, Resources
from fasthep_flow.orchestrators import RUNNERS, Orchestrator, TaskRunner
from fasthep_flow.orchestrators.options import whole_number

__all__ = ["LOCAL", "LocalOrchestrator"]


class LocalOrchestrator(Orchestrator):
    """Opens the runners ``local::concurrent`` and ``local::sequential``.

    The option ``max_workers`` of the former is the most tasks that run at once.
    """

    @property
    def runners(self) -> Sequence[str]:
        """See :attr:`fasthep_flow.orchestrators.Orchestrator.runners`."""
        return RUNNERS["local"]

    def options(self, runner: str) -> frozenset[str]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.options`."""
        return frozenset({"max_workers"} if runner == "concurrent" else ())

    def require(self, flow: FlowSpec, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.require`."""
        from fasthep_flow.orchestrators.admission import demand_of, machine_capacity, require_room

        del flow
        require_room("this machine", machine_capacity(), demand_of(resources), label)

    @contextmanager
    def open(self, flow: FlowSpec, plan: Plan, directory: Path) -> Iterator[TaskRunner]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        from fasthep_flow.environments.host.machine import cpu_count
        from fasthep_flow.orchestrators.admission import machine_capacity
        from fasthep_flow.orchestrators.local.runner import LocalRunner

        del directory
        capacity = machine_capacity()
        options = dict(flow.options)
        if flow.runner not in RUNNERS["local"]:
            raise OrchestratorUnavailable(f"there is no runner {flow}")
        slots = 1
        if flow.runner == "concurrent":
            # Tasks that ask for a share of a processor run beside each other on it.
            slots = whole_number(flow, "max_workers", options, 16 * cpu_count())
            options.pop("max_workers", None)
        if options:
            raise OrchestratorUnavailable(
                f"{flow} knows no option {next(iter(options))!r}",
                hint="known is max_workers, of local::concurrent",
            )
        runner = LocalRunner(capacity, min(slots, len(plan.tasks)))
        try:
            yield runner
        finally:
            runner.close()


LOCAL: Final = LocalOrchestrator()
