r"""What names a folder, or several files: a digest of their names and digests.

It is that of what ``sha256sum`` prints of the files in the order of their names::

    cd FOLDER; find * -type f | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum

A link counts as what it says, as a line ``link  NAME -> TARGET``; empty folders do not count.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from fasthep_flow.environments.host.digests import file_digest, new_sum

__all__ = ["Listed", "files_below", "folder_listing", "listing_digest"]


class Listed(Struct, frozen=True, kw_only=True):
    """A file of several.

    Args:
        name: Its path below the folder.
        digest: The hexadecimal digits of its SHA-256.
        link: What it says, where it is a link.
    """

    name: str
    digest: str = ""
    link: str | None = None


def listing_digest(files: Iterable[Listed], algorithm: str = "sha256") -> str:
    """The hexadecimal digits of the digest of them all.

    Args:
        files: In any order.
        algorithm: Of the digest of the lines; the files' own are of SHA-256.
    """
    total = new_sum(algorithm)
    for file in sorted(files, key=lambda one: os.fsencode(one.name)):
        if file.link is not None:
            line = f"link  {file.name} -> {file.link}\n"
        else:
            line = f"{file.digest}  {file.name}\n"
            # As sha256sum has it.
            if any(sign in file.name for sign in "\\\n\r"):
                name = file.name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
                line = f"\\{file.digest}  {name}\n"
        total.update(os.fsencode(line))
    return total.hexdigest()


def folder_listing(folder: Path, prefix: str = "") -> Iterator[Listed]:
    """The files of a folder, and of those in it; links are not followed.

    Raises:
        OSError: One cannot be read, or is no file.
    """
    for path, name in files_below(folder, prefix):
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            yield Listed(name=name, link=os.fspath(path.readlink()))
        elif stat.S_ISREG(facts.st_mode):
            yield Listed(name=name, digest=file_digest(path).partition(":")[2])
        else:
            raise OSError(f"{path} is neither file nor folder")


def files_below(folder: Path, prefix: str = "") -> Iterator[tuple[Path, str]]:
    """All that is no folder, with its path below the first one.

    Raises:
        OSError: A folder cannot be read.
    """
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield Path(entry.path), f"{prefix}{entry.name}"
