"""What a registry has: an image's manifest is asked for, none of its layers is fetched.

The questions are those of the `OCI distribution specification
<https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pulling-manifests>`_ and
of docker's `token authentication <https://distribution.github.io/distribution/spec/auth/token/>`_.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from fasthep_flow.environments.registries.endpoints import Endpoint, endpoints, trusted
from fasthep_flow.environments.registries.logins import Login, login_to
from fasthep_flow.environments.registries.manifests import (
    Layer,
    Manifest,
    Reference,
    config_digest_of,
    config_type_of,
    digest_of,
    entries_of,
    matching,
    media_type_of,
    platform_of,
    printable,
    split_reference,
)
from fasthep_flow.environments.registries.platforms import machine_platform
from fasthep_flow.environments.registries.web import Answer, Web, within
from fasthep_flow.errors import ImageUnavailable

__all__ = [
    "Access",
    "Layer",
    "Manifest",
    "Reference",
    "RegistryStalled",
    "digest_now",
    "located",
    "manifest",
    "split_reference",
]

LIMIT_S: Final = 10.0

_LISTS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_SINGLES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ACCEPT: Final = ", ".join((*_LISTS, *_SINGLES))
_CONFIGS: Final = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_CHALLENGE: Final = re.compile(r'([A-Za-z]+)="([^"]*)"')
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


_T = TypeVar("_T")

_STALL_S: Final = 30.0
_stalled_until_s: Final[dict[str, float]] = {}


class RegistryStalled(ImageUnavailable):
    """The registry said nothing for as long as it was waited for."""


class Access:
    """Where the parts of an image are fetched, and what proves who asks; shows the place only.

    Args:
        base: The address that ``/blobs/DIGEST`` follows.
        authorization: Of the header of that name; goes to this host alone.
        context: Whose certificates are trusted.
    """

    __slots__ = ("authorization", "base", "context")

    def __init__(self, base: str, authorization: str | None, context: ssl.SSLContext) -> None:
        self.base: Final = base
        self.authorization: Final = authorization
        self.context: Final = context

    def __repr__(self) -> str:
        return f"Access(base={self.base!r})"


def manifest(
    reference: str,
    *,
    platform: str | None = None,
    engine: str | None = None,
    limit_s: float = LIMIT_S,
) -> Manifest:
    """What the registry says of the image.

    Args:
        reference: In full: registry, repository, and tag or digest or both.
        platform: ``os/architecture[/variant]``; ``None`` for this machine's.
        engine: Whose logins and registries count, such as ``podman``; anybody's if ``None``.
        limit_s: For all that is asked together.

    Raises:
        ImageUnavailable: There is none, none for the platform, no permission; or the registry
            does not answer, has enough, or cannot be trusted. Each has its own words.
    """
    return located(reference, platform=platform, engine=engine, limit_s=limit_s)[0]


def located(
    reference: str,
    *,
    platform: str | None = None,
    engine: str | None = None,
    limit_s: float = LIMIT_S,
) -> tuple[Manifest, Access]:
    """What the registry says of the image, and how its parts are fetched; see :func:`manifest`.

    Raises:
        ImageUnavailable: As of :func:`manifest`.
    """
    wanted = platform or machine_platform()
    return _answered(reference, engine, limit_s, lambda registry: registry.located(wanted))


def digest_now(reference: str, *, engine: str | None = None, limit_s: float = LIMIT_S) -> str:
    """The digest that the reference stands for at the moment, for which platform ever.

    Of an image for several platforms it is that of the list. Nothing else is asked for.

    Args:
        reference: In full: registry, repository, and tag or digest or both.
        engine: Whose logins and registries count, such as ``podman``; anybody's if ``None``.
        limit_s: For all that is asked together.

    Raises:
        ImageUnavailable: As of :func:`manifest`.
    """
    return _answered(reference, engine, limit_s, lambda registry: registry.digest())


def _answered(
    reference: str, engine: str | None, limit_s: float, ask: Callable[[_Registry], _T]
) -> _T:
    """What the first place answers that has the image."""
    parts = split_reference(reference)
    places = endpoints(parts.registry, parts.repository, engine=engine)
    errors: list[ImageUnavailable] = []
    for place in places:
        if time.monotonic() < _stalled_until_s.get(place.host, 0.0):
            # Other images, and other engines, need not wait for it as well.
            errors.append(_stalled(reference, place.host, limit_s))
            continue
        # A mirror that does not answer is no reason not to ask the registry itself.
        try:
            return within(
                limit_s / len(places),
                lambda web, place=place: ask(  # type: ignore[misc]  # mypy: lambda defaults
                    _Registry(web, reference, parts, place, engine)
                ),
            )
        except TimeoutError:
            _stalled_until_s[place.host] = time.monotonic() + _STALL_S
            errors.append(_stalled(reference, place.host, limit_s))
        except ImageUnavailable as error:
            errors.append(error)
    raise errors[-1]


class _Registry:
    """One registry, asked for one image."""

    def __init__(
        self, web: Web, reference: str, parts: Reference, place: Endpoint, engine: str | None
    ) -> None:
        self._web: Final = web
        self._reference: Final = reference
        self._parts: Final = parts
        self._place: Final = place
        self._engine: Final = engine
        self._context: Final = trusted(place)
        self._base = f"https://{place.host}/v2/{place.repository}"
        self._authorization: str | None = None
        self._login: Login | None = None

    def located(self, platform: str) -> tuple[Manifest, Access]:
        """The manifest for the platform, and the way that was found to it."""
        found = self.manifest(platform)
        return found, Access(self._base, self._authorization, self._context)

    def digest(self) -> str:
        """The digest of what the registry has by that name, be it a list."""
        answer = self._ask(f"manifests/{self._parts.version}", _ACCEPT)
        said, digest = self._read(answer), digest_of(answer.body)
        if self._parts.digest not in (None, digest):
            raise self._garbled("another image than the one with this digest")
        if media_type_of(said, answer) not in {*_LISTS, *_SINGLES}:
            raise self._garbled("a manifest of a kind that is not known")
        return digest

    def manifest(self, platform: str) -> Manifest:
        """The manifest for the platform."""
        answer = self._ask(f"manifests/{self._parts.version}", _ACCEPT)
        said, digest = self._read(answer), digest_of(answer.body)
        if self._parts.digest not in (None, digest):
            raise self._garbled("another image than the one with this digest")
        if "manifests" not in said:
            return self._single(said, digest, media_type_of(said, answer))
        entries = [one for one in entries_of(said, "manifests") if platform_of(one) is not None]
        chosen = matching(entries, platform)
        platforms = tuple(dict.fromkeys(filter(None, map(platform_of, entries))))
        if chosen is None:
            there = ", ".join(platforms) or "nothing that says what it is for"
            raise ImageUnavailable(
                f"the image {self._reference} is not there for {platform}; there is {there}",
                hint="look for one that fits this processor"
                if platform == machine_platform()
                else "ask for a platform that there is",
            )
        wanted = str(chosen.get("digest", ""))
        if not _DIGEST.fullmatch(wanted):
            raise self._garbled("a list of images without their digests")
        answer = self._ask(f"manifests/{wanted}", ", ".join(_SINGLES))
        if digest_of(answer.body) != wanted:
            raise self._garbled("another image than the one in its list")
        single = self._read(answer)
        return Manifest(
            digest=wanted,
            list_digest=digest,
            platforms=platforms,
            layers=self._layers(single),
            config_type=config_type_of(single),
            config_digest=config_digest_of(single),
        )

    def _single(self, said: Mapping[str, Any], digest: str, media_type: str) -> Manifest:
        if media_type not in _SINGLES:
            raise self._garbled(f"a manifest of a kind that is not known: {media_type or 'none'}")
        kind = config_type_of(said)
        platforms: tuple[str, ...] = ()
        if kind in _CONFIGS:
            # A single image says what it is for in its configuration alone.
            wanted = str(said["config"].get("digest", ""))
            if not _DIGEST.fullmatch(wanted):
                raise self._garbled("an image without the digest of its configuration")
            answer = self._ask(f"blobs/{wanted}", kind)
            if digest_of(answer.body) != wanted:
                raise self._garbled("another configuration than the image's own")
            platforms = tuple(filter(None, (platform_of({"platform": self._read(answer)}),)))
        return Manifest(
            digest=digest,
            platforms=platforms,
            layers=self._layers(said),
            config_type=kind,
            config_digest=config_digest_of(said),
        )

    def _layers(self, said: Mapping[str, Any]) -> tuple[Layer, ...]:
        try:
            return tuple(
                Layer(
                    digest=str(one["digest"]),
                    size=int(one["size"]),
                    media_type=str(one.get("mediaType", "")),
                )
                for one in entries_of(said, "layers")
            )
        except (KeyError, TypeError, ValueError):
            raise self._garbled("layers without digest and size") from None

    def _ask(self, path: str, accept: str) -> Answer:
        answer = self._send(path, accept)
        if answer.status == 401:  # noqa: PLR2004 - as HTTP has it
            self._log_in(answer)
            answer = self._send(path, accept)
        if answer.status != 200:  # noqa: PLR2004
            raise self._refused(answer)
        return answer

    def _send(self, path: str, accept: str) -> Answer:
        try:
            return self._get(f"{self._base}/{path}", accept)
        except OSError as error:
            if not self._place.is_insecure or not self._base.startswith("https:"):
                raise self._silence(error) from None
        # As engines do with registries that may speak without encryption.
        self._base = f"http:{self._base.removeprefix('https:')}"
        try:
            return self._get(f"{self._base}/{path}", accept)
        except OSError as error:
            raise self._silence(error) from None

    def _get(self, address: str, accept: str) -> Answer:
        return self._web.ask(
            address,
            headers={"Accept": accept},
            authorization=self._authorization,
            context=self._context,
        )

    def _log_in(self, answer: Answer) -> None:
        """Get what the registry wants to see, as its answer says how."""
        challenge = answer.headers.get("www-authenticate", "")
        scheme, _, rest = challenge.partition(" ")
        login = self._login = login_to(
            self._parts.registry, self._parts.repository, engine=self._engine
        )
        if scheme.lower() == "basic" and answer.host == self._place.host:
            if login is None or login.is_token:
                raise self._refused(answer)
            self._authorization = login.basic
        elif scheme.lower() == "bearer" and answer.host == self._place.host:
            words = {name.lower(): value for name, value in _CHALLENGE.findall(rest)}
            self._authorization = f"Bearer {self._token(words, login)}"
        else:
            raise self._refused(answer)

    def _token(self, words: Mapping[str, str], login: Login | None) -> str:
        realm = words.get("realm", "")
        if self._base.startswith("https:") and not realm.startswith("https://"):
            # Nobody is told who asks without encryption.
            raise self._garbled("that tokens are to be asked for at no encrypted address")
        query = {
            "service": words.get("service", ""),
            "scope": words.get("scope") or f"repository:{self._place.repository}:pull",
        }
        try:
            if login is not None and login.is_token:
                form = {
                    **query,
                    "grant_type": "refresh_token",
                    "client_id": "fasthep-flow",
                    "refresh_token": login.secret,
                }
                answer = self._web.ask(realm, form=form, context=self._context)
            else:
                from urllib.parse import urlencode

                address = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
                answer = self._web.ask(
                    address,
                    authorization=None if login is None else login.basic,
                    context=self._context,
                )
        except OSError as error:
            raise self._silence(error) from None
        if answer.status != 200:  # noqa: PLR2004
            raise self._refused(answer)
        said = self._read(answer)
        token = said.get("token") or said.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise self._garbled("no token to ask with")
        return token

    def _read(self, answer: Answer) -> dict[str, Any]:
        try:
            said = json.loads(answer.body)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise self._garbled("what is no answer of a registry's")
        return said

    def _refused(self, answer: Answer) -> ImageUnavailable:
        """The error for an answer that is none."""
        registry, image = self._parts.registry, self._reference
        said = _said(answer)
        told = f" ({said})" if said else ""
        login = f"{self._engine or 'podman'} login {registry}"
        if answer.status in {401, 403}:
            if self._login is None:
                return ImageUnavailable(
                    f"the image {image} may not be read: {registry} asks for a login, or has no"
                    f" such image{told}",
                    hint=login,
                )
            return ImageUnavailable(
                f"the image {image} may not be read with the login of {self._login.origin}:"
                f" {registry} refuses it, or has no such image{told}",
                hint=login,
            )
        if answer.status == 404:  # noqa: PLR2004
            return ImageUnavailable(
                f"the image {image} is not known to {registry}{told}",
                hint="look at its name and its tag",
            )
        if answer.status == 429:  # noqa: PLR2004
            return ImageUnavailable(
                f"the image {image} cannot be had now: {registry} limits how often it is"
                f" asked{told}",
                hint=login if self._login is None else "try again later",
            )
        return _silent(image, registry, f"{answer.status} {printable(answer.reason)}".strip())

    def _silence(self, error: OSError) -> ImageUnavailable:
        """The error for no answer at all."""
        registry, image = self._parts.registry, self._reference
        if isinstance(error, ssl.SSLCertVerificationError):
            return ImageUnavailable(
                f"the image {image} cannot be had: the certificate of {registry} is not trusted"
                f" ({error.verify_message})",
                hint="put the one that vouches for it where the engine looks"
                f" (/etc/containers/certs.d/{registry}, /etc/docker/certs.d/{registry})",
            )
        if isinstance(error, ssl.SSLError):
            return ImageUnavailable(
                f"the image {image} cannot be had: {registry} and this machine agree on no"
                f" encryption ({_reason(error)})",
                hint="is it meant to speak without? Then tell the engine that it is insecure",
            )
        return _silent(image, registry, _reason(error))

    def _garbled(self, what: str) -> ImageUnavailable:
        return ImageUnavailable(
            f"the image {self._reference} cannot be had: {self._parts.registry} says {what}",
            hint="is there a registry at that address?",
        )


def _stalled(image: str, registry: str, limit_s: float) -> RegistryStalled:
    error = _silent(image, registry, f"nothing within {limit_s:g} s")
    return RegistryStalled(error.message, hint=error.hint)


def _silent(image: str, registry: str, why: str) -> ImageUnavailable:
    return ImageUnavailable(
        f"the image {image} cannot be had: {registry} does not answer ({why})",
        hint="is the name right, the net up?",
    )


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return printable(str(reason))


def _said(answer: Answer) -> str:
    """The registry's own words for an error."""
    try:
        first = json.loads(answer.body)["errors"][0]
        return printable(str(first.get("message") or first.get("code") or ""))
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
        return ""
