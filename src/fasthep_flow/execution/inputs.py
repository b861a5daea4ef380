"""The files that a task reads: whether they are there before it starts."""

from __future__ import annotations

import glob
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from fasthep_flow.execution.aside import printable
from fasthep_flow.model import Failure

__all__ = ["matches", "missing_input"]

_PATIENCE_S: Final = 3.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5
_NAMED: Final = 3
_SIGNS: Final = "*?["
_ASIDE: Final = re.compile(r"/tasks/[^/]+/[0-9]+/(before|left)/")
"""What attempts have set aside: ``**`` would find it wherever runs are recorded."""


def missing_input(
    inputs: Iterable[str], *, is_stopped: Callable[[], bool], patience_s: float = _PATIENCE_S
) -> Failure | None:
    """Why a task cannot start; ``None`` where all its inputs are there.

    What another machine has just made may not be seen here at once: a network's file system
    remembers for some seconds that a file was not there. Its folder is read again then.

    Args:
        inputs: Absolute paths, which may be patterns.
        is_stopped: Whether not to wait any longer.
        patience_s: How long to wait for all of them together.
    """
    missing = _missing(inputs)
    until_s = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while missing and not is_stopped() and (left_s := until_s - time.monotonic()) > 0:
        time.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        for one in missing:
            _read_folder(one)
        missing = _missing(missing)
    if not missing:
        return None
    reasons = list(missing.values())
    rest = len(reasons) - _NAMED
    shown = "; ".join(reasons[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")
    return Failure(
        kind="input",
        message=shown,
        hint="look at the paths, which start from the workflow file; what another task makes is"
        " there for certain only where that one is among the task's 'needs'",
    )


def matches(pattern: str) -> list[str]:
    """What an input names: its own path, or all that the pattern fits, in the order of the names.

    No pattern fits a name that begins with a dot and that it does not say; nor what was set
    aside in a run's folder, if it does not say that either.

    Args:
        pattern: Absolute path; ``**`` stands for any number of folders.
    """
    if os.path.lexists(pattern) or not _may_be_pattern(pattern):
        return [pattern]
    return sorted(_fitting(pattern), key=os.fsencode)


def _fitting(pattern: str) -> Iterator[str]:
    found = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - text
    return found if _ASIDE.search(pattern) else (one for one in found if not _ASIDE.search(one))


def _missing(inputs: Iterable[str]) -> dict[str, str]:
    """Those that are not there, or cannot be read, and why, in words."""
    reasons = {one: _why_missing(one) for one in inputs}
    return {one: why for one, why in reasons.items() if why is not None}


def _why_missing(path: str) -> str | None:
    # A name may hold what is a sign in a pattern.
    if not os.path.lexists(path) and _may_be_pattern(path):
        is_there = any(_kind(one) == "data" for one in _fitting(path))
        return None if is_there else f"no file or folder fits the input {path}"
    kind = _kind(path)
    if kind is None:
        if os.path.islink(path):  # noqa: PTH114 - text
            target = printable(os.readlink(path))  # noqa: PTH115 - text
            return f"the input {path} is a link to {target}, which is not there"
        return f"there is no input {path}"
    if kind != "data":
        return f"the input {path} is a {kind}: neither file nor folder"
    return None if os.access(path, os.R_OK) else f"the input {path} may not be read"


def _kind(path: str) -> str | None:
    """``data`` for a file or folder, what it is otherwise in words; ``None`` where it is not there.

    What is neither is never read to its end: nobody could tell whether it changed.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - text
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return "data"
    if stat.S_ISFIFO(mode):
        return "named pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _may_be_pattern(path: str) -> bool:
    return any(sign in path for sign in _SIGNS)


def _read_folder(path: str) -> None:
    """Have the file system look again at the folder, or at what there is of the way to it."""
    folder = path[: min((at for sign in _SIGNS if (at := path.find(sign)) >= 0), default=len(path))]
    folder = os.path.dirname(folder)  # noqa: PTH120 - text
    while folder:
        with suppress(OSError), os.scandir(folder) as entries:
            next(entries, None)
            return
        if folder == "/":
            return
        folder = os.path.dirname(folder)  # noqa: PTH120 - text
