"""What an image has inside that tasks need: a shell, bash, python3.

That is found by starting it, once: what stands behind a digest never changes, so the answer is
kept in the cache folder. Whether it starts with an author's own options is tried in every run:
that may change with the engine, and with what the options name.
"""

from __future__ import annotations

import re
import shlex
import threading
import uuid
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from fasthep_flow.environments import ContainerSpec, Mount, Outcome, ResolvedImage, Runtime
from fasthep_flow.environments.host.cache import cache_folder, file_name, make_once
from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.host.scratch import scratch_folder
from fasthep_flow.environments.interpreter import Reply, read_reply
from fasthep_flow.environments.registries.platforms import machine_platform
from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import Call, Command, Image, Invocation, Network

__all__ = [
    "OLDEST_PYTHON",
    "Inside",
    "known_inside",
    "look_inside",
    "needs_shell",
    "try_options",
]

OLDEST_PYTHON: Final = (3, 6)
"""The oldest that calls an author's callable."""

_LIMIT_S: Final = 120.0
_LARGEST: Final = 4 * 2**10
_STARTED: Final = "fasthep-started"
_UNFINISHED: Final = "the container did not come to its end: "
_VERSION: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,5}){1,3}")
# What the shim imports; a python3 that is cut down to the bone has not all of it.
_MODULES: Final = "importlib, json, resource, traceback"
_SCRIPT: Final = f"""\
echo shell=yes
command -v bash >/dev/null 2>&1 && echo bash=yes
python3 -c 'import sys; print("python=" + ".".join(map(str, sys.version_info[:3])))' 2>/dev/null
python3 -c 'import {_MODULES}; print("modules=yes")' 2>/dev/null
:
"""


class Inside(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What there is in an image, on the ``PATH`` that it sets itself.

    Args:
        sh: Whether there is a ``/bin/sh``.
        bash: Whether there is one.
        python: The version of its python3; ``None`` where there is none.
        modules: Whether that has the modules that a call of a callable needs.
    """

    sh: bool = False
    bash: bool = False
    python: str | None = None
    modules: bool = False

    @property
    def calls(self) -> bool:
        """Whether callables can be called in it."""
        if self.python is None or not self.modules:
            return False
        return tuple(int(part) for part in self.python.split(".")[:2]) >= OLDEST_PYTHON


def needs_shell(runtime: str) -> bool:
    """Whether programs are started by a shell inside; charliecloud starts them itself."""
    return runtime in {"podman", "docker", "apptainer", "singularity"}


def known_inside(runtime: Runtime, image: Image, digest: str | None) -> Inside | None:
    """What was found inside when it was looked at; ``None`` where it was not yet.

    Args:
        runtime: What is to run it.
        image: As it is asked for.
        digest: ``sha256:...``
    """
    path = _path(runtime, image, digest)
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Inside)
    except (OSError, ValueError):
        return None


def look_inside(
    runtime: Runtime,
    image: Image,
    resolved: ResolvedImage,
    *,
    options: tuple[str, ...] = (),
    network: Network = "host",
) -> Inside:
    """Start the image and look; the answer is kept.

    Args:
        runtime: What is to run it.
        image: As it is asked for.
        resolved: As it is here.
        options: The author's own words for the runtime: it may not start without them.
        network: As its tasks will have it.

    Raises:
        EnvironmentRefused: No container of it can be started; says why.
    """
    known = known_inside(runtime, image, resolved.digest)
    if known is not None:
        return known
    spec = ContainerSpec(
        name="fasthep-look",
        image=resolved,
        labels={"fasthep.run": "look", **owner_labels()},
        options=options,
        network=network,
    )
    found = _by_shell(runtime, spec) or _by_python(runtime, spec)
    path = _path(runtime, image, resolved.digest)
    if path is not None:
        _keep(path, found)
    return found


def try_options(
    runtime: Runtime,
    image: ResolvedImage,
    options: tuple[str, ...],
    *,
    network: Network,
    working_directory: str | None,
) -> None:
    """Start a container of the image as tasks with these options have it.

    Args:
        runtime: What is to run it.
        image: As it is here.
        options: The author's own words for the runtime.
        network: As its tasks will have it.
        working_directory: Absolute path of the folder where its tasks work.

    Raises:
        EnvironmentRefused: It does not start so; says what the engine says.
    """
    spec = ContainerSpec(
        name="fasthep-try",
        image=image,
        labels={"fasthep.run": "look", **owner_labels()},
        options=options,
        network=network,
    )
    line = Command(argv=("/bin/sh", "-c", f"echo {_STARTED}"))
    outcome, said, _ = _started(runtime, spec, line, working_directory)
    if _STARTED in said.split():
        return
    if outcome.failure is not None and outcome.failure.kind == "not_started":
        # It may have no shell, and the python3 that it has needs none.
        call = Call(target="platform:python_version")
        outcome, _, reply = _started(runtime, spec, call, working_directory)
        if reply is not None and isinstance(reply.value, str):
            return
        if outcome.failure is not None and outcome.failure.kind == "not_started":
            # The container is there, and nothing in it that could say so.
            return
    words = f"a program in it ends with the code {outcome.exit_code} before it begins"
    if outcome.failure is not None:
        words = outcome.failure.message.removeprefix(_UNFINISHED)
    raise EnvironmentRefused(
        f"{runtime.name} starts no container of the image {image.name} with the options"
        f" {shlex.join(options)}: {words}",
        hint="look at 'options' of the image",
    )


def _path(runtime: Runtime, image: Image, digest: str | None) -> Path | None:
    if digest is None or image.form == "folder":
        # A folder may change and keep its name.
        return None
    platform = image.platform or machine_platform()
    name = file_name(f"{runtime.name} {platform} {digest}")
    return cache_folder() / "inside" / "1" / f"{name}.json"


def _keep(path: Path, found: Inside) -> None:
    def make(part: Path) -> None:
        part.write_bytes(msgspec.json.encode(found))

    try:
        make_once(path, make)
    except OSError:
        # Without room for it the next one looks anew.
        return


def _by_shell(runtime: Runtime, spec: ContainerSpec) -> Inside | None:
    """What a shell inside says; ``None`` where there is none."""
    outcome, said, _ = _start(runtime, spec, Command(argv=("/bin/sh", "-c", _SCRIPT)))
    told = dict(line.partition("=")[::2] for line in said.splitlines())
    if outcome.failure is not None and outcome.failure.kind == "not_started":
        return None
    if "shell" not in told:
        # It is there, and does not work: that is no image for programs.
        return None
    version = told.get("python", "")
    return Inside(
        sh=True,
        bash="bash" in told,
        python=version if _VERSION.fullmatch(version) else None,
        modules="modules" in told,
    )


def _by_python(runtime: Runtime, spec: ContainerSpec) -> Inside:
    """What python3 says where there is no shell."""
    _, _, reply = _start(runtime, spec, Call(target="platform:python_version"))
    version = None if reply is None else reply.value
    if not isinstance(version, str):
        return Inside()
    # 3.13.0rc1 is as good as 3.13.0.
    number = _VERSION.match(version)
    return Inside(python=None if number is None else number[0], modules=True)


def _start(
    runtime: Runtime, spec: ContainerSpec, invocation: Invocation
) -> tuple[Outcome, str, Reply | None]:
    outcome, said, reply = _started(runtime, spec, invocation)
    if outcome.failure is not None and outcome.failure.kind != "not_started":
        name = "" if spec.image is None else spec.image.name
        raise EnvironmentRefused(
            f"no container of the image {name} can be started: {outcome.failure.message}",
            hint=outcome.failure.hint,
        )
    return outcome, said, reply


def _started(
    runtime: Runtime,
    spec: ContainerSpec,
    invocation: Invocation,
    working_directory: str | None = None,
) -> tuple[Outcome, str, Reply | None]:
    """How it ended, what it printed, and what it answered."""
    with scratch_folder() as scratch:
        folder = str(scratch)
        seen = dict.fromkeys((working_directory or folder, folder))
        spec = msgspec.structs.replace(
            spec,
            name=f"{spec.name}-{uuid.uuid4().hex[:16]}",
            mounts=tuple(Mount(source=each, target=each) for each in seen),
        )
        with runtime.open(spec) as container:
            process = container.start(
                invocation,
                environment={},
                working_directory=working_directory or folder,
                directory=folder,
            )
            watch = threading.Timer(_LIMIT_S, process.kill)
            watch.start()
            try:
                outcome = process.wait()
            finally:
                is_late = not watch.is_alive()
                watch.cancel()
        if is_late:
            name = "" if spec.image is None else spec.image.name
            raise EnvironmentRefused(
                f"a container of the image {name} does not start within {_LIMIT_S:g} s"
            )
        return outcome, _said(Path(folder, "stdout.log")), read_reply(folder)


def _said(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""
