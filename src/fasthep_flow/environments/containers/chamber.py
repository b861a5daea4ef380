# A program of its own, that needs nothing of the package: pathlib would take longer to import
# than all the rest of it.
# ruff: noqa: PTH102, PTH112, PTH115, PTH116, PTH123, PTH211
"""Prepares what a task in an unpacked image sees, and becomes the program that starts it.

In user, mount and IPC namespaces of its own it puts the image's folder, read-only, and the
mounts together below one folder; nobody else sees that, and it is gone with the last process. So
no image is ever written to, mounts may be read-only and have any name, and their places need not
be there in the image; and of System V's queues, semaphores and shared memory the host's are not
seen, and the task's not left. The command line holds the path of a plan, JSON with the fields of
:class:`Plan`. What goes wrong is written to the plan's ``trouble``.

User namespaces and what may be mounted in them: user_namespaces(7), mount_namespaces(7),
ipc_namespaces(7).
"""

import _signal  # type: ignore[import-not-found]  # 'signal' takes longer to import
import ctypes
import json
import os
import stat
import sys
from typing import NamedTuple

_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_REMOUNT = 32
_MS_BIND = 4096
_MS_REC = 16384
_MS_SLAVE = 1 << 19
_KEPT = (
    # What statvfs(3) tells of a mount, and what mount(2) calls it: a remount is to keep these.
    (os.ST_NOSUID, _MS_NOSUID),
    (os.ST_NODEV, _MS_NODEV),
    (os.ST_NOEXEC, 8),
    (os.ST_NOATIME, 1024),
    (os.ST_NODIRATIME, 2048),
    (os.ST_RELATIME, 1 << 21),
)
_MOST_LINKS = 40


class Plan(NamedTuple):
    """What to put together.

    Args:
        image: Absolute path of the folder that becomes the root.
        root: Absolute path of an empty folder, where it is put together.
        mounts: Source, target and whether that is read-only; later ones lie above.
        folders: Absolute paths in the image that must be folders.
        files: Absolute paths in the image that must be there, empty if need be.
        guarded: Files of the host's that the program mounts itself, and are to be read only.
        argv: The program that is started in the end.
        variables: Names of those that it is handed, of the ones of this process.
        trouble: Absolute path of the file for what goes wrong.
    """

    image: str
    root: str
    mounts: "list[tuple[str, str, bool]]"
    folders: "list[str]"
    files: "list[str]"
    guarded: "list[str]"
    argv: "list[str]"
    variables: "list[str]"
    trouble: str


class MountError(Exception):
    """What cannot be done, in words."""


def mount(source: str, target: str, flags: int, kind: str = "", options: str = "") -> None:
    """Have the kernel mount it."""
    arguments = [os.fsencode(text) or None for text in (source, target, kind)]
    if _LIBC.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(options) or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def unshare() -> None:
    """Enter namespaces of our own, to mount in; user and group stay as they are."""
    user, group = os.geteuid(), os.getegid()
    # User namespaces first: whoever is in one may have the others.
    for kind, flags in (("user", _CLONE_NEWUSER | _CLONE_NEWNS), ("IPC", _CLONE_NEWIPC)):
        if _LIBC.unshare(flags):
            number = ctypes.get_errno()
            raise MountError(f"{kind} namespaces are not allowed here ({os.strerror(number)})")
    try:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{user} {user} 1")
        write("/proc/self/gid_map", f"{group} {group} 1")
        # What the host mounts later, as CVMFS on demand, is to be seen here as well.
        mount("", "/", _MS_REC | _MS_SLAVE)
    except OSError as error:
        raise MountError(
            f"nothing may be mounted in user namespaces here ({error.strerror})"
        ) from None


def write(path: str, text: str) -> None:
    """Write a file of the kernel's."""
    with open(path, "w") as file:
        file.write(text)


def make_read_only(path: str) -> None:
    """Let nobody write to what is mounted at the path or below it."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [unescaped(line.split()[4]) for line in file]
    for point in points:
        if point == path or point.startswith(path + "/"):
            held = os.statvfs(point).f_flag
            flags = sum(flag for told, flag in _KEPT if held & told)
            mount("", point, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | flags)


def unescaped(word: bytes) -> str:
    """A path of /proc/self/mountinfo, where blanks are octal numbers."""
    head, *rest = word.split(b"\\")
    parts = [bytes([int(part[:3], 8)]) + part[3:] for part in rest]
    return os.fsdecode(head + b"".join(parts))


class Root:
    """The folder where it is put together.

    Args:
        path: Absolute path, without symbolic links in it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened: list[str] = []

    def add_image(self, source: str) -> None:
        """Put the image there, read-only."""
        mount(source, self._path, _MS_BIND | _MS_REC)
        make_read_only(self._path)

    def add(self, source: str, target: str, read_only: bool) -> None:
        """Let the source be seen at the target."""
        try:
            is_folder = stat.S_ISDIR(os.stat(source).st_mode)
        except OSError as error:
            raise MountError(f"cannot mount {source}: {error.strerror}") from None
        place = self.place(target, is_folder)
        try:
            mount(source, place, _MS_BIND | _MS_REC)
            if read_only:
                make_read_only(place)
        except OSError as error:
            words = "cannot mount {} at {}: {}"
            raise MountError(words.format(source, target, error.strerror)) from None

    def close(self) -> None:
        """Let nobody write between the mounts."""
        for folder in self._opened:
            flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV
            mount("", folder, flags)

    def place(self, target: str, is_folder: bool) -> str:
        """The path of the target here, a folder or a file; made if it is not there."""
        try:
            path, missing = self._walk(target)
            if missing:
                path = self._make(path, missing, is_folder)
        except OSError as error:
            words = "cannot make a place for {} in the image: {}"
            raise MountError(words.format(target, error.strerror)) from None
        if os.path.isdir(path) != is_folder:
            kinds = ("a file", "a folder")
            words = "cannot mount {} at {}: the image has {} there"
            raise MountError(words.format(kinds[is_folder], target, kinds[not is_folder]))
        return path

    def _walk(self, target: str) -> "tuple[str, list[str]]":
        """The deepest path that there is on the way to the target, and the names that are not.

        Symbolic links lead where they would within the image: never out of it.
        """
        path, ahead, links = self._path, target.split("/")[::-1], 0
        while ahead:
            name = ahead.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if path != self._path:
                    path = path.rpartition("/")[0]
                continue
            entry = path + "/" + name
            try:
                mode = os.lstat(entry).st_mode
            except (FileNotFoundError, NotADirectoryError):
                return path, [name, *(one for one in reversed(ahead) if one not in ("", "."))]
            if not stat.S_ISLNK(mode):
                path = entry
                continue
            links += 1
            if links > _MOST_LINKS:
                raise MountError("cannot mount anything at {}: its links lead in a circle")
            link = os.readlink(entry)
            if link.startswith("/"):
                path = self._path
            ahead += link.split("/")[::-1]
        return path, []

    def _make(self, path: str, missing: "list[str]", is_folder: bool) -> str:
        if ".." in missing or not os.path.isdir(path):
            raise NotADirectoryError(20, "a file is in the way", path)
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            self._open(path)
        for name in missing[:-1]:
            path += "/" + name
            os.mkdir(path, 0o755)
        path += "/" + missing[-1]
        if is_folder:
            os.mkdir(path, 0o755)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        return path

    def _open(self, folder: str) -> None:
        """Lay a folder of ours over the one of the image, with all that is in it."""
        below = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        entries = list(os.scandir(folder))
        mode = stat.S_IMODE(os.stat(folder).st_mode) | 0o700
        options = f"size=16m,mode={mode:o}"
        mount("fasthep-flow", folder, _MS_NOSUID | _MS_NODEV, "tmpfs", options)
        self._opened.append(folder)
        for entry in entries:
            source = f"/proc/self/fd/{below}/{entry.name}"
            path = folder + "/" + entry.name
            if entry.is_symlink():
                os.symlink(os.readlink(source), path)
                continue
            if entry.is_dir(follow_symlinks=False):
                os.mkdir(path, 0o755)
            else:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
            mount(source, path, _MS_BIND | _MS_REC)
        os.close(below)


def prepare(plan: Plan) -> None:
    """Put it all together."""
    unshare()
    root = Root(os.path.realpath(plan.root))
    for path in map(os.path.realpath, plan.guarded):
        mount(path, path, _MS_BIND)
        make_read_only(path)
    try:
        root.add_image(plan.image)
    except OSError as error:
        raise MountError(f"cannot mount {plan.image}: {error.strerror}") from None
    for path in plan.folders:
        root.place(path, is_folder=True)
    for path in plan.files:
        root.place(path, is_folder=False)
    for source, target, read_only in plan.mounts:
        root.add(source, target, read_only)
    root.close()


def start(argv: "list[str]", variables: "list[str]") -> None:
    """Become the program, which finds all as if it had been started directly."""
    # Python has changed its environment and its signals by now (PEP 538).
    with open("/proc/self/environ", "rb") as file:
        pairs = [entry.partition(b"=") for entry in file.read().split(b"\0")]
    for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)
    kept = set(map(os.fsencode, variables))
    environment = {name: value for name, equals, value in pairs if equals and name in kept}
    os.execve(argv[0], argv, environment)  # noqa: S606 - there is no shell to be wanted


def main(path: str) -> None:
    """Do what the plan says; returns only if that cannot be done."""
    with open(path, encoding="ascii") as file:
        plan = Plan(**json.load(file))
    try:
        prepare(plan)
        start(plan.argv, plan.variables)
    except MountError as error:
        words = str(error)
    except OSError as error:
        words = "{}: {}".format(error.filename or "the image's folder", error.strerror)
    with open(plan.trouble, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(words)


_LIBC = ctypes.CDLL(None, use_errno=True)

if __name__ == "__main__":
    main(sys.argv[1])
    sys.exit(125)
