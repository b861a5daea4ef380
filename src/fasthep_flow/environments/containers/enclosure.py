"""What an engine supplies for a container that is served: the seam between the two."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from msgspec import Struct

from fasthep_flow.environments import Outcome
from fasthep_flow.environments.containers.shell import Dialect
from fasthep_flow.environments.limits.cgroups import Account

__all__ = ["Enclosure", "EndedClient"]


class EndedClient(Struct, frozen=True, kw_only=True):
    """What is left of a client that ended before its job did.

    Args:
        exit_code: Of the client; negative for a signal.
        said: All that it said.
        dialect: What was to serve in the container.
        ready: Something served in it.
        folder: Where the client worked.
    """

    exit_code: int
    said: str
    dialect: Dialect
    ready: bool
    folder: Path


class Enclosure(Protocol):
    """What an engine supplies for one container; made anew for each.

    The container sees ``scratch/tmp`` as ``/tmp`` and ``scratch/var_tmp`` as ``/var/tmp``.
    Its program's standard streams are the client's.
    """

    @property
    def counts_inside(self) -> bool:
        """Whether the container sees the counters of its own control group, and no others."""
        ...

    def argv(self, program: tuple[str, ...], scratch: Path) -> list[str]:
        """The client's command line, which runs until the container's program ends."""
        ...

    def client_environment(self) -> dict[str, str]:
        """The client's whole environment."""
        ...

    def started(self, client_pid: int) -> None:
        """The client runs."""
        ...

    def ready(self) -> None:
        """Something serves in the container, and has run no job yet; called if it may be kept."""
        ...

    def account(self) -> Account | None:
        """What the kernel counts of this container; ``None`` where that is not to be known."""
        ...

    def terminate(self, directory: str, dialect: Dialect) -> None:
        """Ask all processes of the job with that folder to end; returns at once."""
        ...

    def kill(self) -> None:
        """Kill the container, and at the second call its client; returns at once."""
        ...

    def explain(self, ended: EndedClient) -> Outcome:
        """Why the container did not live to tell of its job."""
        ...

    def lacks_shell(self, ended: EndedClient) -> bool:
        """Whether nothing could serve, for there is no such program in the image."""
        ...

    def is_pristine(self, since_ns: int) -> bool:
        """Whether the container's own files are as they were before its first job.

        Args:
            since_ns: When that could begin, by the clock of the file system's stamps.
        """
        ...

    def remove(self, ended: EndedClient) -> None:
        """Leave nothing of the container, whose client has ended."""
        ...
