"""The layers of an image in a file or folder: what is to be laid one on another."""

from __future__ import annotations

import functools
import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from msgspec import Struct

from fasthep_flow.environments.images.archives import ArchivedImage

__all__ = ["Packed", "open_packed"]

_LARGEST_TEXT: Final = 4 * 2**20
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")

_Open: TypeAlias = Callable[[str], IO[bytes]]
"""A file in there by its name; raises ``KeyError`` or ``OSError`` where there is none."""


class Packed(Struct, frozen=True, kw_only=True):
    """An image in parts.

    Args:
        configuration: As the image's builder wrote it.
        layers: The lowest first; opens each, and says its digest where that is known.
    """

    configuration: dict[str, Any]
    layers: tuple[tuple[Callable[[], IO[bytes]], str | None], ...]


@contextmanager
def open_packed(form: str, path: Path, image: ArchivedImage) -> Iterator[Packed]:
    """The parts of an image, for as long as the context lasts.

    Args:
        form: ``docker-archive``, ``oci-archive`` or ``oci``.
        path: Of the file or folder.
        image: Which of the images in there.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not what it should be.
    """
    if form == "oci":
        yield _of_layout(lambda name: (path / name).open("rb"), image.digest)
        return
    try:
        with tarfile.open(path) as archive:
            members = {one.name.removeprefix("./"): one for one in archive}

            def opened(name: str) -> IO[bytes]:
                return _file(archive, members[name])

            if form == "oci-archive":
                yield _of_layout(opened, image.digest)
            else:
                yield _of_docker(opened, image.identity)
    except (AttributeError, KeyError, TypeError, tarfile.TarError) as error:
        raise ValueError(f"it is not complete ({error!r})") from None


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    found = archive.extractfile(member)
    if found is None:
        raise KeyError(member.name)
    return found


def _of_layout(opened: _Open, digest: str) -> Packed:
    manifest = json.loads(_text(opened, _blob(digest)))
    layers = []
    for layer in manifest["layers"]:
        name = _blob(layer["digest"])
        layers.append((functools.partial(opened, name), str(layer["digest"])))
    return Packed(
        configuration=json.loads(_text(opened, _blob(manifest["config"]["digest"]))),
        layers=tuple(layers),
    )


def _of_docker(opened: _Open, identity: str) -> Packed:
    for entry in json.loads(_text(opened, "manifest.json")):
        text = _text(opened, entry["Config"])
        if f"sha256:{hashlib.sha256(text).hexdigest()}" != identity:
            continue
        configuration = json.loads(text)
        names = [str(name) for name in entry["Layers"]]
        digests = [str(digest) for digest in configuration["rootfs"]["diff_ids"]]
        return Packed(
            configuration=configuration,
            layers=tuple(
                (functools.partial(opened, name), None if _is_compressed(opened, name) else digest)
                for name, digest in zip(names, digests, strict=True)
            ),
        )
    raise KeyError(identity)


def _is_compressed(opened: _Open, name: str) -> bool:
    """Whether a layer is; its digest is that of what it would be otherwise."""
    with opened(name) as file:
        return file.read(6).startswith(_COMPRESSED)


def _text(opened: _Open, name: str) -> bytes:
    with opened(name) as file:
        return file.read(_LARGEST_TEXT)


def _blob(digest: str) -> str:
    kind, _, value = digest.partition(":")
    if kind != "sha256" or not value.isalnum():
        raise ValueError(f"{digest!r} is no digest")
    return f"blobs/sha256/{value}"
