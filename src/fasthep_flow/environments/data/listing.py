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
from typing import Final, NamedTuple

from msgspec import Struct

from fasthep_flow.environments.host.digests import file_digest, new_sum

__all__ = ["Entry", "Listed", "Listing", "below", "files_below", "folder_listing", "listing_digest"]


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


class Entry(NamedTuple):
    """What lies in a folder, or in one of those in it.

    Args:
        path: Of it.
        name: Its path below the first folder.
        is_folder: Whether it is one; a link to one is none.
    """

    path: str
    name: str
    is_folder: bool


class Listing:
    """The digest of files that come in the order of their names, as bytes.

    Args:
        algorithm: Of the digest of the lines; the files' own are of SHA-256.
    """

    def __init__(self, algorithm: str = "sha256") -> None:
        self._total: Final = new_sum(algorithm)

    def add(self, file: Listed) -> None:
        """Take this one as well."""
        if file.link is not None:
            line = f"link  {file.name} -> {file.link}\n"
        else:
            line = f"{file.digest}  {file.name}\n"
            # As sha256sum has it.
            if any(sign in file.name for sign in "\\\n\r"):
                name = file.name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
                line = f"\\{file.digest}  {name}\n"
        self._total.update(os.fsencode(line))

    def hexdigest(self) -> str:
        """Of all that were taken."""
        return self._total.hexdigest()


def listing_digest(files: Iterable[Listed], algorithm: str = "sha256") -> str:
    """The hexadecimal digits of the digest of them all.

    Args:
        files: In any order.
        algorithm: Of the digest of the lines; the files' own are of SHA-256.
    """
    listing = Listing(algorithm)
    for file in sorted(files, key=lambda one: os.fsencode(one.name)):
        listing.add(file)
    return listing.hexdigest()


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
    """All that is no folder, with its path below the first one; in the order of these.

    Raises:
        OSError: A folder cannot be read.
    """
    for entry in below(folder):
        if not entry.is_folder:
            yield Path(entry.path), f"{prefix}{entry.name}"


def below(folder: Path | str) -> Iterator[Entry]:
    """All that lies below a folder, in the order of the names; links are not followed.

    A folder counts as its name with a ``/`` in this order. However many files there are, what is
    in memory is one folder's names and those of the folders above it.

    Raises:
        OSError: A folder cannot be read.
    """
    open_folders = [_entries(os.fspath(folder), "")]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
            continue
        yield entry
        if entry.is_folder:
            open_folders.append(_entries(entry.path, f"{entry.name}/"))


def _entries(folder: str, prefix: str) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    entries.sort(key=lambda one: os.fsencode(f"{one[0]}/" if one[1] else one[0]))
    for name, is_folder in entries:
        yield Entry(f"{folder}/{name}", f"{prefix}{name}", is_folder)
