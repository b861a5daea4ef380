"""The squashfs in a SIF file, found and unpacked.

A SIF file has a header and a table of what it holds; one of its entries is the partition with
the root file system (https://github.com/apptainer/sif/blob/v2.21.1/pkg/sif/sif.go). Older
images are a squashfs by themselves, perhaps behind a line for the shell.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path
from typing import Final

from fasthep_flow.environments.engine import last_lines
from fasthep_flow.errors import ImageUnavailable

__all__ = ["unpack_sif"]

_MAGIC: Final = b"SIF_MAGIC\0"
_MAGIC_AT: Final = 32
_HEADER: Final = struct.Struct("<32s10s3s3s16s8q")
_ENTRY: Final = struct.Struct("<i?IIIqqqqqqq128sii")
_ENTRY_LENGTH: Final = 585
_MOST_ENTRIES: Final = 4096
_PARTITION: Final = 0x4004
_SQUASHFS: Final = 1
_ENCRYPTED: Final = 4
_PRIMARY: Final = 2
_SQUASHFS_MAGIC: Final = b"hsqs"
_LAUNCH_LINE: Final = b"#!/usr/bin/env run-singularity\n"


def unpack_sif(image: str, path: Path, folder: Path) -> None:
    """Unpack the root file system of a SIF file.

    Args:
        image: Its name, for messages.
        path: Of the file.
        folder: Is made.

    Raises:
        ImageUnavailable: There is none in it that can be unpacked here.
        OSError: The disk is full, or it cannot be read.
    """
    start = _start_of_squashfs(image, path)
    program = shutil.which("unsquashfs")
    if program is None:
        raise ImageUnavailable(
            f"the image {image} cannot be unpacked: unsquashfs is not installed",
            hint="it comes with squashfs-tools; or have the runtime apptainer run the image",
        )
    done = subprocess.run(
        (
            *(program, "-quiet", "-no-progress", "-no-xattrs", "-offset", str(start)),
            *("-dest", str(folder), str(path)),
        ),
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        check=False,
        start_new_session=True,
    )
    said = f"{done.stdout}\n{done.stderr}"
    # Without root's rights devices are left out, and that is code 2: as it should be.
    if done.returncode and (done.returncode != 2 or _is_serious(said)):  # noqa: PLR2004
        if "no space left" in said.lower() or "quota exceeded" in said.lower():
            raise OSError(28, "No space left on device", str(folder))
        raise ImageUnavailable(f"the image {image} cannot be unpacked ({last_lines(said)})")
    _tame(str(folder))


def _start_of_squashfs(image: str, path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC and len(head) == _HEADER.size:
            *_, total, table, _, _, _ = _HEADER.unpack(head)
            file.seek(max(0, table))
            for _ in range(min(total, _MOST_ENTRIES)):
                entry = file.read(_ENTRY_LENGTH)
                if len(entry) < _ENTRY_LENGTH:
                    break
                fields = _ENTRY.unpack_from(entry)
                kind, used, start, system, use = (fields[n] for n in (0, 1, 5, -2, -1))
                if (kind, used, use) != (_PARTITION, True, _PRIMARY):
                    continue
                if system == _SQUASHFS:
                    return int(start)
                what = "encrypted" if system == _ENCRYPTED else "no squashfs"
                raise ImageUnavailable(
                    f"the image {image} cannot be unpacked: its file system is {what}",
                    hint="have the runtime apptainer run it",
                )
        for start in (0, len(_LAUNCH_LINE)):
            file.seek(start)
            if file.read(len(_SQUASHFS_MAGIC)) == _SQUASHFS_MAGIC:
                return start
    raise ImageUnavailable(
        f"the image {image} is no SIF file, or has no root file system",
        hint="is it the file that 'apptainer build' wrote?",
    )


def _is_serious(said: str) -> bool:
    harmless = ("because you're not superuser", "write_xattr", "set-uid", "set_attributes")
    lines = [line for line in said.lower().splitlines() if line.strip()]
    return not all(any(words in line for words in harmless) for line in lines)


def _tame(folder: str) -> None:
    """Leave out what layers may not have either: devices, and others' rights."""
    user, group = os.geteuid(), os.getegid()
    above = [folder]
    while above:
        path = above.pop()
        # Who cannot look into a folder cannot remove it either.
        os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) & 0o1777 | 0o700)  # noqa: PTH101
        for entry in list(os.scandir(path)):
            found = entry.stat(follow_symlinks=False)
            if (found.st_uid, found.st_gid) != (user, group):
                os.chown(entry.path, user, group, follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                above.append(entry.path)
            elif stat.S_ISREG(found.st_mode):
                os.chmod(entry.path, stat.S_IMODE(found.st_mode) & 0o777 | 0o400)  # noqa: PTH101
            elif not entry.is_symlink():
                os.unlink(entry.path)  # noqa: PTH108
