"""Bearer tokens, found as WLCG's token discovery says.

Its order (https://zenodo.org/records/3937438): ``BEARER_TOKEN`` is the token itself, then
``BEARER_TOKEN_FILE`` names its file, then ``$XDG_RUNTIME_DIR/bt_u<uid>``, then
``/tmp/bt_u<uid>``. Whether a token is a good one only the services that it is for can tell; of
one in the form of JWT (RFC 7519) its times are read, and its signature is not looked at.
"""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from fasthep_flow.environments import Addition
from fasthep_flow.environments.credentials.found import (
    Found,
    MalformedError,
    named_path,
    read_credential,
    said_by,
    shown_file,
    time_text,
)
from fasthep_flow.errors import CredentialUnavailable
from fasthep_flow.model import Credential

__all__ = ["Token", "find_token", "read_token"]

_VALUE: Final = "BEARER_TOKEN"
_FILE: Final = "BEARER_TOKEN_FILE"
_USUAL: Final = "/tmp/bt_u{}"  # noqa: S108 - where the discovery looks
_GRACE_S: Final = 60.0
"""By how much the clock of who made a token may be ahead of ours."""

_TOKEN: Final = re.compile(rb"[\x21-\x7e]+")
_PARTS: Final = 3
_LATEST_S: Final = 253402300799
"""The end of the year 9999."""


class Token(Struct, frozen=True, kw_only=True):
    """What a token says of itself.

    Args:
        holder: Whom it speaks for, and who says so; empty where it does not say.
        starts_s: From when it holds, seconds since 1970; ``None`` where it does not say.
        ends_s: When it ends, likewise.
        is_opaque: Whether it says nothing of itself to anyone but who made it.
    """

    holder: str = ""
    starts_s: float | None = None
    ends_s: float | None = None
    is_opaque: bool = False


def find_token(
    credential: Credential, variables: Mapping[str, str], *, contained: bool, now_s: float
) -> Found:
    """The user's token.

    Args:
        credential: What is asked for.
        variables: The environment in which to look for it.
        contained: Whether the task runs in a container.
        now_s: Seconds since 1970.

    Raises:
        CredentialUnavailable: There is none, or it does not hold yet.
    """
    value = said_by(variables, _VALUE) if credential.file is None else None
    if value is not None:
        if credential.variable is not None:
            raise CredentialUnavailable(
                f"the token is in the variable {_VALUE} alone, and {credential.variable} is to "
                "name a file",
                hint=f"write it to a file, name that in {_FILE}, and unset {_VALUE}",
            )
        name = f"the bearer token in {_VALUE}"
        content = value.encode("utf-8", "surrogateescape")
        addition = Addition(variables={_VALUE: value.strip()})
    else:
        path = _path(credential, variables)
        name = f"the bearer token {path}"
        content, _ = read_credential(
            path, name, f"get one (htgettoken, oidc-token), and name its file in {_FILE}"
        )
        addition = shown_file(credential.variable or _FILE, path, contained=contained)
        # It would come first.
        addition = msgspec.structs.replace(addition, variables={**addition.variables, _VALUE: None})
    try:
        token = read_token(content)
    except MalformedError as error:
        raise CredentialUnavailable(
            f"{name} is none: {error}", hint="get a new one (htgettoken, oidc-token)"
        ) from None
    if token.starts_s is not None and token.starts_s > now_s + _GRACE_S:
        raise CredentialUnavailable(
            f"{name} holds only in {time_text(token.starts_s - now_s)}",
            hint="is the clock of this machine right?",
        )
    why_unknown = ""
    if token.ends_s is None:
        why_unknown = "it is no JWT" if token.is_opaque else "it does not say"
    return Found(
        name=name,
        holder=token.holder,
        ends_s=token.ends_s,
        why_unknown=why_unknown,
        renewal="htgettoken, or oidc-token",
        addition=addition,
    )


def _path(credential: Credential, variables: Mapping[str, str]) -> str:
    if credential.file is not None:
        return named_path(credential.file, "the workflow")
    if (said := said_by(variables, _FILE)) is not None:
        return named_path(said, _FILE)
    usual = _USUAL.format(os.getuid())
    for path in _usual_paths(variables):
        if os.path.lexists(path):
            return path
    return usual


def _usual_paths(variables: Mapping[str, str]) -> Iterator[str]:
    folder = said_by(variables, "XDG_RUNTIME_DIR")
    if folder is not None and folder.startswith("/"):
        yield f"{folder}/bt_u{os.getuid()}"
    yield _USUAL.format(os.getuid())


def read_token(content: bytes) -> Token:
    """What a token says.

    Args:
        content: Of its file; blanks around it are not part of it.

    Raises:
        MalformedError: It is no token.
    """
    text = content.strip()
    if not text:
        raise MalformedError("there is nothing in it")
    if _TOKEN.fullmatch(text) is None:
        raise MalformedError("a token is one word")
    claims = _claims(text)
    if claims is None:
        return Token(is_opaque=True)
    subject, issuer = claims.get("sub"), claims.get("iss")
    holder = ""
    if isinstance(issuer, str):
        holder = f"{subject} of {issuer}" if isinstance(subject, str) else issuer
    return Token(
        holder="".join(each if each.isprintable() else "?" for each in holder[:1000]),
        starts_s=_time(claims.get("nbf")),
        ends_s=_time(claims.get("exp")),
    )


def _claims(text: bytes) -> dict[str, Any] | None:
    """Of a JWT; ``None`` where it is none."""
    parts = text.split(b".")
    if len(parts) != _PARTS:
        return None
    decoded = []
    for part in parts[:2]:
        try:
            padded = part + b"=" * (-len(part) % 4)
            decoded.append(msgspec.json.decode(base64.b64decode(padded, b"-_", validate=True)))
        except (ValueError, RecursionError):
            return None
    header, claims = decoded
    if not isinstance(header, dict) or "alg" not in header or not isinstance(claims, dict):
        return None
    return claims


def _time(claim: object) -> float | None:
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        return None
    if isinstance(claim, float) and not math.isfinite(claim):
        return None
    return float(min(max(claim, 0), _LATEST_S))
