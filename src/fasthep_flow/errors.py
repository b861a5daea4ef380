"""The error tree. Each class knows the exit code of the command that it ends.

::

    FlowError                      1
    ├── WorkflowError              2   the file is not a workflow: syntax, keys, values
    │   └── PlanError              3   a workflow, but it cannot be planned: needs, flow, .env
    ├── ArgumentError              2   an operator refuses its arguments; the planner adds the place
    ├── EnvironmentRefused         4   an environment request cannot be honoured here
    │   ├── CredentialUnavailable
    │   ├── DataUnavailable
    │   ├── DeviceUnavailable
    │   ├── EngineUnavailable
    │   ├── ImageUnavailable
    │   ├── LimitUnenforceable
    │   ├── LockDrift
    │   └── SoftwareUnavailable
    ├── OrchestratorUnavailable    5   the orchestrator or its extra package is missing
    ├── RecordError                6   the run folder cannot be written or read
    │   └── RunClaimed             7   another driver has the run
    ├── RunInterrupted             128 + signal number
    └── WorkerLost                     of one task: recorded, and the task is started again

Exit code 1 without an error of ours means that a task of the run failed.
Every message says what is wrong; ``hint`` says what to do next.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "ArgumentError",
    "CredentialUnavailable",
    "DataUnavailable",
    "DeviceUnavailable",
    "EngineUnavailable",
    "EnvironmentRefused",
    "ExitCode",
    "FlowError",
    "ImageUnavailable",
    "LimitUnenforceable",
    "Location",
    "LockDrift",
    "OrchestratorUnavailable",
    "PlanError",
    "Problem",
    "RecordError",
    "RunClaimed",
    "RunInterrupted",
    "SoftwareUnavailable",
    "WorkerLost",
    "WorkflowError",
]


class ExitCode(IntEnum):
    """What the command's exit status means."""

    SUCCESS = 0
    TASK_FAILED = 1
    WORKFLOW = 2
    PLAN = 3
    ENVIRONMENT = 4
    ORCHESTRATOR = 5
    RECORD = 6
    CLAIMED = 7
    INTERNAL = 70
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file of the author's.

    Args:
        file: The file as the author named it.
        line: Line, counted from 1.
        column: Column in characters, counted from 1.
        path: The node's path in the document, such as ``tasks[1].environment.image``.
    """

    file: str
    line: int
    column: int
    path: str = ""

    def __str__(self) -> str:
        """``file:line:column``, the form that editors make a link of."""
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with what the author wrote.

    Args:
        message: What is wrong and why.
        location: Where; ``None`` where there is no file (a command line option).
        hint: What to do next, such as the nearest known name.
        source: The text of the line at ``location``, if it is known.
    """

    message: str
    location: Location | None = None
    hint: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        """The problem in the form of a compiler's message, with the line and a caret."""
        if self.location is None:
            return self.message if self.hint is None else f"{self.message}\n  {self.hint}"
        subject = f"{self.location.path}: " if self.location.path else ""
        lines = [f"{self.location}: {subject}{self.message}"]
        if self.source is None:
            if self.hint:
                lines.append(f"      {self.hint}")
            return "\n".join(lines)
        number = f"{self.location.line:>5} | "
        lines.append(number + self.source.expandtabs(1))
        gutter = " " * (len(number) - 2) + "| " + " " * (self.location.column - 1)
        lines.append(gutter + "^" + (f" {self.hint}" if self.hint else ""))
        return "\n".join(lines)


class FlowError(Exception):
    """Everything that this package raises on purpose.

    Args:
        message: What is wrong, where and why.
        hint: What to do next.
    """

    exit_code: int = ExitCode.TASK_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The message, with the hint on a line of its own."""
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class WorkflowError(FlowError):
    """The file is not a workflow; carries every problem that was found in it."""

    exit_code = ExitCode.WORKFLOW

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class PlanError(WorkflowError):
    """The file is a workflow, but no plan can be made of it."""

    exit_code = ExitCode.PLAN


class ArgumentError(FlowError):
    """An operator refuses its arguments.

    Args:
        message: What is wrong and why.
        path: Where below the task: keys and indices, such as ``("kwargs", "op_args")``.
        hint: What to do next.
    """

    exit_code = ExitCode.WORKFLOW

    def __init__(
        self, message: str, *, path: tuple[str | int, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class EnvironmentRefused(FlowError):
    """An environment request cannot be honoured on this machine."""

    exit_code = ExitCode.ENVIRONMENT


class CredentialUnavailable(EnvironmentRefused):
    """A credential is not there, is none, or ends before the task may."""


class DataUnavailable(EnvironmentRefused):
    """Extra data does not exist, cannot be fetched, or is not what its digest says."""


class DeviceUnavailable(EnvironmentRefused):
    """There are not as many devices as the task asks for, or it cannot be given them."""


class EngineUnavailable(EnvironmentRefused):
    """The container engine is not there, or does not answer."""


class ImageUnavailable(EnvironmentRefused):
    """The image does not exist, may not be read, or its registry does not answer."""


class LimitUnenforceable(EnvironmentRefused):
    """A resource limit was asked for that nothing on this machine can enforce."""


class LockDrift(EnvironmentRefused):
    """Something is not what the workflow's lock file says."""


class SoftwareUnavailable(EnvironmentRefused):
    """A setup script fails, or a Python environment cannot be made."""


class OrchestratorUnavailable(FlowError):
    """The orchestrator cannot be opened: its package is missing, or it does not answer."""

    exit_code = ExitCode.ORCHESTRATOR


class WorkerLost(FlowError):
    """The worker of a task died, was evicted, or its host went, before it could answer.

    What it ran is ended, so that the task can be started again.
    """


class RecordError(FlowError):
    """The run folder cannot be written or read."""

    exit_code = ExitCode.RECORD


class RunClaimed(RecordError):
    """Another driver has the run, or has taken it over from this one."""

    exit_code = ExitCode.CLAIMED


class RunInterrupted(FlowError):
    """A signal ended the run; its tasks were stopped and recorded.

    Args:
        signal_number: The signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
