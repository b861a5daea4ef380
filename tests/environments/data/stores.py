"""Real servers of a test's own: of buckets, and of XRootD."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moto.server import ThreadedMotoServer

SOON_S = 30.0
AWS = {
    "AWS_ACCESS_KEY_ID": "key-of-a-test",
    "AWS_SECRET_ACCESS_KEY": "hunter2-XYZ",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Buckets:
    """Of a server on the loopback interface.

    Args:
        client: Of botocore's, that puts objects there.
        variables: By which others find the server.
    """

    def __init__(self, client: Any, variables: Mapping[str, str]) -> None:
        self._client = client
        self.variables = dict(variables)
        self._buckets: set[str] = set()

    def put(self, bucket: str, key: str, content: bytes, *, acl: str = "private") -> None:
        if bucket not in self._buckets:
            self._client.create_bucket(Bucket=bucket)
            self._buckets.add(bucket)
        self._client.put_object(Bucket=bucket, Key=key, Body=content, ACL=acl)


@contextlib.contextmanager
def buckets() -> Iterator[Buckets]:
    from botocore.session import Session  # type: ignore[import-untyped]

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = Session().create_client(
            "s3",
            endpoint_url=endpoint,
            region_name=AWS["AWS_DEFAULT_REGION"],
            aws_access_key_id=AWS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=AWS["AWS_SECRET_ACCESS_KEY"],
        )
        try:
            yield Buckets(client, {**AWS, "AWS_ENDPOINT_URL": endpoint})
        finally:
            client.close()
    finally:
        server.stop()


def why_no_xrootd() -> str:
    """Why there can be no server here; empty where there can."""
    if shutil.which("xrootd") is None:
        return "xrootd is not installed"
    if os.geteuid() == 0:
        # It does not serve as root.
        try:
            pwd.getpwnam("xrootd")
        except KeyError:
            return "there is no user 'xrootd' to serve as"
    return ""


class Storage:
    """What a server of XRootD's serves.

    Args:
        folder: Of the files.
        address: ``root://host:port``.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def put(self, path: str, content: bytes) -> None:
        target = self.folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o644)


@contextlib.contextmanager
def storage() -> Iterator[Storage]:
    # pytest's own folders are root's alone.
    top = Path(tempfile.mkdtemp(prefix="fasthep-xrootd-", dir="/var/tmp"))
    files, admin = top / "files", top / "admin"
    for folder in (top, files, admin):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = top / "xrootd.cfg"
    configuration.write_text(
        f"xrd.port {port}\nall.export /\noss.localroot {files}\nall.adminpath {admin}\n"
        f"all.pidpath {admin}\nxrootd.chksum max 2 adler32\nxrd.network nodnr\n"
    )
    argv = ["xrootd", "-c", str(configuration), "-l", str(admin / "log"), "-n", "test"]
    if os.geteuid() == 0:
        shutil.chown(admin, "xrootd")
        argv[1:1] = ["-R", "xrootd"]
    server = subprocess.Popen(argv, cwd=admin, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        until_s = time.monotonic() + SOON_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert server.poll() is None, "xrootd has ended"
            assert time.monotonic() < until_s, "xrootd does not answer"
            time.sleep(0.05)
        yield Storage(files, f"root://127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(top, ignore_errors=True)
