"""The reasons why an image cannot be had, each with what to do about it."""

from __future__ import annotations

import re
from typing import Final

from fasthep_flow.environments.engine import Engine, last_lines
from fasthep_flow.environments.images.cache import ImageAbsent
from fasthep_flow.environments.images.fetching import SilenceError
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

__all__ = ["not_here", "registry_of", "why_no_image", "why_nowhere", "why_silent"]

# Most specific first; in small letters.
_CAUSES: Final = (
    ("reference", r"invalid reference|repository name .* must be|normalizing|short-name"),
    ("disk", r"no space left|disk quota exceeded"),
    ("login", r"unauthorized|authentication required|no basic auth|access .*denied|forbidden"),
    ("rate", r"toomanyrequests|rate limit|\b429\b"),
    ("machine", r"no matching manifest|no image found in (image|manifest)|exec format"),
    ("missing", r"manifest unknown|not found|name unknown|does not exist|\b404\b"),
    ("trust", r"certificate (signed by|has expired|is not valid|is valid for)|x509"),
    ("registry", r"connection (refused|reset)|no such host|time(out|d out)|unreachable|certif"),
    ("registry", r"\btls\b|http response to https|\beof\b|misbehaving|no route|\b50[0-9]\b"),
)


def registry_of(image: str) -> str:
    """The registry that the reference names."""
    head = image.partition("/")[0]
    return head if "/" in image and re.search(r"[.:]|^localhost$", head) else "docker.io"


def not_here(engine: Engine, image: Image) -> ImageUnavailable:
    """The error for an image that is not in the engine's store, and is not to be fetched."""
    if image.form == "docker-daemon":
        return ImageUnavailable(
            f"the image {image.reference} is not in the docker on this machine",
            hint=f"build it first: docker build --tag {image.reference} FOLDER",
        )
    if (error := why_nowhere(engine, image)) is not None:
        return error
    platform = "" if image.platform is None else f" for {image.platform}"
    option = "" if image.platform is None else f" --platform {image.platform}"
    return ImageAbsent(
        f"the image {image} is not on this machine{platform}, and 'pull: never' is asked for",
        hint=f"{engine.program} pull{option} {image}",
    )


def why_nowhere(engine: Engine, image: Image) -> ImageUnavailable | None:
    """The error for an image that is nowhere, if by its name it was built on this machine."""
    if image.form != "registry" or registry_of(image.name) != "localhost":
        return None
    return ImageUnavailable(
        f"the image {image} is not on this machine, where alone it can be: such names are those"
        " of images that were built here",
        hint=f"build it first: {engine.program} build --tag {image} FOLDER",
    )


def why_silent(image: Image, error: SilenceError) -> ImageUnavailable:
    """The error for an image that stopped coming."""
    from fasthep_flow.environments.registries.registry import split_reference

    source = "its source"
    if image.form in {"registry", "oras"}:
        source = split_reference(image.reference).registry
    return ImageUnavailable(
        f"the image {image} cannot be had: {source} fell silent in the middle ({error})",
        hint="try again later",
    )


def why_no_image(engine: Engine, image: str, said: str) -> ImageUnavailable:
    """The error for what the engine said when it could not fetch the image."""
    # The name itself says nothing of the cause, whatever words are in it.
    text = said.replace(image, "").replace(image.partition("@")[0], "").lower()
    cause = next((name for name, pattern in _CAUSES if re.search(pattern, text)), "")
    registry = registry_of(image)
    login = f"{engine.program} login {registry}"
    certs = f"/etc/{'docker' if engine.program == 'docker' else 'containers'}/certs.d/{registry}/"
    message, hint = {
        "reference": ("is no name of an image", "registry/repository:tag, such as debian:12"),
        "disk": ("cannot be had: disk full", f"{engine.program} system prune makes room"),
        "login": (f"may not be read: {registry} asks for a login, or has no such image", login),
        "rate": (f"cannot be had now: {registry} limits how often it is asked", login),
        "machine": ("is for another kind of machine", "look for one that fits this processor"),
        "missing": (f"is not known to {registry}", "look at its name and its tag"),
        "trust": (
            f"cannot be had: the certificate of {registry} is not trusted",
            f"put the one that vouches for it into {certs}",
        ),
        "registry": (
            f"cannot be had: {registry} does not answer",
            "is the name right, the net up?",
        ),
    }.get(cause, ("cannot be fetched", None))
    return ImageUnavailable(f"the image {image} {message} ({last_lines(said)})", hint=hint)
