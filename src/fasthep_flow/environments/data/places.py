"""Where a task sees its extra data, and what lies there: decided before anything is made."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from fasthep_flow.environments.data import fetch
from fasthep_flow.environments.data.fetching import kept_content
from fasthep_flow.environments.data.local import find, is_pattern
from fasthep_flow.environments.data.sources import Source, source_of
from fasthep_flow.errors import DataUnavailable
from fasthep_flow.model import DataItem

__all__ = ["Place", "arranged", "require_target"]

_MOST: Final = 1000
"""Of what is mounted one by one."""

_SYSTEM: Final = ("/proc", "/sys", "/dev")
_MOST_LINKS: Final = 40


class Place(Struct, frozen=True, kw_only=True):
    """A file or folder, and where the task sees it.

    Args:
        source: Absolute path on this machine; no part of it is a link.
        target: Absolute path, as the task sees it.
        is_folder: Whether it is one.
        is_copy: Whether the task gets a copy of its own.
        is_ours: Whether it lies in the cache.
        shown: What the author called it.
    """

    source: str
    target: str
    is_folder: bool
    is_copy: bool
    is_ours: bool
    shown: str

    @property
    def is_in_place(self) -> bool:
        """Whether the task sees it where it is."""
        return self.source == self.target


def arranged(
    items: Sequence[DataItem],
    *,
    folder: str,
    contained: bool,
    offline: bool,
    directory: str,
    working_directory: str,
    may_read: bool = True,
) -> tuple[list[Place], dict[str, str]]:
    """What lies where, and the digests by source.

    Args:
        items: What the task asks for; it is fetched where it is not here.
        folder: Absolute path of the task's data folder; nothing need be there.
        contained: Whether the task runs in a container.
        offline: Whether nothing may be fetched.
        directory: Absolute path of the attempt's folder.
        working_directory: Absolute path of the folder where the task works.
        may_read: Whether to look at digests of what is on this machine.

    Raises:
        DataUnavailable: An item cannot be had, or cannot lie where it is to.
    """
    places: list[Place] = []
    facts: dict[str, str] = {}
    for item in dict.fromkeys(items):
        source = source_of(item)
        require_target(item, contained=contained)
        if source.kind == "local":
            if item.digest is not None and may_read:
                fetch(item, offline=offline, anew=True, progress=_say_nothing)
            _require_apart(source, (directory, working_directory))
            found = list(_local(item, source, folder, working_directory, contained=contained))
        else:
            found = list(_fetched(item, source, folder, offline=offline))
        if len(found) > _MOST:
            raise DataUnavailable(
                f"{source.shown} fits {len(found)} files, and {_MOST} are the most",
                hint="name their folder",
            )
        places += found
        if item.digest is not None:
            facts[source.shown] = item.digest
    for place in places:
        _check_place(place, contained=contained, folder=folder, mounted=(working_directory,))
    _check_apart(places, folder)
    return places, facts


def require_target(item: DataItem, *, contained: bool) -> None:
    """Refuse a target that cannot be one.

    Args:
        item: With its target.
        contained: Whether the task runs in a container.

    Raises:
        DataUnavailable: It names no place that the task could see it at.
    """
    target = item.target
    if target is None:
        return
    source = source_of(item)
    if not target.strip("/") or "\0" in target:
        raise DataUnavailable(f"{source.shown}: the target {target!r} names no file or folder")
    if ".." in target.split("/"):
        raise DataUnavailable(
            f"{source.shown}: the target {target!r} may not hold '..'",
            hint="write where it really lies: a path below FASTHEP_DATA, or an absolute one",
        )
    if not target.startswith("/"):
        return
    is_own = posixpath.normpath(target) == source.text and item.mode == "ro"
    if not contained and not is_own:
        raise DataUnavailable(
            f"{source.shown}: the target {target} cannot be on this machine itself: only in a"
            " container may it be an absolute path",
            hint="write a relative one, which lies in the folder that FASTHEP_DATA names, or"
            " give the task an image",
        )
    if any(posixpath.normpath(target).startswith((f"{one}/", one)) for one in _SYSTEM):
        raise DataUnavailable(f"{source.shown}: the target {target} is the system's own")


def _local(
    item: DataItem,
    source: Source,
    folder: str,
    working_directory: str,
    *,
    contained: bool,
) -> Iterator[Place]:
    several = is_pattern(source)
    is_copy = item.mode == "copy"
    for one in find(source):
        real = os.path.realpath(one.path)
        if item.target is None and not is_copy:
            target = real if not contained else _seen_at(one.path, real, working_directory)
        elif item.target is None:
            target = f"{folder}/{one.name}"
        elif several:
            target = posixpath.join(folder, item.target, one.name)
        else:
            target = _target(item.target, folder, one.name, is_folder=one.is_folder)
        if not contained and target == one.path:
            target = real
        yield Place(
            source=real,
            target=posixpath.normpath(target),
            is_folder=one.is_folder,
            is_copy=is_copy,
            is_ours=False,
            shown=one.path,
        )


def _require_apart(source: Source, folders: Sequence[str]) -> None:
    """Refuse what holds the folders where the task is to write."""
    for one in find(source):
        real = os.path.realpath(one.path)
        for folder in folders:
            if _is_within(os.path.realpath(folder), real):
                raise DataUnavailable(
                    f"{one.path} holds {folder}, where the task is to write: it can be neither"
                    " read-only nor copied into itself",
                    hint="name what the task needs of it",
                )


def _fetched(
    item: DataItem,
    source: Source,
    folder: str,
    *,
    offline: bool,
) -> Iterator[Place]:
    here = kept_content(item)
    if here is None:
        here = kept_content(fetch(item, offline=offline, progress=_say_nothing))
    if here is None:
        raise DataUnavailable(f"{source.shown} is not in the cache any more", hint="try again")
    path, is_folder = here
    is_copy = item.mode == "copy"
    if is_folder and source.may_be_pattern and item.target is None:
        found = [(path / name, name) for name in sorted(os.listdir(path))]  # noqa: PTH208 - names
    elif item.target is None:
        if not source.name:
            raise DataUnavailable(
                f"{source.shown} has no name to lie under",
                hint="give it a target: {source: ..., target: NAME}",
            )
        found = [(path, source.name)]
    else:
        found = [(path, _target(item.target, folder, source.name, is_folder=is_folder))]
    for one, name in found:
        yield Place(
            source=os.path.realpath(one),
            target=posixpath.normpath(posixpath.join(folder, name)),
            is_folder=one.is_dir(),
            is_copy=is_copy,
            is_ours=True,
            shown=source.shown,
        )


def _target(target: str, folder: str, name: str, *, is_folder: bool) -> str:
    """A file lies in what is written with a ``/`` at its end; a folder is that itself."""
    if target.endswith("/") and not is_folder:
        target = posixpath.join(target, name)
    return posixpath.join(folder, target)


def _seen_at(path: str, real: str, working_directory: str) -> str:
    """Where a container must have it, so that it is seen at its path.

    What is mounted there with the working directory keeps its links: they are followed for as
    long as they stay in there. Elsewhere a container has no links of the host's.
    """
    seen = path
    for _ in range(_MOST_LINKS):
        link = _first_link(seen, working_directory)
        if link is None:
            return seen
        target = os.path.join(os.path.dirname(link), os.readlink(link))  # noqa: PTH115, PTH118, PTH120
        seen = os.path.normpath(target + seen[len(link) :])
    return real


def _first_link(path: str, above: str) -> str | None:
    if not _is_within(path, above):
        return None
    current = above.rstrip("/")
    for part in path[len(current) :].strip("/").split("/"):
        current = f"{current}/{part}"
        if os.path.islink(current):  # noqa: PTH114 - text
            return current
    return None


def _check_place(place: Place, *, contained: bool, folder: str, mounted: Sequence[str]) -> None:
    if contained and any(sign in path for sign in "\r\n" for path in (place.source, place.target)):
        raise DataUnavailable(
            f"no container can be handed {place.target!r}: its name holds a line break"
        )
    if not contained or place.is_in_place or _is_within(place.target, folder):
        return
    for above in mounted:
        if _is_within(place.target, above) and not Path(place.target).exists():
            raise DataUnavailable(
                f"{place.shown}: nothing is at its target {place.target}, and a place there would"
                " have to be made in your own folder",
                hint="write a relative one, which lies in the folder that FASTHEP_DATA names",
            )


def _told(target: str, folder: str) -> str:
    """Where that is, in the author's words: the task's folder is another one for each attempt."""
    if _is_within(target, folder):
        return f"$FASTHEP_DATA{target[len(folder) :]}"
    return target


def _check_apart(places: Sequence[Place], folder: str) -> None:
    """Refuse two at one place, or one in another that is not a folder of its own."""
    known: dict[str, Place] = {}
    for place in places:
        other = known.setdefault(place.target, place)
        if other is not place and (other.source, other.is_copy) != (place.source, place.is_copy):
            raise DataUnavailable(
                f"{other.shown} and {place.shown} would both lie at {_told(place.target, folder)}",
                hint="give one of them another target",
            )
    for place in places:
        for above in Path(place.target).parents:
            other = known.get(str(above), place)
            if other is place or (other.is_in_place and place.is_in_place):
                continue
            raise DataUnavailable(
                f"{place.shown} would lie at {_told(place.target, folder)}, in {other.shown}",
                hint="give one of them another target",
            )


def _say_nothing(_: str) -> None:
    """What takes long was told of before the first task."""


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
