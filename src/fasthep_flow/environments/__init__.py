"""Where a task runs: the host itself, or a container of an image."""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, cast

from msgspec import Struct

from fasthep_flow.errors import EngineUnavailable
from fasthep_flow.model import Failure, Gpu, Image, Invocation, Network, Resources

__all__ = [
    "RUNTIMES",
    "Addition",
    "Container",
    "ContainerSpec",
    "ImageFacts",
    "Mount",
    "NotStarted",
    "Outcome",
    "Process",
    "ResolvedImage",
    "Runtime",
    "container_name",
    "find_runtime",
]

RUNTIMES: Final[Mapping[str, str]] = {
    "apptainer": "fasthep_flow.environments.apptainer:APPTAINER",
    "podman": "fasthep_flow.environments.oci:PODMAN",
    "docker": "fasthep_flow.environments.oci:DOCKER",
    "charliecloud": "fasthep_flow.environments.charliecloud:CHARLIECLOUD",
    "native": "fasthep_flow.environments.native:NATIVE",
}
"""Our runtimes and where they are; the ones that take images in the order of preference."""


class ImageFacts(Struct, frozen=True, kw_only=True):
    """What can be known of an image without fetching it.

    Args:
        is_local: It is on this machine, ready for the runtime.
        digest: ``sha256:...``, where it is known.
        platforms: ``os/architecture[/variant]`` of what there is to be had; empty where that
            is not known.
        note: What else there is to say of it, in words.
    """

    is_local: bool
    digest: str | None = None
    platforms: tuple[str, ...] = ()
    note: str = ""


class ResolvedImage(Struct, frozen=True, kw_only=True):
    """An image that is on this machine.

    Args:
        name: What the author calls it.
        reference: What the engine is handed, so that it runs these very bytes.
        digest: ``sha256:...``.
    """

    name: str
    reference: str
    digest: str


class Mount(Struct, frozen=True, kw_only=True):
    """A folder or file of the host's that a container sees.

    Args:
        source: Absolute path on the host.
        target: Absolute path in the container.
        read_only: Whether the container may not write there.
    """

    source: str
    target: str
    read_only: bool = False


class Addition(Struct, frozen=True, kw_only=True):
    """What a task's environment gets beside its image and its own variables.

    Args:
        mounts: Files and folders of the host's that it sees.
        variables: To be set; ``None`` for one that is to be absent.
        facts: What there is to be recorded of it, such as digests.
    """

    mounts: tuple[Mount, ...] = ()
    variables: dict[str, str | None] = {}
    facts: dict[str, str] = {}


class ContainerSpec(Struct, frozen=True, kw_only=True):
    """All that makes one container differ from another.

    Args:
        name: Unique on the host; the container is killed by it.
        image: ``None`` for the host itself.
        labels: What tells whose container this is.
        mounts: What it sees of the host.
        resources: Limits that the runtime enforces: what it cannot hold is not among them.
        network: The host's, or none at all.
        options: Further words for the runtime's command line, the author's own.
        devices: What it is given of the machine's devices; no other is seen in it.
    """

    name: str
    image: ResolvedImage | None = None
    labels: dict[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    resources: Resources = Resources()
    network: Network = "host"
    options: tuple[str, ...] = ()
    devices: tuple[Gpu, ...] = ()


class Outcome(Struct, frozen=True, kw_only=True):
    """How a process ended, as far as the runtime can tell.

    Args:
        exit_code: Of the task's own program; ``None`` where a signal ended it or it never
            ran.
        signal: The signal that ended it.
        failure: What only the runtime knows: nothing could be started, the engine is gone.
        out_of_memory: The kernel killed a process of the task's for want of memory, be it
            the program itself or a child of it.
        cpu_s: Processor time, user and system.
        peak_memory: Bytes; ``None`` where it could not be measured.
        peak_memory_is_bound: Whether it was at most that, and no more is known.
        enforced: How a limit was held, where that is not as :meth:`Runtime.check` said.
    """

    exit_code: int | None = None
    signal: int | None = None
    failure: Failure | None = None
    out_of_memory: bool = False
    cpu_s: float | None = None
    peak_memory: int | None = None
    peak_memory_is_bound: bool = False
    enforced: dict[str, str] = {}


class Process(Protocol):
    """What was started in a container; ``pid`` leads a process group of the host's."""

    @property
    def pid(self) -> int:
        """Of the host's; 0 where nothing could be started."""
        ...

    def wait(self) -> Outcome:
        """Block until it ended and nothing of it is left; to be called once."""
        ...

    def terminate(self) -> None:
        """Ask every process of the task's to end; returns at once, from any thread."""
        ...

    def kill(self) -> None:
        """End every process of the task's; returns at once, from any thread."""
        ...


class NotStarted:
    """Stands for a process that could not be started."""

    pid: Final = 0

    def __init__(self, failure: Failure) -> None:
        self._failure: Final = failure

    def wait(self) -> Outcome:
        """Why not."""
        return Outcome(failure=self._failure)

    def terminate(self) -> None:
        """Nothing runs."""

    def kill(self) -> None:
        """Nothing runs."""


class Container(Protocol):
    """A place where a task's processes start."""

    def start(
        self,
        invocation: Invocation,
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
        directory: str,
    ) -> Process:
        """Start a program or a callable; what cannot be started has that as its outcome.

        Where the container was to be given devices, they are looked for in it before: without
        them nothing is started, for engines say nothing of a device that they did not find.

        Args:
            invocation: What to run.
            environment: Variables, laid over what the place has of its own; ``None`` for
                one that is to be absent.
            working_directory: Absolute path, seen by the container.
            directory: Absolute path of the attempt's folder, seen by the container.
                Output goes straight to ``stdout.log`` and ``stderr.log`` there, and what
                a callable answers to ``reply.json``.
        """
        ...


class Runtime(Protocol):
    """A way to run processes: the host itself or a container engine."""

    @property
    def name(self) -> str:
        """As the author writes it."""
        ...

    def probe(self) -> str | None:
        """``None`` where it works here, else why not. Never raises."""
        ...

    def takes(self, image: Image) -> str | None:
        """``None`` where it can run an image of this form, else why not. Asks nobody."""
        ...

    def check(self, resources: Resources, network: Network = "host") -> dict[str, str]:
        """How each limit that is asked for is held, such as ``{"memory": "cgroup"}``.

        ``measured`` says that the runtime leaves it to its caller to measure the memory
        of the process's descendants, and to stop it. What starts with ``not enforced`` is
        said of a limit that cannot be held, where ``resources.enforce`` is ``best_effort``.

        Raises:
            LimitUnenforceable: One cannot be held here; with the limit and why. Or the
                network cannot be kept away.
        """
        ...

    def lends(self, devices: Sequence[Gpu]) -> str | None:
        """``None`` where it can give a container these devices, else why not. Never raises."""
        ...

    def look(self, image: Image) -> ImageFacts:
        """What there is of the image, here or where it would come from; fetches nothing.

        Raises:
            EngineUnavailable: The engine does not answer.
            ImageUnavailable: There is no such image, no permission, or no registry.
        """
        ...

    def resolve(self, image: Image) -> ResolvedImage:
        """Have the image on this machine: fetched once, under a lock, as ``image.pull`` says.

        Raises:
            EngineUnavailable: The engine does not answer.
            ImageUnavailable: There is no such image, no permission, or no registry.
        """
        ...

    def open(self, spec: ContainerSpec) -> AbstractContextManager[Container]:
        """A container for as long as the context lasts; nothing is left of it after."""
        ...

    def enter(
        self,
        spec: ContainerSpec,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
    ) -> int:
        """Run a program on the caller's own standard streams, and wait; its exit code.

        A terminal that the caller has is the program's own: it can be a shell. Nothing is left
        of the container after. A program that a signal ended has 128 and its number.

        Args:
            spec: Of the container.
            argv: The program and its arguments.
            environment: See :meth:`Container.start`; no value is in a command line or a file.
            working_directory: Absolute path, seen by the container.

        Raises:
            EnvironmentRefused: It cannot be started; with the reason.
        """
        ...


def container_name(run_id: str, slug: str, attempt: int, directory: str) -> str:
    """A legal name, and another one for every attempt's folder.

    Args:
        run_id: Of the run.
        slug: Of the task.
        attempt: Counted from 1.
        directory: The attempt's folder.
    """
    readable = re.sub(r"[^a-zA-Z0-9_.-]+", "-", f"{run_id}-{slug[:40]}-{attempt}")
    digest = hashlib.sha256(directory.encode("utf-8", "surrogateescape")).hexdigest()
    return f"fasthep-{readable}-{digest[:8]}"


def find_runtime(name: str) -> Runtime:
    """The runtime of that name: ours, or one of the entry points' group.

    Raises:
        EngineUnavailable: There is none.
    """
    if name in RUNTIMES:
        return _at(RUNTIMES[name])
    from importlib.metadata import entry_points

    for entry in entry_points(group="fasthep_flow.runtimes", name=name):
        return cast("Runtime", entry.load())
    raise EngineUnavailable(
        f"there is no runtime {name!r}", hint=f"known are {', '.join(sorted(RUNTIMES))}"
    )


@functools.cache
def _at(place: str) -> Runtime:
    module, _, attribute = place.partition(":")
    return cast("Runtime", getattr(importlib.import_module(module), attribute))
