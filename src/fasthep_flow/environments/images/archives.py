"""Images as files: what ``docker save`` writes, and OCI layouts, packed and unpacked.

What is in there is read without an engine. The identity of an image is the digest of its
configuration, by which engines know it too; so one that has it already need not load it.

The forms: `OCI image layout <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>`_,
and the ``manifest.json`` of `docker save
<https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format>`_.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from msgspec import Struct

from fasthep_flow.environments.registries.platforms import same_platform
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

__all__ = ["ArchivedImage", "identity_in", "read_archive"]

_LARGEST: Final = 4 * 2**20
_DEEPEST: Final = 3
_REF_NAME: Final = "org.opencontainers.image.ref.name"

_Read: TypeAlias = Callable[[str], bytes]
"""The bytes of a file in there; raises ``KeyError`` where there is none of that name."""


class ArchivedImage(Struct, frozen=True, kw_only=True):
    """An image in a file or folder.

    Args:
        identity: ``sha256:...`` of its configuration.
        digest: ``sha256:...`` of its manifest; that of its configuration where it has none.
        platform: ``os/architecture[/variant]``.
    """

    identity: str
    digest: str
    platform: str


def read_archive(image: Image, platform: str) -> ArchivedImage:
    """What the file or folder of that name has.

    Args:
        image: Of the form ``docker-archive``, ``oci-archive`` or ``oci``.
        platform: The one to take where there are several.

    Raises:
        ImageUnavailable: There is no such file, or no such image in it.
    """
    path = image.path or ""
    inner = image.reference.removeprefix(path).removeprefix(":")
    try:
        found = os.stat(path)  # noqa: PTH116 - its times are what is looked at
        return _read(
            image.form, path, inner, platform, (found.st_ino, found.st_size, found.st_mtime_ns)
        )
    except OSError as error:
        raise ImageUnavailable(
            f"the image {image} cannot be read: {error.strerror or error}",
            hint="look at its path" if isinstance(error, FileNotFoundError) else None,
        ) from None
    except _Odd as error:
        raise ImageUnavailable(f"the image {image} cannot be used: {error}") from None
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
        kinds = {
            "docker-archive": "what 'docker save' writes",
            "oci-archive": "a packed OCI image",
            "oci": "an OCI layout",
        }
        raise ImageUnavailable(
            f"the image {image} cannot be used: it is not {kinds[image.form]}"
        ) from None


def identity_in(path: Path) -> str | None:
    """The identity of the one image in a file of ``docker save``; ``None`` where it is damaged.

    Raises:
        OSError: It cannot be read.
    """
    found = path.stat()
    times = (found.st_ino, found.st_size, found.st_mtime_ns)
    try:
        return _read("docker-archive", str(path), "", "", times).identity
    except (_Odd, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
        return None


class _Odd(Exception):  # noqa: N818 - says what is odd
    """What is in there is no single image that fits."""


@functools.lru_cache(maxsize=64)
def _read(
    form: str,
    path: str,
    inner: str,
    platform: str,
    _: tuple[int, int, int],
) -> ArchivedImage:
    if form == "oci":
        return _of_layout(lambda name: _bytes_of(Path(path, name)), inner, platform)
    try:
        with tarfile.open(path) as tar:
            members = {one.name.removeprefix("./"): one for one in tar}

            def read(name: str) -> bytes:
                file = tar.extractfile(members[name])
                if file is None:
                    raise KeyError(name)
                with file:
                    return _bounded(file.read(_LARGEST + 1))

            if form == "oci-archive":
                return _of_layout(read, inner, platform)
            return _of_docker(read, inner)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(str(error)) from error


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise KeyError(str(path))
    with path.open("rb") as file:
        return _bounded(file.read(_LARGEST + 1))


def _bounded(data: bytes) -> bytes:
    if len(data) > _LARGEST:
        raise ValueError("too large")
    return data


def _of_docker(read: _Read, inner: str) -> ArchivedImage:
    entries = json.loads(read("manifest.json"))
    if not isinstance(entries, list) or not entries:
        raise ValueError("no images")
    if inner:
        names = {inner, inner.removeprefix("docker.io/").removeprefix("library/")}
        chosen = [one for one in entries if names & set(one.get("RepoTags") or ())]
        if not chosen:
            raise _Odd(f"there is no {inner} in it, but {_listed(entries)}")
    elif len(entries) == 1:
        chosen = entries
    else:
        raise _Odd(f"there are {len(entries)} images in it; name one behind a ':'")
    data = read(chosen[0]["Config"])
    identity = _digest(data)
    return ArchivedImage(identity=identity, digest=identity, platform=_platform(json.loads(data)))


def _listed(entries: list[dict[str, Any]]) -> str:
    tags = [tag for one in entries for tag in one.get("RepoTags") or ()]
    return ", ".join(tags) or "images without names"


def _of_layout(read: _Read, inner: str, platform: str) -> ArchivedImage:
    said = json.loads(read("index.json"))
    entries = said["manifests"]
    if inner:
        entries = [one for one in entries if _name(one) == inner]
        if not entries:
            there = ", ".join(filter(None, map(_name, said["manifests"])))
            raise _Odd(f"there is no {inner} in it, but {there or 'images without names'}")
    if not isinstance(entries, list) or not entries:
        raise ValueError("no images")
    for _ in range(_DEEPEST):
        entry = _chosen(entries, platform)
        data = read(_blob(entry["digest"]))
        said = json.loads(data)
        if "manifests" not in said:
            configuration = read(_blob(said["config"]["digest"]))
            return ArchivedImage(
                identity=_digest(configuration),
                digest=_digest(data),
                platform=_platform(json.loads(configuration)),
            )
        entries = said["manifests"]
    raise _Odd("its lists of images are nested too deeply")


def _chosen(entries: list[dict[str, Any]], platform: str) -> dict[str, Any]:
    if len(entries) == 1:
        return entries[0]
    told = [(one, _platform(one.get("platform") or {})) for one in entries]
    fitting = [one for one, there in told if there and same_platform(platform, there)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(there for _, there in told if there)
    if known and not fitting:
        raise _Odd(f"it is not there for {platform}; there is {known}")
    raise _Odd(f"there are {len(entries)} images in it; name one behind a ':'")


def _name(entry: dict[str, Any]) -> str:
    return str((entry.get("annotations") or {}).get(_REF_NAME) or "")


def _blob(digest: str) -> str:
    kind, _, value = digest.partition(":")
    if kind != "sha256" or not value.isalnum():
        raise ValueError(digest)
    return f"blobs/sha256/{value}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _platform(said: dict[str, Any]) -> str:
    parts = (said.get("os"), said.get("architecture"), said.get("variant"))
    return "/".join(str(part) for part in parts if part)
