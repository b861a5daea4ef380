"""Data behind ``https://`` and ``http://``.

Proxies are those of the environment (``HTTPS_PROXY``, ``NO_PROXY``), and so are credentials
(``~/.netrc``) and certificates (``SSL_CERT_FILE``).
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import ssl
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import aiohttp
from yarl import URL

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

__all__ = ["Web", "apart"]

_AGENT: Final = "fasthep-flow"
_SOON_S: Final = 2.0
"""What changed so shortly before it was fetched may have changed again within the same second."""

_NOT_MODIFIED: Final = 304
_BAD: Final = 400
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_WORDS: Final = {
    401: "it needs credentials (HTTP 401)",
    403: "it may not be read (HTTP 403)",
    404: "there is no such file (HTTP 404)",
    407: "the proxy needs credentials (HTTP 407)",
    410: "it is not there any more (HTTP 410)",
}
_HINTS: Final = {
    401: "give user and password in ~/.netrc",
    403: "is it readable for you? User and password are taken from ~/.netrc",
    404: "look at the address",
    407: "give them in HTTPS_PROXY or HTTP_PROXY",
}
_ResultT = TypeVar("_ResultT")


class Web:
    """Fetches over HTTP; see :class:`fasthep_flow.environments.data.remote.Remote`."""

    def look(self, source: Source, *, limit_s: float | None = None) -> Facts:
        """Asks for the headers."""

        async def ask() -> Facts:
            async with _session() as session:
                async with session.head(_url(source), allow_redirects=True) as answer:
                    if answer.status < _BAD:
                        return _facts(answer)
                # Addresses that are signed for one method, and servers that know but one.
                async with session.get(_url(source)) as answer:
                    _check(answer)
                    return _facts(answer)

        return _asked(source, ask, limit_s)

    def entries(self, source: Source) -> list[Entry]:
        """None: a web server lists nothing."""
        raise Trouble(f"{source.host} lists no files", hint="name each of them")

    def read(
        self, source: Source, known: Facts | None, begin: Callable[[Facts], Callable[[bytes], None]]
    ) -> Facts | None:
        """Asks for the content if it has changed."""
        headers = {}
        if known is not None and (etag := known.validators.get("etag")):
            headers["If-None-Match"] = etag
        if known is not None and (modified := known.validators.get("modified")):
            headers["If-Modified-Since"] = modified

        async def ask() -> Facts | None:
            async with _session() as session, session.get(_url(source), headers=headers) as answer:
                if known is not None and answer.status == _NOT_MODIFIED:
                    return None
                _check(answer)
                facts = _facts(answer)
                if known is not None and _is_same(facts, known):
                    answer.close()
                    return None
                take = begin(facts)
                count = 0
                try:
                    async for data in answer.content.iter_chunked(CHUNK):
                        take(data)
                        count += len(data)
                except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError):
                    raise _broken(count, facts.size) from None
                except (aiohttp.ClientOSError, ConnectionError):
                    raise _broken(count, facts.size) from None
                return facts

        return _asked(source, ask, None)


def _broken(count: int, size: int | None) -> Trouble:
    whole = "" if size is None else f" of {size}"
    return Trouble(f"the transfer broke off after {count}{whole} bytes", may_pass=True)


def _is_same(now: Facts, known: Facts) -> bool:
    """Of servers that send it all, whatever they are asked."""
    return bool(now.validators) and (now.validators, now.size) == (known.validators, known.size)


def _url(source: Source) -> URL:
    try:
        url = URL(source.text)
    except ValueError:
        url = URL()
    if not url.host:
        raise Trouble("this is no address that can be asked", hint="look at how it is written")
    return url


def _session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=remote.CONNECT_S, sock_read=remote.SILENCE_S
    )
    return aiohttp.ClientSession(
        timeout=timeout,
        trust_env=True,
        # The bytes as they lie there, whatever a server thinks of their form.
        auto_decompress=False,
        headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
        # aiohttp's own is made when it is imported: before SSL_CERT_FILE may be set.
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
    )


def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status < _BAD and answer.status != _NOT_MODIFIED:
        return
    status = answer.status
    if status in _LATER:
        words = f"the server cannot serve it now (HTTP {status})"
        raise Trouble(words, hint="try again later", may_pass=True, is_silence=True)
    raise Trouble(
        _WORDS.get(status, f"the server refuses it (HTTP {status})"), hint=_HINTS.get(status)
    )


def _facts(answer: aiohttp.ClientResponse) -> Facts:
    validators = {}
    is_sure = False
    if etag := answer.headers.get("ETag"):
        validators["etag"] = etag
        is_sure = True
    if modified := answer.headers.get("Last-Modified"):
        validators["modified"] = modified
        is_sure = is_sure or _is_old(modified, answer.headers.get("Date"))
    return Facts(size=answer.content_length, validators=validators, is_sure=is_sure)


def _is_old(modified: str, now: str | None) -> bool:
    """Whether a change would be seen; HTTP's times are whole seconds (RFC 9110, 8.8.2.2)."""
    try:
        then_s = email.utils.parsedate_to_datetime(modified).timestamp()
        now_s = email.utils.parsedate_to_datetime(now or "").timestamp()
    except (TypeError, ValueError):
        return False
    return now_s - then_s >= _SOON_S


def _asked(
    source: Source, ask: Callable[[], Coroutine[Any, Any, _ResultT]], limit_s: float | None
) -> _ResultT:
    async def bounded() -> _ResultT:
        async with asyncio.timeout(limit_s):
            return await ask()

    try:
        return apart(bounded)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _trouble(error, source, limit_s) from None


def _trouble(  # noqa: C901, PLR0911, PLR0912 - a table
    error: Exception, source: Source, limit_s: float | None
) -> Trouble:
    """What went wrong on the way to the server, in words."""
    host = URL(source.text).host or "the host"
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "it is not valid"
            return Trouble(
                f"the certificate of {host} is not trusted: {reason}",
                hint="set SSL_CERT_FILE to a file with the certificates of who signed it",
            )
        case aiohttp.ClientConnectorDNSError():
            return unknown_host(host, error.os_error)
        case aiohttp.ServerTimeoutError() | TimeoutError():
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                words = f"{host} does not answer within {remote.CONNECT_S:g} s"
            elif limit_s is not None:
                words = f"{host} does not answer within {limit_s:g} s"
            else:
                words = f"nothing came for {remote.SILENCE_S:g} s"
            return Trouble(words, hint="try again later", may_pass=True, is_silence=True)
        case aiohttp.ClientConnectorSSLError():
            return Trouble(f"{host} speaks no TLS that can be understood", is_silence=True)
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno or 0
            return unreachable(host, os.strerror(number) if number > 0 else "no connection")
        case aiohttp.TooManyRedirects():
            return Trouble("it redirects in a circle")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return Trouble("the transfer broke off", may_pass=True, is_silence=True)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return Trouble("it redirects to what is no web address")
        case aiohttp.ClientResponseError():
            return Trouble("what the server says is no HTTP")
        case _:
            return Trouble(f"{host} cannot be asked ({type(error).__name__})", may_pass=True)


def apart(work: Callable[[], Coroutine[Any, Any, _ResultT]]) -> _ResultT:
    """What a coroutine returns, run in a thread of its own.

    Its caller may be in an event loop, as notebooks are, and may be interrupted: then it ends.
    """
    result: list[_ResultT] = []
    raised: list[BaseException] = []
    loops: list[asyncio.AbstractEventLoop] = []
    ended = threading.Event()

    async def noted() -> _ResultT:
        loops.append(asyncio.get_running_loop())
        return await work()

    def run() -> None:
        try:
            result.append(asyncio.run(noted()))
        except BaseException as error:  # noqa: BLE001 - the caller's to raise
            raised.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="fasthep-data", daemon=True).start()
    try:
        # A join that is interrupted takes the thread for ended (python/cpython#89437).
        ended.wait()
    except BaseException:
        for loop in loops:
            # It may have ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_cancel_all, loop)
        ended.wait()
        raise
    if raised:
        raise raised[0]
    return result[0]


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
