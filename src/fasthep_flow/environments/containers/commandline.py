"""The command line that makes a container and waits for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final

from fasthep_flow.environments import ContainerSpec, Mount
from fasthep_flow.environments.containers.lending import device_options
from fasthep_flow.environments.engine import Engine, EngineFacts
from fasthep_flow.environments.host.scratch import SCRATCH_FOLDERS

__all__ = ["IDENTITY", "MONITOR", "mount_option", "run_argv", "user_options"]

IDENTITY: Final = "client/identity"
"""In the container's scratch folder: what the engine knows it by."""

MONITOR: Final = "client/monitor"
"""In the container's scratch folder: the process number of what podman has watch over it."""

_NO_KEYS: Final = {True: "", False: "ctrl-@,ctrl-_,ctrl-@,ctrl-_"}
"""Docker takes an empty list for no list."""

_PLAIN: Final = re.compile(r'[^",\r\n]*')


def run_argv(
    engine: Engine,
    facts: EngineFacts,
    spec: ContainerSpec,
    program: Sequence[str],
    *,
    scratch: str,
    terminal: bool = False,
    names: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line that makes the container and waits for it.

    Args:
        engine: Whose client it is.
        facts: What the engine says of itself.
        spec: The container.
        program: What starts in it, and its arguments; it reads what the client reads.
        scratch: The folder in which the container's ``/tmp`` and ``/var/tmp`` lie, and its
            identity and the number of its monitor are written.
        terminal: Whether the container is to have a terminal.
        names: What the engine's files call devices, where that is not their id.
    """
    if spec.image is None:
        raise ValueError("a container needs an image")
    argv = [engine.program, "run", "--interactive", "--rm", "--name", spec.name]
    if terminal:
        # The keys that would leave the container running are those that recall a line.
        argv += ["--tty", "--detach-keys", _NO_KEYS[facts.podman]]
    argv += ["--pull", "never", "--cidfile", f"{scratch}/{IDENTITY}"]
    if facts.podman and not facts.remote:
        argv += ["--conmon-pidfile", f"{scratch}/{MONITOR}"]
    for key, value in spec.labels.items():
        argv += ["--label", f"{key}={value}"]
    argv += ["--network", spec.network, "--log-driver", "none"]
    # Where SELinux labels files, the user's have none that a container may read.
    argv += ["--security-opt", "label=disable"]
    argv += user_options(facts)
    for name, target in SCRATCH_FOLDERS.items():
        argv += ["--mount", mount_option(Mount(source=f"{scratch}/{name}", target=target))]
    for mount in spec.mounts:
        argv += ["--mount", mount_option(mount)]
    if spec.resources.memory is not None:
        memory = str(spec.resources.memory)
        argv += ["--memory", memory, "--memory-swap", memory]
    if spec.resources.cpus is not None:
        # As fine as engines count them: what is rounded to 0 is no limit to them.
        argv += ["--cpus", f"{spec.resources.cpus:.9f}"]
    argv += device_options(facts, spec.devices, names or {})
    argv += spec.options
    argv += ["--entrypoint", program[0], spec.image.reference, *program[1:]]
    return argv


def mount_option(mount: Mount) -> str:
    """The value of ``--mount``, which engines read as a record of CSV.

    So any path can be said but one with a carriage return before a line feed: of these two
    engines keep the second alone.
    """
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    if mount.read_only:
        fields.append("readonly")
    return ",".join(map(_quoted, fields))


def _quoted(field: str) -> str:
    # Python's writer leaves line feeds bare where it is not told to end a line with one.
    if _PLAIN.fullmatch(field):
        return field
    return '"' + field.replace('"', '""') + '"'


def user_options(facts: EngineFacts) -> Sequence[str]:
    """The options by which files that a container writes belong to the caller."""
    uid, gid = os.getuid(), os.getgid()
    if not facts.podman:
        if facts.rootless:
            # There, root inside is the caller outside.
            return ("--user", "0:0")
        remap = ("--userns", "host") if facts.remapped else ()
        groups = [group for group in os.getgroups() if group != gid]
        joined = [option for group in groups for option in ("--group-add", str(group))]
        return ("--user", f"{uid}:{gid}", *remap, *joined)
    if facts.rootless:
        return ("--userns", "keep-id", "--user", f"{uid}:{gid}")
    return ("--user", f"{uid}:{gid}")
