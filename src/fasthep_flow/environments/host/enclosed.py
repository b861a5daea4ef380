"""A program of its own: mounts what a task is to see of the host's, and becomes the task.

That is seen in a mount namespace of its own, so by nobody else, and it is gone with the last
process in it. Whoever may not have one alone (all but root) has it in a user namespace where
user and group are who they were; of the rights that come with it none is left for the task.

Arguments: a path to report to, how many mounts, for each its source, its target and ``ro`` or
``rw``; then the task's words. What goes wrong is reported: ``mount`` and why in words, or
``start`` and the number of the error.
"""

# ruff: noqa: PTH109, PTH112, PTH123

import os
import stat

from fasthep_flow.environments.host.namespaces import (
    CLONE_NEWNS,
    MS_BIND,
    MS_REC,
    become,
    enter_user_namespace,
    let_no_mount_out,
    make_read_only,
    mount,
    original_environment,
    unshare,
)

__all__ = ["main"]

_EACH = 3


class MountError(Exception):
    """What cannot be done, in words."""


def prepare(mounts: "list[tuple[str, str, bool]]") -> None:
    """Put the mounts where this process sees them."""
    try:
        try:
            unshare(CLONE_NEWNS)
        except PermissionError:
            enter_user_namespace()
        let_no_mount_out()
    except OSError as error:
        raise MountError(f"this system allows no namespace for mounts ({error.strerror})") from None
    # One may hide another's source.
    opened = [(_opened(source), source, target, ro) for source, target, ro in mounts]
    for descriptor, source, target, read_only in opened:
        try:
            place = os.path.realpath(target, strict=True)
            _check_kinds(descriptor, place)
            mount(f"/proc/self/fd/{descriptor}", place, MS_BIND | MS_REC)
            if read_only:
                make_read_only(place)
        except OSError as error:
            raise MountError(f"cannot mount {source} at {target}: {error.strerror}") from None
        os.close(descriptor)
    # By its path: where this process is may lie under a mount now.
    os.chdir(os.getcwd())


def _opened(source: str) -> int:
    try:
        return os.open(source, os.O_PATH)
    except OSError as error:
        raise MountError(f"cannot mount {source}: {error.strerror}") from None


def _check_kinds(descriptor: int, place: str) -> None:
    is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    if is_folder != os.path.isdir(place):
        kinds = ("a file", "a folder")
        raise OSError(0, f"{kinds[is_folder]} cannot lie on {kinds[not is_folder]}")


def main(words: "list[str]") -> None:
    """Do what the words say; does not return."""
    report, count = words[0], int(words[1])
    numbers = range(2, 2 + _EACH * count, _EACH)
    mounts = [(words[n], words[n + 1], words[n + 2] == "ro") for n in numbers]
    try:
        prepare(mounts)
        try:
            become(words[2 + _EACH * count :], original_environment())
        except OSError as error:
            said = f"start {error.errno}"
    except (MountError, OSError) as error:
        said = f"mount {error}"
    with open(report, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(said)
    os._exit(127)
