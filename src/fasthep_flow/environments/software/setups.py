"""What setup scripts come to, computed once and kept.

It is computed anew where the lines, the scripts that they name, the variables that they find, the
image or the machine, or the working directory are others, and where a script changed that was
sourced on the way. What else a script looks at nobody can tell: what it prints of the time of
day, or reads of a file, is what it was the first time.

Where it holds a secret it is kept in the memory of this process alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from fasthep_flow.environments import ContainerSpec, Mount, Runtime
from fasthep_flow.environments.host.locks import shared_lock
from fasthep_flow.environments.software.keys import host_identity, keyed, private_folder
from fasthep_flow.environments.software.place import Place
from fasthep_flow.environments.software.sourcing import LIMIT_S, source
from fasthep_flow.model import Setup
from fasthep_flow.redaction import is_secret, looks_secret, secret_values

__all__ = ["Provided", "known", "provided"]

_VERSION: Final = 2
_LARGEST: Final = 32 * 2**20

# What differs from one login, terminal or job to the next, and says nothing of software.
_VOLATILE: Final = re.compile(
    r"_|SHLVL|PWD|OLDPWD|COLUMNS|LINES|HOSTNAME|DISPLAY|WINDOWID|STY|TMUX\w*|TERM\w*|COLORTERM"
    r"|SSH_\w+|XDG_SESSION_ID|GPG_TTY|DBUS_SESSION_BUS_ADDRESS|INVOCATION_ID|JOURNAL_STREAM"
    r"|KRB5CCNAME|UV|UV_RUN_RECURSION_DEPTH|PREFECT_\w+|VSCODE_\w+|PYTEST_\w+|FASTHEP_\w+",
    re.ASCII,
)


class Provided(Struct, frozen=True, kw_only=True):
    """What a setup script provides.

    Args:
        variables: That it changed; ``None`` for one that it unset.
        path: The ``PATH`` that the place has before.
    """

    variables: dict[str, str | None]
    path: str


class _Kept(Struct, frozen=True, kw_only=True):
    provided: Provided
    files: dict[str, list[int] | None]


_MEMORY: Final[dict[str, _Kept]] = {}
_LOCK: Final = threading.Lock()


def provided(
    setup: Setup,
    *,
    runtime: Runtime,
    spec: ContainerSpec,
    environment: Mapping[str, str | None],
    working_directory: str,
    secrets: Collection[str] = (),
    limit_s: float = LIMIT_S,
    starting: Callable[[], None] = lambda: None,
) -> Provided:
    """What the script provides; it is sourced only where that is not known yet.

    Args:
        setup: What is to be sourced.
        runtime: What the task runs on.
        spec: Of its container, or of the host.
        environment: Variables that the script finds, over those of the place.
        working_directory: Where it is sourced.
        secrets: The names of variables that the author lists as such.
        limit_s: How long it may take.
        starting: Called before it is sourced.

    Raises:
        SoftwareUnavailable: It fails; with its line.
        OSError: Nothing can be kept on this machine.
    """
    key = _key(setup, runtime, spec, environment, working_directory)
    host = {} if spec.image is not None else os.environ
    values = secret_values({**host, **environment}, secrets)
    path = private_folder("setup") / f"{key}.json"
    if (kept := _remembered(key, spec.mounts)) is not None:
        if _holds_secret(kept.provided.variables, values, secrets):
            # It was kept before the author said so.
            path.unlink(missing_ok=True)
        return kept.provided
    # The lock is this process's threads', too.
    with shared_lock(path.with_name(f".{path.name}.lock")):
        if (kept := _remembered(key, spec.mounts)) is not None:
            return kept.provided
        starting()
        with Place(runtime, spec, working_directory) as place:
            found = source(
                setup, place, environment, secrets=values, declared=secrets, limit_s=limit_s
            )
        kept = _Kept(
            provided=Provided(variables=found.variables, path=found.path),
            files={file: _stamp(file, spec.mounts) for file in found.files},
        )
        with _LOCK:
            _MEMORY[key] = kept
        if found.is_traced and not _holds_secret(found.variables, values, secrets):
            # Without room for it the next process sources it again.
            with suppress(OSError):
                _write(path, kept)
    return kept.provided


def known(
    setup: Setup,
    *,
    runtime: Runtime,
    spec: ContainerSpec,
    environment: Mapping[str, str | None],
    working_directory: str,
) -> Provided | None:
    """What is kept of it; nothing is run. See :func:`provided`."""
    try:
        kept = _remembered(_key(setup, runtime, spec, environment, working_directory), spec.mounts)
    except OSError:
        return None
    return None if kept is None else kept.provided


def _key(
    setup: Setup,
    runtime: Runtime,
    spec: ContainerSpec,
    environment: Mapping[str, str | None],
    working_directory: str,
) -> str:
    if spec.image is None:
        place: tuple[Any, ...] = (*host_identity(), os.getuid())
        names = {**os.environ, **environment}
    else:
        place = (runtime.name, spec.image.reference, spec.image.digest, spec.network, *spec.options)
        names = dict(environment)
    variables = {name: value for name, value in names.items() if not _VOLATILE.fullmatch(name)}
    scripts = {script: _digest(_outside(script, spec.mounts)) for script in setup.scripts}
    return keyed("setup", _VERSION, setup.lines, scripts, variables, place, working_directory)


def _digest(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def _outside(path: str, mounts: Sequence[Mount]) -> str:
    """What a path of the container's is on the host; the same where no mount of ours says so.

    An engine may have mounts of its own, such as /cvmfs, which are at the same place for all we
    know. A file of the image's that the host happens to have, too, is looked at for nothing.
    """
    for mount in sorted(mounts, key=lambda mount: len(mount.target), reverse=True):
        if path == mount.target or path.startswith(f"{mount.target}/"):
            return mount.source + path[len(mount.target) :]
    return path


def _stamp(path: str, mounts: Sequence[Mount]) -> list[int] | None:
    """What tells that a file has changed."""
    try:
        found = os.stat(_outside(path, mounts))  # noqa: PTH116 - for every task, and every script
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns]


def _remembered(key: str, mounts: Sequence[Mount]) -> _Kept | None:
    """What is kept, if all scripts are as they were."""
    with _LOCK:
        kept = _MEMORY.get(key)
    if kept is None:
        kept = _read(private_folder("setup") / f"{key}.json")
        if kept is None:
            return None
        with _LOCK:
            _MEMORY[key] = kept
    if any(_stamp(file, mounts) != stamp for file, stamp in kept.files.items()):
        with _LOCK:
            _MEMORY.pop(key, None)
        return None
    return kept


def _holds_secret(
    variables: Mapping[str, str | None], values: frozenset[str], declared: Collection[str]
) -> bool:
    for name, value in variables.items():
        if value and (is_secret(name, declared) or looks_secret(value)):
            return True
        if value and any(secret in value for secret in values):
            return True
    return False


def _write(path: Path, kept: _Kept) -> None:
    # Python's own JSON, for values may hold bytes that are no text, which it escapes.
    text = json.dumps(
        {
            "variables": kept.provided.variables,
            "path": kept.provided.path,
            "files": list(kept.files.items()),
        }
    )
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> _Kept | None:
    """What was kept; ``None`` where there is nothing that can be read."""
    try:
        if path.stat().st_size > _LARGEST:
            return None
        found = json.loads(path.read_text(encoding="ascii"))
        variables, files = dict(found["variables"]), dict(found["files"])
        if not all(isinstance(value, str | None) for value in variables.values()):
            return None
        return _Kept(provided=Provided(variables=variables, path=str(found["path"])), files=files)
    except (OSError, ValueError, TypeError, KeyError):
        return None
