"""Where images are kept that no engine keeps: SIF files and unpacked folders."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fasthep_flow.environments.host.cache import cache_folder, file_name
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

__all__ = ["ImageAbsent", "image_folder", "require_writable"]


class ImageAbsent(ImageUnavailable):
    """The image is not on this machine, and is not to be fetched."""


def image_folder(name: str) -> Path:
    """The folder for what is made of the image of that name, whatever its version.

    Args:
        name: Registry, repository and tag; or whatever else tells it from all others.
    """
    return cache_folder() / "images" / file_name(name)


def require_writable(image: Image, target: Path) -> None:
    """Refuse an image that could not be kept; makes nothing, and leaves nothing.

    Args:
        image: That is to be kept.
        target: Where, in the cache; what is there needs no room.

    Raises:
        ImageUnavailable: It is not there, and nothing may be written where it would be.
    """
    if target.exists():
        return
    # What is missing is made in the deepest folder that there is; a link to nowhere is in the way.
    there = next(path for path in target.parents if os.path.lexists(path))
    if not there.is_dir():
        number = errno.ENOTDIR
    elif os.access(there, os.W_OK | os.X_OK):
        return
    else:
        # To root all is allowed, but nobody writes to what is mounted read-only.
        is_read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        number = errno.EROFS if is_read_only else errno.EACCES
    raise ImageUnavailable(
        f"the image {image} cannot be kept in {cache_folder()}: {os.strerror(number)}",
        hint="set FASTHEP_FLOW_CACHE to a folder that you may write to",
    )
