# ruff: noqa: ANN401 - the client has no annotations

"""Data behind ``root://``: storage that speaks XRootD, as EOS and dCache do.

Credentials are found by the client itself: a proxy certificate (``X509_USER_PROXY``), a ticket,
or a token (``BEARER_TOKEN_FILE``).
"""

from __future__ import annotations

import fnmatch
import glob
import math
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote

from XRootD import client as _client
from XRootD.client.flags import DirListFlags, OpenFlags, QueryCode, StatInfoFlags

from fasthep_flow.environments.data import remote
from fasthep_flow.environments.data.remote import (
    CHUNK,
    Entry,
    Facts,
    Trouble,
    unknown_host,
    unreachable,
)
from fasthep_flow.environments.data.sources import Source
from fasthep_flow.redaction import without_credentials

__all__ = ["XRootD"]

client: Any = _client
"""It has no annotations."""

_NOT_AUTHORIZED: Final = 3010
_NOT_FOUND: Final = 3011
_NOT_THERE: Final = frozenset({_NOT_FOUND, 3005})
"""What the server says (XProtocol, kXR_NotFound); of a folder below a file it is kXR_FSError."""

_REFUSED: Final = 400
_EXPIRED: Final = 206
_CONNECTION: Final = frozenset(range(100, 200))
_LOGIN: Final = frozenset({204, 205})

_SOON_S: Final = 2.0
"""What changed so shortly before may change again within the same second."""


class XRootD:
    """Fetches from XRootD; see :class:`fasthep_flow.environments.data.remote.Remote`."""

    def look(self, source: Source, *, limit_s: float | None = None) -> Facts:
        """Asks for size, time and checksum."""
        until_s = math.inf if limit_s is None else time.monotonic() + limit_s
        system, path = _system(source)
        info = _stat(system, source, path, until_s)
        if info.flags & StatInfoFlags.IS_DIR:
            return Facts(is_folder=True)
        validators = {"modified": str(info.modtime), "size": str(info.size)}
        status, answer = system.query(QueryCode.CHECKSUM, path, timeout=_left(until_s))
        words = bytes(answer or b"").strip(b"\0 \n").decode("ascii", "replace").split()
        if status.ok and len(words) > 1:
            validators["checksum"] = f"{words[0].lower()}:{words[1].lower()}"
        is_sure = "checksum" in validators or time.time() - info.modtime > _SOON_S
        return Facts(size=info.size, validators=validators, is_sure=is_sure)

    def entries(self, source: Source) -> list[Entry]:
        """Lists folders, from one to the next."""
        system, path = _system(source)
        if not source.may_be_pattern:
            names = _below(system, source, path.rstrip("/"), "")
            top = path
        else:
            parts = path.split("/")
            first = next(n for n, part in enumerate(parts) if glob.has_magic(part))
            top = "/".join(parts[:first])
            names = _fitting(system, source, top, parts[first:], "")
        return [Entry(name=name, url=_url(source, f"{top.rstrip('/')}/{name}")) for name in names]

    def read(
        self, source: Source, known: Facts | None, begin: Callable[[Facts], Callable[[bytes], None]]
    ) -> Facts | None:
        """Asks for the facts, and for the content if they are others."""
        facts = self.look(source)
        if facts.is_folder:
            raise Trouble("it is a folder")
        if known is not None and facts.validators == known.validators:
            return None
        timeout = round(remote.SILENCE_S)
        with client.File() as file:
            status, _ = file.open(_decoded(source), OpenFlags.READ, timeout=timeout)
            _check(status, source)
            take = begin(facts)
            count = 0
            while True:
                status, data = file.read(count, CHUNK, timeout=timeout)
                _check(status, source)
                if not data:
                    break
                take(data)
                count += len(data)
        if count != facts.size:
            words = f"the transfer broke off after {count} of {facts.size} bytes"
            raise Trouble(words, may_pass=True)
        return facts


def _system(source: Source) -> tuple[Any, str]:
    url = client.URL(_decoded(source))
    if not url.is_valid():
        raise Trouble("this is no address that can be asked", hint="root://host//path/of/file")
    _require_host(str(url.hostname), int(url.port))
    return client.FileSystem(f"{url.protocol}://{url.hostid}"), url.path_with_params


def _require_host(host: str, port: int) -> None:
    """Ask whether anybody is there at all: the client itself tries that for minutes."""
    try:
        socket.create_connection((host, port), timeout=remote.CONNECT_S).close()
    except socket.gaierror as error:
        raise unknown_host(host, error) from None
    except TimeoutError:
        raise unreachable(host, f"it does not answer within {remote.CONNECT_S:g} s") from None
    except OSError as error:
        raise unreachable(host, error.strerror or "no connection") from None


def _url(source: Source, path: str) -> str:
    query = source.text.partition("?")[2]
    scheme = source.text.partition("://")[0]
    return f"{scheme}://{source.host}/{quote(path)}" + (f"?{query}" if query else "")


def _decoded(source: Source) -> str:
    """The URL as the client reads it, to which a ``%`` is a letter like others."""
    scheme, query = source.text.partition("://")[0], source.text.partition("?")[2]
    return f"{scheme}://{source.host}/{source.path}" + (f"?{query}" if query else "")


def _left(until_s: float) -> int:
    left_s = min(until_s - time.monotonic(), remote.SILENCE_S)
    return max(1, math.ceil(left_s))


def _stat(system: Any, source: Source, path: str, until_s: float) -> Any:
    status, info = system.stat(path, timeout=_left(until_s))
    _check(status, source)
    return info


def _listed(system: Any, source: Source, path: str) -> list[Any]:
    timeout = round(remote.SILENCE_S)
    status, listing = system.dirlist(path, DirListFlags.STAT, timeout=timeout)
    _check(status, source)
    return sorted(listing, key=lambda one: str(one.name))


def _is_folder(one: Any) -> bool:
    return bool(one.statinfo.flags & StatInfoFlags.IS_DIR)


def _below(system: Any, source: Source, folder: str, prefix: str) -> Iterator[str]:
    for one in _listed(system, source, folder):
        if _is_folder(one):
            yield from _below(system, source, f"{folder}/{one.name}", f"{prefix}{one.name}/")
        else:
            yield f"{prefix}{one.name}"


def _fitting(
    system: Any, source: Source, folder: str, words: list[str], prefix: str
) -> Iterator[str]:
    """The files whose path fits the words, each of which is a pattern for one part of it."""
    first, rest = words[0], words[1:]
    if first == "**":
        if rest:
            yield from _fitting(system, source, folder, rest, prefix)
        for one in _listed(system, source, folder or "/"):
            if _is_folder(one):
                below = f"{folder}/{one.name}"
                yield from _fitting(system, source, below, words, f"{prefix}{one.name}/")
            elif not rest:
                yield f"{prefix}{one.name}"
        return
    for one in _listed(system, source, folder or "/"):
        if not fnmatch.fnmatchcase(one.name, first):
            continue
        if not rest and not _is_folder(one):
            yield f"{prefix}{one.name}"
        elif rest and _is_folder(one):
            below = f"{folder}/{one.name}"
            yield from _fitting(system, source, below, rest, f"{prefix}{one.name}/")


def _check(status: Any, source: Source) -> None:
    if status.ok:
        return
    host = client.URL(source.text).hostname or "the host"
    if status.code == _REFUSED and status.errno in _NOT_THERE:
        raise Trouble("there is no such file", hint="look at the address")
    if status.code == _REFUSED and status.errno == _NOT_AUTHORIZED:
        raise Trouble(
            "it may not be read",
            hint="credentials are found as XRootD's own tools find them: X509_USER_PROXY, a"
            " ticket, BEARER_TOKEN_FILE",
        )
    if status.code in _LOGIN:
        raise Trouble(
            f"{host} does not know who asks",
            hint="credentials are found as XRootD's own tools find them: X509_USER_PROXY, a"
            " ticket, BEARER_TOKEN_FILE",
        )
    if status.code == _EXPIRED:
        words = f"nothing came from {host} in time"
        raise Trouble(words, hint="try again later", may_pass=True, is_silence=True)
    if status.code in _CONNECTION:
        raise unreachable(host, "the connection broke")
    said = str(status.message).strip().splitlines() or ["no reason is given"]
    raise Trouble(f"{host} refuses it: {without_credentials(said[0])}")
