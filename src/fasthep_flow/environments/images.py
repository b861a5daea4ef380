"""Images on this machine: found, pulled once, and named by their bytes."""

from __future__ import annotations

import json
import re
from typing import Final

from fasthep_flow.environments import ResolvedImage
from fasthep_flow.environments.engine import Engine, EngineFacts, ask, last_lines
from fasthep_flow.environments.locks import machine_lock
from fasthep_flow.errors import ImageUnavailable

__all__ = ["have_image", "why_no_image"]

_PULL_LIMIT_S: Final = 2 * 3600.0

# Most specific first; in small letters.
_CAUSES: Final = (
    ("reference", r"invalid reference|repository name .* must be|normalizing|short-name"),
    ("disk", r"no space left|disk quota exceeded"),
    ("login", r"unauthorized|authentication required|no basic auth|access .*denied|forbidden"),
    ("rate", r"toomanyrequests|rate limit"),
    ("machine", r"no matching manifest|no image found in (image|manifest)|exec format"),
    ("missing", r"manifest unknown|not found|name unknown|does not exist|\b404\b"),
    ("registry", r"connection (refused|reset)|no such host|time(out|d out)|unreachable|certif"),
    ("registry", r"\btls\b|http response to https|\beof\b|misbehaving|no route|\b50[0-9]\b"),
)


def have_image(engine: Engine, facts: EngineFacts, image: str) -> ResolvedImage:
    """Have the image on this machine.

    One that is there is used as it is. Else it is pulled, by one process at a time, with
    the logins that the engine knows.

    Raises:
        EngineUnavailable: The engine does not answer.
        ImageUnavailable: It cannot be had; says why.
    """
    found = _local(engine, image)
    if found is not None:
        return found
    with machine_lock(f"pull {engine.program} {image}"):
        # Another process may have had the lock first.
        found = _local(engine, image)
        if found is not None:
            return found
        retry = ("--retry", "0") if facts.retries_pulls else ()
        done = ask(engine, "pull", "--quiet", *retry, image, limit_s=_PULL_LIMIT_S)
    if done.returncode:
        raise why_no_image(engine, image, done.stderr or done.stdout)
    found = _local(engine, image)
    if found is None:
        raise ImageUnavailable(f"{engine.program} pulled {image}, but does not have it")
    return found


def _local(engine: Engine, image: str) -> ResolvedImage | None:
    done = ask(engine, "image", "inspect", image)
    if done.returncode:
        return None
    try:
        (facts,) = json.loads(done.stdout)
        identity = str(facts["Id"])
        digests = [str(digest) for digest in facts.get("RepoDigests") or ()]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    identity = f"sha256:{identity.removeprefix('sha256:')}"
    return ResolvedImage(
        name=image,
        reference=identity,
        digest=_digest_in(repository(image), digests) or identity,
    )


def _digest_in(repository_name: str, digests: list[str]) -> str | None:
    """The digest that the image's own registry knows it by."""
    for entry in digests:
        name, _, digest = entry.partition("@")
        if repository(name) == repository_name:
            return digest
    return None


def repository(image: str) -> str:
    """The reference without tag and digest, and without what docker leaves out of it."""
    head, slash, last = image.partition("@")[0].rpartition("/")
    name = head + slash + last.partition(":")[0]
    return name.removeprefix("docker.io/").removeprefix("library/")


def registry_of(image: str) -> str:
    """The registry that the reference names."""
    head = image.partition("/")[0]
    return head if "/" in image and re.search(r"[.:]|^localhost$", head) else "docker.io"


def why_no_image(engine: Engine, image: str, said: str) -> ImageUnavailable:
    """The error for what the engine said when it could not pull."""
    # The name itself says nothing of the cause, whatever words are in it.
    text = said.replace(image, "").replace(image.partition("@")[0], "").lower()
    cause = next((name for name, pattern in _CAUSES if re.search(pattern, text)), "")
    registry = registry_of(image)
    login = f"{engine.program} login {registry}"
    message, hint = {
        "reference": ("is no name of an image", "registry/repository:tag, such as debian:12"),
        "disk": ("does not fit on the disk", f"{engine.program} system prune makes room"),
        "login": (f"may not be read: {registry} asks for a login, or has no such image", login),
        "rate": (f"cannot be had now: {registry} limits how often it is asked", login),
        "machine": ("is for another kind of machine", "look for one that fits this processor"),
        "missing": (f"is not known to {registry}", "look at its name and its tag"),
        "registry": (
            f"cannot be had: {registry} does not answer",
            "is the name right, the net up?",
        ),
    }.get(cause, ("cannot be pulled", None))
    return ImageUnavailable(f"the image {image} {message} ({last_lines(said)})", hint=hint)
