"""Digests of texts, of which no others come to the same; and names that can be written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import msgspec

__all__ = ["clear", "digest_of", "digest_of_parts", "framed", "json_text"]


def clear(text: str) -> str:
    """The text as it can be written down: what is no Unicode is told apart by a digest."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{text.encode(errors='backslashreplace').decode()}~{digest_of(text)[:8]}"
    return text


def json_text(value: object) -> str:
    """Plain data as JSON: the same for the same data in the same order."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(value)


def digest_of(*texts: str) -> str:
    """What stands for several texts, in this order."""
    return hashlib.blake2b(framed(texts), digest_size=20).hexdigest()


def digest_of_parts(head: str, parts: Mapping[str, str]) -> str:
    """What stands for a mapping, in whatever order: ``sha256:...``.

    Args:
        head: What else it is to stand for.
        parts: Texts by name.
    """
    texts = [head]
    for name in sorted(parts):
        texts += (name, parts[name])
    return f"sha256:{hashlib.sha256(framed(texts)).hexdigest()}"


def framed(texts: Iterable[str]) -> bytes:
    """One text of several, which no others come to."""
    return "".join([f"{len(text)}:{text}" for text in texts]).encode("utf-8", "surrogatepass")
