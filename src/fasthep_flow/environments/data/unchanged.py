"""Whether what a task could only read is still what it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from fasthep_flow.environments.data.listing import files_below

__all__ = ["State", "change", "state_of"]

_MOST: Final = 20_000
"""Files of a folder that are looked at: on a file server each costs a question."""

_Facts: TypeAlias = tuple[int, int, int, int]
State: TypeAlias = dict[str, _Facts]
"""Size, times of change, and number of each file, by its path."""


def state_of(path: str) -> State:
    """A file, or the files of a folder, as they are now."""
    state: State = {}
    for one in _files(path):
        if len(state) >= _MOST:
            break
        found = os.lstat(one)
        state[one] = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return state


def change(path: str, before: State) -> str | None:
    """What has become of it, in words; ``None`` if nothing has."""
    try:
        now = state_of(path)
    except OSError as error:
        return f"{error.filename or path} was taken away"
    # Of a folder with more files than that, others are looked at when some come and go.
    is_whole = max(len(before), len(now)) < _MOST
    for one, facts in before.items():
        if one in now and now[one] != facts:
            sizes = f", from {facts[0]} to {now[one][0]} bytes," if now[one][0] != facts[0] else ""
            return f"{one} was changed{sizes}"
    if is_whole and (gone := sorted(before.keys() - now.keys())):
        return f"{gone[0]} was removed"
    if is_whole and (new := sorted(now.keys() - before.keys())):
        return f"{new[0]} was made"
    return None


def _files(path: str) -> Iterator[str]:
    if os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH112, PTH114 - text
        yield path
        return
    for one, _ in files_below(Path(path)):
        yield os.fspath(one)
