"""Extra data that is on this machine already: paths, patterns, folders."""

from __future__ import annotations

import glob
import os
import stat
from pathlib import Path

from msgspec import Struct

from fasthep_flow.environments.data.listing import Listed, folder_listing, listing_digest
from fasthep_flow.environments.data.sources import Source
from fasthep_flow.environments.host.digests import file_digest
from fasthep_flow.errors import DataUnavailable

__all__ = ["Found", "find", "is_pattern", "local_digest", "size_of"]

_MOST_COUNTED = 10_000


class Found(Struct, frozen=True, kw_only=True):
    """A file or folder that a source names.

    Args:
        path: Absolute, as the author names it.
        name: Below what the pattern names for certain; its own where there is no pattern.
        is_folder: Whether it is one.
    """

    path: str
    name: str
    is_folder: bool


def find(source: Source) -> list[Found]:
    """What the source names; several only where it is a pattern.

    Raises:
        DataUnavailable: There is nothing, or it may not be read.
    """
    path = source.text
    if os.path.lexists(path) or not source.may_be_pattern:
        return [_found(source, path, source.name)]
    matches = sorted(glob.glob(path, recursive=True), key=os.fsencode)  # noqa: PTH207 - text
    if "**" in path:
        # Their files are named one by one.
        matches = [one for one in matches if not Path(one).is_dir()]
    if not matches:
        raise DataUnavailable(
            f"nothing fits {source.shown}",
            hint="look at the folder; '*' does not stand for a '/', '**' between two of them does",
        )
    first = min(at for sign in "*?[" if (at := path.find(sign)) >= 0)
    before = len(path[: path.rfind("/", 0, first) + 1])
    return [_found(source, os.path.normpath(one), one[before:].strip("/")) for one in matches]


def is_pattern(source: Source) -> bool:
    """Whether it names several."""
    return source.may_be_pattern and not os.path.lexists(source.text)


def _found(source: Source, path: str, name: str) -> Found:
    try:
        mode = Path(path).stat().st_mode
        is_folder = stat.S_ISDIR(mode)
        allowed = os.access(path, os.R_OK | (os.X_OK if is_folder else 0))
    except FileNotFoundError:
        if os.path.islink(path):  # noqa: PTH114 - text
            raise DataUnavailable(f"{path} is a link to what does not exist") from None
        raise DataUnavailable(
            f"there is no {source.shown}",
            hint="look at the path, which starts from the workflow file; what another task makes is"
            " read without being named here",
        ) from None
    except OSError as error:
        raise DataUnavailable(f"{path} cannot be read: {error.strerror}") from None
    if not is_folder and not stat.S_ISREG(mode):
        raise DataUnavailable(f"{path} is neither a file nor a folder")
    if not allowed:
        raise DataUnavailable(f"{path} may not be read: permission denied")
    return Found(path=path, name=name, is_folder=is_folder)


def local_digest(source: Source, algorithm: str) -> str:
    """``<algorithm>:...`` of a file's bytes; of a folder or of several files that of all of them.

    Raises:
        DataUnavailable: Something cannot be read.
    """
    found = find(source)
    try:
        if not is_pattern(source) and not found[0].is_folder:
            return file_digest(Path(found[0].path), algorithm)
        files: list[Listed] = []
        for one in found:
            prefix = f"{one.name}/" if is_pattern(source) else ""
            if one.is_folder:
                files += folder_listing(Path(one.path).resolve(), prefix)
            else:
                digest = file_digest(Path(one.path)).partition(":")[2]
                files.append(Listed(name=one.name, digest=digest))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        words = error.strerror or str(error)
        raise DataUnavailable(f"{source.shown} cannot be read: {words}{where}") from None
    return f"{algorithm}:{listing_digest(files, algorithm)}"


def size_of(found: list[Found]) -> int | None:
    """Bytes of all files; ``None`` where counting would take long."""
    total = count = 0
    for one in found:
        if not one.is_folder:
            total += Path(one.path).stat().st_size
            continue
        for folder, _, names in os.walk(one.path):
            count += len(names)
            if count > _MOST_COUNTED:
                return None
            total += sum(Path(folder, name).lstat().st_size for name in names)
    return total
