"""What is shown to nobody: the values of variables that are secrets.

A variable is one if its name says so, or if the author lists it under ``secrets``. Of the value
of any other variable the credentials are left out: ``https://***@host/path``, ``Bearer ***``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from itertools import pairwise
from typing import Final

__all__ = ["HIDDEN", "is_secret", "looks_secret", "without_assigned", "without_credentials"]

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
_SIGNATURES: Final = frozenset({"authz", "sig", "signature", "x-amz-signature"})
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")


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

    What the shell itself finds out, ``$(cat token)``, is none.
    """
    return _VALUE.sub(_without_value, text)


def looks_secret(text: str) -> bool:
    """Whether a text holds credentials, or the value of a secret behind its name and a ``=``."""
    return without_credentials(text) != text or any(map(_says_secret, _ASSIGNED.findall(text)))


def _without_value(found: re.Match[str]) -> str:
    return f"{found[1]}={HIDDEN}" if _says_secret(found[1]) else found[0]


def _without_user(found: re.Match[str]) -> str:
    user = found[0]
    # 'https://host/a@b' holds no user, 'https://user:pa/ss@host' does.
    return f"{HIDDEN}@" if ":" in user or "/" not in user else user


def _without_signature(found: re.Match[str]) -> str:
    name = found[1]
    hides = name.lower() in _SIGNATURES or _says_secret(name)
    return f"{name}={HIDDEN}" if hides else found[0]
