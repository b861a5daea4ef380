"""The command line that calls a callable in some interpreter."""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from fasthep_flow.environments.host.reading import TooLargeError, read_whole
from fasthep_flow.model import Call

__all__ = ["Reply", "call_argv", "read_reply", "shim_argv", "write_call"]

_BOOT: Final = (
    # The author's folder may have a signal.py: the shim is not to import that one.
    "import sys; sys.path[:] = [folder for folder in sys.path if folder];"
    "exec(compile(sys.argv[1], '<fasthep-flow>', 'exec'))"
)
_LARGEST_REPLY: Final = 16 * 2**20
"""A result travels through the driver and its records; more than this belongs in a file."""

_DEEPEST: Final = 256
"""Lists and mappings in each other: what goes through them does so by calling itself."""


class Refusal(Struct, frozen=True):
    """Why there is no value, in the shim's words."""

    kind: str
    message: str
    hint: str | None = None
    traceback: str | None = None


class Reply(Struct, frozen=True):
    """What a callable answered; see ``shim.py``."""

    value: Any | msgspec.UnsetType = msgspec.UNSET
    failure: Refusal | None = None
    exit: int | msgspec.UnsetType = msgspec.UNSET
    peak: int | None = None


_TOO_DEEP: Final = Reply(
    failure=Refusal(
        "result",
        f"the returned value is nested more than {_DEEPEST} deep",
        "write it to a file and return the file's path",
    )
)


@functools.cache
def _shim() -> str:
    return Path(__file__).with_name("shim.py").read_text(encoding="ascii")


def shim_argv(interpreter: str, *arguments: str) -> tuple[str, ...]:
    """The command line that hands the shim to the interpreter."""
    return (interpreter, "-c", _BOOT, _shim(), *arguments)


def call_argv(interpreter: str, directory: str) -> tuple[str, ...]:
    """The command line that answers the request in ``directory``."""
    return shim_argv(interpreter, "call", directory)


def write_call(directory: str, call: Call) -> None:
    """Write the request into the attempt's folder."""
    request = {"target": call.target, "args": call.args, "kwargs": call.kwargs}
    Path(directory, "call.json").write_bytes(msgspec.json.encode(request))


def read_reply(directory: str | int) -> Reply | None:
    """The answer in the attempt's folder, taken out of it; ``None`` where there is none.

    Args:
        directory: The folder's path, or a descriptor of it.
    """
    folder = directory if isinstance(directory, int) else None
    call, path = (
        ("call.json", "reply.json")
        if folder is not None
        else (
            f"{directory}/call.json",
            f"{directory}/reply.json",
        )
    )
    with suppress(FileNotFoundError):
        os.unlink(call, dir_fd=folder)
    # Whoever may write to the folder may have; what comes out of an image is not trusted.
    try:
        reply = msgspec.json.decode(read_whole(path, _LARGEST_REPLY, folder), type=Reply)
    except FileNotFoundError:
        return None
    except TooLargeError:
        message = f"the returned value is larger than {_LARGEST_REPLY // 2**20}Mi"
        hint = "write it to a file and return the file's path"
        reply = Reply(failure=Refusal("result", message, hint))
    except RecursionError:
        reply = _TOO_DEEP
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        reply = Reply(failure=Refusal("result", f"the answer cannot be read: {error}"))
    with suppress(OSError):
        os.unlink(path, dir_fd=folder)
    return _TOO_DEEP if _is_deep(reply.value) else reply


def _is_deep(value: object) -> bool:
    """Whether lists and mappings lie in each other deeper than the records can say."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            item
            for items in level
            if isinstance(items, list | dict)
            for item in (items.values() if isinstance(items, dict) else items)
        ]
        if not level:
            return False
    return True
