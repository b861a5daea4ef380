"""The kernel's control groups as files: where those of a process are, read and written.

See ``cgroups(7)`` and, of the table of mounts, ``proc(5)``.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Final

from msgspec import Struct

from fasthep_flow.environments.host.locks import machine_lock

__all__ = [
    "PERIOD_US",
    "Mount",
    "field",
    "folders_of",
    "groups_below",
    "make_group",
    "mounts",
    "number",
    "oom_event",
    "pids_below",
    "pids_in",
    "read",
    "remove_tree",
    "room_below",
    "set_limit",
    "write",
]

PERIOD_US: Final = 100_000
"""In each of these a group has its share of the processors."""

_OWN: Final = "fasthep-flow"
"""In version 2, the group below its own that this process moves to."""

_MEMORY_AND_SWAP: Final = "memory.memsw.limit_in_bytes"
_TO_HAVE: Final = frozenset({"memory", "cpu"})
_OF_INTEREST: Final = frozenset({"memory", "cpu", "cpuacct"})
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_PATIENCE_S: Final = 2.0


class Mount(Struct, frozen=True, kw_only=True):
    """A hierarchy of groups, or a part of one.

    Args:
        point: Where it is seen.
        root: Which part of it: a group's path.
        controllers: Of version 1; ``None`` for version 2.
    """

    point: str
    root: str
    controllers: frozenset[str] | None


def mounts(proc: str = "/proc") -> list[Mount]:
    """The hierarchies that this process sees.

    Args:
        proc: Where the kernel tells of processes.

    Raises:
        OSError: It does not.
    """
    found = []
    for line in _lines(f"{proc}/self/mountinfo"):
        place, _, source = line.partition(" - ")
        fields, kind = place.split(" "), source.split(" ")
        if kind[0] in ("cgroup", "cgroup2"):
            found.append(
                Mount(
                    point=_unescaped(fields[4]),
                    root=_unescaped(fields[3]),
                    controllers=frozenset(kind[-1].split(",")) if kind[0] == "cgroup" else None,
                )
            )
    return found


def folders_of(pid: str, proc: str = "/proc") -> dict[str, str]:
    """Where the groups of a process are seen, by controller.

    Args:
        pid: Its number, or ``self``.
        proc: Where the kernel tells of processes.

    Raises:
        OSError: There is no such process, or the kernel has no control groups.
    """
    seen = mounts(proc)
    folders: dict[str, str] = {}
    unified = None
    for line in _lines(f"{proc}/{pid}/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            unified = _folder([mount for mount in seen if mount.controllers is None], path)
            continue
        for controller in _OF_INTEREST.intersection(controllers.split(",")):
            where = [mount for mount in seen if controller in (mount.controllers or ())]
            if (folder := _folder(where, path)) is not None:
                folders[controller] = folder
    if unified is not None:
        with contextlib.suppress(OSError):
            for controller in _OF_INTEREST.intersection(
                read(f"{unified}/cgroup.controllers").split()
            ):
                folders.setdefault(controller, unified)
    return folders


def _folder(where: list[Mount], path: str) -> str | None:
    for mount in where:
        root = mount.root.rstrip("/")
        if path == root or path.startswith(f"{root}/"):
            folder = f"{mount.point}{path[len(root) :]}".rstrip("/")
            if os.path.isdir(folder):  # noqa: PTH112 - strings, as the kernel has them
                return folder
    return None


def _unescaped(text: str) -> str:
    """A path of the table of mounts, which spells blanks and the like as octal numbers."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def make_group(folder: str) -> None:
    """Make a group.

    Raises:
        OSError: It cannot be made; says where and why.
    """
    try:
        os.mkdir(folder)  # noqa: PTH102
    except OSError as error:
        where = folder.rpartition("/")[0]
        raise OSError(f"no control group can be made below {where}: {error.strerror}") from None


def set_limit(folder: str, controller: str, value: int) -> None:
    """Hold a group to a limit.

    Args:
        folder: Of the group.
        controller: ``memory``: bytes, swap included; ``cpu``: µs of each :data:`PERIOD_US`.
        value: The limit.

    Raises:
        OSError: The kernel does not take it.
    """
    is_unified = os.path.exists(f"{folder}/cgroup.controllers")  # noqa: PTH110
    if controller == "cpu" and is_unified:
        write(f"{folder}/cpu.max", f"{value} {PERIOD_US}")
    elif controller == "cpu":
        write(f"{folder}/cpu.cfs_period_us", str(PERIOD_US))
        write(f"{folder}/cpu.cfs_quota_us", str(value))
    else:
        write(f"{folder}/{'memory.max' if is_unified else 'memory.limit_in_bytes'}", str(value))
        # Not there where the kernel does not account for swap.
        swap, more = ("memory.swap.max", 0) if is_unified else (_MEMORY_AND_SWAP, value)
        with contextlib.suppress(FileNotFoundError):
            write(f"{folder}/{swap}", str(more))
        # Not in version 1: see oom_event().
        with contextlib.suppress(FileNotFoundError):
            write(f"{folder}/memory.oom.group", "1")


def oom_event(folder: str) -> int | None:
    """A descriptor that can be read once there is no memory left in a group of version 1.

    The caller closes it. ``None`` in version 2, which kills all of the group by itself.
    """
    with contextlib.suppress(OSError), ExitStack() as stack:
        control = os.open(f"{folder}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, control)
        event = os.eventfd(0, os.EFD_CLOEXEC)
        stack.callback(os.close, event)
        write(f"{folder}/cgroup.event_control", f"{event} {control}")
        # The kernel keeps what it was told of.
        stack.pop_all()
        os.close(control)
        return event
    return None


def room_below(own: Mapping[str, str], controller: str) -> str:
    """The group below which groups can have the controller: this process's own.

    Where that is of version 2, this process leaves it for one below it, as do its ancestors,
    its descendants and others of its session that are in it; then it is the one above.

    Args:
        own: What :func:`folders_of` says of this process.
        controller: ``memory`` or ``cpu``.

    Raises:
        OSError: There is none; says why.
    """
    if controller not in own:
        raise OSError(f"the kernel shows no {controller!r} controller of control groups here")
    folder = own[controller]
    if not os.path.exists(f"{folder}/cgroup.controllers"):  # noqa: PTH110
        return folder
    above, _, name = folder.rpartition("/")
    parent = above if name == _OWN else folder
    control = f"{parent}/cgroup.subtree_control"
    if controller in read(control).split():
        return parent
    if not os.access(control, os.W_OK) or not os.access(parent, os.W_OK):
        raise OSError(f"the control group {parent} is not this user's to divide")
    with machine_lock("control groups"):
        # The kernel's topmost group alone may have processes as well, and has no type.
        if os.path.exists(f"{parent}/cgroup.type"):  # noqa: PTH110
            _move_below(parent)
        offered = read(f"{parent}/cgroup.controllers").split()
        wanted = sorted(_TO_HAVE.intersection(offered))
        write(control, " ".join(f"+{name}" for name in wanted))
    return parent


def _move_below(parent: str) -> None:
    """Have no process in the group itself, but in a group below it.

    Raises:
        OSError: There are processes that are not ours to move.
    """
    folder = f"{parent}/{_OWN}"
    # A process that is just being started may be overlooked once.
    for _ in range(10):
        found = pids_in(parent)
        if not found:
            return
        if not found <= _movable(found):
            raise OSError(f"other processes are in the control group {parent} as well")
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)  # noqa: PTH102
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                write(f"{folder}/cgroup.procs", str(pid))
    raise OSError(f"processes start in the control group {parent} all the time")


def _movable(pids: set[int]) -> set[int]:
    """Those that are this process, what it comes from or what comes from it, or of its session.

    A session is a terminal's, or a batch script's: ``fasthep-flow run | tee log``.
    """
    import psutil  # where nothing is to be moved, nobody asks

    own = psutil.Process()
    session = os.getsid(0)
    family = {own.pid, *(one.pid for one in (*own.parents(), *own.children(recursive=True)))}
    return {pid for pid in pids if pid in family or (pid and _session_of(pid) == session)}


def _session_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def groups_below(folder: str) -> Iterator[str]:
    """The groups below one, the innermost first."""
    try:
        # A group's links are its groups and two more: most have none, and many files.
        if os.stat(folder).st_nlink == 2:  # noqa: PLR2004, PTH116
            return
        with os.scandir(folder) as entries:
            inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in inner:
        yield from groups_below(path)
        yield path


def remove_tree(folder: str) -> None:
    """Remove a group without processes, and those below it; one that is gone is no matter.

    Raises:
        OSError: It cannot be removed.
    """
    until_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            for group in (*groups_below(folder), folder):
                os.rmdir(group)  # noqa: PTH106
        except FileNotFoundError:
            return
        except OSError:
            # The kernel may need a moment to see off the last process.
            if time.monotonic() > until_s:
                raise
            time.sleep(0.005)
        else:
            return


def pids_in(folder: str) -> set[int]:
    """The processes in a group; none where it is gone. 0 is one that has no number here."""
    with contextlib.suppress(OSError):
        return set(map(int, read(f"{folder}/cgroup.procs").split()))
    return set()


def pids_below(folder: str) -> set[int]:
    """The processes in a group, and in those below it."""
    return pids_in(folder).union(*(pids_in(group) for group in groups_below(folder)))


def read(path: str) -> str:
    """The text of a file of the kernel's.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:  # noqa: PTH123
        return file.read()


def _lines(path: str) -> list[str]:
    # Not splitlines(): a path may hold what that takes for the end of a line.
    return [line for line in read(path).split("\n") if line]


def write(path: str, text: str) -> None:
    """Hand a file of the kernel's a text, in one piece.

    Raises:
        OSError: The kernel does not take it, or there is no such file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("utf-8", "surrogateescape"))
    finally:
        os.close(descriptor)


def number(path: str) -> int | None:
    """What the file holds; ``None`` where there is no such file, or no number in it."""
    with contextlib.suppress(OSError, ValueError):
        return int(read(path))
    return None


def field(path: str, name: str) -> int | None:
    """The number behind a name, one a line; ``None`` where there is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in read(path).splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return None
