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

import json
import os
import stat
from typing import NamedTuple

from fasthep_flow.environments.host.namespaces import (
    CLONE_NEWIPC,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    become,
    enter_user_namespace,
    let_no_mount_out,
    make_read_only,
    mount,
    original_environment,
    unshare,
)

__all__ = ["main"]

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


def enter_namespaces() -> None:
    """Enter namespaces of our own, to mount in; user and group stay as they are."""
    try:
        # User namespaces first: whoever is in one may have the others.
        kind = "user"
        enter_user_namespace()
        kind = "IPC"
        unshare(CLONE_NEWIPC)
    except OSError as error:
        raise MountError(f"{kind} namespaces are not allowed here ({error.strerror})") from None
    try:
        let_no_mount_out()
    except OSError as error:
        raise MountError(
            f"nothing may be mounted in user namespaces here ({error.strerror})"
        ) from None


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
        mount(source, self._path, MS_BIND | MS_REC)
        make_read_only(self._path)

    def add(self, source: str, target: str, read_only: bool) -> None:
        """Let the source be seen at the target."""
        try:
            is_folder = stat.S_ISDIR(os.stat(source).st_mode)
        except OSError as error:
            raise MountError(f"cannot mount {source}: {error.strerror}") from None
        place = self.place(target, is_folder)
        try:
            mount(source, place, MS_BIND | MS_REC)
            if read_only:
                make_read_only(place)
        except OSError as error:
            words = "cannot mount {} at {}: {}"
            raise MountError(words.format(source, target, error.strerror)) from None

    def close(self) -> None:
        """Let nobody write between the mounts."""
        for folder in self._opened:
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
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
        mount("fasthep-flow", folder, MS_NOSUID | MS_NODEV, "tmpfs", options)
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
            mount(source, path, MS_BIND | MS_REC)
        os.close(below)


def prepare(plan: Plan) -> None:
    """Put it all together."""
    enter_namespaces()
    root = Root(os.path.realpath(plan.root))
    for path in map(os.path.realpath, plan.guarded):
        mount(path, path, MS_BIND)
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


def main(words: "list[str]") -> None:
    """Do what the plan says; returns only if that cannot be done."""
    with open(words[0], encoding="ascii") as file:
        plan = Plan(**json.load(file))
    try:
        prepare(plan)
        kept = set(map(os.fsencode, plan.variables))
        environment = original_environment()
        become(plan.argv, {name: environment[name] for name in environment if name in kept})
    except MountError as error:
        said = str(error)
    except OSError as error:
        said = "{}: {}".format(error.filename or "the image's folder", error.strerror)
    with open(plan.trouble, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(said)
    os._exit(125)
