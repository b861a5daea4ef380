"""Questions over HTTP that cannot hold anybody up: bounded in time and in size.

Proxies are those of the environment (``HTTPS_PROXY``, ``NO_PROXY``). Redirects are followed to
other web addresses alone, and what proves who asks stays with the host that it is meant for.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from msgspec import Struct

__all__ = ["Answer", "Web", "within"]

_LARGEST: Final = 4 * 2**20
_MOST_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_AGENT: Final = "fasthep-flow"
_ResultT = TypeVar("_ResultT")


class Answer(Struct, frozen=True, kw_only=True):
    """What a server said.

    Args:
        status: The number of HTTP's.
        reason: The words beside it.
        headers: By their names in small letters.
        body: Of at most 4 MiB.
        host: Who said it in the end, after redirects.
    """

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    host: str


class Web:
    """A few questions that together take no longer than they may.

    Args:
        limit_s: For each step of the network; :func:`within` holds the sum.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s: Final = limit_s
        self._lock: Final = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_over = False

    def ask(
        self,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        form: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Answer:
        """The server's answer, whatever its status; redirects are followed.

        Args:
            address: ``http://`` or ``https://``.
            headers: Of the question.
            authorization: Goes to this host alone, not to where it redirects to.
            form: Is posted, where there is one.
            context: Whose certificates are trusted; the system's if ``None``.

        Raises:
            OSError: The server does not answer (:class:`ssl.SSLError` among them), answers
                what is no HTTP, too much, or sends elsewhere than to a web address.
        """
        first = urllib.parse.urlsplit(address)
        data = None if form is None else urllib.parse.urlencode(form).encode()
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urllib.parse.urlsplit(address)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise OSError("it sends elsewhere than to a web address")
            if first.scheme == "https" and parts.scheme == "http":
                raise OSError("it sends to an address that is not encrypted")
            request = urllib.request.Request(  # noqa: S310 - the scheme is looked at above
                address, data=data, headers={"User-Agent": _AGENT, **(headers or {})}
            )
            if authorization is not None and _same_host(first, parts):
                request.add_unredirected_header("Authorization", authorization)
            answer = self._ask_once(request, context, parts.netloc)
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                return answer
            address = urllib.parse.urljoin(address, answer.headers["location"])
            data = None
        raise OSError("it redirects in a circle")

    def _ask_once(
        self, request: urllib.request.Request, context: ssl.SSLContext | None, host: str
    ) -> Answer:
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Plain(self),
            _Encrypted(self, context or ssl.create_default_context()),
        ):
            opener.add_handler(handler)
        try:
            with opener.open(request, timeout=self._limit_s) as response:
                body = response.read(_LARGEST + 1)
                headers = {name.lower(): value for name, value in response.headers.items()}
                status, reason = response.status, response.reason
        except urllib.error.URLError as error:
            if isinstance(error.reason, OSError):
                raise error.reason from None
            raise OSError(str(error.reason)) from None
        except http.client.HTTPException as error:
            raise OSError(f"what it says is no HTTP ({type(error).__name__})") from None
        except ValueError as error:
            raise OSError(f"it has no address that can be asked ({error})") from None
        if len(body) > _LARGEST:
            raise OSError("it says more than 4 MiB")
        return Answer(status=status, reason=reason, headers=headers, body=body, host=host)

    def opened(self, one: socket.socket) -> None:
        """Have the socket closed when the time is over."""
        with self._lock:
            self._sockets.append(one)
            if self._is_over:
                _shut(one)

    def end(self) -> None:
        """Wake whoever waits for a server's words."""
        with self._lock:
            self._is_over = True
            for one in self._sockets:
                _shut(one)


def within(limit_s: float, work: Callable[[Web], _ResultT]) -> _ResultT:
    """What ``work`` returns or raises, if it does so in time.

    The limits of sockets are for each step: names that are looked up and servers that say a
    byte now and then are bounded here alone.

    Args:
        limit_s: For all of it.
        work: Asks its questions of the :class:`Web` that it is given.

    Raises:
        TimeoutError: It took longer; its sockets are closed.
    """
    # Each step may take longer than all of them, so that it is here that the time is over.
    web = Web(2 * limit_s)
    results: list[_ResultT] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(web))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="fasthep-web", daemon=True)
    thread.start()
    with _ending(web):
        thread.join(limit_s)
        in_time = not thread.is_alive()
    # What it made of an answer that was cut off here is none.
    if not in_time:
        raise TimeoutError("timed out")
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def _ending(web: Web) -> Iterator[None]:
    try:
        yield
    finally:
        web.end()


class _PlainConnection(http.client.HTTPConnection):
    def __init__(self, host: str, *, web: Web, **options: Any) -> None:  # noqa: ANN401
        super().__init__(host, **options)
        self._web = web

    def connect(self) -> None:
        super().connect()
        self._web.opened(self.sock)


class _EncryptedConnection(http.client.HTTPSConnection):
    def __init__(self, host: str, *, web: Web, **options: Any) -> None:  # noqa: ANN401
        super().__init__(host, **options)
        self._web = web

    def connect(self) -> None:
        super().connect()
        self._web.opened(self.sock)


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, web: Web) -> None:
        super().__init__()
        self._web = web

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:  # noqa: ANN401
            return _PlainConnection(host, web=self._web, **options)

        return self.do_open(connection, req)


class _Encrypted(urllib.request.HTTPSHandler):
    def __init__(self, web: Web, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._web = web
        self._trusted = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:  # noqa: ANN401
            return _EncryptedConnection(host, web=self._web, context=self._trusted, **options)

        return self.do_open(connection, req)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def _same_host(one: urllib.parse.SplitResult, other: urllib.parse.SplitResult) -> bool:
    return (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)
