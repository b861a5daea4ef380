"""Credentials that were made up: nobody would take them, but they look like real ones."""

import base64
import hashlib
import json
import os
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from asn1crypto import algos, cms, core, keys, pem, x509  # type: ignore[import-untyped]

HOUR_S = 3600.0
SUBJECT = (
    ("domain_component", "ch"),
    ("organization_name", "Made Up"),
    ("common_name", "Marie Curie"),
)
VOMS_EXTENSION = "1.3.6.1.4.1.8005.100.100.5"
VOMS_GROUPS = "1.3.6.1.4.1.8005.100.100.4"


Names: TypeAlias = tuple[tuple[str, str], ...]


class _Groups(cms.AttCertAttribute):  # type: ignore[misc]
    """The attribute of VOMS, which the library does not know."""

    _oid_specs: ClassVar = {VOMS_GROUPS: cms.SetOfIetfAttrSyntax}


def _when(now_s: float, seconds: float) -> datetime:
    return datetime.fromtimestamp(int(now_s), UTC) + timedelta(seconds=seconds)


def _name(parts: Names) -> Any:
    """A name may have a part twice, which the library's own way does not allow."""
    listed = []
    for kind, text in parts:
        value = (
            x509.DNSName(text)
            if kind == "domain_component"
            else x509.DirectoryString("utf8_string", core.UTF8String(text))
        )
        part = x509.NameTypeAndValue({"type": kind, "value": value})
        listed.append(x509.RelativeDistinguishedName([part]))
    return x509.Name(name="", value=x509.RDNSequence(listed))


def _signed() -> Any:
    return algos.SignedDigestAlgorithm({"algorithm": "sha256_rsa"})


def made_key() -> tuple[Any, bytes]:
    """A public key, and something in the form of a private one that belongs to it to nobody."""
    number = int.from_bytes(os.urandom(256), "big") | 1
    public = keys.PublicKeyInfo.wrap(
        keys.RSAPublicKey({"modulus": number, "public_exponent": 65537}), "rsa"
    )
    parts = {
        name: int.from_bytes(os.urandom(128), "big")
        for name in ("prime1", "prime2", "exponent1", "exponent2", "coefficient")
    }
    private = keys.RSAPrivateKey(
        {
            "version": "two-prime",
            "modulus": number,
            "public_exponent": 65537,
            "private_exponent": int.from_bytes(os.urandom(256), "big"),
            **parts,
        }
    )
    return public, private.dump()


def made_certificate(
    subject: Names, public: Any, *, now_s: float, lasts_s: float, extensions: Any = ()
) -> bytes:
    body = {
        "version": "v3",
        "serial_number": 7,
        "signature": _signed(),
        "issuer": _name(subject),
        "validity": {
            "not_before": x509.Time({"utc_time": _when(now_s, -HOUR_S * 24 * 30)}),
            "not_after": x509.Time({"utc_time": _when(now_s, lasts_s)}),
        },
        "subject": _name(subject),
        "subject_public_key_info": public,
    }
    if extensions:
        body["extensions"] = list(extensions)
    certificate = x509.Certificate(
        {
            "tbs_certificate": x509.TbsCertificate(body),
            "signature_algorithm": _signed(),
            "signature_value": os.urandom(256),
        }
    )
    return bytes(certificate.dump())


def made_attributes(vo: str, *, now_s: float, lasts_s: float) -> Any:
    """The extension in which VOMS puts its attribute certificate."""
    name = x509.GeneralNames([x509.GeneralName("directory_name", _name(SUBJECT))])
    authority = x509.GeneralName("uniform_resource_identifier", f"{vo}://voms.invalid:15002")
    groups = cms.IetfAttrSyntax(
        {
            "policy_authority": [authority],
            "values": [cms.IetfAttrValue("octets", f"/{vo}/Role=NULL".encode())],
        }
    )
    certificate = cms.AttributeCertificateV2(
        {
            "ac_info": {
                "version": "v2",
                "holder": {"base_certificate_id": {"issuer": name, "serial": 7}},
                "issuer": cms.AttCertIssuer("v2_form", {"issuer_name": name}),
                "signature": _signed(),
                "serial_number": 8,
                "att_cert_validity_period": {
                    "not_before_time": _when(now_s, -HOUR_S),
                    "not_after_time": _when(now_s, lasts_s),
                },
                "attributes": [_Groups({"type": VOMS_GROUPS, "values": [groups]})],
            },
            "signature_algorithm": _signed(),
            "signature": os.urandom(256),
        }
    )
    return {
        "extn_id": VOMS_EXTENSION,
        "critical": False,
        "extn_value": _sequence(_sequence(certificate.dump())),
    }


def _sequence(content: bytes) -> bytes:
    return bytes(core.Sequence(contents=content).dump())


def made_proxy(
    path: Path,
    *,
    now_s: float,
    lasts_s: float = 12 * HOUR_S,
    user_lasts_s: float = 24 * 300 * HOUR_S,
    vo: str = "",
    vo_lasts_s: float = 12 * HOUR_S,
    extensions: Any = (),
) -> bytes:
    """Write a proxy; the bytes of its key, as they stand in the file."""
    public, private = made_key()
    extensions = list(extensions)
    if vo:
        extensions.append(made_attributes(vo, now_s=now_s, lasts_s=vo_lasts_s))
    proxy = made_certificate(
        # The proxy of a proxy has one more name each time.
        (*SUBJECT, ("common_name", "12345678")),
        public,
        now_s=now_s,
        lasts_s=lasts_s,
        extensions=extensions,
    )
    user = made_certificate(SUBJECT, made_key()[0], now_s=now_s, lasts_s=user_lasts_s)
    key = pem.armor("RSA PRIVATE KEY", private)
    # As the tools do, another file takes the place of the one before.
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=0o600)
    new.write_bytes(pem.armor("CERTIFICATE", proxy) + key + pem.armor("CERTIFICATE", user))
    new.replace(path)
    return bytes(key.splitlines()[-4])


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">I", len(encoded)) + encoded


def _principal(realm: str, *names: str, kind: int = 1) -> bytes:
    return struct.pack(">II", kind, len(names)) + _text(realm) + b"".join(map(_text, names))


def made_ticket(
    service: tuple[str, ...],
    *,
    now_s: float,
    lasts_s: float,
    renewable_s: float = 0,
    realm: str = "MADE.UP",
    version: int = 4,
) -> bytes:
    """An entry of a cache, as the format's description has it."""
    times = (now_s - HOUR_S, now_s - HOUR_S, now_s + lasts_s, renewable_s and now_s + renewable_s)
    return b"".join(
        (
            _principal("MADE.UP", "marie"),
            _principal(realm, *service, kind=2),
            struct.pack(">H", 18) * (2 if version == 3 else 1),
            _text("k" * 32),
            struct.pack(">4I", *map(int, times)),
            b"\0",
            struct.pack(">I", 0x40E10000),
            # An address, and data of an authorisation.
            struct.pack(">IHI", 1, 2, 4) + bytes((127, 0, 0, 1)),
            struct.pack(">IH", 1, 1) + _text("data"),
            _text("the ticket, which only its service can read"),
            _text(""),
        )
    )


def made_tickets(
    path: Path,
    *,
    now_s: float,
    lasts_s: float = 10 * HOUR_S,
    renewable_s: float = 0,
    version: int = 4,
    entries: tuple[bytes, ...] | None = None,
) -> None:
    """Write a cache with settings, a ticket for tickets, and one for a service."""
    if entries is None:
        entries = (
            made_ticket(
                ("krb5_ccache_conf_data", "pa_type"),
                now_s=now_s,
                lasts_s=-now_s,
                realm="X-CACHECONF:",
                version=version,
            ),
            made_ticket(
                ("krbtgt", "MADE.UP"),
                now_s=now_s,
                lasts_s=lasts_s,
                renewable_s=renewable_s,
                version=version,
            ),
            made_ticket(("host", "a.made.up"), now_s=now_s, lasts_s=60, version=version),
        )
    header = struct.pack(">HHHII", 12, 1, 8, 0, 0) if version == 4 else b""
    path.touch(mode=0o600)
    path.write_bytes(
        bytes((5, version)) + header + _principal("MADE.UP", "marie") + b"".join(entries)
    )


def made_token(claims: dict[str, Any]) -> str:
    """A token in the form of JWT, with a signature that is none."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    header = {"alg": "RS256", "typ": "JWT"}
    parts = [part(json.dumps(each).encode()) for each in (header, claims)]
    return ".".join([*parts, part(hashlib.sha256(os.urandom(8)).digest())])
