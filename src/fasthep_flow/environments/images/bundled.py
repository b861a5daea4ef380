"""Images in a folder that is carried from machine to machine, and how they are known again.

For podman and docker an image is an archive, as ``docker save`` writes it, in ``archives`` of
the cache; beside what else is kept of the image lies a note that says which one it is, and by
which digest its registry knows it. SIF files and unpacked folders lie where they always do, and
have a *seal*: the digest of what was put there, in a file beside. What does not fit its seal any
more is refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from fasthep_flow.environments.engine import Engine, last_lines
from fasthep_flow.environments.host.cache import cache_folder, file_name, make_once
from fasthep_flow.environments.host.digests import file_digest
from fasthep_flow.environments.images.archives import identity_in
from fasthep_flow.environments.images.cache import image_folder
from fasthep_flow.environments.images.fetching import LOCAL_SILENCE_S, SilenceError, fetch
from fasthep_flow.environments.registries.platforms import machine_platform
from fasthep_flow.environments.registries.registry import split_reference
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

__all__ = ["Bundled", "damaged", "find_bundled", "put_in", "require_seal", "seal"]

_SUFFIX: Final = ".json"
_SEAL: Final = ".sha256"
_ANEW: Final = "remove it, and bring it in anew: fasthep-flow pull --to FOLDER"


class Bundled(msgspec.Struct, frozen=True, kw_only=True):
    """An image in an archive.

    Args:
        name: As the author named it, in full.
        digest: By which its registry knows it.
        digests: All of those: of an image for several platforms, that of their list as well.
        identity: ``sha256:...`` of its configuration, by which engines know it.
        saved_s: Seconds since the epoch when that was found out.
    """

    name: str
    digest: str
    digests: tuple[str, ...]
    identity: str
    saved_s: float

    @property
    def archive(self) -> Path:
        """The archive, in the cache."""
        return cache_folder() / "archives" / f"{file_name(self.identity)}.tar"


def find_bundled(image: Image) -> Bundled | None:
    """An image of a registry, if it is here; of several that a tag meant, what it meant last."""
    wanted = split_reference(image.reference).digest
    found = []
    for path in image_folder(_key(image)).glob(f"sha256=*{_suffix(image.platform)}"):
        with suppress(OSError, ValueError):
            one = msgspec.json.decode(path.read_bytes(), type=Bundled)
            if wanted in {None, *one.digests} and one.archive.is_file():
                found.append(one)
    return max(found, key=lambda one: one.saved_s, default=None)


def put_in(
    engine: Engine, image: Image, *, identity: str, digest: str, digests: Iterable[str]
) -> Bundled:
    """Have the image in an archive in the cache, saved by the engine that has it.

    Args:
        engine: Podman or docker.
        image: Of a registry, as the author named it.
        identity: By which the engine knows it.
        digest: By which its registry knows it.
        digests: By which it knows it as well.

    Raises:
        ImageUnavailable: The engine does not hand it out, or there is no room.
    """
    bundled = Bundled(
        name=image.name,
        digest=digest,
        digests=tuple(dict.fromkeys((digest, *digests))),
        identity=identity,
        saved_s=time.time(),
    )

    def make(part: Path) -> None:
        try:
            done = fetch(engine, "save", "--output", str(part), identity, silence_s=LOCAL_SILENCE_S)
        except SilenceError as error:
            raise ImageUnavailable(f"{engine.program} does not save {image}: {error}") from None
        if done.returncode or not part.is_file():
            said = last_lines(done.stderr or done.stdout)
            raise ImageUnavailable(f"{engine.program} does not save the image {image}: {said}")
        if identity_in(part) != identity:
            raise ImageUnavailable(f"{engine.program} saves another image than {image}")

    try:
        make_once(bundled.archive, make)
        folder = image_folder(_key(image))
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / f"{file_name(digest)}{_suffix(image.platform)}"
        _write(note, msgspec.json.encode(bundled))
    except OSError as error:
        raise ImageUnavailable(
            f"the image {image} cannot be kept in {cache_folder()}: {error.strerror or error}",
            hint="make room there, or choose another folder",
        ) from None
    return bundled


def seal(path: Path) -> None:
    """Note the digest of a SIF file, or of an unpacked folder, unless that is done.

    Raises:
        OSError: It cannot be read, or the note not be written.
    """
    note = path.with_name(path.name + _SEAL)
    if not note.exists():
        _write(note, _content_digest(path).encode())


def require_seal(image: Image, path: Path) -> None:
    """Refuse what is not what was put there; what has no seal was made on the spot.

    Args:
        image: For messages.
        path: Of the SIF file or folder.

    Raises:
        ImageUnavailable: It does not fit its seal, or cannot be read.
    """
    note = path.with_name(path.name + _SEAL)
    try:
        sealed = note.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ImageUnavailable(
            f"the image {image} cannot be read: {error.strerror}", hint=f"may you read {note}?"
        ) from None
    try:
        found = _content_digest(path)
    except OSError as error:
        raise ImageUnavailable(
            f"the image {image} cannot be read: {error.strerror}", hint=f"may you read {path}?"
        ) from None
    if found != sealed:
        raise ImageUnavailable(
            f"the image {image} is damaged: {path} is {found}, and was {sealed} when it was"
            " brought in",
            hint=_ANEW,
        )


def damaged(image: Image, bundled: Bundled, why: str) -> ImageUnavailable:
    """The error for an archive that is not what its note says."""
    return ImageUnavailable(f"the image {image} is damaged in {bundled.archive}: {why}", hint=_ANEW)


def _content_digest(path: Path) -> str:
    """Of a file its own; of a folder that of the listing: kinds, sizes, targets of links.

    Times and owners are not the same after a copy, and to read all of an image would take long.
    """
    if not path.is_dir():
        return file_digest(path)
    listing = hashlib.sha256()
    for line in _listing(str(path), ""):
        listing.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return f"sha256:{listing.hexdigest()}"


def _listing(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{prefix}{entry.name}"
        if entry.is_symlink():
            yield f"{path}\0link\0{os.readlink(entry.path)}"  # noqa: PTH115 - the text as it is
        elif entry.is_dir(follow_symlinks=False):
            yield f"{path}\0folder"
            with suppress(PermissionError):
                yield from _listing(entry.path, f"{path}/")
        else:
            facts = entry.stat(follow_symlinks=False)
            size = facts.st_size if stat.S_ISREG(facts.st_mode) else 0
            yield f"{path}\0{stat.S_IFMT(facts.st_mode):o}\0{size}"


def _write(path: Path, text: bytes) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(text)
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _key(image: Image) -> str:
    return image.name.partition("@")[0]


def _suffix(platform: str | None) -> str:
    """A folder may serve machines of several kinds."""
    return f".{file_name((platform or machine_platform()).partition('/')[2])}{_SUFFIX}"
