"""Charliecloud's containers: a process of the host's own in a root folder of its own.

A container sees the workflow's folder and the run's at their own paths, the host's network and
devices, and of the variables the image's own, the task's and ours. Its image is an unpacked
folder that nobody can write to; ``/tmp`` and ``/var/tmp`` are its own, and gone with it. One
is made for each task: that costs little. As the process is a child of ours its limits are held
as those of a task without an image, and it is ended in the same ways.

``ch-run`` alone can neither mount where the image has no folder, nor read-only, nor at a path
with a colon. So ``chamber.py`` puts the root together before, in a namespace of its own.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from fasthep_flow.environments import Container, ContainerSpec, ImageFacts, ResolvedImage
from fasthep_flow.environments.charliecloud.container import ChamberContainer
from fasthep_flow.environments.charliecloud.plan import (
    chamber_argv,
    client_variables,
    user_name,
    write_plan,
)
from fasthep_flow.environments.charliecloud.process import last_error
from fasthep_flow.environments.containers.lending import why_not_shown
from fasthep_flow.environments.host.scratch import new_scratch, remove_orphaned_scratch
from fasthep_flow.environments.images.folders import FolderStore, variables_of
from fasthep_flow.environments.images.rootfs import remove_folder
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.errors import EngineUnavailable, LimitUnenforceable
from fasthep_flow.model import Gpu, Image, Network, Resources

__all__ = ["CHARLIECLOUD", "CharliecloudRuntime"]

_PROGRAM: Final = "ch-run"
_TRIAL: Final = "/fasthep-flow-trial"
_TRIAL_LIMIT_S: Final = 60.0


class CharliecloudRuntime:
    """Runs tasks with ``ch-run``; see :class:`fasthep_flow.environments.Runtime`."""

    name: Final = "charliecloud"

    def __init__(self) -> None:
        self._store: Final = FolderStore()

    def probe(self) -> str | None:
        """``None`` where a container can be started, else why not; tried with an empty one."""
        try:
            program, _ = _ch_run()
            remove_orphaned_scratch()
            return _why_no_container(program)
        except EngineUnavailable as error:
            return error.message
        except OSError as error:
            return f"a container cannot be tried: {error}"

    def takes(self, image: Image) -> str | None:  # noqa: ARG002 - all of them
        """``None``: an image of any form can be unpacked."""
        return None

    def check(self, resources: Resources, network: Network = "host") -> dict[str, str]:
        """Limits are held as those of a task without an image.

        Raises:
            LimitUnenforceable: One cannot be held; or the network is to be kept away.
        """
        if network != "host":
            raise LimitUnenforceable(
                "charliecloud cannot keep the network away from a task",
                hint="choose podman, docker or apptainer, or leave 'network' out",
            )
        return NATIVE.check(resources)

    def lends(self, devices: Sequence[Gpu]) -> str | None:
        """AMD's alone: a container sees all of the host's ``/dev``, and no driver's libraries."""
        if any(gpu.vendor == "nvidia" for gpu in devices):
            return (
                "charliecloud shows a container the devices, and not the libraries of NVIDIA's"
                " driver, without which no program can use them; podman, docker and apptainer do"
            )
        return why_not_shown(_PROGRAM, devices)

    def look(self, image: Image) -> ImageFacts:
        """What there is of the image; nothing is fetched or unpacked.

        Raises:
            EngineUnavailable: It is docker's, and docker does not answer.
            ImageUnavailable: There is no such image, no permission, or no registry.
        """
        return self._store.look(image)

    def resolve(self, image: Image) -> ResolvedImage:
        """Have the image on this machine as a folder, made once.

        Raises:
            EngineUnavailable: It is docker's, and docker does not answer.
            ImageUnavailable: It cannot be had; says why.
        """
        return self._store.have(image)

    @contextmanager
    def open(self, spec: ContainerSpec) -> Iterator[Container]:
        """A container that starts with its one process; nothing is left of it afterwards.

        Raises:
            EngineUnavailable: There is no ``ch-run``, or no room for the container's own files.
            ImageUnavailable: The variables that it sets cannot be told.
            LimitUnenforceable: The kernel does not hold a limit after all.
        """
        with self._chamber(spec) as chamber:
            yield chamber

    @contextmanager
    def _chamber(self, spec: ContainerSpec) -> Iterator[ChamberContainer]:
        if spec.image is None:
            raise ValueError("a container needs an image")
        program, version = _ch_run()
        variables = variables_of(spec.image)
        try:
            scratch = new_scratch()
        except OSError as error:
            raise EngineUnavailable(f"a container has no room for its files: {error}") from None
        try:
            with NATIVE.open(msgspec.structs.replace(spec, image=None, mounts=())) as host:
                yield ChamberContainer(host, spec, spec.image, variables, scratch, program, version)
        finally:
            remove_folder(scratch)

    def enter(
        self,
        spec: ContainerSpec,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
    ) -> int:
        """See :meth:`fasthep_flow.environments.Runtime.enter`."""
        with self._chamber(spec) as chamber:
            return chamber.enter(argv, environment=environment, working_directory=working_directory)


def _ch_run() -> tuple[str, tuple[int, ...]]:
    """The path of ``ch-run``, and its version.

    Raises:
        EngineUnavailable: There is none.
    """
    program = shutil.which(_PROGRAM)
    if program is None:
        raise EngineUnavailable(
            f"{_PROGRAM} is not installed", hint="it is part of charliecloud (charliecloud.io)"
        )
    return program, _version_of(program)


@functools.cache
def _version_of(program: str) -> tuple[int, ...]:
    done = _ran((program, "--version"), {**os.environ, "USER": user_name()})
    found = re.search(rb"(\d+)\.(\d+)", done)
    return tuple(map(int, found.groups())) if found else ()


def _why_no_container(program: str) -> str | None:
    """Why an empty container does not start: its program is not there, if it does."""
    scratch = new_scratch()
    try:
        image = scratch / "image"
        image.mkdir()
        root = scratch / "root"
        plan = write_plan(scratch, str(image), (), [program, str(root), "--", _TRIAL], {})
        said = _ran(chamber_argv(plan), {**os.environ, **client_variables(root)})
        trouble = scratch / "trouble"
        if trouble.exists():
            return trouble.read_text(encoding="utf-8")
    finally:
        remove_folder(scratch)
    words = last_error(said)
    if words.startswith("can't execve(2)") and _TRIAL in words:
        return None
    return f"{_PROGRAM} cannot start a container here: {words or 'it said nothing'}"


def _ran(argv: tuple[str, ...], environment: Mapping[str, str]) -> bytes:
    """What the program said.

    Raises:
        EngineUnavailable: It does not come to an end.
    """
    try:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TRIAL_LIMIT_S,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise EngineUnavailable(f"{_PROGRAM} does not come to an end") from None
    return done.stdout


CHARLIECLOUD: Final = CharliecloudRuntime()
