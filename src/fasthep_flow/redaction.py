"""What is shown to nobody: the values of variables that are secrets.

A variable is one if its name says so, or if the author lists it under ``secrets``. Of the value
of any other variable the credentials are left out: ``https://***@host/path``, ``Bearer ***``.
Where the values are known they are left out of any text, in whatever form programs print them.
"""

from __future__ import annotations

import base64
import json
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final, NamedTuple
from urllib.parse import quote, quote_plus

__all__ = [
    "HIDDEN",
    "is_secret",
    "looks_secret",
    "secret_values",
    "without_assigned",
    "without_credentials",
    "without_values",
]

HIDDEN: Final = "***"
"""Stands for what is left out."""

# Of whole words: TOKENIZER, MONKEY, AUTHOR and COMPASS are no secrets.
_WORDS: Final = frozenset(
    {
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "creds",
        "jwt",
        "pass",
        "passcode",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "pat",
        "pgpass",
        "pwd",
        "secret",
        "secrets",
        "token",
        "tokens",
    }
)
# Words that are written together with the one before: PGPASSWORD, GITHUBTOKEN.
_ENDS: Final = (
    "accesskey",
    "apikey",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "secretkey",
    "sshkey",
    "token",
)
_KEYS: Final = frozenset(
    {
        "access",
        "account",
        "api",
        "auth",
        "deploy",
        "encryption",
        "master",
        "private",
        "secret",
        "session",
        "shared",
        "signing",
        "ssh",
    }
)
# What a shell keeps there is the working directory; what agents do, the path of a socket.
_NO_SECRETS: Final = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK"})
_SEGMENT: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# All before the last '@': where nobody encodes them, passwords hold '/' and '@'.
_USER: Final = re.compile(r"(?<=://)\S*@")
# Without '//' a word of a text is taken for one only as a whole; an image's digest is no host.
_SCHEMELESS: Final = re.compile(
    r"(?<!\S)([\"']?(?:[^\s:/@=]+=)?)[^\s:/@=]+:(?!/)\S*@(?!sha\d+:)(?=[^\s@])"
)
_SCHEME: Final = re.compile(r"\s*(?:authorization:\s*)?(?:bearer|basic)\s+(?=\S)", re.IGNORECASE)
_PARAMETER: Final = re.compile(r"(?<=[?&;])([A-Za-z0-9_.-]+)=([^&;\s]+)")
_ASSIGNED: Final = re.compile(r"(?<![A-Za-z0-9_.])[A-Za-z_][A-Za-z0-9_.-]{0,200}(?==[^\s])")
_VALUE: Final = re.compile(
    r"(?<![\w$.])([A-Za-z_][A-Za-z0-9_]{0,200})=(?!\"?(?:\$|`))"
    r"(?:'[^']*(?:'|$)|\"(?:\\.|[^\"\\])*(?:\"|$)|\\.|[^\s;&|'\"\\])+",
    re.DOTALL,
)
# Single quotes are the parts of a value in which nothing is expanded.
_EXPANDED: Final = re.compile(
    r"'[^']*(?:'|$)|(\"(?:\\.|[^\"\\])*(?:\"|$)|(?:\\.|[^'\"\\])+)", re.DOTALL
)
_REFERENCE: Final = re.compile(r"\\.|\$\{?([A-Za-z_][A-Za-z0-9_]{0,200})", re.DOTALL)
_SIGNATURES: Final = frozenset({"authz", "sig", "signature", "x-amz-signature"})
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")

# Programs wrap base64 at any width; in JSON, or as Python shows it, the breaks are escaped.
_BREAKS: Final = re.compile(r"(?:\s|\\r|\\n)+")
_QUOTES: Final = "\\'\""
_QUOTING: Final = re.compile(r"[\\'\"]+")
_IS_QUOTED: Final = re.compile(r"[^A-Za-z0-9_@%+:./-]")
# Of bash: what has a backslash between double quotes, and what has one without quotes.
_IN_DOUBLE_QUOTES: Final = re.compile(r"([$`\"\\])")
_IN_NO_QUOTES: Final = re.compile(r"([\s!\"$&'()*,;<>?\[\\\]^`{|}]|^[#~])")
# Of $'...', where the locale has more than ASCII, and where it has not.
_IN_ANSI_QUOTES: Final = {
    **{number: f"\\{number:03o}" for number in (*range(32), 127)},
    **str.maketrans(
        dict(zip("\a\b\x1b\f\n\r\t\v", ("\\" + sign for sign in "abEfnrtv"), strict=True))
    ),
    **{ord(sign): f"\\{sign}" for sign in "\\'"},
}
_IN_ASCII_QUOTES: Final = _IN_ANSI_QUOTES | {
    number: f"\\{number:03o}" for number in range(128, 256)
}

_SHORTEST: Final = 4
"""Characters of a value that is looked for: shorter ones are part of many words."""

_SHORTEST_CODED: Final = 8
"""The same of a value in base64."""


@lru_cache(maxsize=4096)
def _says_secret(name: str) -> bool:
    if name in _NO_SECRETS:
        return False
    words = [word.lower() for word in _SEGMENT.findall(name)]
    if any(word in _WORDS or word.endswith(_ENDS) for word in words):
        return True
    return any(first in _KEYS and second in {"key", "keys"} for first, second in pairwise(words))


def is_secret(name: str, declared: Collection[str] = ()) -> bool:
    """Whether the value of a variable is shown to nobody.

    Args:
        name: Of the variable.
        declared: The names that the author lists under ``secrets``.
    """
    return name in declared or _says_secret(name)


def secret_values(
    variables: Mapping[str, str | None], declared: Collection[str] = ()
) -> frozenset[str]:
    """The values that are looked for in texts, of at least four characters.

    Args:
        variables: With their values.
        declared: The names that the author lists under ``secrets``.
    """
    return frozenset(
        value
        for name, value in variables.items()
        if value is not None and len(value) >= _SHORTEST and is_secret(name, declared)
    )


def without_values(text: str, values: frozenset[str], *, is_cut: bool = False) -> str:
    """The text without the values, each of their lines, and either in the usual codings.

    These are base64, wherever it begins and is wrapped, percent-encoding, the quotes and
    backslashes of a shell, and the escapes of JSON and Python.

    Args:
        text: Undecodable bytes in it are escaped with a backslash.
        values: Of secrets; see :func:`secret_values`.
        is_cut: Whether it is the end of a longer text, and may begin within a value.
    """
    if not values or not text:
        return text
    forms = _forms(values)
    for form in forms.plain:
        if form in text:
            text = text.replace(form, HIDDEN)
    if is_cut and (rest := max((_shared(form, text) for form in forms.plain), default=0)):
        text = HIDDEN + text[rest:]
    text = _across(text, _BREAKS, forms.wrapped, is_cut=is_cut)
    return _across(text, _QUOTING, forms.quoted, is_cut=is_cut)


def _across(
    text: str, gap: re.Pattern[str], forms: Mapping[str, int], *, is_cut: bool = False
) -> str:
    """The text without the forms, whatever gaps are within them.

    Args:
        text: Where they are looked for.
        gap: What may stand anywhere in a form.
        forms: With the least that each takes up, its gaps included.
        is_cut: Whether the text may begin within a form.
    """
    if not forms or gap.search(text) is None:
        return text
    joined = gap.sub("", text)
    found = [
        (start, start + len(form), least)
        for form, least in forms.items()
        for start in _places(form, joined)
    ]
    if is_cut:
        found += [(0, end, 0) for form in forms if (end := _shared(form, joined))]
    if not found:
        return text
    gaps = [one.span() for one in gap.finditer(text)]
    skipped = [0, *accumulate(end - start for start, end in gaps)]
    begins = [start - before for (start, _), before in zip(gaps, skipped, strict=False)]

    def place(index: int) -> int:
        return index + skipped[bisect_right(begins, index)]

    whole = [(place(start), place(end - 1) + 1, least) for start, end, least in found]
    told, done = [], 0
    for start, end, least in sorted(whole):
        if end > done and end - start >= least:
            told += [text[done:start], HIDDEN] if start >= done else []
            done = end
    return "".join((*told, text[done:]))


def _places(form: str, text: str) -> Iterator[int]:
    start = text.find(form)
    while start >= 0:
        yield start
        start = text.find(form, start + len(form))


def _shared(form: str, text: str) -> int:
    """How many characters the end of the form and the start of the text have in common.

    Less than a value that is looked for has is the start of any text.
    """
    start, first = 0, text[:_SHORTEST]
    if len(first) < _SHORTEST:
        return 0
    while (start := form.find(first, start + 1)) > 0:
        if text.startswith(form[start:]):
            return len(form) - start
    return 0


class _Forms(NamedTuple):
    """What stands for values in texts."""

    plain: tuple[str, ...]
    """As they are found, the longest first."""
    wrapped: dict[str, int]
    """Those in base64, which may be wrapped; see :func:`_across`."""
    quoted: dict[str, int]
    """What is left of a value without quotes and backslashes, where a shell may set more."""


@lru_cache(maxsize=64)
def _forms(values: frozenset[str]) -> _Forms:
    parts = {
        part
        for value in values
        for part in (value, value.strip(), *map(str.strip, value.splitlines()))
        if len(part) >= _SHORTEST
    }
    wrapped = {form for part in parts for form in _in_base64(part)}
    plain = wrapped.union(*map(_coded, parts))
    quoted: dict[str, int] = {}
    for part in filter(_IS_QUOTED.search, parts):
        for form in (part, part.translate(_IN_ANSI_QUOTES)):
            bare = _QUOTING.sub("", form)
            if len(bare) >= _SHORTEST:
                # Less is a word of its own: of "it's" no quotes make "its".
                quoted[bare] = min(len(form.strip(_QUOTES)), quoted.get(bare, len(form)))
    return _Forms(
        tuple(sorted(plain, key=len, reverse=True)),
        dict.fromkeys(wrapped, 0),
        quoted,
    )


def _coded(part: str) -> Iterator[str]:
    data = part.encode("utf-8", "surrogateescape")
    # As what is no text is written in what is shown.
    plain = data.decode("utf-8", "backslashreplace")
    yield plain
    yield json.dumps(plain)[1:-1]
    yield json.dumps(plain, ensure_ascii=False)[1:-1]
    yield repr(plain)[1:-1]
    if _IS_QUOTED.search(plain):
        yield plain.replace("'", "'\\''")
        yield re.sub("('+)", "'\"\\1\"'", plain)
        yield _IN_DOUBLE_QUOTES.sub(r"\\\1", plain)
        yield _IN_NO_QUOTES.sub(r"\\\1", plain)
        yield plain.translate(_IN_ANSI_QUOTES)
        yield data.decode("latin-1").translate(_IN_ASCII_QUOTES)
    yield quote(data, safe="")
    yield quote(data)
    yield quote_plus(data)


def _in_base64(part: str) -> Iterator[str]:
    data = part.encode("utf-8", "surrogateescape")
    for before in range(3):
        # Three bytes are four signs: of those at both ends some depend on what stands there.
        coded = base64.b64encode(bytes(before) + data).rstrip(b"=").decode()
        whole = coded[(0, 2, 3)[before] : len(coded) - ((before + len(data)) % 3 > 0)]
        if len(whole) >= _SHORTEST_CODED:
            yield whole
            yield whole.replace("+", "-").replace("/", "_")


def without_credentials(text: str) -> str:
    """The text without the users, passwords, tokens and signatures that it shows by its form."""
    if _PRIVATE_KEY.search(text):
        return HIDDEN
    if (scheme := _SCHEME.match(text)) is not None:
        return f"{scheme[0]}{HIDDEN}"
    if "://" in text:
        text = _USER.sub(_without_user, text)
    if "@" in text and ":" in text:
        text = _SCHEMELESS.sub(rf"\1{HIDDEN}@", text)
    if "=" in text and ("?" in text or "&" in text):
        text = _PARAMETER.sub(_without_signature, text)
    return text


def without_assigned(text: str) -> str:
    """Lines of a shell without the values that they give to variables whose names are secret.

    What the shell itself finds out, ``$(cat token)``, is none, nor is what it makes of another
    secret, ``"Bearer $TOKEN"``.
    """
    return _VALUE.sub(_without_value, text)


def looks_secret(text: str) -> bool:
    """Whether a text holds credentials, or the value of a secret behind its name and a ``=``."""
    return without_credentials(text) != text or any(map(_says_secret, _ASSIGNED.findall(text)))


def _without_value(found: re.Match[str]) -> str:
    if not _says_secret(found[1]) or _is_of_secret(found[0][len(found[1]) + 1 :]):
        return found[0]
    return f"{found[1]}={HIDDEN}"


def _is_of_secret(value: str) -> bool:
    """Whether a shell puts the value of a variable whose name is secret in there."""
    return any(
        _says_secret(name) for part in _EXPANDED.findall(value) for name in _REFERENCE.findall(part)
    )


def _without_user(found: re.Match[str]) -> str:
    user = found[0]
    # 'https://host/a@b' holds no user, 'https://user:pa/ss@host' does.
    return f"{HIDDEN}@" if ":" in user or "/" not in user else user


def _without_signature(found: re.Match[str]) -> str:
    name = found[1]
    hides = name.lower() in _SIGNATURES or _says_secret(name)
    return f"{name}={HIDDEN}" if hides else found[0]
