"""The user's own key, by which values of variables are compared and never told.

Whether a variable has the value that it had is known by a hash with this key. Nobody who has not
the key can find out a value by trying. It lies in the user's data folder, and leaves it never: so
another user, or the same one on a machine with another home, compares with another key.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from fasthep_flow.errors import RecordError

__all__ = ["Key", "key_path", "user_key"]

_BYTES: Final = 32
_OTHERS: Final = 0o077
_WRITTEN_BY_OTHERS: Final = 0o022
_PATIENCE_S: Final = 2.0
"""How long another process may take to write the bytes of a key that it has made."""


class Key(NamedTuple):
    """A key.

    Args:
        secret: Its bytes; told to nobody.
        name: Which key it is; says nothing of its bytes.
    """

    secret: bytes
    name: str

    @classmethod
    def of(cls, secret: bytes) -> Key:
        """The key of these bytes."""
        return cls(secret, _keyed(secret, b"name", b"", size=8))

    def __repr__(self) -> str:
        """Without its bytes: it may stand in a traceback."""
        return f"Key({self.name})"

    def of_value(self, name: str, value: str) -> str:
        """What stands for the value of a variable.

        Args:
            name: Of the variable: two with the same value are not to be known by that.
            value: Its value.
        """
        return _keyed(self.secret, b"variable", _framed(name, value), size=20)


def key_path() -> Path:
    """Where this user's key lies: ``FASTHEP_FLOW_KEY``, else the user's data folder.

    It need not be there yet.
    """
    if chosen := os.environ.get("FASTHEP_FLOW_KEY"):
        return Path(chosen).absolute()
    from platformdirs import user_data_path

    return user_data_path("fasthep-flow", appauthor=False) / "key"


def user_key(path: Path | None = None, *, noticed: Callable[[str], None] = lambda _: None) -> Key:
    """This user's key, made where there is none.

    Args:
        path: Where it lies; where it usually does, if not given.
        noticed: Is told if it was damaged and another one had to be made.

    Raises:
        RecordError: Others can read it, or put another one in its place; or it can neither be
            read nor made.
    """
    path = key_path() if path is None else path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own_folder(path.parent)
        secret = _read(path)
        if secret is None:
            aside = path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:8]}")
            # Another process may have been quicker with that.
            with suppress(FileNotFoundError):
                path.rename(aside)
                noticed(f"the key {path} was damaged: there is a new one, the old one is {aside}")
            secret = _read(path)
    except OSError as error:
        raise RecordError(
            f"the key {path}, by which values of variables are compared, cannot be had:"
            f" {error.strerror or error}",
            hint="FASTHEP_FLOW_KEY names another file for it",
        ) from error
    if secret is None:
        raise RecordError(f"the key {path} is damaged again and again", hint="remove it")
    return Key.of(secret)


def _read(path: Path) -> bytes | None:
    """The key, made if there is none; ``None`` if it is damaged."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            _make(path)
            continue
        with os.fdopen(descriptor, "rb") as file:
            _require_own(path, os.fstat(descriptor))
            secret = file.read(_BYTES + 1)
        if len(secret) == _BYTES and any(secret):
            return secret
        # Where there are no hard links, who makes it writes it in place.
        if len(secret) >= _BYTES or time.monotonic() > deadline_s:
            return None
        time.sleep(0.05)


def _make(path: Path) -> None:
    """Have a key there, whoever makes it: of two at once one alone does."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    secret = secrets.token_bytes(_BYTES)
    try:
        _write_new(part, secret)
        try:
            os.link(part, path)
        except FileExistsError:
            return
        except OSError:
            with suppress(FileExistsError):
                _write_new(path, secret)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _write_new(path: Path, secret: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _require_own(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise RecordError(f"the key {path} is no file", hint="remove what is there")
    if found.st_uid != os.geteuid():
        raise RecordError(
            f"the key {path} belongs to another user",
            hint="FASTHEP_FLOW_KEY names another file for it",
        )
    if found.st_mode & _OTHERS:
        raise RecordError(
            f"other users may read the key {path}, by which values of variables are compared",
            hint=f"remove it, if they may have done so: a new one is made; else 'chmod 600 {path}'",
        )


def _require_own_folder(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & _WRITTEN_BY_OTHERS:
        raise RecordError(
            f"other users may put another key into {folder}, by which values of variables are"
            " compared",
            hint=f"'chmod 700 {folder}', or FASTHEP_FLOW_KEY names another file for it",
        )


def _framed(*texts: str) -> bytes:
    """One text of several, from which no others could have come."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(b"%d:%s" % (len(one), one) for one in encoded)


def _keyed(secret: bytes, purpose: bytes, text: bytes, *, size: int) -> str:
    return hashlib.blake2b(text, digest_size=size, key=secret, person=purpose).hexdigest()
