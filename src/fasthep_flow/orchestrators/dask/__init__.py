"""Dask runs the tasks: on this machine, on a batch farm, or on a cluster that is there already.

`lint` asks what options there are: what only a run needs is imported when one begins.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan, Resources
from fasthep_flow.orchestrators import ALIASES, RUNNERS, Orchestrator, TaskRunner
from fasthep_flow.orchestrators.options import check_options, whole_number
from fasthep_flow.orchestrators.signatures import is_installed, read_parameters

__all__ = ["DASK", "DaskOrchestrator"]

_INSTALL: Final = "pip install 'fasthep-flow[dask]'"
_AHEAD: Final = 3
"""How many jobs a worker of this machine has at hand for each that it runs."""
_COMMANDS: Final[Mapping[str, str]] = {"slurm": "sbatch", "htcondor": "condor_submit"}
_QUEUE: Final = "dask_jobqueue.core:"
_LOCAL: Final = (
    "distributed.deploy.local:LocalCluster",
    "distributed.nanny:Nanny",
    "distributed.worker:Worker",
)
_TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    "local": _LOCAL,
    "slurm": (f"{_QUEUE}Job", f"{_QUEUE}JobQueueCluster", "dask_jobqueue.slurm:SLURMJob"),
    "htcondor": (f"{_QUEUE}Job", f"{_QUEUE}JobQueueCluster", "dask_jobqueue.htcondor:HTCondorJob"),
}
_OURS: Final[Mapping[str, frozenset[str]]] = {
    "local": frozenset(
        {"asynchronous", "ip", "loop", "processes", "resources", "self", "services", "start"}
        | {"worker_class", "worker_services"}
    ),
    "slurm": frozenset(
        {"asynchronous", "host", "job_cls", "loop", "n_workers", "name", "scheduler"}
        | {"scheduler_cls"}
    ),
}
"""What Dask takes and we decide."""
_FORMER: Final = frozenset({"env_extra", "extra", "header_skip", "job_extra"})
"""Former names of options of dask-jobqueue, which passes over them beside the new ones."""
_MORE: Final[Mapping[str, frozenset[str]]] = {
    "local": frozenset({"allowed_failures"}),
    "slurm": frozenset(
        {"allowed_failures", "dashboard_address", "interval", "maximum_jobs", "minimum_jobs"}
        | {"wait_count", "walltime"}
    ),
}
"""What is not a parameter of Dask's class: ours, and those of ``cluster.adapt``."""
_SCHEDULER: Final = frozenset(
    {"address", "allowed_failures", "require_encryption", "scheduler_file", "timeout"}
    | {"tls_ca_file", "tls_client_cert", "tls_client_key"}
)


class DaskOrchestrator(Orchestrator):
    """Opens ``dask::local``, ``dask::slurm``, ``dask::htcondor`` and ``dask::scheduler``.

    Options of the first are the keyword arguments of :class:`distributed.LocalCluster`, those
    of the batch systems dask-jobqueue's with ``minimum_jobs`` and ``maximum_jobs``; the last
    takes the ``address`` of a scheduler, or a ``scheduler_file``, and the files of its TLS.
    Besides, each takes ``allowed_failures``: how often a task is started again because its
    worker was lost.
    """

    @property
    def runners(self) -> Sequence[str]:
        """See :attr:`fasthep_flow.orchestrators.Orchestrator.runners`."""
        return RUNNERS["dask"]

    def options(self, runner: str) -> frozenset[str] | None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.options`."""
        runner = ALIASES["dask"].get(runner, runner)
        if runner == "scheduler":
            return _SCHEDULER
        if runner not in _TARGETS:
            return None
        known = read_parameters(*_TARGETS[runner])
        kind = "local" if runner == "local" else "slurm"
        return None if known is None else (known - _OURS[kind] - _FORMER) | _MORE[kind]

    def why_not(self, flow: FlowSpec) -> str | None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.why_not`."""
        runner = ALIASES["dask"].get(flow.runner, flow.runner)
        needed = ["distributed"] + (
            ["dask_jobqueue", "cryptography"] if runner in _COMMANDS else []
        )
        for package in needed:
            if not is_installed(package):
                return f"the package {package.replace('_', '-')} is not installed: {_INSTALL}"
        command = _COMMANDS.get(runner)
        if command is not None and shutil.which(command) is None:
            return f"there is no command {command} on this machine"
        if command is not None:
            from fasthep_flow.orchestrators.dask.requests import Sizes

            try:
                Sizes(flow, flow.options)
            except OrchestratorUnavailable as error:
                return error.message
        named = [name for name in ("address", "scheduler_file") if flow.options.get(name)]
        if runner == "scheduler" and not named:
            return "it needs the address of a Dask scheduler: the option address"
        if runner == "scheduler" and len(named) > 1:
            return "address and scheduler_file say the same thing twice"
        return None

    def require_answer(self, flow: FlowSpec) -> None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.require_answer`."""
        if flow.runner == "scheduler":
            from fasthep_flow.orchestrators.dask.address import require_scheduler

            require_scheduler(flow)

    def is_elsewhere(self, flow: FlowSpec) -> bool:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.is_elsewhere`."""
        return ALIASES["dask"].get(flow.runner, flow.runner) != "local"

    def require(self, flow: FlowSpec, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.require`."""
        runner = ALIASES["dask"].get(flow.runner, flow.runner)
        if runner == "local":
            from fasthep_flow.orchestrators.admission import demand_of, require_room
            from fasthep_flow.orchestrators.dask.local import worker_capacity

            require_room(
                "a Dask worker on this machine",
                worker_capacity(flow, flow.options),
                demand_of(resources),
                label,
            )
        elif runner in _COMMANDS and is_installed("dask"):
            from fasthep_flow.orchestrators.dask.requests import Sizes

            Sizes(flow, flow.options).request(resources, label)
            if self.why_not(flow) is None:
                from fasthep_flow.orchestrators.dask.farm import require_batch_job

                require_batch_job(flow, runner, resources, label)

    def open(
        self, flow: FlowSpec, plan: Plan, directory: Path
    ) -> AbstractContextManager[TaskRunner]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        return self._open(flow, plan, directory)

    @contextmanager
    def _open(self, flow: FlowSpec, plan: Plan, directory: Path) -> Iterator[TaskRunner]:
        from fasthep_flow.orchestrators.dask.engine import import_dask, quiet
        from fasthep_flow.orchestrators.runner import ALLOWED_FAILURES

        runner = ALIASES["dask"].get(flow.runner, flow.runner)
        if runner not in RUNNERS["dask"]:
            raise OrchestratorUnavailable(
                f"there is no runner {flow}", hint=f"known are {', '.join(RUNNERS['dask'])}"
            )
        dask, _ = import_dask(flow)
        if (known := self.options(runner)) is not None:
            check_options(flow, flow.options, known)
        whole_number(flow, "allowed_failures", flow.options, ALLOWED_FAILURES, least=0)
        with quiet(dask), self._opener(flow, runner, plan, directory) as opened:
            yield opened

    def _opener(
        self, flow: FlowSpec, runner: str, plan: Plan, directory: Path
    ) -> AbstractContextManager[TaskRunner]:
        if runner == "local":
            return _open_local(flow)
        if runner == "scheduler":
            from fasthep_flow.orchestrators.dask.existing import open_existing

            return open_existing(flow, directory)
        if (reason := self.why_not(flow)) is not None:
            raise OrchestratorUnavailable(f"{flow} cannot be opened: {reason}")
        from fasthep_flow.orchestrators.dask.farm import open_farm

        return open_farm(flow, runner, plan, directory)


@contextmanager
def _open_local(flow: FlowSpec) -> Iterator[TaskRunner]:
    from fasthep_flow.orchestrators import remote
    from fasthep_flow.orchestrators.admission import Admission, shared_room
    from fasthep_flow.orchestrators.dask.engine import connect
    from fasthep_flow.orchestrators.dask.local import open_local_cluster
    from fasthep_flow.orchestrators.dask.telling import TellingEngine
    from fasthep_flow.orchestrators.runner import ALLOWED_FAILURES, EngineRunner

    options = {key: value for key, value in flow.options.items() if key != "allowed_failures"}
    with open_local_cluster(flow, options) as local:
        with remote.interrupts_held():
            client = connect(local.cluster)
        runner = EngineRunner(
            TellingEngine(client, local.bury),
            # Among several workers the one that is free first need not be the one that waits.
            Admission(
                shared_room(local.room),
                local.slots,
                ahead=_AHEAD if flow.options.get("n_workers", 1) == 1 else 0,
            ),
            local.worker,
            place="a Dask worker",
            on_this_machine=True,
            allowed_failures=flow.options.get("allowed_failures", ALLOWED_FAILURES),
            dashboard=local.dashboard,
        )
        try:
            yield runner
        finally:
            runner.close()


DASK: Final = DaskOrchestrator()
