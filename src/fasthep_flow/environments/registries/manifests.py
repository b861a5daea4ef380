"""What registries say of images: references, manifests, and the parts of their answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from fasthep_flow.environments.registries.platforms import same_platform
from fasthep_flow.environments.registries.web import Answer

__all__ = [
    "Layer",
    "Manifest",
    "Reference",
    "config_digest_of",
    "config_type_of",
    "digest_of",
    "entries_of",
    "matching",
    "media_type_of",
    "platform_of",
    "printable",
    "split_reference",
]

_SAID_LENGTH: Final = 200
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Reference(Struct, frozen=True, kw_only=True):
    """A reference in full, taken apart.

    Args:
        registry: ``docker.io``, ``127.0.0.1:5000``.
        repository: ``library/debian``.
        tag: ``None`` where there is a digest alone.
        digest: ``sha256:...``.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def version(self) -> str:
        """What the registry is asked for; the digest if there is one, as engines do."""
        return self.digest or self.tag or "latest"


class Layer(Struct, frozen=True, kw_only=True):
    """A part of an image, as the manifest describes it.

    Args:
        digest: ``sha256:...`` of the bytes as they would come.
        size: Bytes.
        media_type: What it is.
    """

    digest: str
    size: int
    media_type: str


class Manifest(Struct, frozen=True, kw_only=True):
    """An image as its registry describes it.

    Args:
        digest: ``sha256:...`` of the manifest of the platform.
        list_digest: Of the list of manifests, where there is one: engines know the image by
            this one as well.
        platforms: ``os/architecture[/variant]`` of all that there are; empty where the image
            says nothing of it (an artifact, such as a SIF file).
        layers: What would be fetched.
        config_type: The media type of the image's configuration; tells artifacts from images.
        config_digest: ``sha256:...`` of the configuration.
    """

    digest: str
    list_digest: str | None = None
    platforms: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    config_type: str = ""
    config_digest: str = ""

    @property
    def size(self) -> int:
        """Bytes of all layers, as they would come."""
        return sum(layer.size for layer in self.layers)


def split_reference(reference: str) -> Reference:
    """The parts of a reference in full."""
    name, _, digest = reference.partition("@")
    head, _, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    registry, _, repository = f"{head}/{last}".lstrip("/").partition("/")
    if not repository or not re.search(r"[.:]|^localhost$", registry):
        # As podman shows the names of Docker Hub, and docker those of all its own.
        repository = f"{registry}/{repository}" if repository else f"library/{registry}"
        registry = "docker.io"
    return Reference(
        registry=registry,
        repository=repository,
        tag=tag or (None if digest else "latest"),
        digest=digest or None,
    )


def printable(text: str) -> str:
    """What a server said, fit for a terminal."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line[:_SAID_LENGTH]


def digest_of(body: bytes) -> str:
    """``sha256:...`` of the bytes."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def entries_of(said: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of objects by that name; empty where there is none."""
    found = said.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def media_type_of(said: Mapping[str, Any], answer: Answer) -> str:
    """What kind of manifest it is, as it says itself, or as the answer does."""
    told = answer.headers.get("content-type", "").partition(";")[0].strip()
    return str(said.get("mediaType") or told)


def config_type_of(said: Mapping[str, Any]) -> str:
    """The media type of the configuration that a manifest names."""
    config = said.get("config")
    return str(config.get("mediaType", "")) if isinstance(config, dict) else ""


def config_digest_of(said: Mapping[str, Any]) -> str:
    """The digest of the configuration that a manifest names; empty where it is none."""
    config = said.get("config")
    digest = str(config.get("digest", "")) if isinstance(config, dict) else ""
    return digest if _DIGEST.fullmatch(digest) else ""


def platform_of(entry: Mapping[str, Any]) -> str | None:
    """What an entry of a list is for; ``None`` for what is no image, such as a signature."""
    told = entry.get("platform")
    if not isinstance(told, dict):
        return None
    system, architecture = str(told.get("os", "")), str(told.get("architecture", ""))
    if not architecture or "unknown" in {system, architecture}:
        return None
    variant = told.get("variant")
    return printable("/".join(filter(None, (system, architecture, str(variant or "")))))


def matching(entries: Sequence[dict[str, Any]], platform: str) -> dict[str, Any] | None:
    """The first entry that is for the platform, exactly so if there is one."""
    for fits in (lambda one: one == platform, lambda one: same_platform(platform, one)):
        for entry in entries:
            if fits(platform_of(entry) or ""):
                return entry
    return None
