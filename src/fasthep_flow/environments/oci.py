"""Containers of podman and docker: one class, two sets of values.

A container sees the workflow's folder and the run's at their own paths, the host's network,
and of the variables the image's own, the task's and ours. Nothing of a task's output goes
through the engine, and none of its variables.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fasthep_flow.environments import (
    Container,
    ContainerSpec,
    ImageFacts,
    ResolvedImage,
)
from fasthep_flow.environments.containers.container import OciEnclosure
from fasthep_flow.environments.containers.lending import CdiNames, why_not_lent
from fasthep_flow.environments.containers.served import ServedContainer
from fasthep_flow.environments.engine import (
    DOCKER_ENGINE,
    Engine,
    EngineFacts,
    ask,
    read_facts,
)
from fasthep_flow.environments.host.machine import bytes_text, require_machine
from fasthep_flow.environments.host.owner import is_gone
from fasthep_flow.environments.host.scratch import new_scratch
from fasthep_flow.environments.images.known import KnownImages
from fasthep_flow.environments.images.pulled import (
    bundle,
    have_image,
    look_at_image,
    size_of,
    why_not_taken,
)
from fasthep_flow.environments.limits.enforcement import Limit, not_held
from fasthep_flow.errors import EngineUnavailable, LimitUnenforceable
from fasthep_flow.model import Gpu, Image, Network, Resources

__all__ = ["DOCKER", "PODMAN", "OciRuntime"]

_SMALLEST_MEMORY: Final = 6 * 2**20
"""What docker takes as a limit at the least."""

_SMALLEST_CPUS: Final = 0.01
"""The kernel hands out no less than 1 ms, and engines have it do so every 100 ms."""


class OciRuntime:
    """Runs tasks in containers; see :class:`fasthep_flow.environments.Runtime`.

    Args:
        engine: Whose command line it speaks.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine: Final = engine
        self._lock: Final = threading.Lock()
        self._facts: EngineFacts | None = None
        self._images: Final = KnownImages()
        self._devices: Final = CdiNames(engine)

    @property
    def name(self) -> str:
        """As the author writes it."""
        return self._engine.program

    def probe(self) -> str | None:
        """``None`` where the engine answers, else why not."""
        try:
            self.facts()
        except EngineUnavailable as error:
            return error.message
        return None

    def facts(self) -> EngineFacts:
        """What the engine says of itself; asked once in a process.

        Raises:
            EngineUnavailable: It does not answer.
        """
        with self._lock:
            if self._facts is None:
                self._facts = read_facts(self._engine)
            return self._facts

    def takes(self, image: Image) -> str | None:
        """``None`` for a form that the engine can have; else who can."""
        return why_not_taken(self._engine, image)

    def check(
        self,
        resources: Resources,
        network: Network = "host",  # noqa: ARG002 - engines can always keep it away
    ) -> dict[str, str]:
        """Every limit is held by the kernel's control groups.

        Raises:
            LimitUnenforceable: The engine cannot set one of them up here.
        """
        asked: dict[Limit, float | None] = {"memory": resources.memory, "cpus": resources.cpus}
        wanted = [limit for limit, value in asked.items() if value is not None]
        if not wanted:
            return {}
        require_machine(resources)
        facts = self.facts()
        held: dict[str, str] = dict.fromkeys(map(str, wanted), "cgroup")
        for limit in wanted:
            if limit not in facts.limits:
                held[limit] = not_held(
                    resources,
                    limit,
                    f"{self.name} cannot limit {limit} on this machine ({_obstacle(facts, limit)})",
                    "choose another runtime",
                )
        if resources.memory is not None and resources.memory < _SMALLEST_MEMORY:
            raise LimitUnenforceable(
                f"a memory limit of {bytes_text(resources.memory)} is too small for a container",
                hint=f"ask for {bytes_text(_SMALLEST_MEMORY)} at the least",
            )
        if resources.cpus is not None and resources.cpus < _SMALLEST_CPUS:
            raise LimitUnenforceable(
                f"{resources.cpus:g} cpus are too few for a container",
                hint=f"ask for {_SMALLEST_CPUS:g} (10m) at the least",
            )
        return held

    def lends(self, devices: Sequence[Gpu]) -> str | None:
        """See :meth:`fasthep_flow.environments.Runtime.lends`."""
        try:
            return why_not_lent(self._engine, self.facts(), devices, self._devices)
        except EngineUnavailable as error:
            return error.message

    def look(self, image: Image) -> ImageFacts:
        """What there is of the image."""
        return look_at_image(self._engine, self.facts(), image)

    def resolve(self, image: Image) -> ResolvedImage:
        """Have the image on this machine; asked once in a process for each.

        Raises:
            EngineUnavailable: The engine does not answer.
            ImageUnavailable: The image cannot be had; says why.
        """
        facts = self.facts()
        return self._images.have(image, lambda image: have_image(self._engine, facts, image))

    def bundle(self, image: Image) -> Path:
        """Have an image of a registry in the cache too, for other machines; its archive.

        Raises:
            EngineUnavailable: The engine does not answer.
            ImageUnavailable: It cannot be had, or saved.
        """
        return bundle(self._engine, image, self.resolve(image))

    def size(self, image: Image) -> int | None:
        """Bytes of an image that is on this machine; ``None`` where the engine does not say.

        Raises:
            EngineUnavailable: The engine does not answer.
            ImageUnavailable: It cannot be had.
        """
        return size_of(self._engine, self.resolve(image))

    def forget(self) -> None:
        """Ask anew for what is kept: the engine failed, so it may no longer be so."""
        with self._lock:
            self._facts = None
        self._images.forget()
        self._devices.forget()

    def _ask_anew(self) -> EngineFacts:
        self.forget()
        return self.facts()

    @contextmanager
    def open(self, spec: ContainerSpec) -> Iterator[Container]:
        """A container for one job, removed afterwards.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        container = self._served(spec, is_kept=False)
        try:
            yield container
        finally:
            container.close()

    def keep(self, spec: ContainerSpec) -> ServedContainer:
        """See :meth:`fasthep_flow.environments.containers.pool.KeepingRuntime.keep`.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        return self._served(spec, is_kept=True)

    def _served(self, spec: ContainerSpec, *, is_kept: bool) -> ServedContainer:
        enclosure = OciEnclosure(
            self._ask_anew, self._engine, self.facts(), spec, names=self._devices.known
        )
        return ServedContainer(enclosure, spec, new_scratch(), is_kept=is_kept, runtime=self.name)

    def enter(
        self,
        spec: ContainerSpec,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
    ) -> int:
        """See :meth:`fasthep_flow.environments.Runtime.enter`."""
        from fasthep_flow.environments.containers.entered import enter_container

        # A terminal of the container's own, where both its ends are the caller's.
        terminal = os.isatty(0) and os.isatty(1)
        enclosure = OciEnclosure(
            self._ask_anew,
            self._engine,
            self.facts(),
            spec,
            names=self._devices.known,
            terminal=terminal,
        )
        return enter_container(
            enclosure,
            argv,
            environment=environment,
            working_directory=working_directory,
            image="" if spec.image is None else spec.image.name,
            scratch=new_scratch(),
            hands_on=False,
            hears_terminal=False,
            devices=spec.devices,
        )

    def remove_all(self, labels: Mapping[str, str]) -> int:
        """Kill and remove the containers that carry all of the labels; how many there were.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        identities = self._with_labels(labels)
        self.remove(identities)
        return len(identities)

    def orphans(self) -> dict[str, dict[str, str]]:
        """This user's containers on this host whose processes are gone: their labels.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        identities = self._with_labels({"fasthep.host": socket.gethostname()})
        if not identities:
            return {}
        # One that went in between makes the command fail, but is no matter to the others.
        said = ask(
            self._engine,
            *("container", "inspect", "--format", "{{.Id}} {{json .Config.Labels}}"),
            *identities,
        ).stdout
        found = {}
        for line in said.splitlines():
            identity, _, text = line.partition(" ")
            # Docker says an empty line where all of them went.
            if text and is_gone(labels := json.loads(text)):
                found[identity] = labels
        return found

    def remove_orphans(self) -> int:
        """Kill and remove what :meth:`orphans` finds; how many there were.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        orphans = self.orphans()
        self.remove(list(orphans))
        return len(orphans)

    def remove(self, identities: Sequence[str]) -> None:
        """Kill and remove containers.

        Args:
            identities: Theirs.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        if identities:
            # Podman's rm alone asks first, and waits ten seconds for an answer.
            ask(self._engine, "kill", *identities)
            ask(self._engine, "rm", "--force", *identities)

    def _with_labels(self, labels: Mapping[str, str]) -> list[str]:
        filters = [f"--filter=label={key}={value}" for key, value in labels.items()]
        return ask(self._engine, "ps", "--all", "--quiet", *filters).stdout.split()


def _obstacle(facts: EngineFacts, limit: str) -> str:
    if facts.rootless and facts.cgroups == "1":
        return "without root's rights it takes version 2 of the kernel's control groups"
    controller = {"memory": "memory", "cpus": "cpu"}[limit]
    return f"it is given no {controller!r} controller of the kernel's control groups"


PODMAN: Final = OciRuntime(Engine(program="podman", not_there="'podman info' shows what is wrong"))
DOCKER: Final = OciRuntime(DOCKER_ENGINE)
