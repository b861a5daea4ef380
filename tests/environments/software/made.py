"""Python packages made by hand, and an index that serves them."""

import base64
import contextlib
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path

USER = "marie"
PASSWORD = "hunter2-index"  # noqa: S105 - stands for one


def made_wheel(folder: Path, name: str, version: str, *, needs: Sequence[str] = ()) -> Path:
    """A wheel of a module that knows its version, and of a program that prints it."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    needed = "".join(f"Requires-Dist: {one}\n" for one in needs)
    files = {
        f"{name}.py": f"version = {version!r}\n\n\ndef tell():\n    print(version)\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{name}-tell = {name}:tell\n",
    }
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in files.items())
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(inner, text)
        archive.writestr(f"{about}/RECORD", f"{record}{about}/RECORD,,\n")
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


class Index(http.server.ThreadingHTTPServer):
    """An index of packages on the loopback interface, which wants a user and a password.

    Args:
        folder: Of wheels.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.fetched: list[str] = []
        self.held = threading.Event()
        self.held.set()

    @property
    def url(self) -> str:
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self.server_port}/simple/"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Index
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            self._answer(HTTPStatus.UNAUTHORIZED, b"", "text/plain")
            return
        name = self.path.strip("/").rpartition("/")[2]
        file = self.server.folder / name
        if file.suffix == ".whl" and file.is_file():
            if self.command == "GET":
                self.server.fetched.append(name)
                self.server.held.wait(60)
            self._answer(HTTPStatus.OK, file.read_bytes(), "application/octet-stream")
            return
        found = [path.name for path in self.server.folder.glob(f"{name}-*.whl")]
        links = "".join(f'<a href="/files/{one}">{one}</a>' for one in found)
        code = HTTPStatus.OK if found else HTTPStatus.NOT_FOUND
        self._answer(code, f"<html><body>{links}</body></html>".encode(), "text/html")

    def _answer(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if code == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Index]:
    """The index, as long as the context lasts."""
    index = Index(folder)
    thread = threading.Thread(target=index.serve_forever, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        index.held.set()
        index.shutdown()
        index.server_close()
        thread.join()
