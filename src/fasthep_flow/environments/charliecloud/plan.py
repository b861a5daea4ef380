"""The plan of a container: what the chamber puts together for ``ch-run``, and hands on to it."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fasthep_flow.environments import Mount
from fasthep_flow.environments.host.programs import program_argv
from fasthep_flow.environments.host.scratch import SCRATCH_FOLDERS

__all__ = [
    "CLIENT_VARIABLES",
    "COOKIE",
    "chamber_argv",
    "client_variables",
    "user_name",
    "write_plan",
]

COOKIE: Final = "FASTHEP_TASK_DIRECTORY"
"""The variable by which a task's processes are known."""

CLIENT_VARIABLES: Final = ("USER", "PATH", "TMPDIR")
"""What ``ch-run`` wants for itself, and no task is to see."""

_CHAMBER: Final = "fasthep_flow.environments.containers.chamber"
_NEEDED_FOLDERS: Final = ("/dev", "/proc", "/sys")
"""Folders of the host's that ``ch-run`` insists on."""

_NEEDED_FILES: Final = ("/etc/passwd", "/etc/group")
_NETWORK_FILES: Final = ("/etc/hosts", "/etc/resolv.conf")
_HOST_FILES: Final = (*_NETWORK_FILES, "/etc/machine-id")
"""Files of the host's that ``ch-run`` mounts, and that root could write to."""


def write_plan(
    scratch: Path,
    image: str,
    mounts: Sequence[Mount],
    argv: Sequence[str],
    aliases: Mapping[str, str],
) -> Path:
    """Write what the chamber is to put together; its path.

    Args:
        scratch: The folder of the container's own; the plan and the root's folder lie in it.
        image: Absolute path of the folder that is the image.
        mounts: What the container is to see of the host, besides what ``ch-run`` needs.
        argv: The command line of ``ch-run``.
        aliases: Further variables to hand on to it, by name.
    """
    own = []
    for name, target in SCRATCH_FOLDERS.items():
        folder = scratch / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)
        own.append((str(folder), target, False))
    (scratch / "root").mkdir(exist_ok=True)
    # It would mount these where a link of the image leads to on the host.
    own += [(path, path, True) for path in _NETWORK_FILES if Path(path).is_file()]
    # What lies in another one has to come after it.
    others = sorted(mounts, key=lambda mount: len(Path(mount.target).parts))
    plan = {
        "image": image,
        "root": str(scratch / "root"),
        "mounts": [*own, *((one.source, one.target, one.read_only) for one in others)],
        "folders": _NEEDED_FOLDERS,
        "files": _NEEDED_FILES,
        "guarded": [path for path in _HOST_FILES if Path(path).is_file()],
        "argv": argv,
        "variables": [*CLIENT_VARIABLES, COOKIE, *aliases],
        "trouble": str(scratch / "trouble"),
    }
    path = scratch / "plan.json"
    path.write_text(json.dumps(plan), encoding="ascii")
    return path


def chamber_argv(plan: Path) -> tuple[str, ...]:
    """The words that put the plan together and become ``ch-run``."""
    return program_argv(_CHAMBER, str(plan))


def client_variables(root: Path) -> dict[str, str]:
    """What ``ch-run`` itself wants to find in its environment."""
    return {
        "USER": user_name(),
        # It would complain without one, and add /bin to another.
        "PATH": "/bin",
        # It mounts this at the container's /tmp: so what is there already.
        "TMPDIR": f"{root.resolve()}/tmp",  # noqa: S108 - not the host's
    }


def user_name() -> str:
    """The caller's name, or number where they have none: ``ch-run`` asks for one."""
    if user := os.environ.get("USER"):
        return user
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
