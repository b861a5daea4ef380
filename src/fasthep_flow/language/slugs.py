"""Folder names of tasks."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

__all__ = ["MOST_CHARACTERS", "make_slugs"]

MOST_CHARACTERS: Final = 64
"""Length of the longest slug; all are ASCII, so these are bytes too."""

_DIGITS: Final = 10
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.]+")


def make_slugs(names: Sequence[str]) -> list[str]:
    """A folder name for each task.

    Slugs are readable, safe as a file name on every system, and unique also where case does
    not matter. Names whose readable forms are alike get a digest, all of them, so that a
    task's folder does not depend on the order of the file.

    Args:
        names: Names of tasks, each once.
    """
    readable = [_readable(name) for name in names]
    alike = Counter(slug.casefold() for slug in readable)
    slugs = []
    taken = {slug for slug, number in alike.items() if number == 1}
    for name, slug in zip(names, readable, strict=True):
        if slug and alike[slug.casefold()] == 1:
            slugs.append(slug)
            continue
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        length = _DIGITS
        while True:
            distinct = f"{slug or 'task'}-{digest[:length]}"
            if distinct.casefold() not in taken:
                break
            length += 1
        taken.add(distinct.casefold())
        slugs.append(distinct)
    return slugs


def _readable(name: str) -> str:
    """The name in letters, digits and ``-_.``; accents are dropped; empty if nothing is left."""
    plain = unicodedata.normalize("NFKD", name[: 4 * MOST_CHARACTERS])
    plain = plain.encode("ascii", "ignore").decode()
    room = MOST_CHARACTERS - _DIGITS - 1
    return _UNSAFE.sub("-", plain).strip("-.")[:room].rstrip("-.")
