"""Who runs jobs: one engine a file, imported when it is opened.

The driver decides the order; a runner only ever sees jobs that are ready.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan, Resources, Secrets

if TYPE_CHECKING:
    # The planner reads the table below: `lint` has no use for futures.
    from concurrent.futures import Future

__all__ = ["ALIASES", "RUNNERS", "Orchestrator", "TaskRunner", "find_orchestrator"]

RUNNERS: Final[Mapping[str, tuple[str, ...]]] = {
    "local": ("concurrent", "sequential"),
    "dask": ("local", "slurm", "htcondor", "scheduler"),
    "prefect": (
        "DaskTaskRunner",
        "SequentialTaskRunner",
        "ConcurrentTaskRunner",
        "ThreadPoolTaskRunner",
        "ProcessPoolTaskRunner",
        "RayTaskRunner",
    ),
}
"""The runners of each of our orchestrators, the default one first; read by the planner."""

ALIASES: Final[Mapping[str, Mapping[str, str]]] = {
    "dask": {
        "LocalCluster": "local",
        "SLURMCluster": "slurm",
        "HTCondorCluster": "htcondor",
    },
}
"""What else a runner may be called in a workflow: as its engine calls it."""


class TaskRunner(Protocol):
    """An opened orchestrator."""

    @property
    def allowed_failures(self) -> int:
        """How often a task is started again because its worker was lost."""
        ...

    @property
    def dashboard(self) -> str | None:
        """Where the engine shows what it does, for a browser; ``None`` where it does not."""
        ...

    def require(self, resources: Resources, label: str) -> None:
        """Refuse what no worker of this runner could ever be asked for.

        Args:
            resources: What a task asks for.
            label: The task's name.

        Raises:
            EnvironmentRefused: With what is asked for and what there is.
        """
        ...

    def size(self, resources: Resources) -> float:
        """How large a share of the runner's room that is: the largest that is ready goes first.

        Args:
            resources: What a task asks for.
        """
        del resources
        return 0.0

    def submit(
        self, job_text: str, secrets: Secrets, resources: Resources, label: str
    ) -> Future[str]:
        """Run a job that is ready.

        Args:
            job_text: The JSON of a :class:`~fasthep_flow.model.Job`.
            secrets: Values of its variables; never logged, never written to disk.
            resources: What the orchestrator schedules by.
            label: The task's name, for the engine's own displays.

        Returns:
            A future of the JSON of a :class:`~fasthep_flow.model.JobResult`. It holds an
            exception only where the worker or the engine was lost:
            :class:`~fasthep_flow.errors.WorkerLost`, with the worker's last words, where
            another worker may take the task; any other where none can.

        Raises:
            EnvironmentRefused: As :meth:`require`.
        """
        ...

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Have ``stop`` called, from any thread, when somebody ends the run on the engine's side.

        Args:
            stop: Begins to end the run as a signal does, and returns at once.
        """
        del stop

    def cancel(self) -> None:
        """Stop all that runs and drop all that waits; every future ends soon after."""
        ...


class Orchestrator(Protocol):
    """An engine that can be opened. A subclass has to say ``runners`` and ``open`` alone."""

    @property
    def runners(self) -> Sequence[str]:
        """The names of its runners, the default one first."""
        ...

    def options(self, runner: str) -> frozenset[str] | None:
        """The names of the options that a runner takes; ``None`` where nobody can say.

        For ``lint``: imports no engine and starts nothing.
        """
        del runner
        return None

    def inner_options(self, flow: FlowSpec) -> Mapping[str, frozenset[str]]:
        """The names that options take which hold options themselves, by the option.

        For ``lint``, too. Those alone that the flow has and somebody can say.
        """
        del flow
        return {}

    def misfits(self, flow: FlowSpec) -> Mapping[str, str]:
        """What is wrong with the values of options, by the option.

        For ``lint``, too.
        """
        del flow
        return {}

    def why_not(self, flow: FlowSpec) -> str | None:
        """Why the runner cannot be opened here, as far as that is known; ``None`` if it can.

        For ``check`` and ``list orchestrations``: starts nothing, and answers within seconds.
        """
        del flow
        return None

    def is_elsewhere(self, flow: FlowSpec) -> bool:
        """Whether workers may be on other machines, and have what this one has not."""
        del flow
        return False

    def require_answer(self, flow: FlowSpec) -> None:
        """Refuse a flow that stands on a service which does not answer.

        For ``check``, and for a run before it fetches anything: connects, within seconds.

        Args:
            flow: Which runner, with its options; nothing else speaks against it.

        Raises:
            OrchestratorUnavailable: With the address, and what to do.
        """
        del flow

    def require(self, flow: FlowSpec, resources: Resources, label: str) -> None:
        """Refuse what no worker of the runner could ever be asked for, before it is opened.

        Args:
            flow: Which runner, with its options.
            resources: What a task asks for.
            label: The task's name.

        Raises:
            EnvironmentRefused: With what is asked for and what there is.
        """
        del flow, resources, label

    def open(
        self, flow: FlowSpec, plan: Plan, directory: Path
    ) -> AbstractContextManager[TaskRunner]:
        """A runner for as long as the context lasts.

        Args:
            flow: Which runner, with its options.
            plan: What is to be run: its name and size.
            directory: For files of the engine's own, such as the logs of workers: of this
                runner in this run alone, on a file system that the workers share. Not
                there yet, and only to be made when something is to lie there.

        Raises:
            OrchestratorUnavailable: The package is missing, an option is unknown, or the
                engine does not answer.
        """
        ...


def find_orchestrator(transform: str, runner: str = "") -> Orchestrator:
    """The orchestrator of that name: ours, or one of another package.

    Args:
        transform: Of a flow.
        runner: Of the flow: another package may add one to a transform of ours. Empty for the
            transform's own.

    Raises:
        OrchestratorUnavailable: There is none, or it cannot be imported.
    """
    is_ours = transform in RUNNERS
    if is_ours and (not runner or runner in RUNNERS[transform]):
        return _ours(transform)
    from fasthep_flow.orchestrators.plug_ins import find_plug_in, load_plug_in

    entry = find_plug_in(transform, runner)
    if entry is not None and (not is_ours or entry.name != transform):
        return load_plug_in(entry)
    if is_ours:
        # It says of its own what runners it has.
        return _ours(transform)
    raise OrchestratorUnavailable(
        f"there is no orchestrator {transform!r}",
        hint=f"known are {', '.join(sorted(RUNNERS))}; is the package that adds it installed?",
    )


def _ours(transform: str) -> Orchestrator:
    module = importlib.import_module(f"fasthep_flow.orchestrators.{transform}")
    return cast("Orchestrator", getattr(module, transform.upper()))
