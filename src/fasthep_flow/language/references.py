"""References to images in registries, read as docker reads them and written out in full.

``debian:12`` is ``docker.io/library/debian:12``. The grammar is that of docker's
``distribution/reference``: the part before the first ``/`` is a registry if it holds a
``.`` or a ``:``, is ``localhost``, or has a capital letter; all else is a path on Docker Hub.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fasthep_flow.language.refusals import Refusal, shown

__all__ = ["EXAMPLE", "HUB", "Reference", "parse_reference"]

EXAMPLE: Final = "such as docker.io/library/debian:12"
HUB: Final = "docker.io"

_PART: Final = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(f"{_PART}(?:/{_PART})*")
_LABEL: Final = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_IDENTIFIER: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST_REPOSITORY: Final = 255
# The last one is what unpacked.cern.ch calls it.
_HUB_NAMES: Final = frozenset(
    {HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
)


class Reference(NamedTuple):
    """A reference in full.

    Args:
        registry: Its name, with a port where there is one.
        repository: The path there.
        tag: ``latest`` where the author wrote neither tag nor digest.
        digest: ``sha256:...``.
        is_tagged: Whether the author said which version.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None
    is_tagged: bool

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_reference(text: str, written: str, *, needs_registry: bool = False) -> Reference:
    """The reference that a text spells.

    Args:
        text: The reference.
        written: What the author wrote, of which ``text`` is a part; for messages.
        needs_registry: Whether there is no registry that is meant where none is named.

    Raises:
        Refusal: It is none.
    """
    if "://" in text:
        raise Refusal(f"{shown(written)} is an address, not an image reference", _from_web(text))
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise Refusal(
            f"{shown(written)} has a digest that is none",
            "a digest is '@sha256:' and 64 digits of 0-9 and a-f",
        )
    registry, repository, tag = _split(name)
    if tag is not None and not _TAG.fullmatch(tag):
        raise Refusal(
            f"{shown(written)} has {'a tag that is none' if tag else 'an empty tag'}",
            "a tag is letters, digits, '_', '.' and '-', at most 128 of them",
        )
    _check_repository(written, repository)
    if registry is None:
        if needs_registry:
            raise Refusal(f"{shown(written)} names no registry", "write registry/name:tag")
        if _IDENTIFIER.fullmatch(repository) or (
            repository == "sha256" and _IDENTIFIER.fullmatch(tag or "")
        ):
            raise Refusal(f"{shown(written)} is the id of an image, not its name", EXAMPLE)
    elif not _REGISTRY.fullmatch(registry):
        raise Refusal(f"{shown(written)} names no registry that could exist", EXAMPLE)
    if registry is None or registry in _HUB_NAMES:
        registry = HUB
        if "/" not in repository:
            repository = f"library/{repository}"
    is_tagged = tag is not None or bool(at)
    return Reference(
        registry=registry,
        repository=repository,
        tag=tag if is_tagged else "latest",
        digest=digest or None,
        is_tagged=is_tagged,
    )


def _split(name: str) -> tuple[str | None, str, str | None]:
    """Registry, repository and tag, unchecked."""
    host, slash, path = name.partition("/")
    is_registry = slash and (
        "." in host or ":" in host or host == "localhost" or host != host.lower()
    )
    registry, rest = (host, path) if is_registry else (None, name)
    repository, colon, tag = rest.partition(":")
    return registry, repository, tag if colon else None


def _check_repository(written: str, repository: str) -> None:
    if _REPOSITORY.fullmatch(repository):
        if len(repository) > _LONGEST_REPOSITORY:
            raise Refusal(f"{shown(written)} is too long a name for an image")
        return
    if _REPOSITORY.fullmatch(repository.lower()):
        raise Refusal(
            f"{shown(written)} has capital letters in the image's name",
            f"did you mean {shown(written.replace(repository, repository.lower(), 1))}?",
        )
    hint = "remove the blanks" if re.search(r"\s", written) else EXAMPLE
    raise Refusal(f"{shown(written)} is not an image reference", hint)


def _from_web(text: str) -> str:
    """What to write in place of an address that was copied from a browser."""
    scheme, _, rest = text.partition("://")
    if rest.lower().endswith((".sif", ".simg", ".img", ".tar", ".tar.gz")):
        return "fetch the file first, and write its path"
    if page := re.fullmatch(r"hub\.docker\.com/(?:r|_|repository/docker)/([\w./-]+?)/?", rest):
        return f"did you mean {shown(f'{HUB}/{page[1]}')}?"
    return f"remove {shown(f'{scheme}://')}"
