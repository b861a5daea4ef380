"""Proxy certificates, with the attributes of VOMS or without.

A proxy is a file of PEM: the proxy's own certificate, its key, and the certificates that lead to
the user's (RFC 3820). VOMS adds an attribute certificate (RFC 5755) to the proxy's, in an
extension: a proxy is as good as useless once these attributes have ended, and they may end
earlier. Where a proxy is looked for, and that nobody else may read it, is the rule of the
Globus toolkit and of XRootD.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from fasthep_flow.environments import Addition, Mount
from fasthep_flow.environments.credentials.found import (
    INSIDE,
    Found,
    MalformedError,
    named_path,
    read_credential,
    said_by,
    shown_file,
)
from fasthep_flow.errors import CredentialUnavailable
from fasthep_flow.model import Credential

__all__ = ["Proxy", "find_proxy", "read_proxy"]

_VARIABLE: Final = "X509_USER_PROXY"
_USUAL: Final = "/tmp/x509up_u{}"  # noqa: S108 - where the tools of the grid put it
_CVMFS: Final = "/cvmfs/grid.cern.ch/etc/grid-security"
_TRUST: Final[Mapping[str, tuple[str, ...]]] = {
    "X509_CERT_DIR": ("/etc/grid-security/certificates", f"{_CVMFS}/certificates"),
    "X509_VOMS_DIR": ("/etc/grid-security/vomsdir", f"{_CVMFS}/vomsdir"),
    "X509_VOMSES": ("/etc/vomses", "/etc/grid-security/vomses", f"{_CVMFS}/vomses"),
}
"""What proves to the user who the others are, and its usual places."""

_VOMS_EXTENSION: Final = "1.3.6.1.4.1.8005.100.100.5"
_VOMS_GROUPS: Final = "1.3.6.1.4.1.8005.100.100.4"
_VO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_USUAL_HOURS: Final = 12
_MOST_CERTIFICATES: Final = 100


class Proxy(Struct, frozen=True, kw_only=True):
    """What a proxy says of itself.

    Args:
        subject: Of the user, as OpenSSL writes it: ``/DC=ch/CN=Marie Curie``.
        ends_s: When the first of its certificates ends, seconds since 1970.
        vo: The virtual organisation whose attributes it has; empty where there are none.
        attributes_end_s: When these end; ``None`` where there are none.
        has_odd_attributes: Whether it has some that cannot be read.
    """

    subject: str
    ends_s: float
    vo: str = ""
    attributes_end_s: float | None = None
    has_odd_attributes: bool = False


def find_proxy(
    credential: Credential,
    variables: Mapping[str, str],
    *,
    contained: bool,
    lasting_s: float | None = None,
) -> Found:
    """The user's proxy.

    Args:
        credential: What is asked for.
        variables: The environment in which to look for it.
        contained: Whether the task runs in a container.
        lasting_s: Seconds that a new one would have to last.

    Raises:
        CredentialUnavailable: There is none, or nothing would take it.
    """
    if credential.file is not None:
        path = named_path(credential.file, "the workflow")
    elif (said := said_by(variables, _VARIABLE)) is not None:
        path = named_path(said, _VARIABLE)
    else:
        path = _USUAL.format(os.getuid())
    hours = max(_USUAL_HOURS, math.ceil((lasting_s or 0) / 3600) + 1)
    renewal = f"voms-proxy-init -valid {hours}:00"
    name = f"the x509 proxy {path}"
    content, found = read_credential(
        path, name, f"make one ({renewal}), or name its file in {_VARIABLE}"
    )
    try:
        proxy = read_proxy(content)
    except MalformedError as error:
        raise CredentialUnavailable(f"{name} is none: {error}", hint=renewal) from None
    if stat.S_IMODE(found.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise CredentialUnavailable(
            f"{name} may be read or written by others, and grid tools refuse such a one",
            hint=f"chmod 600 {path}",
        )
    if proxy.vo:
        renewal = f"voms-proxy-init -voms {proxy.vo} -valid {hours}:00"
    ends_s = proxy.ends_s
    if proxy.attributes_end_s is not None and proxy.attributes_end_s < ends_s:
        ends_s = proxy.attributes_end_s
        name = f"the VOMS attribute certificate in {path}"
    addition = shown_file(credential.variable or _VARIABLE, path, contained=contained)
    if contained:
        addition = _with_trust(addition, variables)
    return Found(
        name=name,
        holder=f"{proxy.subject} ({proxy.vo})" if proxy.vo else proxy.subject,
        ends_s=ends_s,
        remark="its VOMS attributes cannot be read" if proxy.has_odd_attributes else "",
        renewal=renewal,
        addition=addition,
    )


def _with_trust(addition: Addition, variables: Mapping[str, str]) -> Addition:
    """With the host's authorities and servers of VOMS, where it has them."""
    mounts, named = [*addition.mounts], dict(addition.variables)
    for variable, usual in _TRUST.items():
        said = said_by(variables, variable)
        # What is not there on the host may be in the image.
        for path in usual if said is None else (said,):
            if path.startswith("/") and os.path.exists(path):  # noqa: PTH110 - each run of a job
                inside = f"{INSIDE}/{variable}/{Path(path).name}"
                mounts.append(Mount(source=path, target=inside, read_only=True))
                named[variable] = inside
                break
    return Addition(mounts=tuple(mounts), variables=named)


def read_proxy(content: bytes) -> Proxy:
    """What a proxy's file says.

    Args:
        content: Of the file.

    Raises:
        MalformedError: It is no proxy.
    """
    try:
        return _read(content)
    except MalformedError:
        raise
    except Exception as error:  # noqa: BLE001 - of a parser of what anyone may have written
        # What the parser says may repeat what it read.
        raise MalformedError(
            f"it cannot be read as PEM and X.509 ({type(error).__name__})"
        ) from None


def _read(content: bytes) -> Proxy:
    from asn1crypto import pem, x509  # type: ignore[import-untyped]

    certificates: list[Any] = []
    has_key = False
    if not pem.detect(content):
        raise MalformedError("it holds nothing in PEM")
    for kind, _, block in pem.unarmor(content, multiple=True):
        if kind == "CERTIFICATE":
            certificates.append(x509.Certificate.load(block, strict=True))
            if len(certificates) > _MOST_CERTIFICATES:
                raise MalformedError("it holds too many certificates")
        elif kind.endswith("PRIVATE KEY"):
            has_key = True
    if not certificates:
        raise MalformedError("it holds no certificate")
    ends_s = min(
        one["tbs_certificate"]["validity"]["not_after"].native.timestamp() for one in certificates
    )
    subject = _subject(certificates[0])
    if not has_key:
        raise MalformedError("it holds no private key")
    attributes_end_s, vo, is_odd = None, "", False
    for content_of_extension in _attributes_of(certificates):
        try:
            attributes_end_s, vo = _attributes(content_of_extension)
        except Exception:  # noqa: BLE001 - as above; the certificates can be read all the same
            is_odd = True
        break
    return Proxy(
        subject=subject,
        ends_s=ends_s,
        vo=vo,
        attributes_end_s=attributes_end_s,
        has_odd_attributes=is_odd,
    )


def _subject(certificate: Any) -> str:  # noqa: ANN401 - the library has no types
    """Of the user: without the names that each proxy adds to the one that it was made of."""
    parts = [
        (part["type"].native, str(part["value"].native))
        for names in certificate.subject.chosen
        for part in names
    ]
    added = {("common_name", "proxy"), ("common_name", "limited proxy")}
    while len(parts) > 1 and (
        parts[-1] in added or (parts[-1][0] == "common_name" and parts[-1][1].isdecimal())
    ):
        parts.pop()
    text = "".join(f"/{_SHORT.get(kind, kind)}={value}" for kind, value in parts)
    return "".join(character if character.isprintable() else "?" for character in text)


_SHORT: Final = {
    "common_name": "CN",
    "country_name": "C",
    "domain_component": "DC",
    "email_address": "emailAddress",
    "locality_name": "L",
    "organization_name": "O",
    "organizational_unit_name": "OU",
    "state_or_province_name": "ST",
    "user_id": "UID",
}


def _attributes_of(certificates: list[Any]) -> Iterator[bytes]:
    for certificate in certificates:
        for extension in certificate["tbs_certificate"]["extensions"]:
            if extension["extn_id"].dotted == _VOMS_EXTENSION:
                yield bytes(extension["extn_value"])


def _attributes(content: bytes) -> tuple[float, str]:
    """When the first attribute certificate ends, and whose attributes they are."""
    from asn1crypto import cms, core

    class Certificates(core.SequenceOf):  # type: ignore[misc]
        _child_spec = cms.AttributeCertificateV2

    class Sequence(core.SequenceOf):  # type: ignore[misc]
        _child_spec = Certificates

    ends, vo = [], ""
    for listed in Sequence.load(content, strict=True):
        for certificate in listed:
            information = certificate["ac_info"]
            ends.append(_time(information["att_cert_validity_period"]["not_after_time"].native))
            vo = vo or _organisation(information["attributes"])
    return min(ends), vo


def _organisation(attributes: Any) -> str:  # noqa: ANN401 - the library has no types
    """The one that says ``cms://voms.cern.ch:15002`` of itself."""
    from asn1crypto import cms

    for attribute in attributes:
        if attribute["type"].dotted == _VOMS_GROUPS:
            for value in attribute["values"]:
                syntax = cms.IetfAttrSyntax.load(value.dump())
                for authority in syntax["policy_authority"].native or ():
                    vo = str(authority).partition("://")[0]
                    if _VO.fullmatch(vo):
                        return vo
    return ""


def _time(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
