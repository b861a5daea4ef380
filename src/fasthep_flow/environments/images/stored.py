"""An image in the store of podman or docker: its identity, its digest and its platform."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

from fasthep_flow.environments.engine import DOCKER_ENGINE, Engine, ask, last_lines
from fasthep_flow.environments.registries.platforms import same_platform, why_foreign
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

__all__ = [
    "StoredImage",
    "asked_of_docker",
    "inspected",
    "repository",
    "require_platform",
    "stored_image",
]


class StoredImage(Struct, frozen=True, kw_only=True):
    """An image in an engine's store.

    Args:
        identity: ``sha256:...`` of its configuration, by which the engine runs it.
        digest: By which its own registry knows it; the identity where there is none.
        platform: ``os/architecture[/variant]`` that it is for.
    """

    identity: str
    digest: str
    platform: str


def stored_image(engine: Engine, reference: str, image: Image) -> StoredImage | None:
    """What the engine has by that name, if it fits this machine or what is asked for.

    Args:
        engine: Whose store it is.
        reference: The name or the identity of the image.
        image: As it is asked for.

    Raises:
        EngineUnavailable: The engine does not answer.
    """
    found = inspected(engine, reference)
    if found is None or not _fits(image, found.platform):
        return None
    return found


def inspected(engine: Engine, reference: str) -> StoredImage | None:
    """What the engine has by that name or identity, for whatever machine.

    Raises:
        EngineUnavailable: The engine does not answer.
    """
    if not reference:
        return None
    done = ask(engine, "image", "inspect", reference)
    if done.returncode:
        return None
    try:
        (facts,) = json.loads(done.stdout)
        identity = str(facts["Id"])
        return StoredImage(
            identity=f"sha256:{identity.removeprefix('sha256:')}",
            digest=_digest(reference, facts) or f"sha256:{identity.removeprefix('sha256:')}",
            platform=_platform(facts),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _digest(reference: str, facts: dict[str, Any]) -> str | None:
    """The digest that the image's own registry knows it by."""
    if "@" in reference:
        return reference.partition("@")[2]
    name = repository(reference)
    digests = [
        digest
        for entry in facts.get("RepoDigests") or ()
        for known, _, digest in (str(entry).partition("@"),)
        if repository(known) == name
    ]
    # Podman lists those of files and other registries as well; this one is the first it had.
    if (own := str(facts.get("Digest") or "")) in digests:
        return own
    return digests[0] if digests else None


def _platform(facts: dict[str, Any]) -> str:
    parts = (facts.get("Os"), facts.get("Architecture"), facts.get("Variant"))
    return "/".join(str(part) for part in parts if part)


def _fits(image: Image, there: str) -> bool:
    if "/" not in there:
        return True
    if image.platform is not None:
        return same_platform(image.platform, there)
    return why_foreign(there) is None


def asked_of_docker(image: Image, words: str = "{{.Id}}") -> str:
    """What the docker on this machine says of an image of its own.

    Args:
        image: By its name in docker.
        words: What is asked, as docker's ``--format`` has it; the image's identity if not given.

    Raises:
        EngineUnavailable: Docker does not answer.
        ImageUnavailable: It has no such image.
    """
    done = ask(DOCKER_ENGINE, "image", "inspect", "--format", words, image.reference)
    if done.returncode:
        raise ImageUnavailable(
            f"docker on this machine has no image {image.reference} ({last_lines(done.stderr)})",
            hint="'docker image ls' shows what it has",
        )
    return done.stdout.strip()


def require_platform(image: Image, there: str) -> None:
    """Refuse an image for another machine than this one, or than what is asked for.

    Args:
        image: As it is asked for.
        there: The platform of what there is.

    Raises:
        ImageUnavailable: It is for another one.
    """
    if _fits(image, there):
        return
    if image.platform is not None:
        raise ImageUnavailable(
            f"the image {image} is there for {there}, not for {image.platform}",
            hint="ask for the platform that there is",
        )
    raise ImageUnavailable(
        f"the image {image} is for another kind of machine than this one: {why_foreign(there)}",
        hint="look for one that fits this processor",
    )


def repository(image: str) -> str:
    """The reference without tag and digest, and without what docker leaves out of it."""
    head, slash, last = image.partition("@")[0].rpartition("/")
    name = head + slash + last.partition(":")[0]
    return name.removeprefix("docker.io/").removeprefix("library/")
