"""What a container must see beside the folders that it always sees, for inputs and outputs.

These are the folders in which they lie: where a task makes something there it may write, else only
read. What is already seen where it is needs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from fasthep_flow.environments import Mount
from fasthep_flow.errors import EnvironmentRefused

__all__ = ["folders_outside", "mounts_outside"]

_SIGNS: Final = "*?["
_OF_CONTAINER: Final = frozenset(
    f"/{name}".rstrip(".")
    for name in (
        *(".", "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "opt"),
        *("proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/lib64"),
        *("usr/local", "usr/sbin", "usr/share", "var", "var/tmp"),
    )
)
"""Folders that a container has of its own: with the host's in their place it could not work."""

_SYSTEM: Final = ("/dev", "/proc", "/sys")
_MOST_LINKS: Final = 40


def folders_outside(
    inputs: Iterable[str], outputs: Iterable[str], seen: Sequence[str]
) -> dict[str, bool]:
    """The folders, and whether something is to be made there.

    A link that leads out of what is seen is followed; so what is not there yet is named by its
    path. Of an input in a folder that a container has of its own it is the input alone.

    Args:
        inputs: Absolute paths, which may be patterns.
        outputs: Absolute paths.
        seen: Absolute paths of the folders that it always sees.
    """
    found: dict[str, bool] = {}
    for output in outputs:
        if (folder := _outside(os.path.dirname(output.rstrip("/")), seen)) is not None:  # noqa: PTH120
            found[folder] = True
    for one in inputs:
        is_pattern = any(sign in one for sign in _SIGNS) and not os.path.lexists(one)
        until = min((at for sign in _SIGNS if (at := one.find(sign)) >= 0), default=len(one))
        named = one[:until] if is_pattern else one.rstrip("/")
        folder = _outside(os.path.dirname(named) or "/", seen)  # noqa: PTH120 - text
        if folder in _OF_CONTAINER and not is_pattern:
            folder = _outside(named, seen)
        if folder is not None:
            found.setdefault(folder, False)
    return {
        folder: is_written
        for folder, is_written in found.items()
        if not any(_has(other, folder, found) for other in found)
    }


def _has(other: str, folder: str, found: Mapping[str, bool]) -> bool:
    """Whether who is given the other one has the folder with it."""
    is_enough = found[other] or not found[folder]
    return other != folder and is_enough and _is_within(folder, other)


def mounts_outside(folders: Mapping[str, bool]) -> tuple[Mount, ...]:
    """How a container sees the folders, those that hold others first.

    Args:
        folders: See :func:`folders_outside`.

    Raises:
        EnvironmentRefused: One is not there, or cannot be a container's.
    """
    mounts = []
    for folder, is_written in sorted(folders.items()):
        _require(folder, is_written=is_written)
        source = os.path.realpath(folder)
        mounts.append(Mount(source=source, target=folder, read_only=not is_written))
    return tuple(mounts)


def _require(folder: str, *, is_written: bool) -> None:
    if folder in _OF_CONTAINER or any(_is_within(folder, one) for one in _SYSTEM):
        raise EnvironmentRefused(
            f"a container cannot be given the machine's {folder}, where there is an"
            f" {'output' if is_written else 'input'}: it has one of its own",
            hint="have it in a folder below the workflow file, or in one that no image has",
        )
    if any(sign in folder for sign in "\r\n"):
        raise EnvironmentRefused(
            f"no container can be handed the folder {folder!r}: its path holds a line break",
            hint="rename the folder",
        )
    is_there = os.path.isdir(folder) if is_written else os.path.exists(folder)  # noqa: PTH110, PTH112
    if not is_there:
        what = "an output" if is_written else "an input"
        raise EnvironmentRefused(
            f"there is no folder {folder}, which a container needs for {what}",
            hint="make it before: a container sees nothing of the machine but what is there when it"
            " starts",
        )
    if is_written and not os.access(folder, os.W_OK | os.X_OK):
        raise EnvironmentRefused(
            f"no output can be made in {folder}: it may not be written to",
            hint="choose another folder, or have its owner let you",
        )


def _outside(path: str, seen: Sequence[str]) -> str | None:
    """Where a container must have a path so that it is seen there; ``None`` if it is already.

    What it always sees keeps its links: they are followed for as long as they stay in there.
    """
    path = os.path.normpath(path)
    for _ in range(_MOST_LINKS):
        above = next((one for one in seen if _is_within(path, one)), None)
        if above is None:
            return path
        link = _first_link(path, above)
        if link is None:
            return None
        target = os.path.join(os.path.dirname(link), os.readlink(link))  # noqa: PTH115, PTH118, PTH120
        path = os.path.normpath(target + path[len(link) :])
    return None


def _first_link(path: str, above: str) -> str | None:
    current = above.rstrip("/")
    for part in path[len(current) :].strip("/").split("/"):
        current = f"{current}/{part}"
        if os.path.islink(current):  # noqa: PTH114 - text
            return current
    return None


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
