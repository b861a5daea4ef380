"""A registry of a test's own, which has one image and may break off or fall silent."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal

Mood = Literal["well", "cut", "silent"]
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_FOLDERS: Final = ("dev", "etc", "proc", "root", "sys", "tmp", "var/tmp", "mnt", "home")


class Registry:
    """Has the image ``name``: busybox, and bytes that no engine has yet.

    Args:
        extra: How many bytes.
    """

    def __init__(self, extra: int = 2**20) -> None:
        self.mood: Mood = "well"
        self.layers_asked = 0
        self._release: Final = threading.Event()
        layer = _layer(extra)
        self._layer = _digest(layer)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [self._layer]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _described(_CONFIG, config),
                "layers": [_described(_LAYER, layer)],
            }
        ).encode()
        self._blobs = {_digest(config): config, self._layer: layer}
        self._manifest = manifest
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                registry._answer(self, with_body=False)

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    registry._answer(self, with_body=True)

            def log_message(self, *_: Any) -> None:
                pass

        self._server: Final = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host: Final = f"127.0.0.1:{self._server.server_port}"
        self.name: Final = f"{self.host}/faults/busybox:1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        kind, last = request.path.rsplit("/", 2)[-2:]
        if request.path in {"/v2", "/v2/"}:
            _send(request, b"{}", "application/json", with_body=with_body)
        elif kind == "manifests" and last in {"1", _digest(self._manifest)}:
            _send(request, self._manifest, _MANIFEST, with_body=with_body)
        elif kind == "blobs" and last in self._blobs:
            body = self._blobs[last]
            if last == self._layer and with_body:
                begun = int(request.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
                self.layers_asked += not begun
                if begun:
                    if self.mood == "silent":
                        self._release.wait()
                    whole, body = len(body), body[begun:]
                    span = f"bytes {begun}-{whole - 1}/{whole}"
                    if self.mood == "cut":
                        request.send_error(503)
                    else:
                        _send(request, body, "", span=span)
                    return
                if self.mood != "well":
                    _send(request, body[: len(body) // 2], "", length=len(body))
                    if self.mood == "silent":
                        self._release.wait()
                    request.close_connection = True
                    return
            _send(request, body, "application/octet-stream", with_body=with_body)
        else:
            request.send_error(404)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Who asks may go away at any moment: that is what is tried."""


def _send(
    request: BaseHTTPRequestHandler,
    body: bytes,
    kind: str,
    *,
    with_body: bool = True,
    length: int | None = None,
    span: str | None = None,
) -> None:
    request.send_response(200 if span is None else 206)
    if span is not None:
        request.send_header("Content-Range", span)
    request.send_header("Content-Type", kind or "application/octet-stream")
    request.send_header("Docker-Content-Digest", _digest(body))
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    if with_body:
        request.wfile.write(body)
        request.wfile.flush()


def _layer(extra: int) -> bytes:
    busybox = shutil.which("busybox")
    assert busybox is not None, "there is no busybox to make an image of"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("bin", "var", *_FOLDERS):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        tar.add(busybox, "bin/busybox")
        for name in ("sh", "sleep", "ls"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc/passwd", "etc/group"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        noise = tarfile.TarInfo("noise")
        noise.size = extra
        tar.addfile(noise, io.BytesIO(os.urandom(extra)))
    return packed.getvalue()


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _described(kind: str, body: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(body), "size": len(body)}
