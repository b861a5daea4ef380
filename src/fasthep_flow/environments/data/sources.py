"""Where extra data comes from: what the author's text names."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from fasthep_flow.errors import DataUnavailable
from fasthep_flow.model import DataItem
from fasthep_flow.redaction import without_credentials

__all__ = ["Source", "SourceKind", "source_of"]

SourceKind: TypeAlias = Literal["local", "http", "s3", "root"]

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://|:)")
_KINDS: Final[dict[str, SourceKind]] = {
    "file": "local",
    "http": "http",
    "https": "http",
    "s3": "s3",
    "root": "root",
    "roots": "root",
    "xroot": "root",
    "xroots": "root",
}
_MAGIC: Final = re.compile(r"[*?\[]")
_ROOT_MAGIC: Final = re.compile(r"[*\[]")
"""What follows a ``?`` there is for the server."""


class Source(Struct, frozen=True, kw_only=True):
    """What the author's text names.

    Args:
        kind: How it is fetched.
        text: An absolute path, or a URL.
        shown: The same without credentials: what people may see.
    """

    kind: SourceKind
    text: str
    shown: str

    @property
    def key(self) -> str:
        """What tells it from all others, and shows nothing of it."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def path(self) -> str:
        """Of a URL what stands behind the host or bucket; ``%20`` is a blank there."""
        if self.kind == "local":
            return self.text
        return urllib.parse.unquote(self._written, errors="surrogateescape")

    @property
    def _written(self) -> str:
        behind = self.text.partition("://")[2].partition("/")[2]
        # In S3 these are letters like others.
        return behind if self.kind == "s3" else re.split("[?#]", behind, maxsplit=1)[0]

    @property
    def host(self) -> str:
        """Of a URL: its host, or its bucket."""
        return self.text.partition("://")[2].partition("/")[0]

    @property
    def may_be_pattern(self) -> bool:
        """Whether it holds what stands for any letters; a web server lists nothing."""
        match self.kind:
            case "http":
                return False
            case "root":
                return _ROOT_MAGIC.search(self._written) is not None
            case "s3":
                return _MAGIC.search(self._written) is not None
            case "local":
                return _MAGIC.search(self.text) is not None

    @property
    def name(self) -> str:
        """The last word of its path; empty where that says nothing."""
        path = self.text if self.kind == "local" else self._written
        name = path.rstrip("/").rpartition("/")[2]
        if self.kind != "local":
            name = urllib.parse.unquote(name, errors="surrogateescape")
        return "" if name in {".", ".."} or "/" in name or "\0" in name else name


def source_of(item: DataItem) -> Source:
    """What the item's source names.

    Raises:
        DataUnavailable: There is no way to fetch from there.
    """
    shown = without_credentials(item.source)
    found = _SCHEME.match(item.source)
    if found is None:
        return Source(kind="local", text=os.path.normpath(item.source), shown=shown)
    scheme = found[1].lower()
    if "::" in item.source.partition("/")[0] or scheme not in _KINDS:
        raise DataUnavailable(
            f"{shown}: there is no way to fetch from '{scheme}'",
            hint="what can be fetched starts with https://, http://, s3:// or root://,"
            " or is a path of this machine",
        )
    kind = _KINDS[scheme]
    if kind == "local":
        path = urllib.parse.unquote(item.source.partition("://")[2], errors="surrogateescape")
        if not path.startswith("/"):
            raise DataUnavailable(f"{shown} names no path", hint="write it without 'file://'")
        return Source(kind=kind, text=os.path.normpath(path), shown=shown)
    host = item.source.partition("://")[2].partition("/")[0]
    if not host:
        what = "bucket" if kind == "s3" else "host"
        raise DataUnavailable(f"{shown} names no {what}")
    return Source(kind=kind, text=item.source, shown=shown)
