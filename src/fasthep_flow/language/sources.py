"""Where data is: paths and URLs as authors write them.

Which kinds of URL there are is what there is something to read them with. A path and a URL may
hold ``*``, ``?`` and ``[...]``, but in the URL of a web server, which lists nothing, and where
a ``?`` starts what a server is told besides.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from fasthep_flow.language.images import Remark
from fasthep_flow.language.paths import absolute, check_text
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.redaction import without_credentials

__all__ = ["AUTOMOUNTED", "SCHEMES", "is_glob", "is_url", "name_of", "parse_source", "shows_secret"]

SCHEMES: Final = ("file", "http", "https", "s3", "root", "roots")
"""The kinds of URL that there is something to read them with."""

AUTOMOUNTED: Final = ("/cvmfs/", "/eos/", "/afs/")
"""What is mounted when somebody looks at it: that may take long, and is not done to plan."""

_OTHER_NAMES: Final[Mapping[str, str]] = {"xroot": "root", "xroots": "roots"}
_WEB: Final = frozenset({"http", "https"})
_XROOTD: Final = frozenset({"root", "roots"})
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_NO_SLASHES: Final = re.compile(
    r"(https?|s3|x?roots?|file|davs?|srm|gsiftp):/?(?!/)", re.IGNORECASE
)
_LOGICAL: Final = "/store/"
_REDIRECTOR: Final = "root://REDIRECTOR/"
_GLOB: Final = re.compile(r"[*?]|\[[^\]]+\]")
_GLOB_IN_URL: Final = re.compile(r"[*]|\[[^\]]+\]")
_FETCH: Final = "remove it if the data is open without, else fetch it first and name the file"
_XROOTD_HINT: Final = "remove it: X509_USER_PROXY, a ticket or BEARER_TOKEN_FILE is found"
_S3_HINT: Final = "remove it: AWS_PROFILE, AWS_ACCESS_KEY_ID or ~/.aws is found"
_KEPT_APART: Final[Mapping[str, str]] = {
    "http": "remove it: ~/.netrc of the user is read",
    "https": "remove it: ~/.netrc of the user is read",
    "s3": _S3_HINT,
    "root": _XROOTD_HINT,
    "roots": _XROOTD_HINT,
}
_TOKENS: Final[Mapping[str, str]] = {"root": _XROOTD_HINT, "roots": _XROOTD_HINT}
_SHORTEST_SECRET: Final = 4
_HINTS: Final[Mapping[str, str]] = {
    "dav": "WebDAV is read as http: write http://",
    "davs": "WebDAV is read as https: write https://",
    "srm": "write root://HOST//store/..., as 'xrdfs' or the site's page names it",
    "gsiftp": "write root://HOST//... or https://HOST/...",
    "gs": "write https://storage.googleapis.com/BUCKET/KEY",
    "ftp": "fetch it first, and name the file",
}


def parse_source(text: str, directory: Path) -> tuple[str, tuple[Remark, ...]]:
    """The source that an author named: a URL, or an absolute path; and what to know of it.

    Args:
        text: What the author wrote.
        directory: Where relative paths start: the workflow file's folder.

    Raises:
        Refusal: It is none, a placeholder, or one that nothing here reads.
    """
    check_text(text, "path or URL")
    text = text.strip()
    match = _URL.fullmatch(text)
    if match is None:
        if near := _NO_SLASHES.match(text):
            raise Refusal("this is no URL", f"write '//' behind the ':' of {shown(near[1])}")
        return _path(text, directory), ()
    scheme = match[1].lower()
    scheme = _OTHER_NAMES.get(scheme, scheme)
    if scheme not in SCHEMES:
        known = [name for name in SCHEMES if name != "file"]
        hint = _HINTS.get(scheme) or nearest(scheme, known)
        raise Refusal(f"there is nothing to read {scheme}:// with", hint)
    if scheme == "file":
        return _file(text, match[2], directory), ()
    return _url(scheme, match[2], without_credentials(text))


def _path(text: str, directory: Path) -> str:
    if text.startswith(_LOGICAL) and not Path(_LOGICAL).is_dir():
        raise Refusal(
            f"{shown(text)} is a logical file name, which says not where the file is",
            f"write {shown(_REDIRECTOR + text)}, such as xrootd-cms.infn.it for the redirector",
        )
    path = absolute(text, directory)
    if posixpath.normpath(path) == "/":
        raise Refusal(f"{shown(text)} is all of this machine", "name a folder, or a file")
    return f"{path}/" if text.endswith("/") else path


def _file(text: str, rest: str, directory: Path) -> str:
    """The path of a ``file://`` address, as RFC 8089 has it."""
    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise Refusal(
            f"{shown(text)} is no address of a file", "write the path alone, or three slashes"
        )
    return _path(unquote(path), directory)


def _url(scheme: str, rest: str, told: str) -> tuple[str, tuple[Remark, ...]]:
    url = f"{scheme}://{rest}"
    _require_closed(scheme, url, told)
    if " " in rest:
        raise Refusal(f"{shown(told)} holds a blank", "write %20 for it")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        # What it says holds a part of what was written: a password with a '/' in it, perhaps.
        raise Refusal(f"{shown(told)} is no URL", "such as https://HOST/PATH") from None
    if not host:
        raise Refusal(f"{shown(told)} names no {'bucket' if scheme == 's3' else 'host'}")
    if not parts.path.strip("/"):
        what = "object" if scheme == "s3" else "file"
        raise Refusal(f"{shown(told)} names no {what}", f"write the {what}'s path behind it")
    remarks: list[Remark] = []
    if scheme in _WEB:
        if "*" in parts.path:
            raise Refusal(
                f"{shown(told)} holds a '*', and no web server lists its files",
                "name each of them; %2A is the '*' of a name",
            )
        if parts.path.endswith("/"):
            raise Refusal(
                f"{shown(told)} is a folder, and no web server lists its files", "name each of them"
            )
    if scheme in _XROOTD and not parts.path.startswith("//"):
        remarks.append(
            (
                "with one slash behind the host the path starts where the server likes",
                f"write {shown(told.replace(parts.path, f'/{parts.path}', 1))}",
            )
        )
    return url, tuple(remarks)


def _require_closed(scheme: str, url: str, told: str) -> None:
    """Refuse a password or a token: plans, jobs and lock files name the source."""
    try:
        is_open = shows_secret(url)
    except ValueError:
        raise Refusal(f"{shown(told)} is no URL", "such as https://HOST/PATH") from None
    if is_open:
        has_password = urlsplit(url).password is not None
        what = "a password" if has_password else "a token or a signature"
        raise Refusal(
            f"{shown(told)} holds {what}, which would stand in the records",
            (_KEPT_APART if has_password else _TOKENS).get(scheme, _FETCH),
        )


def shows_secret(url: str) -> bool:
    """Whether a URL holds a password or a token.

    The name of a user alone is none, nor is a parameter like ``pass=2``: what is so short keeps
    nothing secret.
    """
    parts = urlsplit(url)
    words = (f"?{word}" for word in re.split("[&;]", parts.query))
    return parts.password is not None or any(
        without_credentials(word) != word and len(word.partition("=")[2]) >= _SHORTEST_SECRET
        for word in words
    )


def is_url(source: str) -> bool:
    """Whether a source that was read is a URL, and no path."""
    return _URL.match(source) is not None


def is_glob(source: str) -> bool:
    """Whether a source that was read may mean several files."""
    if not is_url(source):
        return _GLOB.search(source) is not None
    scheme, _, rest = source.partition("://")
    if scheme == "s3":
        return _GLOB.search(rest) is not None
    return scheme in _XROOTD and _GLOB_IN_URL.search(urlsplit(source).path) is not None


def name_of(source: str) -> str:
    """The name of the file or folder that a source is."""
    scheme = urlsplit(source).scheme if is_url(source) else ""
    path = urlsplit(source).path if scheme in _WEB | _XROOTD else source
    name = posixpath.basename(path.rstrip("/"))
    name = unquote(name) if scheme else name
    return "" if name in {".", ".."} or "/" in name else name
