"""Image references, read as docker reads them and written out in full.

``debian:12`` is ``docker.io/library/debian:12``. The grammar is that of docker's
``distribution/reference``: the part before the first ``/`` is a registry if it holds a
``.`` or a ``:``, is ``localhost``, or has a capital letter; all else is a path on Docker Hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import Refusal, listed, shown

__all__ = ["ImageReference", "parse_image"]


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image in full.

    Args:
        full: Registry, repository, and tag or digest or both.
        is_tagged: Whether the author said which version; ``latest`` was added if not.
    """

    full: str
    is_tagged: bool


_PART: Final = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(f"{_PART}(?:/{_PART})*")
_LABEL: Final = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_IDENTIFIER: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST_REPOSITORY: Final = 255

_HUB: Final = "docker.io"
_HUB_NAMES: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_LATER_PREFIXES: Final = (
    "oras://",
    "library://",
    "shub://",
    "file://",
    "docker-archive:",
    "docker-daemon:",
    "oci-archive:",
    "oci:",
    "containers-storage:",
    "dir:",
)
_LATER_FILES: Final = (".sif", ".img", ".simg", ".sqsh", ".squashfs", ".tar", ".tar.gz")
_EXAMPLE: Final = "such as docker.io/library/debian:12"


def parse_image(text: str) -> ImageReference:
    """The reference that an author wrote, in full.

    Raises:
        Refusal: It is no reference, a placeholder, or of a kind that is not supported yet.
    """
    _refuse_others(text)
    rest = text.removeprefix("docker://")
    if "://" in rest:
        raise Refusal(
            f"{shown(text)} is an address, not an image reference",
            f"remove {shown(rest.partition('://')[0] + '://')}",
        )
    name, at, digest = rest.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise Refusal(
            f"{shown(text)} has a digest that is none",
            "a digest is '@sha256:' and 64 digits of 0-9 and a-f",
        )
    registry, repository, tag = _split(name)
    if tag is not None and not _TAG.fullmatch(tag):
        raise Refusal(
            f"{shown(text)} has {'a tag that is none' if tag else 'an empty tag'}",
            "a tag is letters, digits, '_', '.' and '-', at most 128 of them",
        )
    _check_repository(text, repository)
    if registry is None:
        if _IDENTIFIER.fullmatch(repository):
            raise Refusal(f"{shown(text)} is the id of an image, not its name", _EXAMPLE)
    elif not _REGISTRY.fullmatch(registry):
        raise Refusal(f"{shown(text)} names no registry that could exist", _EXAMPLE)
    if registry is None or registry in _HUB_NAMES:
        registry = _HUB
        if "/" not in repository:
            repository = f"library/{repository}"
    if tag is None and not at:
        return ImageReference(f"{registry}/{repository}:latest", is_tagged=False)
    version = f":{tag}" if tag is not None else ""
    return ImageReference(f"{registry}/{repository}{version}{at}{digest}", is_tagged=True)


def _split(name: str) -> tuple[str | None, str, str | None]:
    """Registry, repository and tag, unchecked."""
    host, slash, path = name.partition("/")
    is_registry = slash and (
        "." in host or ":" in host or host == "localhost" or host != host.lower()
    )
    registry, rest = (host, path) if is_registry else (None, name)
    repository, colon, tag = rest.partition(":")
    return registry, repository, tag if colon else None


def _check_repository(text: str, repository: str) -> None:
    if _REPOSITORY.fullmatch(repository):
        if len(repository) > _LONGEST_REPOSITORY:
            raise Refusal(f"{shown(text)} is too long a name for an image")
        return
    if _REPOSITORY.fullmatch(repository.lower()):
        raise Refusal(
            f"{shown(text)} has capital letters in the image's name",
            f"did you mean {shown(text.replace(repository, repository.lower(), 1))}?",
        )
    hint = "remove the blanks" if re.search(r"\s", text) else _EXAMPLE
    raise Refusal(f"{shown(text)} is not an image reference", hint)


def _refuse_others(text: str) -> None:
    """Refuse what is no reference of docker's, by the name of what it is."""
    found = placeholders(text)
    if found:
        raise Refusal(
            f"{listed(found)} {'is a placeholder' if len(found) == 1 else 'are placeholders'}",
            f"name your own image, {_EXAMPLE}",
        )
    if not text.strip():
        raise Refusal("the image has no name", "'image: null' runs on the host itself")
    for prefix in _LATER_PREFIXES:
        # 'oci:1.2' is a name with a tag as well; docker's own readers see the transport.
        if text.startswith(prefix):
            raise Refusal(
                f"{shown(prefix)} images are not supported yet",
                f"name it in a registry, {_EXAMPLE}",
            )
    path = text.partition("@")[0]
    if path.startswith("/cvmfs/"):
        raise Refusal("unpacked images of /cvmfs are not supported yet", _cvmfs_hint(path))
    if path.lower().endswith(_LATER_FILES):
        raise Refusal(
            f"image files such as {shown(path)} are not supported yet",
            f"name an image in a registry, {_EXAMPLE}",
        )
    if path.startswith(("/", "./", "../", "~")) or path in {".", ".."}:
        raise Refusal(
            f"unpacked folders such as {shown(path)} are not supported yet",
            f"name an image in a registry, {_EXAMPLE}",
        )


def _cvmfs_hint(path: str) -> str:
    """The registry's name of an image that unpacked.cern.ch unpacks."""
    name = path.removeprefix("/cvmfs/unpacked.cern.ch/")
    if name == path or not name:
        return f"name it in a registry, {_EXAMPLE}"
    return f"did you mean {shown(name.replace('registry.hub.docker.com', _HUB, 1))}?"
