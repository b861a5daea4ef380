"""Mounts in namespaces of this process's own: what it and its children see, and nobody else.

For programs of their own, that run without the rest of the package (see ``programs.py``): it
needs the standard library alone, and little of that. User namespaces and what may be mounted in
them: user_namespaces(7), mount_namespaces(7); what is propagated: mount(2).
"""

# pathlib would take longer to import than all the rest of it.
# ruff: noqa: PTH123

import _signal  # type: ignore[import-not-found]  # 'signal' takes longer to import
import ctypes
import os

__all__ = [
    "CLONE_NEWIPC",
    "CLONE_NEWNS",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOSUID",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "become",
    "enter_user_namespace",
    "let_no_mount_out",
    "make_read_only",
    "mount",
    "original_environment",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
_MS_SLAVE = 1 << 19
_KEPT = (
    # What statvfs(3) tells of a mount, and what mount(2) calls it: a remount is to keep these.
    (os.ST_NOSUID, MS_NOSUID),
    (os.ST_NODEV, MS_NODEV),
    (os.ST_NOEXEC, 8),
    (os.ST_NOATIME, 1024),
    (os.ST_NODIRATIME, 2048),
    (os.ST_RELATIME, 1 << 21),
)


def unshare(flags: int) -> None:
    """Enter new namespaces of these kinds.

    Raises:
        OSError: They are not allowed.
    """
    if _LIBC.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enter_user_namespace() -> None:
    """Enter a user namespace and a mount namespace of it; user and group stay as they are.

    Raises:
        OSError: They are not allowed.
    """
    user, group = os.geteuid(), os.getegid()
    unshare(_CLONE_NEWUSER | CLONE_NEWNS)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def let_no_mount_out() -> None:
    """Let what is mounted here from now on be seen by nobody else.

    What the host mounts later, as CVMFS on demand, is to be seen here as well.

    Raises:
        OSError: It is not allowed.
    """
    mount("", "/", MS_REC | _MS_SLAVE)


def mount(source: str, target: str, flags: int, kind: str = "", options: str = "") -> None:
    """Have the kernel mount it.

    Raises:
        OSError: It does not.
    """
    arguments = [os.fsencode(text) or None for text in (source, target, kind)]
    if _LIBC.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(options) or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def make_read_only(path: str) -> None:
    """Let nobody write to what is mounted at the path, or below it.

    Args:
        path: Of a mount, without symbolic links in it.

    Raises:
        OSError: The kernel does not do it.
    """
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line.split() for line in file]
    below: dict[bytes, list[bytes]] = {}
    points = {}
    for number, above, _, _, point, *_ in lines:
        below.setdefault(above, []).append(number)
        points[number] = _unescaped(point)
    wanted = [_mount_at(path)]
    for number in wanted:
        wanted += below.get(number, ())
        # What another one lies on top of is not to be reached by its path, by nobody.
        if number in points and _mount_at(points[number]) == number:
            _remount_read_only(points[number])


def _remount_read_only(point: str) -> None:
    held = os.statvfs(point).f_flag
    flags = sum(flag for told, flag in _KEPT if held & told)
    mount("", point, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def _mount_at(path: str) -> bytes:
    """The number of the mount that the path leads to; none where it leads nowhere."""
    try:
        descriptor = os.open(path, os.O_PATH)
    except OSError:
        return b""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            for line in file:
                if line.startswith(b"mnt_id:"):
                    return line.split()[1]
    finally:
        os.close(descriptor)
    return b""


def _unescaped(word: bytes) -> str:
    """A path of /proc/self/mountinfo, where blanks are octal numbers."""
    head, *rest = word.split(b"\\")
    parts = [bytes([int(part[:3], 8)]) + part[3:] for part in rest]
    return os.fsdecode(head + b"".join(parts))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def original_environment() -> "dict[bytes, bytes]":
    """The variables that this process was started with: Python changes some (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:
        pairs = [entry.partition(b"=") for entry in file.read().split(b"\0")]
    return {name: value for name, equals, value in pairs if equals}


def become(argv: "list[str]", environment: "dict[bytes, bytes]") -> None:
    """Become the program, which finds all as if it had been started directly.

    Args:
        argv: The program, looked for on the ``PATH`` of its environment, and its arguments.
        environment: All of it.

    Raises:
        OSError: It cannot be started.
    """
    for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)
    os.execvpe(argv[0], argv, environment)  # noqa: S606 - there is no shell to be wanted


_LIBC = ctypes.CDLL(None, use_errno=True)
