"""A web server of a test's own, that keeps a log and has moods."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import hashlib
import ipaddress
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Mood = Literal["well", "cut", "silent", "slow"]


class FileServer:
    """Serves what is in ``files``, by decoded path.

    Args:
        certificate: A file with a certificate and its key, to serve over TLS.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.redirects: dict[str, str] = {}
        self.mood: Mood = "well"
        self.validators: Literal["etag", "modified", "none"] = "etag"
        self.modified_s = 1_700_000_000.0
        self.password = ""
        self.log: list[tuple[str, str, int]] = []
        self.begun: Final = threading.Event()
        self.release: Final = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                server._answer(self, with_body=False)

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    server._answer(self, with_body=True)

            def log_message(self, *_: Any) -> None:
                pass

        self._server: Final = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def url(self, path: str) -> str:
        """Of a path, which may hold anything."""
        return f"{self.scheme}://{self.host}{urllib.parse.quote(path)}"

    def got(self, path: str) -> int:
        """How often the whole of it was asked for, and given."""
        return sum(one == ("GET", path, 200) for one in self.log)

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        headers: dict[str, str] = {}
        body = self.files.get(path)
        status = self.statuses.get(path, 404 if body is None else 200)
        if self.password and request.headers.get("Authorization") != self.password:
            status = 401
        if path in self.redirects:
            status, headers["Location"] = 302, self.redirects[path]
        if status == 200 and body is not None:
            name, condition, value = self._validator(body)
            if name:
                headers[name] = value
                status = 304 if request.headers.get(condition) == value else 200
        self.log.append((request.command, path, status))
        sent = body if status == 200 and body is not None else b""
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if status != 304:
            request.send_header("Content-Length", str(len(sent)))
        request.end_headers()
        if with_body and sent:
            self._send(request, sent)

    def _validator(self, body: bytes) -> tuple[str, str, str]:
        """A header, the one that asks for it, and its value."""
        if self.validators == "etag":
            return "ETag", "If-None-Match", f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if self.validators == "modified":
            date = email.utils.formatdate(self.modified_s, usegmt=True)
            return "Last-Modified", "If-Modified-Since", date
        return "", "", ""

    def _send(self, request: BaseHTTPRequestHandler, sent: bytes) -> None:
        if self.mood == "well":
            request.wfile.write(sent)
            return
        request.wfile.write(sent[: len(sent) // 2])
        request.wfile.flush()
        self.begun.set()
        if self.mood in {"silent", "slow"}:
            self.release.wait()
        if self.mood == "slow":
            request.wfile.write(sent[len(sent) // 2 :])
        else:
            request.close_connection = True


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Who asks may go away at any moment: that is what is tried."""


@contextlib.contextmanager
def serving(certificate: Path | None = None) -> Iterator[FileServer]:
    server = FileServer(certificate)
    try:
        yield server
    finally:
        server.close()


def made_certificates(folder: Path) -> tuple[Path, Path]:
    """Of an authority of the test's own, and what it signed for 127.0.0.1, with its key."""
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        for text in ("authority of a test", "server of a test")
    ]

    def builder(index: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(names[index])
            .issuer_name(names[0])
            .public_key(keys[index].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=index == 0, path_length=None), critical=True)
        )

    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = [
        builder(0).sign(keys[0], hashes.SHA256()),
        builder(1).add_extension(address, critical=False).sign(keys[0], hashes.SHA256()),
    ]
    pem = serialization.Encoding.PEM
    authority, server = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(signed[0].public_bytes(pem))
    server.write_bytes(
        signed[1].public_bytes(pem)
        + keys[1].private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return authority, server
