"""A process that drives a run: how it writes itself down, and whether it still lives."""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec
import psutil
from msgspec import Struct

from fasthep_flow.environments.host.owner import process_space, start_of
from fasthep_flow.records.journal import now_text
from fasthep_flow.records.sealed import read_whole, sealed, unsealed

__all__ = ["Holder", "State", "own_holder", "read_holder", "replace_holder", "write_holder"]

_LARGEST: Final = 64 * 2**10

State: TypeAlias = Literal[
    "released",  # by its holder
    "alive",
    "stopped",  # alive, but halted by a signal
    "gone",  # which is certain
    "silent",  # on another machine, and for so long that it is taken for gone
]


class Holder(Struct, frozen=True, kw_only=True):
    """A process that holds a claim, as it wrote itself down.

    Args:
        host: The name of its machine.
        machine: What tells this machine from others of that name; empty if nothing does.
        boot: Which start of the machine it was.
        space: In which its number means that process; empty where there is but one.
        pid: The process's number.
        started: When it started, as the system tells it.
        since: When it took the claim: UTC, as ISO 8601.
        token: Of this claim alone.
        released: When it let go of it.
    """

    host: str
    machine: str
    boot: str
    space: str
    pid: int
    started: str
    since: str
    token: str
    released: str | None = None

    def __str__(self) -> str:
        """Its number and its machine."""
        return f"process {self.pid} on {self.host}"

    @property
    def is_of_this_machine(self) -> bool:
        """Whether what it started there can be looked for, and ended, from here."""
        return self._counts_here or self._ran_before_a_start

    @property
    def _counts_here(self) -> bool:
        """Whether its number, if it lives, is its number for this process."""
        return (self.boot, self.space) == (_boot(), process_space())

    @property
    def _ran_before_a_start(self) -> bool:
        """Whether this machine was started anew since."""
        here = (socket.gethostname(), _machine())
        return self.boot != _boot() and bool(self.machine) and (self.host, self.machine) == here

    def state(self, gone: Collection[str] = ()) -> State | None:
        """What is certain of it; ``None`` where only its silence can tell.

        Args:
            gone: Names of machines whose processes are known to be gone.
        """
        if self.released is not None:
            return "released"
        if self._counts_here:
            return _state_here(self)
        return "gone" if self._ran_before_a_start or self.host in gone else None


def _state_here(holder: Holder) -> State | None:
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return "gone"
    except OverflowError:
        return None
    except OSError:
        pass  # of another user: it is there
    started = _start_of(holder.pid)
    if started is None:
        return None
    if not started or started != holder.started:
        return "gone"
    with suppress(psutil.Error):
        if psutil.Process(holder.pid).status() in {
            psutil.STATUS_STOPPED,
            psutil.STATUS_TRACING_STOP,
        }:
            return "stopped"
    return "alive"


def own_holder() -> Holder:
    """This process, as the holder of a new claim."""
    pid = os.getpid()
    return Holder(
        host=socket.gethostname(),
        machine=_machine(),
        boot=_boot(),
        space=process_space(),
        pid=pid,
        started=_start_of(pid) or "",
        since=now_text(),
        token=secrets.token_hex(8),
    )


def _start_of(pid: int) -> str | None:
    """When a process started; empty where it has ended, ``None`` where that cannot be told."""
    if Path("/proc/self/stat").exists():
        return start_of(pid)
    try:
        return repr(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return ""
    except psutil.Error:
        return None


@functools.cache
def _boot() -> str:
    """Which start of which machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        # Elsewhere the time of a process's start, to the microsecond, is proof enough.
        return f"{socket.gethostname()} {os.uname().sysname}"


@functools.cache
def _machine() -> str:
    """What tells this machine from others, and says nothing else of it."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            if text := Path(path).read_bytes().strip():
                # Who knows the number itself knows it for all other uses of it.
                return hashlib.blake2b(text, digest_size=8, person=b"fasthep-flow").hexdigest()
    return ""


def read_holder(path: Path) -> Holder | None:
    """Who a file names; ``None`` where it is damaged or not there."""
    with suppress(OSError, ValueError):
        text = unsealed(read_whole(path, _LARGEST))
        if text is not None:
            return msgspec.json.decode(text, type=Holder)
    return None


def replace_holder(path: Path, holder: Holder) -> None:
    """Have the file name this one, whatever it said before.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f".{holder.token}")
    with suppress(FileNotFoundError):
        part.unlink()
    write_holder(part, holder)
    part.replace(path)


def write_holder(path: Path, holder: Holder) -> None:
    """Make a file that names this one.

    Raises:
        FileExistsError: There is one.
        OSError: It cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(sealed(msgspec.json.encode(holder)) + b"\n")
        file.flush()
        # After a power cut it is to say whose it was.
        os.fsync(descriptor)
