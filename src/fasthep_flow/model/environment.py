"""What a task asks of the place where it runs."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "Credential",
    "CredentialKind",
    "DataItem",
    "DataMode",
    "Device",
    "Enforce",
    "Environment",
    "FlowSpec",
    "Gpu",
    "Image",
    "ImageForm",
    "Network",
    "ProcessOn",
    "Pull",
    "PythonSpec",
    "Resources",
    "Secrets",
    "Setup",
    "Variable",
    "Vendor",
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
