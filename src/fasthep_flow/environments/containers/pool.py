"""Containers that are kept, to serve one job after the other.

A container serves one job at a time, and only jobs that would get the very same container:
image, mounts and what they lead to, limits, network, options. It is kept if the job left it as
it was; after a limit, a kill, an engine's error, or a job that changed its files, it is thrown
away. All of them end with the process that holds them, also if that is killed: what serves in a
container ends with its orders.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, runtime_checkable

import msgspec

from fasthep_flow.environments import Container, ContainerSpec, Runtime
from fasthep_flow.environments.containers.served import ServedContainer
from fasthep_flow.environments.host.machine import cpu_count

__all__ = ["KeepingRuntime", "Pool"]


@runtime_checkable
class KeepingRuntime(Protocol):
    """A runtime whose containers can serve several jobs."""

    def keep(self, spec: ContainerSpec) -> ServedContainer:
        """A container that starts with its first job, and that the caller closes.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        ...


_LOG: Final = logging.getLogger(__name__)


class _Idle(NamedTuple):
    key: bytes
    container: ServedContainer


class Pool:
    """The containers that this process keeps, and a thread that ends those it does not.

    Args:
        most_idle: How many may wait for a job; two for each processor if not given.
    """

    def __init__(self, *, most_idle: int | None = None) -> None:
        self._most_idle: Final = 2 * cpu_count() if most_idle is None else most_idle
        self._changed: Final = threading.Condition()
        self._idle: Final[list[_Idle]] = []
        self._ending: Final[list[ServedContainer]] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all containers that no job is in; the others end with their jobs."""
        with self._changed:
            self._closed = True
            self._ending.extend(idle.container for idle in self._idle)
            self._idle.clear()
            if self._ending:
                self._wake()
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    @contextmanager
    def container(self, runtime: Runtime, spec: ContainerSpec) -> Iterator[Container]:
        """A container for one job: one that is kept, or a new one.

        Args:
            runtime: Of the container; one that cannot keep any makes a new one.
            spec: Of the container; name and labels are those of a new one.
        """
        # What an option makes of a container, nobody can know for all engines.
        if not isinstance(runtime, KeepingRuntime) or spec.image is None or spec.options:
            with runtime.open(spec) as fresh:
                yield fresh
            return
        key = _key(runtime.name, spec)
        container = self._take(key)
        if container is None:
            container = runtime.keep(spec)
        is_usable = False
        try:
            yield container
            is_usable = container.settle()
        finally:
            self._give_back(key, container, is_usable=is_usable)

    def _take(self, key: bytes) -> ServedContainer | None:
        with self._changed:
            # The one that served last: the others may be thrown away one day.
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index].key == key:
                    return self._idle.pop(index).container
        return None

    def _give_back(self, key: bytes, container: ServedContainer, *, is_usable: bool) -> None:
        with self._changed:
            if is_usable and not self._closed:
                self._idle.append(_Idle(key, container))
                if len(self._idle) <= self._most_idle:
                    return
                container = self._idle.pop(0).container
            if not self._closed or self._thread is not None:
                self._ending.append(container)
                self._wake()
                return
        container.close()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fasthep-pool", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ending:
                    if self._closed:
                        # Who comes back from now on is not to count on this thread.
                        self._thread = None
                        return
                    self._changed.wait()
                ending = self._ending[:]
                self._ending.clear()
            end_all(ending)


def end_all(containers: list[ServedContainer]) -> None:
    """End them beside each other: to remove one takes a tenth of a second and more."""
    threads = [
        threading.Thread(target=_end, args=(container,), daemon=True)
        for container in containers[1:]
    ]
    for thread in threads:
        thread.start()
    for container in containers[:1]:
        _end(container)
    for thread in threads:
        thread.join()


def _end(container: ServedContainer) -> None:
    # One that cannot be ended must not keep the others from it.
    try:
        container.close()
    except Exception:  # noqa: BLE001 - an engine's, of which there are many
        _LOG.exception("cannot end a container")


def _identity(path: str) -> tuple[int, ...]:
    """What tells the file or folder there from another one that took its place.

    A container goes on to see the one that it was started with: a proxy that was renewed since
    then, as all who renew one put a new file into its place, needs another container.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - for each job
    except OSError:
        return ()
    if stat.S_ISDIR(found.st_mode):
        return (found.st_dev, found.st_ino)
    # Where the file system makes up numbers of its own, one may be in use again.
    return (found.st_dev, found.st_ino, found.st_mtime_ns)


def _key(runtime: str, spec: ContainerSpec) -> bytes:
    """What two jobs must have alike to share a container."""
    return msgspec.json.encode(
        (
            runtime,
            spec.image,
            spec.mounts,
            [_identity(mount.source) for mount in spec.mounts],
            spec.resources.memory,
            spec.resources.cpus,
            spec.network,
            spec.options,
            spec.devices,
        )
    )
