"""Logins to registries, where the engines keep them.

What people said to ``podman login``, ``docker login`` or ``apptainer registry login`` is read
each time that it is needed, and kept nowhere. The forms are those of `containers-auth.json(5)
<https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md>`_ and of docker's
``config.json``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["Login", "login_to"]

_LARGEST: Final = 4 * 2**20
_HELPER_LIMIT_S: Final = 5.0
_HELPER: Final = re.compile(r"[A-Za-z0-9_.-]+")
_HUB: Final = "https://index.docker.io/v1/"
_NOBODY: Final = "<token>"
"""The name of a user that has no password, but a token instead."""

_VARIABLES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "apptainer": (
        ("APPTAINER_DOCKER_USERNAME", "APPTAINER_DOCKER_PASSWORD"),
        ("SINGULARITY_DOCKER_USERNAME", "SINGULARITY_DOCKER_PASSWORD"),
    ),
    "charliecloud": (("CH_IMAGE_USERNAME", "CH_IMAGE_PASSWORD"),),
}


class Login:
    """Who asks, and what proves it; shows the place where it was found only."""

    __slots__ = ("origin", "secret", "user")

    def __init__(self, user: str, secret: str, origin: str) -> None:
        self.user: Final = user
        self.secret: Final = secret
        self.origin: Final = origin

    def __repr__(self) -> str:
        return f"Login(origin={self.origin!r})"

    @property
    def is_token(self) -> bool:
        """Whether the secret is a token that another one is asked for with."""
        return self.user == _NOBODY

    @property
    def basic(self) -> str:
        """The value of the header ``Authorization``."""
        pair = f"{self.user}:{self.secret}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


def login_to(registry: str, repository: str = "", *, engine: str | None = None) -> Login | None:
    """The login that the engine would use; ``None`` where there is none.

    Args:
        registry: Such as ``docker.io`` or ``127.0.0.1:5000``.
        repository: Podman may know a login for a part of a registry.
        engine: Whose logins to look at; all if ``None``.
    """
    for name, word in _variables(engine):
        if os.environ.get(name) and os.environ.get(word):
            return Login(os.environ[name], os.environ[word], f"the variable {name}")
    for path in _files(engine):
        if (login := _login_in(path, registry, repository)) is not None:
            return login
    return None


def _variables(engine: str | None) -> Iterator[tuple[str, str]]:
    if engine is not None:
        yield from _VARIABLES.get("apptainer" if engine == "singularity" else engine, ())


def _files(engine: str | None) -> Iterator[Path]:
    """Where to look, first things first."""
    home = Path(os.environ.get("HOME") or "~").expanduser()
    if engine in {None, "apptainer", "singularity"}:
        yield Path(
            os.environ.get("APPTAINER_CONFIGDIR") or home / ".apptainer", "docker-config.json"
        )
    if engine in {None, "podman"}:
        if chosen := os.environ.get("REGISTRY_AUTH_FILE"):
            # Podman looks nowhere else then.
            yield Path(chosen)
            if engine == "podman":
                return
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
        yield Path(runtime, "containers" if os.environ.get("XDG_RUNTIME_DIR") else "", "auth.json")
        configuration = os.environ.get("XDG_CONFIG_HOME") or home / ".config"
        yield Path(configuration, "containers", "auth.json")
    if engine != "charliecloud":
        yield Path(os.environ.get("DOCKER_CONFIG") or home / ".docker", "config.json")


def _login_in(path: Path, registry: str, repository: str) -> Login | None:
    try:
        with path.open("rb") as file:
            known = json.loads(file.read(_LARGEST))
    except (OSError, ValueError):
        # Without the login that is in it: the engine will complain of the file itself.
        return None
    if not isinstance(known, dict):
        return None
    helpers, auths = _table(known, "credHelpers"), _table(known, "auths")
    for name in _hosts(registry):
        if isinstance(helper := helpers.get(name), str):
            return _asked(helper, name)
    if (login := _written(auths, str(path), registry, repository)) is not None:
        return login
    if isinstance(store := known.get("credsStore"), str):
        for name in _hosts(registry):
            if (login := _asked(store, name)) is not None:
                return login
    return None


def _written(auths: Mapping[str, Any], origin: str, registry: str, repository: str) -> Login | None:
    """The login that stands in the file itself."""
    known = {_bare(key): entry for key, entry in auths.items() if isinstance(entry, dict)}
    for name in _names(registry, repository):
        if name in known and (login := _decoded(known[name], origin)) is not None:
            return login
    return None


def _table(known: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = known.get(key)
    return value if isinstance(value, dict) else {}


def _hosts(registry: str) -> tuple[str, ...]:
    """What the registry is called by those who keep logins."""
    return (_HUB, "index.docker.io", "docker.io") if registry == "docker.io" else (registry,)


def _names(registry: str, repository: str) -> Iterator[str]:
    """The keys that may have the login, the most specific one first."""
    parts = repository.split("/") if repository else []
    for length in range(len(parts), 0, -1):
        yield "/".join((registry, *parts[:length]))
    for host in _hosts(registry):
        yield _bare(host)


def _bare(key: str) -> str:
    """A key without what docker once wrote around the name: ``https://index.docker.io/v1/``."""
    return re.sub(r"^https?://", "", key).removesuffix("/").removesuffix("/v1").removesuffix("/v2")


def _decoded(entry: Mapping[str, Any], origin: str) -> Login | None:
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Login(_NOBODY, token, origin)
    try:
        pair = base64.b64decode(entry.get("auth") or "").decode()
    except (binascii.Error, TypeError, ValueError):
        return None
    user, colon, secret = pair.partition(":")
    return Login(user, secret.strip("\0"), origin) if colon and user else None


def _asked(helper: str, name: str) -> Login | None:
    """What ``docker-credential-HELPER get`` says; the words go in and out on its streams.

    https://github.com/docker/docker-credential-helpers#development
    """
    if not _HELPER.fullmatch(helper):
        return None
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=name.encode(),
            capture_output=True,
            timeout=_HELPER_LIMIT_S,
            check=False,
            start_new_session=True,
        )
        said = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if not isinstance(said, dict):
        return None
    user, secret = said.get("Username"), said.get("Secret")
    if not isinstance(user, str) or not isinstance(secret, str) or not secret:
        return None
    return Login(user, secret, program)
