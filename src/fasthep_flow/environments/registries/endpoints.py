"""Where a registry is, as the engines on this machine are told.

Read are `containers-registries.conf(5)
<https://github.com/containers/image/blob/main/docs/containers-registries.conf.5.md>`_ for
podman and apptainer, docker's ``daemon.json``, and the folders ``certs.d`` of both.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import ssl
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

__all__ = ["Endpoint", "endpoints", "trusted"]

_HUB: Final = "docker.io"
_HUB_HOST: Final = "registry-1.docker.io"
_DAEMON: Final = "/etc/docker/daemon.json"


class Endpoint(Struct, frozen=True, kw_only=True):
    """A place to ask for an image.

    Args:
        host: With its port, if it has one.
        repository: The image's name there.
        is_insecure: Whether it may speak without encryption, or with an unknown certificate.
    """

    host: str
    repository: str
    is_insecure: bool = False


def endpoints(registry: str, repository: str, *, engine: str | None = None) -> tuple[Endpoint, ...]:
    """The places to ask, one after the other: mirrors, and the registry itself.

    Args:
        registry: As in a reference in full: ``docker.io``.
        repository: Without tag and digest.
        engine: Whose configuration counts; that of any if ``None``.
    """
    places = []
    if engine != "docker":
        places += list(_of_containers(f"{registry}/{repository}", _registries()))
    if engine in {None, "docker"}:
        places += list(_of_docker(registry, repository))
    own = Endpoint(
        host=registry,
        repository=repository,
        # Docker takes what is on the machine itself at its word, podman does not.
        is_insecure=engine != "podman" and _is_loopback(registry),
    )
    if not places:
        places = [own]
    found: dict[str, Endpoint] = {}
    for place in places:
        host = _HUB_HOST if place.host == _HUB else place.host
        loopback = engine != "podman" and _is_loopback(host)
        place = Endpoint(  # noqa: PLW2901 - the same place, said in full
            host=host,
            repository=place.repository,
            is_insecure=place.is_insecure or loopback or _known_insecure(found, host),
        )
        found.setdefault(f"{host}/{place.repository}", place)
        if place.is_insecure:
            found[f"{host}/{place.repository}"] = place
    return tuple(found.values())


def _known_insecure(found: Mapping[str, Endpoint], host: str) -> bool:
    return any(one.host == host and one.is_insecure for one in found.values())


def _of_containers(name: str, tables: list[dict[str, Any]]) -> Iterator[Endpoint]:
    best: dict[str, Any] = {}
    longest = ""
    for table in tables:
        prefix = str(table.get("prefix") or table.get("location") or "")
        if len(prefix) > len(longest) and _starts(name, prefix):
            best, longest = table, prefix
    if not best:
        return
    rest = name.removeprefix(longest) if not longest.startswith("*.") else ""
    mirrors = best.get("mirror")
    for one in [*(mirrors if isinstance(mirrors, list) else []), best]:
        location = str(one.get("location") or longest)
        place = name if longest.startswith("*.") else location + rest
        host, _, repository = place.partition("/")
        yield Endpoint(host=host, repository=repository, is_insecure=one.get("insecure") is True)


def _starts(name: str, prefix: str) -> bool:
    if prefix.startswith("*."):
        return name.partition("/")[0].partition(":")[0].endswith(prefix[1:])
    return name == prefix or (name.startswith(prefix) and name[len(prefix)] in "/:@")


def _registries() -> list[dict[str, Any]]:
    tables = []
    for path in _registries_files():
        try:
            with path.open("rb") as file:
                found = tomllib.load(file).get("registry")
        except (OSError, ValueError):
            # The engine complains of its own files itself.
            continue
        if isinstance(found, list):
            tables += [table for table in found if isinstance(table, dict)]
    return tables


def _registries_files() -> Iterator[Path]:
    """Later ones are looked at first by the engine: the longest prefix counts, then the first."""
    if chosen := os.environ.get("CONTAINERS_REGISTRIES_CONF"):
        yield Path(chosen)
        return
    own = Path(os.environ.get("HOME") or "/nonexistent", ".config", "containers")
    for folder in (own, Path("/etc/containers")):
        with suppress(OSError):
            yield from sorted((folder / "registries.conf.d").glob("*.conf"), reverse=True)
    yield from (folder / "registries.conf" for folder in (own, Path("/etc/containers")))


def _of_docker(registry: str, repository: str) -> Iterator[Endpoint]:
    known = _daemon(_DAEMON)
    listed = [str(one) for one in known.get("insecure-registries") or ()]
    if registry == _HUB:
        for mirror in known.get("registry-mirrors") or ():
            scheme, _, host = str(mirror).rstrip("/").rpartition("://")
            if "/" not in host:
                insecure = scheme == "http" or _is_listed(host, listed)
                yield Endpoint(host=host, repository=repository, is_insecure=insecure)
    yield Endpoint(host=registry, repository=repository, is_insecure=_is_listed(registry, listed))


@functools.cache
def _daemon(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            known = json.load(file)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _is_listed(host: str, listed: list[str]) -> bool:
    for entry in listed:
        if entry == host:
            return True
        with suppress(ValueError):
            if ipaddress.ip_address(_name(host)) in ipaddress.ip_network(entry):
                return True
    return False


def _is_loopback(host: str) -> bool:
    name = _name(host)
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def trusted(endpoint: Endpoint) -> ssl.SSLContext:
    """Whose certificates the engines trust there, and what they show for themselves."""
    context = ssl.create_default_context()
    if endpoint.is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    own = Path(os.environ.get("HOME") or "/nonexistent")
    for top in (own / ".config/containers", Path("/etc/containers"), Path("/etc/docker")):
        folder = top / "certs.d" / endpoint.host
        with suppress(OSError, ssl.SSLError):
            for path in sorted(folder.glob("*.crt")):
                context.load_verify_locations(path)
            for path in sorted(folder.glob("*.cert")):
                context.load_cert_chain(path, path.with_suffix(".key"))
    return context
