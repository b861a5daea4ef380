"""Puts extra data where a task sees it, and takes it away again.

What a task may only read is mounted, read-only: in a container by its engine, else in a mount
namespace of the task's own. Where this system allows none, the task reads a copy that is its
own; of what it is to see in place there is no other protection than that a change is found.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Self

from fasthep_flow.environments import Mount
from fasthep_flow.environments.data.copies import copy, remove
from fasthep_flow.environments.data.places import Place
from fasthep_flow.environments.data.unchanged import State, change, state_of
from fasthep_flow.errors import DataUnavailable

__all__ = ["laid_out"]

_COPIES: Final = "data.copies"
"""Of an attempt's folder: copies whose place is not in the data folder."""


@contextmanager
def laid_out(places: Sequence[Place], *, folder: str, contained: bool) -> Iterator[list[Mount]]:
    """The places as they are to be seen, for as long as the context lasts.

    Args:
        places: What lies where.
        folder: Absolute path of the task's data folder.
        contained: Whether the task runs in a container.

    Yields:
        What is to be mounted for the task.

    Raises:
        DataUnavailable: There is no room for a copy; or, at the end, what could only be read
            was changed.
    """
    unique = {place.target: place for place in places}
    with _Layout(folder) as layout:
        mounts_work = contained or _mounts_work()
        watched = [place for place in unique.values() if not place.is_copy and not place.is_ours]
        # Of a link that the author names also the link, which nothing can be mounted on.
        before = [
            (path, state_of(path))
            for place in watched
            for path in dict.fromkeys((place.source, place.shown))
        ]
        mounts = [
            mount
            for place in unique.values()
            if (mount := layout.lay(place, mounts_work=mounts_work)) is not None
        ]
        # What is above is mounted first.
        yield sorted(mounts, key=lambda mount: mount.target.count("/"))
    _require_unchanged(before)


def _require_unchanged(before: Sequence[tuple[str, State]]) -> None:
    for path, state in before:
        if (changed := change(path, state)) is not None:
            raise DataUnavailable(
                f"{changed} while the task ran, which may only read it",
                hint="give the task a copy of its own: {source: ..., mode: copy}",
            )


def _mounts_work() -> bool:
    from fasthep_flow.environments.host.mounts import why_no_mounts

    return why_no_mounts() is None


class _Layout:
    """What was made in an attempt's folder, and is to be gone with the attempt.

    Args:
        folder: The task's data folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder: Final = folder
        self._copies: Final = f"{os.path.dirname(folder)}/{_COPIES}"  # noqa: PTH120 - text
        self._copied: Final[list[str]] = []
        self._made: Final[list[str]] = []

    def __enter__(self) -> Self:
        for path in (self._folder, self._copies):
            _remove_left(path)
        os.makedirs(self._folder)  # noqa: PTH103 - text
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._copied:
            remove(path)
        for path in reversed(self._made):
            # What the task has put there is its own.
            with suppress(OSError):
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.rmdir(path)  # noqa: PTH106 - text
                elif not os.lstat(path).st_size:
                    os.unlink(path)  # noqa: PTH108 - text
        with suppress(OSError):
            os.rmdir(self._folder)  # noqa: PTH106 - text

    def lay(self, place: Place, *, mounts_work: bool) -> Mount | None:
        """Make it ready; what is still to be mounted for it."""
        is_below = place.target.startswith(f"{self._folder}/")
        if place.is_copy or (is_below and not mounts_work):
            if is_below:
                self._make_folders(os.path.dirname(place.target))  # noqa: PTH120 - text
                target = place.target
            else:
                target = f"{self._copies}/{len(self._copied)}"
                self._make_folders(self._copies, above=os.path.dirname(self._copies))  # noqa: PTH120
            self._copied.append(target)
            self._copy(place, target)
            return None if is_below else Mount(source=target, target=place.target)
        if is_below:
            self._make_point(place)
        elif not mounts_work:
            return None
        return Mount(source=place.source, target=place.target, read_only=True)

    def _copy(self, place: Place, target: str) -> None:
        try:
            copy(place.source, target, is_writable=place.is_copy)
        except OSError as error:
            words = error.strerror or str(error)
            raise DataUnavailable(
                f"{place.shown} cannot be copied to {target}: {words}",
                hint="make room there, or let the task see it in place: leave out 'mode: copy'",
            ) from None

    def _make_point(self, place: Place) -> None:
        self._make_folders(os.path.dirname(place.target))  # noqa: PTH120 - text
        if place.is_folder:
            os.mkdir(place.target)  # noqa: PTH102 - text
        else:
            os.close(os.open(place.target, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644))
        self._made.append(place.target)

    def _make_folders(self, folder: str, *, above: str | None = None) -> None:
        current = above or self._folder
        for part in folder[len(current) :].strip("/").split("/"):
            if not part:
                continue
            current = f"{current}/{part}"
            if not os.path.isdir(current):  # noqa: PTH112 - text
                os.mkdir(current)  # noqa: PTH102 - text
                self._made.append(current)


def _remove_left(folder: str) -> None:
    """Remove what an attempt that was killed has left there.

    Raises:
        DataUnavailable: Something is mounted there: to remove it would reach beyond it.
    """
    if not os.path.lexists(folder):
        return
    with suppress(OSError), open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123 - no file
        points = [line.split(b" ")[4] for line in file]
        marks = os.fsencode(folder).replace(b" ", b"\\040") + b"/"
        if any(point.startswith(marks) for point in points):
            raise DataUnavailable(f"something is mounted in {folder}", hint="unmount it")
    remove(folder)
