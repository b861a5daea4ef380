"""Containers of apptainer, which was singularity: processes of the caller's, no daemon.

A container sees the workflow's folder and the run's at their own paths, and of the variables
the image's own, the task's and ours. Its root is read-only, as apptainer has it.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from fasthep_flow.environments import Container, ContainerSpec, ImageFacts, ResolvedImage
from fasthep_flow.environments.containers.lending import why_not_shown
from fasthep_flow.environments.containers.served import ServedContainer
from fasthep_flow.environments.containers.sif_container import (
    ApptainerFacts,
    SifEnclosure,
    client_environment,
    network_options,
)
from fasthep_flow.environments.engine import Engine, ask, last_lines
from fasthep_flow.environments.host.machine import bytes_text
from fasthep_flow.environments.host.scratch import new_scratch
from fasthep_flow.environments.images.known import KnownImages
from fasthep_flow.environments.images.sif import SifStore
from fasthep_flow.environments.limits.cgroups import GROUPS, ControlGroups
from fasthep_flow.environments.native import NativeRuntime
from fasthep_flow.errors import EngineUnavailable, LimitUnenforceable
from fasthep_flow.model import Gpu, Image, Network, Resources

__all__ = ["APPTAINER", "ApptainerRuntime"]

_PROGRAMS: Final = ("apptainer", "singularity")
_NOT_THERE: Final = "'apptainer exec IMAGE true' shows what is wrong"
_TRIAL: Final = "/fasthep-flow-trial"
"""A program that is nowhere: where apptainer complains of it, it could start all others."""

_ROOT_FOLDERS: Final = ("dev", "etc", "proc", "root", "sys", "tmp", "var/tmp")
_SMALLEST_MEMORY: Final = 32 * 2**20
"""What apptainer itself needs to start and wait, 15 MB, counts too."""


class ApptainerRuntime:
    """Runs tasks in containers; see :class:`fasthep_flow.environments.Runtime`.

    Args:
        programs: To be looked for on the ``PATH``, the first that is there is used.
        groups: The control groups that may be had.
    """

    name: Final = "apptainer"

    def __init__(
        self, programs: tuple[str, ...] = _PROGRAMS, groups: ControlGroups = GROUPS
    ) -> None:
        self._programs: Final = programs
        self._groups: Final = groups
        self._lock: Final = threading.Lock()
        self._facts: ApptainerFacts | None = None
        self._network_obstacle: str | None = None
        self._network_is_known = False
        self._images: Final = KnownImages()

    def probe(self) -> str | None:
        """``None`` where it can start a container, else why not."""
        try:
            self.facts()
        except EngineUnavailable as error:
            return error.message
        return None

    def facts(self) -> ApptainerFacts:
        """What it needs here; found out once in a process, by starting a container.

        Raises:
            EngineUnavailable: It is not installed, or cannot start one.
        """
        with self._lock:
            if self._facts is None:
                self._facts = self._find_out()
            return self._facts

    def takes(self, image: Image) -> str | None:  # noqa: ARG002 - all of them
        """``None``: it runs SIF files and folders, and makes a SIF file of all others."""
        return None

    def check(self, resources: Resources, network: Network = "host") -> dict[str, str]:
        """As on the host: a control group of ours holds the limits, where there may be one.

        Raises:
            LimitUnenforceable: One cannot be held, or the network cannot be kept away.
        """
        held = NativeRuntime(self._groups).check(resources)
        if resources.memory is not None and resources.memory < _SMALLEST_MEMORY:
            raise LimitUnenforceable(
                f"a memory limit of {bytes_text(resources.memory)} is too small for a container"
                " of apptainer's",
                hint=f"ask for {bytes_text(_SMALLEST_MEMORY)} at the least",
            )
        if network == "none" and (obstacle := self._why_no_isolation()) is not None:
            raise LimitUnenforceable(
                f"apptainer cannot keep the network away from a container here: {obstacle}",
                hint="leave 'network' out, or choose another runtime",
            )
        return held

    def lends(self, devices: Sequence[Gpu]) -> str | None:
        """See :meth:`fasthep_flow.environments.Runtime.lends`."""
        try:
            return why_not_shown(self.facts().program, devices)
        except EngineUnavailable as error:
            return error.message

    def look(self, image: Image) -> ImageFacts:
        """What there is of the image; nothing is built or pulled.

        Raises:
            EngineUnavailable: It is docker's, and docker does not answer.
            ImageUnavailable: There is no such image, no permission, or no registry.
        """
        return self._store().look(image)

    def resolve(self, image: Image) -> ResolvedImage:
        """Have the image on this machine; asked once in a process for each.

        Raises:
            EngineUnavailable: Apptainer cannot be used.
            ImageUnavailable: The image cannot be had; says why.
        """
        return self._images.have(image, self._store().have)

    @contextmanager
    def open(self, spec: ContainerSpec) -> Iterator[Container]:
        """A container for one job, gone afterwards.

        Raises:
            EngineUnavailable: Apptainer cannot be used.
        """
        container = self.keep(spec)
        try:
            yield container
        finally:
            container.close()

    def keep(self, spec: ContainerSpec) -> ServedContainer:
        """See :meth:`fasthep_flow.environments.containers.pool.KeepingRuntime.keep`.

        Raises:
            EngineUnavailable: Apptainer cannot be used.
        """
        enclosure = SifEnclosure(self.facts(), spec, self._groups)
        return ServedContainer(enclosure, spec, new_scratch(), runtime=self.name)

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
        from fasthep_flow.environments.host.attended import Brood

        enclosure = SifEnclosure(self.facts(), spec, self._groups)
        with Brood():
            return enter_container(
                enclosure,
                argv,
                environment=environment,
                working_directory=working_directory,
                image="" if spec.image is None else spec.image.name,
                scratch=new_scratch(),
                hands_on=True,
                hears_terminal=True,
                devices=spec.devices,
            )

    def _store(self) -> SifStore:
        return SifStore(
            Engine(program=self.facts().program, not_there=_NOT_THERE),
            lambda: client_environment(os.environ, fetching=True),
        )

    def _find_out(self) -> ApptainerFacts:
        program = next((one for one in self._programs if shutil.which(one)), None)
        if program is None:
            raise EngineUnavailable(
                f"{self._programs[0]} is not installed",
                hint="https://apptainer.org/docs/admin/latest/installation.html",
            )
        engine = Engine(program=program, not_there=_NOT_THERE)
        version = ask(engine, "--version").stdout.strip().rpartition(" ")[2]
        said: list[str] = []
        # Root that has not all of root's rights starts none without a user namespace.
        for options in ((), ("--userns",)):
            facts = ApptainerFacts(program=program, version=version, options=options)
            obstacle = _try(engine, options)
            if obstacle is None:
                return facts
            said.append(obstacle)
        raise EngineUnavailable(
            f"{program} cannot start a container: {'; '.join(dict.fromkeys(said))}",
            hint="it needs user namespaces (sysctl user.max_user_namespaces) or its part that is"
            " installed with root's rights (apptainer-suid)",
        )

    def _why_no_isolation(self) -> str | None:
        facts = self.facts()
        with self._lock:
            if not self._network_is_known:
                engine = Engine(program=facts.program, not_there=_NOT_THERE)
                options = (*facts.options, *network_options("none"))
                self._network_obstacle = _try(engine, options)
                self._network_is_known = True
            return self._network_obstacle


def _try(engine: Engine, options: tuple[str, ...]) -> str | None:
    """``None`` where a container can be started with these options, else why not."""
    scratch = new_scratch()
    try:
        for folder in _ROOT_FOLDERS:
            (scratch / "image" / folder).mkdir(parents=True)
        done = ask(
            engine,
            *("--silent", "exec", *options, "--cleanenv", "--contain", "--no-home", "--ipc"),
            *("--pid", "--pwd", "/", str(scratch / "image"), _TRIAL),
            environment=client_environment(os.environ),
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return None if _TRIAL in done.stderr else last_lines(done.stderr) or "it does not say why"


APPTAINER: Final = ApptainerRuntime()
