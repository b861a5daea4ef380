"""Where a task runs: the host itself, or a container of an image."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Protocol, cast

from msgspec import Struct

from fasthep_flow.errors import EngineUnavailable
from fasthep_flow.model import Resources

__all__ = [
    "RUNTIMES",
    "Container",
    "ContainerSpec",
    "Mount",
    "Process",
    "ResolvedImage",
    "Runtime",
    "find_runtime",
]

RUNTIMES: Final[Mapping[str, str]] = {
    "podman": "fasthep_flow.environments.oci:PODMAN",
    "docker": "fasthep_flow.environments.oci:DOCKER",
    "native": "fasthep_flow.environments.native:NATIVE",
}
"""Our runtimes and where they are; the ones that take images in the order of preference."""


class ResolvedImage(Struct, frozen=True, kw_only=True):
    """An image that is on this machine.

    Args:
        reference: What the engine is handed, so that it runs these very bytes.
        digest: ``sha256:...``.
    """

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


class ContainerSpec(Struct, frozen=True, kw_only=True):
    """All that makes one container differ from another.

    Args:
        name: Unique on the host; the container is killed by it.
        image: ``None`` for the host itself.
        labels: What tells whose container this is.
        mounts: What it sees of the host.
        resources: Limits that the runtime enforces.
    """

    name: str
    image: ResolvedImage | None = None
    labels: dict[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    resources: Resources = Resources()


class Process(Protocol):
    """What was started in a container; ``pid`` leads a process group of the host's."""

    pid: int

    def wait(self) -> int:
        """Block until it ends; its exit code, or minus the number of the signal."""
        ...


class Container(Protocol):
    """A place where processes start."""

    def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        working_directory: str,
        stdin: str | None,
        stdout: Path,
        stderr: Path,
    ) -> Process:
        """Start a program; its output goes straight to the files."""
        ...

    def kill(self) -> None:
        """End every process in it at once."""
        ...


class Runtime(Protocol):
    """A way to run processes: the host itself or a container engine."""

    name: str

    def probe(self) -> str | None:
        """``None`` where it works here, else why not. Never raises."""
        ...

    def check(self, resources: Resources) -> None:
        """Refuse limits that cannot be enforced here.

        Raises:
            LimitUnenforceable: With the limit and why.
        """
        ...

    def resolve(self, image: str) -> ResolvedImage:
        """Have the image on this machine: pulled once, under a lock, if it is missing.

        Raises:
            EngineUnavailable: The engine does not answer.
            ImageUnavailable: There is no such image, no permission, or no registry.
        """
        ...

    def open(self, spec: ContainerSpec) -> AbstractContextManager[Container]:
        """A container for as long as the context lasts; nothing is left of it after."""
        ...


def find_runtime(name: str) -> Runtime:
    """The runtime of that name: ours, or one of the entry points' group.

    Raises:
        EngineUnavailable: There is none.
    """
    if name in RUNTIMES:
        module, _, attribute = RUNTIMES[name].partition(":")
        return cast("Runtime", getattr(importlib.import_module(module), attribute))
    for entry in entry_points(group="fasthep_flow.runtimes", name=name):
        return cast("Runtime", entry.load())
    raise EngineUnavailable(
        f"there is no runtime {name!r}", hint=f"known are {', '.join(sorted(RUNTIMES))}"
    )
