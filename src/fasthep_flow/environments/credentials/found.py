"""A credential that was found: what shows it to a task, and how long it lasts."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from fasthep_flow.environments import Addition, Mount
from fasthep_flow.errors import CredentialUnavailable

__all__ = [
    "INSIDE",
    "Found",
    "MalformedError",
    "named_path",
    "read_credential",
    "require_time",
    "said_by",
    "shown_file",
    "time_text",
]

INSIDE: Final = "/fasthep/credentials"
"""Of a container: the folder where its credentials are. No image has one of that name."""

_NO_NAMES: Final = frozenset({"", ".", ".."})
_MOST_BYTES: Final = 2**20
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86400
_DAYS_FROM_S: Final = 2 * _DAY_S


class MalformedError(Exception):
    """What was read is none of its kind; says why, and nothing of what was read."""


class Found(Struct, frozen=True, kw_only=True):
    """A credential, and what is known of it without showing it to anyone.

    Args:
        name: What it is and where: ``the proxy /tmp/x509up_u1000``.
        holder: Whose it is, as it says itself; empty where it does not.
        ends_s: When it ends, in seconds since 1970; ``None`` where that cannot be known.
        why_unknown: Why not.
        remark: What else its user should know.
        renewal: The command that makes a new one.
        addition: What shows it to a task.
    """

    name: str
    holder: str = ""
    ends_s: float | None = None
    why_unknown: str = ""
    remark: str = ""
    renewal: str
    addition: Addition


def said_by(variables: Mapping[str, str], name: str) -> str | None:
    """The value of the variable; one that is empty says nothing."""
    return variables.get(name) or None


def named_path(text: str, named_by: str) -> str:
    """The absolute path, with the user's home folder for a ``~`` at its start.

    Args:
        text: As it was written.
        named_by: Who wrote it, in words.

    Raises:
        CredentialUnavailable: It does not start at the root.
    """
    path = os.path.expanduser(text)  # noqa: PTH111 - a Path would not say whether it could
    if not path.startswith("/"):
        raise CredentialUnavailable(
            f"{named_by} names the file {text}, which is not an absolute path",
            hint="a task may run in another folder, or on another machine: write the whole path",
        )
    return path.rstrip("/") or "/"


def read_credential(path: str, name: str, hint: str) -> tuple[bytes, os.stat_result]:
    """What is in a file, and what the system says of that file.

    Args:
        path: Absolute path.
        name: What it is, for messages: ``the proxy /tmp/x509up_u1000``.
        hint: What to do where it is not there.

    Raises:
        CredentialUnavailable: It is not there, no file, may not be read, or is too large.
    """
    try:
        # What is no file may keep one waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise CredentialUnavailable(f"{name} is not there", hint=hint) from None
    except OSError as error:
        raise CredentialUnavailable(f"{name} cannot be read: {error.strerror}", hint=hint) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise CredentialUnavailable(f"{name} is not a file", hint=hint)
        if found.st_size > _MOST_BYTES:
            raise CredentialUnavailable(f"{name} is larger than any credential", hint=hint)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MOST_BYTES), found
    except OSError as error:
        raise CredentialUnavailable(f"{name} cannot be read: {error.strerror}", hint=hint) from None
    finally:
        os.close(descriptor)


def shown_file(variable: str, path: str, *, contained: bool, prefix: str = "") -> Addition:
    """What shows a file or a folder to a task: where it is, or read-only in its container.

    Args:
        variable: That names it.
        path: Absolute path.
        contained: Whether the task runs in a container.
        prefix: Of what the variable says, before the path.
    """
    if not contained:
        return Addition(variables={variable: prefix + path})
    name = path.rpartition("/")[2]
    inside = f"{INSIDE}/{variable}/{name if name not in _NO_NAMES else 'credential'}"
    mount = Mount(source=path, target=inside, read_only=True)
    return Addition(mounts=(mount,), variables={variable: prefix + inside})


def require_time(found: Found, lasting_s: float | None, now_s: float) -> None:
    """Nothing, where the credential lasts long enough as far as anyone can tell.

    Args:
        found: The credential.
        lasting_s: Seconds that it must last; ``None`` where nobody knows.
        now_s: Seconds since 1970.

    Raises:
        CredentialUnavailable: It has ended, or ends too early.
    """
    if found.ends_s is None:
        return
    left_s = found.ends_s - now_s
    if left_s <= 0:
        raise CredentialUnavailable(
            f"{found.name} ended {time_text(-left_s)} ago", hint=f"renew it: {found.renewal}"
        )
    if lasting_s is not None and left_s < lasting_s:
        raise CredentialUnavailable(
            f"{found.name} ends in {time_text(left_s)}, and the task may take "
            f"{time_text(lasting_s)}",
            hint=f"renew it ({found.renewal}), or give the task less time (timeout, walltime)",
        )


def time_text(seconds: float) -> str:
    """So many seconds as people say it: ``2 h 10 min``."""
    if seconds < 2 * _MINUTE_S:
        return f"{int(seconds)} s"
    if seconds < _DAYS_FROM_S:
        hours, rest = divmod(int(seconds), _HOUR_S)
        parts = [(hours, "h"), (rest // _MINUTE_S, "min")]
    else:
        days, rest = divmod(int(seconds), _DAY_S)
        parts = [(days, "d"), (rest // _HOUR_S, "h")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
