"""One attempt of one task, and what became of it."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from fasthep_flow.model.environment import (
    Credential,
    DataItem,
    Device,
    Image,
    Network,
    PythonSpec,
    Resources,
    Setup,
)
from fasthep_flow.model.plan import Invocation

__all__ = ["Failure", "FailureKind", "Job", "JobResult", "Status"]

Status: TypeAlias = Literal["succeeded", "failed", "timed_out", "cancelled", "skipped", "reused"]
FailureKind: TypeAlias = Literal[
    "exit",  # the task ended with a code other than 0
    "signal",  # a signal ended the task
    "exception",  # the callable raised
    "out_of_memory",
    "timeout",
    "cancelled",
    "not_started",  # no such program, no python3, no shell
    "result",  # the callable's value is not plain data
    "input",  # a file that the task reads is not there
    "output",  # a file that the task was to make is not there, or not where it may be
    "environment",  # engine, image, device or mount
    "upstream",  # a task that this one needs did not succeed
    "worker",  # the worker or the orchestrator was lost
    "internal",  # a mistake of ours
]


class Job(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt of one task, fully resolved; its JSON is all that a worker needs.

    Args:
        run_id: Of the run.
        task: The task's name.
        slug: The name of the task's folder.
        attempt: Counted from 1.
        invocations: What to run, by device.
        directory: Absolute path of the attempt's folder, where logs go.
        working_directory: Absolute path.
        run_directory: Absolute path of the run's folder.
        image: ``None`` for the host itself.
        gpu_image: What takes its place on a gpu; see :class:`Environment`.
        runtime: ``native``, ``podman``, ...: never open at this stage.
        options: Further words for the runtime's command line.
        network: The host's, or none at all.
        reuse: Whether its container may serve other tasks before and after it.
        variables: The names of the variables; the values travel beside the job.
        secrets: Those whose values are shown to nobody, beside those whose names say so.
        setup: What is sourced before the task.
        python: The Python environment that it has.
        credentials: What proves to others who it is; looked for where the job runs.
        extra_data: Files that it needs, their digests known.
        offline: Whether nothing may be fetched.
        resources: What the task needs of a machine.
        timeout_s: Seconds after which the attempt is stopped.
        inputs: Files that must be there; see :class:`TaskSpec`.
        outputs: Files and folders that it makes. What lies there before is set aside, and what
            it leaves there is only what it made in full.
    """

    run_id: str
    task: str
    slug: str
    attempt: int
    invocations: dict[Device, Invocation]
    directory: str
    working_directory: str
    run_directory: str
    image: Image | None = None
    gpu_image: Image | None = None
    runtime: str = "native"
    options: tuple[str, ...] = ()
    network: Network = "host"
    reuse: bool = True
    variables: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    setup: Setup | None = None
    python: PythonSpec | None = None
    credentials: tuple[Credential, ...] = ()
    extra_data: tuple[DataItem, ...] = ()
    offline: bool = False
    resources: Resources = Resources()
    timeout_s: float | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an attempt did not succeed.

    Args:
        kind: The sort of cause.
        message: What happened, in a sentence.
        hint: What to do next.
        traceback: Of the author's callable, if it raised.
    """

    kind: FailureKind
    message: str
    hint: str | None = None
    traceback: str | None = None


class JobResult(Struct, frozen=True, kw_only=True):
    """What became of one attempt.

    Args:
        task: The task's name.
        attempt: Counted from 1; 0 for a task that never started.
        status: How it ended.
        exit_code: Of the task's own process; ``None`` if there was none or a signal
            ended it.
        value: What the callable returned, plain data; absent for commands.
        failure: Why it did not succeed.
        device: Where it ran.
        device_reason: Why there.
        devices: The ids of the devices that it had to itself.
        runtime: ``native``, ``podman``, ...
        image: The image's full name.
        image_digest: ``sha256:...`` of what ran.
        data: The digests of its extra data, by source.
        software: What the task had of software beside its image: ``{"python": "3.12.4"}``.
        outputs: The digests of what it made, by path.
        remarks: What is odd and no failure, a sentence each.
        host: Name of the machine.
        started_s: Seconds since the epoch.
        wall_s: Seconds from start to end.
        cpu_s: Seconds of processor time, user and system, of the task's processes.
        peak_memory: Bytes, the most that was in use at a time.
        peak_memory_is_bound: Whether no more is known than that it was not above
            ``peak_memory``: of a small task on the host, whose peak the system mixes with
            that of the process that started it.
        enforced: How each limit was held, such as ``{"memory": "cgroup"}``.
        stdout_tail: The last 64 KiB of the log, undecodable bytes escaped.
        stderr_tail: The same of standard error.
    """

    task: str
    attempt: int
    status: Status
    exit_code: int | None = None
    value: Any | UnsetType = UNSET
    failure: Failure | None = None
    device: Device = "cpu"
    device_reason: str = ""
    devices: tuple[str, ...] = ()
    runtime: str = "native"
    image: str | None = None
    image_digest: str | None = None
    data: dict[str, str] = {}
    software: dict[str, str] = {}
    outputs: dict[str, str] = {}
    remarks: tuple[str, ...] = ()
    host: str = ""
    started_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float | None = None
    peak_memory: int | None = None
    peak_memory_is_bound: bool = False
    enforced: dict[str, str] = {}
    stdout_tail: str = ""
    stderr_tail: str = ""
