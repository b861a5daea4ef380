"""A process is started while the other threads of this one go on.

Python's own ways keep its lock until the new program is in place, which takes longer than all
else that is done for a task: threads that start tasks would take turns. The C library's
``posix_spawn``, called as a foreign function, does not need the lock.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["launch"]

_SETSIGDEF: Final = 0x04
_SETSID: Final = 0x80
"""The same in glibc (since 2.26) and musl."""
_ROOM: Final = 1024
"""Bytes: more than these structures have anywhere."""
_RESTORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores, and no program expects to be ignored: as the module subprocess does."""


class _Library(NamedTuple):
    functions: ctypes.CDLL
    attributes: ctypes.Array[ctypes.c_char]


def launch(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    working_directory: str,
    stdin: int | None,
    stdout: int,
    stderr: int,
) -> int | None:
    """Start a program as the leader of a session of its own; its process.

    Args:
        argv: The program, looked for on the ``PATH`` of ``environment``, and its arguments.
        environment: The whole environment.
        working_directory: Absolute path.
        stdin: Descriptor; ``None`` for nothing to read.
        stdout: Descriptor.
        stderr: Descriptor.

    Returns:
        ``None`` where it cannot be started in this way: the module subprocess may be able to,
        or else can tell why not.
    """
    library = _library()
    if library is None:
        return None
    words = _encoded(argv)
    settings = _encoded([f"{name}={value}" for name, value in environment.items()])
    if words is None or settings is None or "=" in "".join(environment):
        return None
    functions = library.functions
    actions = ctypes.create_string_buffer(_ROOM)
    pid = ctypes.c_int()
    if functions.posix_spawn_file_actions_init(actions):
        return None
    # The C library looks on this process's own PATH, in the folder where the program starts.
    program: str | None = argv[0]
    folder = os.fsencode(working_directory)
    spawn = functions.posix_spawnp
    if environment.get("PATH") != os.environ.get("PATH"):
        program, spawn = _found(argv[0], environment, working_directory), functions.posix_spawn
    try:
        if (
            program is None
            or functions.posix_spawn_file_actions_addchdir_np(actions, folder)
            or (
                functions.posix_spawn_file_actions_addopen(
                    actions, 0, os.devnull.encode(), os.O_RDONLY, 0
                )
                if stdin is None
                else functions.posix_spawn_file_actions_adddup2(actions, stdin, 0)
            )
            or functions.posix_spawn_file_actions_adddup2(actions, stdout, 1)
            or functions.posix_spawn_file_actions_adddup2(actions, stderr, 2)
            or spawn(
                ctypes.byref(pid),
                os.fsencode(program),
                actions,
                library.attributes,
                (ctypes.c_char_p * (len(words) + 1))(*words, None),
                (ctypes.c_char_p * (len(settings) + 1))(*settings, None),
            )
        ):
            return None
    finally:
        functions.posix_spawn_file_actions_destroy(actions)
    return pid.value


@functools.cache
def _library() -> _Library | None:
    """What is called; ``None`` where the C library cannot do all of it."""
    if sys.platform != "linux":
        return None
    functions = ctypes.CDLL(None)
    # Older ones do not know a folder to start in.
    if not hasattr(functions, "posix_spawn_file_actions_addchdir_np"):
        return None
    attributes = ctypes.create_string_buffer(_ROOM)
    restored = ctypes.create_string_buffer(_ROOM)
    functions.sigemptyset(restored)
    for number in _RESTORED:
        functions.sigaddset(restored, int(number))
    if (
        functions.posix_spawnattr_init(attributes)
        or functions.posix_spawnattr_setsigdefault(attributes, restored)
        or functions.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSID))
    ):
        return None
    return _Library(functions, attributes)


def _encoded(words: Sequence[str]) -> list[bytes] | None:
    """As the system has them; ``None`` where one holds a NUL, which ends a word there."""
    encoded = os.fsencode("\0".join(words)).split(b"\0")
    return encoded if len(encoded) == len(words) else None


def _found(program: str, environment: Mapping[str, str], working_directory: str) -> str | None:
    if "/" in program:
        return program
    for folder in os.get_exec_path(environment):
        # Relative ones start where the program does.
        path = f"{folder if folder[:1] == '/' else f'{working_directory}/{folder}'}/{program}"
        if os.access(path, os.X_OK) and os.path.isfile(path):  # noqa: PTH113
            return path
    return None
