"""The nouns: immutable data of builtins, JSON in and out.

*Plan*: a resolved workflow. *Job*: one attempt of one task, fully resolved, plain text.
*Environment*: what a task asks of the place where it runs. Memory is bytes and time is
seconds everywhere.

The values of a task's variables are never part of a job or of a plan's JSON:
:class:`Variable` hides them, and they travel beside the job as its *secrets*.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from fasthep_flow.errors import Location

__all__ = [
    "Call",
    "Command",
    "Credential",
    "CredentialKind",
    "DataItem",
    "DataMode",
    "Device",
    "Enforce",
    "Environment",
    "Failure",
    "FailureKind",
    "FlowSpec",
    "Gpu",
    "Image",
    "ImageForm",
    "Invocation",
    "Job",
    "JobResult",
    "Network",
    "Plan",
    "ProcessOn",
    "Pull",
    "PythonSpec",
    "Resources",
    "Retries",
    "RetryCause",
    "Secrets",
    "Setup",
    "Status",
    "TaskSpec",
    "Variable",
    "Vendor",
    "from_json",
    "to_json",
]

ProcessOn: TypeAlias = Literal["cpu", "gpu", "gpu_if_available"]
Device: TypeAlias = Literal["cpu", "gpu"]
Network: TypeAlias = Literal["host", "none"]
Pull: TypeAlias = Literal["missing", "always", "never"]
Vendor: TypeAlias = Literal["nvidia", "amd"]
CredentialKind: TypeAlias = Literal[
    "x509",  # a proxy certificate, of VOMS or not
    "kerberos",  # a ticket
    "bearer",  # a token, as WLCG's token discovery finds it
    "file",  # any other file, and the variable that names it
]
DataMode: TypeAlias = Literal["ro", "copy"]
RetryCause: TypeAlias = Literal[
    "failed",  # by itself, whatever it is that is none of the others
    "timed_out",
    "lost",  # with its worker, more often than its runner starts it again by itself
    "out_of_memory",
]
Enforce: TypeAlias = Literal["strict", "best_effort"]
ImageForm: TypeAlias = Literal[
    "registry",  # docker.io/library/debian:12
    "oras",  # oras://ghcr.io/group/analysis:1, a SIF file in a registry
    "docker-daemon",  # docker-daemon:analysis:1, of the docker on this machine
    "docker-archive",  # docker-archive:/data/analysis.tar, what docker save writes
    "oci-archive",  # oci-archive:/data/analysis.tar
    "oci",  # oci:/data/analysis, an OCI layout
    "sif",  # /data/analysis.sif
    "folder",  # /cvmfs/unpacked.cern.ch/..., an unpacked root folder
]
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
Secrets: TypeAlias = dict[str, str]
"""Values of variables by name; handed over beside a job's text, never written down."""


class Variable:
    """The value of a variable and where it came from; shows and encodes the latter only."""

    __slots__ = ("origin", "value")

    def __init__(self, value: str, origin: str) -> None:
        self.value: Final = value
        self.origin: Final = origin

    def __repr__(self) -> str:
        return f"Variable('***', origin={self.origin!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Variable):
            return NotImplemented
        return (self.value, self.origin) == (other.value, other.origin)

    def __hash__(self) -> int:
        return hash((self.value, self.origin))


class Resources(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task needs of a machine.

    Args:
        cpus: Processors; a fraction is a share of one.
        memory: Bytes.
        gpus: Devices.
        process_on: Which kind of device the task runs on.
        walltime_s: Seconds after which the task is stopped.
        enforce: Whether a limit that cannot be held where the task runs is refused
            (``strict``), or noted (``best_effort``).
    """

    cpus: float | None = None
    memory: int | None = None
    gpus: int | None = None
    process_on: ProcessOn = "cpu"
    walltime_s: float | None = None
    enforce: Enforce = "strict"


class Image(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A container image as the author named it, in full.

    Args:
        name: A reference with its registry and its tag or digest (``docker.io/library/debian:12``);
            with its prefix for a form that has one (``oras://...``, ``oci-archive:/...``); the
            absolute path of a SIF file or an unpacked folder. Paths are absolute throughout.
        form: What kind of name that is.
        pull: When to fetch it: where it is not there yet, always, or never.
        platform: ``os/architecture[/variant]``; ``None`` for this machine's.
    """

    name: str
    form: ImageForm = "registry"
    pull: Pull = "missing"
    platform: str | None = None

    def __str__(self) -> str:
        """The name alone."""
        return self.name

    @property
    def reference(self) -> str:
        """The name without the prefix that tells its form: a reference, or a path."""
        prefix = "oras://" if self.form == "oras" else f"{self.form}:"
        return self.name.removeprefix(prefix)

    @property
    def path(self) -> str | None:
        """The file or folder that it is on this machine; ``None`` where it is none.

        In the name of an archive or a layout no path holds a ``:``; what stands behind one is
        the image's name in there.
        """
        if self.form in {"sif", "folder"}:
            return self.name
        if self.form in {"docker-archive", "oci-archive", "oci"}:
            return self.reference.partition(":")[0]
        return None


class Gpu(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device that a process may use.

    Args:
        id: What the variable that makes devices visible calls it: of NVIDIA's its UUID, of
            AMD's its UUID or its number.
        vendor: Whose it is.
        name: Of the product.
        memory: Bytes.
        free: Bytes that nobody uses at the moment.
        nodes: Absolute paths of the device files that are its own.
    """

    id: str
    vendor: Vendor = "nvidia"
    name: str = ""
    memory: int = 0
    free: int = 0
    nodes: tuple[str, ...] = ()


class Setup(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sourced in bash before a task; its resulting variables are the task's.

    Args:
        lines: The text that bash reads. A script that the author named is a line that sources
            it, by its absolute path.
        scripts: The absolute paths of the scripts that the author named.
        origin: Where the author wrote it, ``workflow.yaml:12``; an error's line is counted
            from here.
    """

    lines: str
    scripts: tuple[str, ...] = ()
    origin: str = ""


class PythonSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An isolated Python environment.

    Args:
        version: Of Python, as the author wrote it: ``3.12``, ``>=3.11``; ``None`` for
            whichever there is.
        requirements: Lines of a requirements file, in the author's order.
        resolved: The very distributions, with their digests, where a lock file has them; these
            are installed then, and ``requirements`` only say what was asked for.
        directory: Absolute path of the folder that relative paths in the lines start from.
    """

    version: str | None = None
    requirements: tuple[str, ...] = ()
    resolved: tuple[str, ...] = ()
    directory: str = ""


class Credential(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that proves who the user is: found where the task runs, and never copied.

    Args:
        kind: Where to look for it, and how its end is read.
        file: Its absolute path; ``None`` to look where the kind's own tools do.
        variable: The variable that names the file to the task; ``None`` for the kind's own.
    """

    kind: CredentialKind
    file: str | None = None
    variable: str | None = None


class DataItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file, or files, that a task needs in its environment.

    Args:
        source: A URL, or an absolute path; either may hold ``*``, ``?`` and ``[...]``.
        target: Where the task sees it: an absolute path, or one below the task's data folder
            (``FASTHEP_DATA``). ``None`` for its own path, or its own name in the data folder
            where it comes from elsewhere. What is written with a ``/`` at its end is a folder.
        digest: ``sha256:...``, ``adler32:...``, ``md5:...`` of what it must be; of a
            folder or of several files that of all of them.
        mode: Read-only, or a copy of the task's own.
    """

    source: str
    target: str | None = None
    digest: str | None = None
    mode: DataMode = "ro"


class FlowSpec(Struct, frozen=True, kw_only=True):
    """An orchestrator and one of its runners: ``prefect::DaskTaskRunner``.

    Args:
        transform: The orchestrator, such as ``prefect``.
        runner: The runner, such as ``DaskTaskRunner``.
        options: Further keyword arguments of the runner, plain data.
        orchestration: The name under which it is defined, such as ``dask::cern``; empty if the
            runner was named itself.
        origin: Where that name is defined, ``file:line``.
    """

    transform: str
    runner: str
    options: dict[str, Any] = {}
    orchestration: str = ""
    origin: str = ""

    def __str__(self) -> str:
        """The short form of the specification page."""
        return self.orchestration or f"{self.transform}::{self.runner}"


class Environment(Struct, frozen=True, kw_only=True):
    """What a task asks of the place where it runs, merged with the global settings.

    Args:
        image: ``None`` for the host itself.
        gpu_image: What takes the image's place where the task runs on a gpu, if that is
            another one and ``process_on`` leaves both open; else there is ``image`` alone.
        runtime: The runtime that the author asked for; ``None`` lets the machine decide.
        options: Further words for the command line of that runtime.
        network: The host's, or none at all.
        reuse: Whether a container may serve several tasks, one after the other.
        variables: By name. They are laid over the host's environment where there is no
            image, and over the image's own where there is one.
        secrets: Names of variables whose values are shown to nobody, beside those whose
            names say so.
        setup: What is sourced before the task.
        python: The Python environment that it has; ``None`` for what there is.
        credentials: What proves to others who it is.
        extra_data: Files that it needs.
        flow: Who runs the task.
        resources: What the task needs of a machine.
    """

    image: Image | None = None
    gpu_image: Image | None = None
    runtime: str | None = None
    options: tuple[str, ...] = ()
    network: Network = "host"
    reuse: bool = True
    variables: dict[str, Variable] = {}
    secrets: tuple[str, ...] = ()
    setup: Setup | None = None
    python: PythonSpec | None = None
    credentials: tuple[Credential, ...] = ()
    extra_data: tuple[DataItem, ...] = ()
    flow: FlowSpec
    resources: Resources = Resources()


class Command(Struct, frozen=True, kw_only=True, tag="command", omit_defaults=True):
    """A program and its arguments; no shell but the one that ``argv`` names.

    Args:
        argv: The program and its arguments.
        stdin: Text for its standard input; ``None`` for an empty one.
    """

    argv: tuple[str, ...]
    stdin: str | None = None


class Call(Struct, frozen=True, kw_only=True, tag="call"):
    """A Python callable and its arguments.

    Args:
        target: ``module:name``.
        args: Positional arguments, plain data.
        kwargs: Keyword arguments, plain data.
    """

    target: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


Invocation: TypeAlias = Command | Call


class Retries(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often, and when, a task is tried again.

    Args:
        times: How many more attempts follow at most.
        delay_s: Seconds between the end of an attempt and the next one.
        backoff: By how much that grows from one to the next: 2 doubles it.
        on: After which ends of an attempt.
    """

    times: int = 0
    delay_s: float = 0.0
    backoff: float = 1.0
    on: tuple[RetryCause, ...] = ("failed", "timed_out", "out_of_memory")


class TaskSpec(Struct, frozen=True, kw_only=True):
    """A task of the plan: names resolved, global settings merged.

    Args:
        name: As the author wrote it; unique in the workflow.
        slug: The name of the task's folder; unique in the workflow, also where case
            does not matter.
        operator: The full name of the operator.
        invocations: What the operator makes of the task's arguments, by device.
        needs: Names of the tasks that must succeed first.
        environment: What the task asks of the place where it runs.
        retries: Of an attempt that did not succeed.
        growth: What the second attempt needs of a machine, the third and so on, where that is
            not what the first one does; the last one counts for all that follow.
        timeout_s: Seconds after which an attempt is stopped; ``None`` for no limit.
        inputs: Files that it reads, beside what it needs: absolute paths, which may hold ``*``,
            ``?`` and ``[...]``.
        outputs: Files and folders that it makes: absolute paths.
        cache: Whether what the callable returned may stand for another run of it.
        allow_failure: Whether the run goes on, and succeeds, where the task does not.
        location: Where the author wrote it.
    """

    name: str
    slug: str
    operator: str
    invocations: dict[Device, Invocation]
    needs: tuple[str, ...] = ()
    environment: Environment
    retries: Retries = Retries()
    growth: tuple[Resources, ...] = ()
    timeout_s: float | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    cache: bool = False
    allow_failure: bool = False
    location: Location


class Plan(Struct, frozen=True, kw_only=True):
    """A resolved workflow.

    Args:
        name: Of the workflow.
        tasks: In an order in which every task stands behind those that it needs.
        flow: The orchestrator and runner of the whole workflow.
        flow_origin: Who named it: an option, ``file:line``, or ``default``.
        directory: The absolute path of the workflow file's folder: every task's working
            directory.
        source: The absolute path of the workflow file.
        output_directory: The absolute path under which the run folders lie.
        digest: ``sha256:...`` of the workflow's text.
        warnings: What the author should know, in the form of a compiler's messages.
        offline: Whether nothing may be fetched.
        selection: The names of the tasks that the user asked for; empty for all of them.
    """

    name: str
    tasks: tuple[TaskSpec, ...]
    flow: FlowSpec
    directory: str
    source: str
    output_directory: str
    digest: str
    flow_origin: str = "default"
    warnings: tuple[str, ...] = ()
    offline: bool = False
    selection: tuple[str, ...] = ()


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


_T = TypeVar("_T", Job, JobResult)


def _encode_variable(value: object) -> dict[str, str]:
    if isinstance(value, Variable):
        return {"origin": value.origin}
    raise NotImplementedError(f"{type(value).__name__} is not plain data")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_encode_variable)
_DECODERS: Final[dict[type, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Job, JobResult)
}


def to_json(noun: Job | JobResult | Plan) -> str:
    """The noun as JSON text; values of variables are left out."""
    return _ENCODER.encode(noun).decode()


def from_json(kind: type[_T], text: str | bytes) -> _T:
    """The noun that ``text`` spells.

    Raises:
        ValueError: ``text`` is not such a noun.
    """
    return cast("_T", _DECODERS[kind].decode(text))
