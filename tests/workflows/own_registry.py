"""A real registry of a test's own, which may be stopped; and images pushed without an engine."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import re
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_FOLDERS: Final = (
    *("bin", "dev", "etc", "home", "mnt", "proc", "root", "sys", "tmp", "usr", "var"),
    *("usr/bin", "var/tmp"),
)
_APPLETS: Final = ("sh", "cat", "ls", "sha256sum", "sleep", "env")
_SOON_S: Final = 30.0


class OwnRegistry:
    """Serves what was pushed to it until it is stopped; its log says who asked for what."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True)
        self.root: Final = root
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.host: Final = f"127.0.0.1:{probe.getsockname()[1]}"
        settings = root / "registry.yml"
        settings.write_text(
            "version: 0.1\nlog: {level: warn}\n"
            f"storage: {{filesystem: {{rootdirectory: {root}/store}}}}\n"
            f"http: {{addr: '{self.host}'}}\n"
        )
        self._log: Final = root / "access.log"
        program = shutil.which("docker-registry")
        assert program is not None, "tests/testbed/up.sh installs docker-registry"
        with self._log.open("wb") as log:
            self._server: Final = subprocess.Popen(
                [program, "serve", str(settings)], stdout=log, stderr=log
            )
        until_s = time.monotonic() + _SOON_S
        while not self._answers():
            assert time.monotonic() < until_s, self._log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Nobody gets an answer from here on."""
        self._server.terminate()
        self._server.wait(_SOON_S)

    def asked(self, pattern: str) -> list[str]:
        """The requests of which method and path match."""
        lines = re.findall(r'"((?:GET|HEAD|PUT|POST|PATCH) [^"]*) HTTP/', self._log.read_text())
        return [line for line in lines if re.search(pattern, line)]

    def _answers(self) -> bool:
        host, _, port = self.host.partition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True


def push(host: str, repository: str, tag: str, said: str) -> str:
    """An image with busybox, and a file ``/said`` in it; its digest.

    Args:
        host: Of the registry.
        repository: The image's name there.
        tag: That is to mean it from now on.
        said: What is in the file.
    """
    # The first is the same for all: a registry and an engine have it once.
    tars = [_base(), _packed([("said", f"{said}\n".encode(), 0o644)])]
    layers = [gzip.compress(tar, mtime=0) for tar in tars]
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _described(_CONFIG, config),
            "layers": [_described(_LAYER, layer) for layer in layers],
        }
    )
    with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as registry:
        for blob in (*layers, config):
            registry.request("POST", f"/v2/{repository}/blobs/uploads/")
            answer = registry.getresponse()
            answer.read()
            assert answer.status == http.HTTPStatus.ACCEPTED
            place = answer.headers["Location"]
            place += f"{'&' if '?' in place else '?'}digest={_digest(blob)}"
            registry.request("PUT", place, blob, {"Content-Type": "application/octet-stream"})
            answer = registry.getresponse()
            assert answer.status == http.HTTPStatus.CREATED, answer.read()
            answer.read()
        registry.request(
            "PUT", f"/v2/{repository}/manifests/{tag}", manifest, {"Content-Type": _MANIFEST}
        )
        answer = registry.getresponse()
        assert answer.status == http.HTTPStatus.CREATED, answer.read()
    return _digest(manifest)


def _base() -> bytes:
    busybox = shutil.which("busybox")
    assert busybox is not None, "there is no busybox to make an image of"
    files = [("bin/busybox", Path(busybox).read_bytes(), 0o755)]
    return _packed([*files, ("etc/passwd", b"", 0o644), ("etc/group", b"", 0o644)], is_base=True)


def _packed(files: Sequence[tuple[str, bytes, int]], *, is_base: bool = False) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in _FOLDERS if is_base else ():
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name, body, mode in files:
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(body), mode
            tar.addfile(file, io.BytesIO(body))
        for name in _APPLETS if is_base else ():
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return packed.getvalue()


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode()


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _described(kind: str, body: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(body), "size": len(body)}
