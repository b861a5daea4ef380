"""Names for what is kept, by all that it depends on.

That may be secret: the variables that a script finds, an index with a password. So the name is a
hash with a key of the user's own, from which nobody can find out a short secret by trying.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
import platform
import secrets
from pathlib import Path
from typing import Final

from fasthep_flow.environments.host.cache import cache_folder, make_once

__all__ = ["host_identity", "keyed", "private_folder", "software_folder"]

_KEY_BYTES: Final = 32


def software_folder() -> Path:
    """Where all of it is kept."""
    return cache_folder() / "software"


def private_folder(*names: str) -> Path:
    """A folder below that, which nobody but the user can look into.

    Raises:
        OSError: It cannot be made.
    """
    folder = software_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in names:
        folder /= name
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def keyed(*parts: object) -> str:
    """A name for plain data, the same for the same data of the same user's.

    Raises:
        OSError: There is no key, and none can be made.
    """
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True)
    return hmac.new(_key(str(private_folder())), text.encode(), hashlib.sha256).hexdigest()[:40]


@functools.lru_cache(maxsize=8)
def _key(folder: str) -> bytes:
    path = Path(folder, "key")

    def make(part: Path) -> None:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))

    make_once(path, make)
    return path.read_bytes()


@functools.cache
def host_identity() -> tuple[str, ...]:
    """What makes software of one machine fit for another: system, processor, C library."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {"ID": platform.system(), "VERSION_ID": platform.release()}
    names = (release.get("ID", ""), release.get("VERSION_ID", ""))
    return (*names, platform.machine(), *platform.libc_ver())
