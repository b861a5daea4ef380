"""Folders below one of ours, where tasks write too: reached without following a link.

A task may have put anything in the place of a folder. What is opened here is the folder itself, by
its name in the one above, so that nothing that somebody exchanges meanwhile leads elsewhere.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

__all__ = ["DAMAGED", "move_aside", "open_below", "restore_below"]

DAMAGED: Final = "damaged"
"""In the folder at the top: what lay in the place of another one."""

_TOP: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER: Final = _TOP | os.O_NOFOLLOW


def open_below(top: str | int, names: Sequence[str]) -> int:
    """A descriptor of a folder; the caller closes it.

    Args:
        top: Absolute path of ours, whose own links are followed; or a descriptor of it.
        names: Of the folders on the way, and of the folder.

    Raises:
        FileNotFoundError: One of them is not there.
        NotADirectoryError: One of them is a link, or another thing that is no folder.
        OSError: One of them cannot be opened.
    """
    held = -1 if isinstance(top, int) else os.open(top, _TOP)
    folder = top if isinstance(top, int) else held
    try:
        for name in names:
            folder = _opened(folder, name)
            if held >= 0:
                os.close(held)
            held = folder
    except BaseException:
        if held >= 0:
            os.close(held)
        raise
    return held if held >= 0 else os.dup(folder)


def restore_below(
    top: str | int, names: Sequence[str], *, mode: int = 0o777, is_new: bool = False
) -> tuple[int, list[str]]:
    """The same, and have it there: what is no folder on the way is moved aside, not removed.

    Args:
        top: As for :func:`open_below`.
        names: As for :func:`open_below`.
        mode: What may be done with the last one, if it is made new.
        is_new: Whether that is to be expected; it takes less time then.

    Returns:
        The descriptor, and the names below the top that were given to what was moved aside.

    Raises:
        OSError: A folder cannot be made there.
    """
    above = top if isinstance(top, int) else os.open(top, _TOP)
    aside: list[str] = []
    folder = above
    try:
        for number, name in enumerate(names, 1):
            is_last = number == len(names)
            if is_new and is_last:
                with suppress(FileExistsError):
                    os.mkdir(name, mode, dir_fd=folder)
            try:
                below = _opened(folder, name)
            except (FileNotFoundError, NotADirectoryError) as error:
                if isinstance(error, NotADirectoryError):
                    aside.append(move_aside(above, folder, name, names[:number]))
                with suppress(FileExistsError):
                    os.mkdir(name, mode if is_last else 0o777, dir_fd=folder)
                below = _opened(folder, name)
            if folder != above:
                os.close(folder)
            folder = below
    except BaseException:
        if folder != above:
            os.close(folder)
        raise
    finally:
        if above != top:
            os.close(above)
    return folder, aside


def move_aside(top: int, folder: int, name: str, names: Sequence[str]) -> str:
    """Rename what lies somewhere below the top, whatever it is, into :data:`DAMAGED` there.

    Args:
        top: A descriptor of the folder at the top.
        folder: A descriptor of the folder in which it lies.
        name: Its name there.
        names: Those that lead to it from the top.

    Returns:
        Its new path from the top.

    Raises:
        OSError: It cannot be renamed.
    """
    mark = secrets.token_hex(4)
    if tuple(names) == (DAMAGED,):
        os.rename(DAMAGED, f"{DAMAGED}.{mark}", src_dir_fd=top, dst_dir_fd=top)
        return f"{DAMAGED}.{mark}"
    damaged, _ = restore_below(top, (DAMAGED,), mode=0o700)
    new = f"{'-'.join(names)}.{mark}"
    try:
        os.rename(name, new, src_dir_fd=folder, dst_dir_fd=damaged)
    finally:
        os.close(damaged)
    return f"{DAMAGED}/{new}"


def _opened(folder: int, name: str) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except OSError as error:
        # Of a link some systems say the one, and some the other.
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
        raise
