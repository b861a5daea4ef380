"""Images that are put where an engine, a registry or a file has them."""

import hashlib
import http.client
import json
import subprocess
import tarfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fasthep_flow.environments.engine import Engine, EngineFacts, read_facts
from fasthep_flow.environments.images.pulled import have_image
from fasthep_flow.model import Image


class Store:
    """A real engine, as a runtime has it."""

    def __init__(self, program: str) -> None:
        self.engine = Engine(program=program, not_there="look")
        self.facts: EngineFacts = read_facts(self.engine)

    def ask(self, *arguments: str) -> str:
        argv = [self.engine.program, *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def forget(self, name: str) -> None:
        subprocess.run([self.engine.program, "rmi", name], check=False, capture_output=True)

    def has(self, name: str) -> bool:
        argv = [self.engine.program, "image", "inspect", name]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    def have(self, image: Image) -> tuple[str, str]:
        found = have_image(self.engine, self.facts, image)
        assert found.name == image.name
        return found.reference, found.digest


class breaking:  # noqa: N801 - used as a context
    """A registry that has the image's manifest, and breaks off in the middle of its layer."""

    def __init__(self, image: str) -> None:
        host, _, rest = image.partition("/")
        path = f"/v2/{rest.rpartition(':')[0]}"
        manifest = fetch(host, f"{path}/manifests/{rest.rpartition(':')[2]}")
        # No engine has a layer of this digest yet: its bytes would have to come.
        told = json.loads(manifest)
        config = fetch(host, f"{path}/blobs/{told['config']['digest']}")
        unheard = f"sha256:{uuid.uuid4().hex * 2}"
        told["layers"][0]["digest"] = unheard
        config = config.replace(
            json.loads(config)["rootfs"]["diff_ids"][0].encode(), unheard.encode()
        )
        told["config"]["digest"] = f"sha256:{hashlib.sha256(config).hexdigest()}"
        manifest = json.dumps(told).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(b"")

            def do_GET(self) -> None:
                if "/manifests/" in self.path:
                    self.answer(manifest)
                elif told["config"]["digest"] in self.path:
                    self.answer(config)
                elif "/blobs/" in self.path:
                    self.send_response(200)
                    self.send_header("Content-Length", "1000000")
                    self.end_headers()
                    self.wfile.write(b"half")
                    self.close_connection = True
                    self.server.shutdown()
                    self.server.server_close()
                else:
                    self.answer(b"{}")

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                length = len(body or manifest)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return f"127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def fetch(host: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request(
        "GET", path, headers={"Accept": f"{MANIFEST}, application/vnd.oci.image.index.v1+json"}
    )
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == http.HTTPStatus.OK, body
    connection.close()
    return body


MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def retag(image: str, name: str) -> None:
    """Give the image another name in the registry; what it names is in the same repository."""
    host, _, rest = image.partition("/")
    source, tag = rest.rsplit(":", 1)
    target, new = name.partition("/")[2].rsplit(":", 1)
    body = fetch(host, f"/v2/{source}/manifests/{tag}")
    told = json.loads(body)
    connection = http.client.HTTPConnection(host, timeout=30)

    def send(method: str, path: str, content: bytes = b"", **headers: str) -> None:
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status in {201, 202}, said

    def mount(single: dict[str, Any]) -> None:
        for blob in (single["config"], *single["layers"]):
            digest = blob["digest"]
            send("POST", f"/v2/{target}/blobs/uploads/?mount={digest}&from={source}")

    for entry in told.get("manifests", ()):
        single = fetch(host, f"/v2/{source}/manifests/{entry['digest']}")
        mount(json.loads(single))
        path = f"/v2/{target}/manifests/{entry['digest']}"
        send("PUT", path, single, **{"Content-Type": MANIFEST})
    if "manifests" not in told:
        mount(told)
    kind = "application/vnd.oci.image.index.v1+json" if "manifests" in told else MANIFEST
    send("PUT", f"/v2/{target}/manifests/{new}", body, **{"Content-Type": kind})
    connection.close()


def save(store: Store, name: str, path: Path, form: str) -> Image:
    """The image as a file; docker writes one form alone, so podman's tool is not needed for it."""
    docker = path if form == "docker-archive" else path.with_suffix(".docker.tar")
    store.ask("save", "--output", str(docker), name)
    if form == "docker-archive":
        return Image(name=f"docker-archive:{path}", form="docker-archive")
    folder = path.with_suffix(".oci")
    layout(docker, folder)
    if form == "oci":
        return Image(name=f"oci:{folder}", form="oci")
    with tarfile.open(path, "w") as tar:
        for part in sorted(folder.iterdir()):
            tar.add(part, part.name)
    return Image(name=f"oci-archive:{path}", form="oci-archive")


def layout(archive: Path, folder: Path) -> None:
    """An OCI layout of what ``docker save`` wrote."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        (entry,) = json.loads(read("manifest.json"))
        kind = "application/vnd.oci.image"
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": put(read(entry["Config"]), f"{kind}.config.v1+json"),
            "layers": [put(read(one), f"{kind}.layer.v1.tar") for one in entry["Layers"]],
        }
    index = {"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode(), MANIFEST)]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
