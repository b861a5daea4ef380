import base64
import hashlib
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fasthep_flow.environments.registries import registry
from fasthep_flow.environments.registries.endpoints import Endpoint
from fasthep_flow.environments.registries.platforms import machine_platform
from fasthep_flow.environments.registries.registry import (
    Reference,
    RegistryStalled,
    manifest,
    split_reference,
)
from fasthep_flow.errors import ImageUnavailable

INDEX = "application/vnd.oci.image.index.v1+json"
SINGLE = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
SECRET = "hunter2-XYZ"  # noqa: S105

Reply = tuple[int, dict[str, str], bytes | Iterator[bytes]]


class Server:
    """A registry of the test's own: each path has an answer; what is asked is kept."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.answers: dict[str, Callable[[dict[str, str]], Reply]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.stalls = threading.Event()
        self.posted: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.asked.append((self.command, self.path, headers))
                if size := int(headers.get("content-length", "0")):
                    server.posted.append(self.rfile.read(size).decode())
                path = self.path.partition("?")[0]
                answer = server.answers.get(path)
                if answer is None:
                    answer = lambda _: (404, {}, b"{}")  # noqa: E731
                status, headers, body = answer(headers)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    for part in [body] if isinstance(body, bytes) else body:
                        self.wfile.write(part)
                except OSError:
                    # The client has had enough.
                    pass

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_port}"

    def says(self, path: str, status: int, body: bytes = b"{}", **headers: str) -> None:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = lambda _: (status, told, body)

    def has(self, path: str, body: bytes, kind: str, *, authorization: str | None = None) -> None:
        def answer(headers: dict[str, str]) -> Reply:
            if authorization is not None and headers.get("authorization") != authorization:
                return 401, self.challenge, b"{}"
            return 200, {"Content-Type": kind}, body

        self.answers[path] = answer

    challenge: dict[str, str] = {}  # noqa: RUF012

    def close(self) -> None:
        self.stalls.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def put_image(server: Server, *, authorization: str | None = None, **told: str) -> bytes:
    """An image `a:1` of one layer; the manifest."""
    config = json.dumps({"os": "linux", "architecture": "amd64", **told}).encode()
    body = json.dumps(
        {
            "mediaType": SINGLE,
            "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [{"digest": digest_of(b"layer"), "size": 5, "mediaType": "x"}],
        }
    ).encode()
    server.has("/v2/a/manifests/1", body, SINGLE, authorization=authorization)
    server.has(f"/v2/a/manifests/{digest_of(body)}", body, SINGLE, authorization=authorization)
    server.has(f"/v2/a/blobs/{digest_of(config)}", config, CONFIG, authorization=authorization)
    return body


def log_in(path: Path, host: str, user: str = "me", secret: str = SECRET) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{user}:{secret}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "docker.io/library/debian:12",
            Reference(registry="docker.io", repository="library/debian", tag="12"),
        ),
        (
            "127.0.0.1:5000/a/b/c",
            Reference(registry="127.0.0.1:5000", repository="a/b/c", tag="latest"),
        ),
        (
            "r.ch/a@sha256:00",
            Reference(registry="r.ch", repository="a", tag=None, digest="sha256:00"),
        ),
        (
            "localhost/a:1@sha256:00",
            Reference(registry="localhost", repository="a", tag="1", digest="sha256:00"),
        ),
        ("debian:12", Reference(registry="docker.io", repository="library/debian", tag="12")),
        ("a/b", Reference(registry="docker.io", repository="a/b", tag="latest")),
    ],
)
def test_a_reference_is_taken_apart(text: str, parts: Reference) -> None:
    assert split_reference(text) == parts


@pytest.mark.podman
def test_the_digest_is_that_of_the_engine(busybox_image: str) -> None:
    subprocess.run(["podman", "pull", "--quiet", busybox_image], check=True, capture_output=True)
    asked = ["podman", "image", "inspect", "--format", "{{.Digest}}", busybox_image]
    known = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    found = manifest(busybox_image)
    assert found.digest == known
    assert found.platforms == (machine_platform(),)
    assert found.size > 0
    digest = f"{busybox_image.rpartition(':')[0]}@{known}"
    assert manifest(digest) == found


def test_a_list_has_one_manifest_for_each_platform(busybox_image: str) -> None:
    multi = busybox_image.replace("busybox", "multi")
    own, foreign = manifest(multi), manifest(multi, platform="linux/arm64")
    assert own.digest == manifest(busybox_image).digest
    assert foreign.digest == manifest(busybox_image.replace("busybox", "foreign")).digest
    assert own.list_digest == foreign.list_digest
    assert set(own.platforms) == {"linux/amd64", "linux/arm64"}
    with pytest.raises(ImageUnavailable) as caught:
        manifest(multi, platform="linux/s390x")
    assert "is not there for linux/s390x; there is linux/amd64, linux/arm64" in str(caught.value)


def test_a_sif_file_in_a_registry_is_described(busybox_image: str) -> None:
    found = manifest(busybox_image.replace("busybox", "sif"))
    assert found.platforms == ()
    assert "sif" in found.config_type
    assert [layer.media_type for layer in found.layers] == [
        "application/vnd.sylabs.sif.layer.v1.sif"
    ]


def test_an_image_that_is_not_there(busybox_image: str) -> None:
    with pytest.raises(ImageUnavailable, match=r"is not known to 127\.0\.0\.1:5000") as caught:
        manifest(busybox_image.replace(":1", ":no-such-tag"))
    assert caught.value.hint == "look at its name and its tag"


@pytest.mark.parametrize("engine", ["podman", "docker", "apptainer"])
def test_a_login_is_found_where_its_engine_keeps_it(
    private_image: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = private_image.partition("/")[0]
    with pytest.raises(ImageUnavailable, match="asks for a login, or has no such image") as caught:
        manifest(private_image, engine=engine)
    assert caught.value.hint == f"{engine} login {host}"
    path = {
        "podman": tmp_path / "chosen.json",
        "docker": tmp_path / "docker" / "config.json",
        "apptainer": tmp_path / ".apptainer" / "docker-config.json",
    }[engine]
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "chosen.json"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    log_in(path, host, "test", "wrong-word")
    with pytest.raises(ImageUnavailable) as caught:
        manifest(private_image, engine=engine)
    assert f"with the login of {path}: {host} refuses it" in caught.value.message
    assert "wrong-word" not in str(caught.value)
    log_in(path, host, "test", "test")
    assert manifest(private_image, engine=engine).digest.startswith("sha256:")


def test_a_token_is_asked_for_as_the_registry_says(server: Server, tmp_path: Path) -> None:
    put_image(server, authorization="Bearer t0ken")
    realm = f"http://{server.host}/token"
    server.challenge = {
        "WWW-Authenticate": f'Bearer realm="{realm}",service="s",scope="repository:a:pull"'
    }
    server.says("/token", 200, b'{"token": "t0ken"}')
    assert manifest(f"{server.host}/a:1").digest.startswith("sha256:")
    (path, headers) = next((path, told) for _, path, told in server.asked if "/token" in path)
    assert path == "/token?service=s&scope=repository%3Aa%3Apull"
    assert "authorization" not in headers
    # With a login, that goes to the one who hands out tokens, and to nobody else.
    log_in(tmp_path / ".docker" / "config.json", server.host)
    server.asked.clear()
    assert manifest(f"{server.host}/a:1").digest.startswith("sha256:")
    shown = {path.partition("?")[0]: told.get("authorization") for _, path, told in server.asked}
    basic = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert shown["/token"] == f"Basic {basic}"
    assert {value for path, value in shown.items() if path != "/token"} == {"Bearer t0ken"}


def test_a_token_of_a_login_is_changed_for_another(server: Server, tmp_path: Path) -> None:
    put_image(server, authorization="Bearer t0ken")
    server.challenge = {
        "WWW-Authenticate": f'Bearer realm="http://{server.host}/token",service="s"'
    }
    server.says("/token", 200, b'{"access_token": "t0ken"}')
    path = tmp_path / ".docker" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"auths": {server.host: {"auth": "", "identitytoken": SECRET}}}))
    assert manifest(f"{server.host}/a:1").digest.startswith("sha256:")
    assert len(server.posted) == 1
    assert f"refresh_token={SECRET}" in server.posted[0]
    assert "grant_type=refresh_token" in server.posted[0]


def test_another_host_is_not_shown_who_asks(server: Server, other: Server, tmp_path: Path) -> None:
    body = put_image(server, authorization="Basic none")
    log_in(tmp_path / ".docker" / "config.json", server.host)
    basic = f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"
    config = json.loads(body)["config"]["digest"]
    there = f"http://{other.host}/elsewhere"

    def manifest_answer(headers: dict[str, str]) -> Reply:
        if headers.get("authorization") != basic:
            return 401, {"WWW-Authenticate": 'Basic realm="r"'}, b"{}"
        return 200, {"Content-Type": SINGLE}, body

    server.answers["/v2/a/manifests/1"] = manifest_answer
    server.says(f"/v2/a/blobs/{config}", 307, Location=there)
    other.has("/elsewhere", b'{"os": "linux", "architecture": "amd64"}', CONFIG)
    found = manifest(f"{server.host}/a:1")
    assert found.platforms == ("linux/amd64",)
    assert [told.get("authorization") for _, _, told in other.asked] == [None]
    # Nor is what that one asks for believed.
    other.says("/elsewhere", 401, WWW_Authenticate=f'Bearer realm="http://{other.host}/token"')
    with pytest.raises(ImageUnavailable):
        manifest(f"{server.host}/a:1")
    assert {path for _, path, _ in other.asked} == {"/elsewhere"}


@pytest.mark.parametrize(
    ("status", "words", "hint"),
    [
        (401, "asks for a login, or has no such image (be told)", "podman login "),
        (403, "asks for a login, or has no such image (be told)", "podman login "),
        (404, "is not known to 127.0.0.1:", "look at its name"),
        (429, "limits how often it is asked (be told)", "podman login "),
        (500, "does not answer (500 Internal Server Error)", "is the name right"),
        (503, "does not answer (503 Service Unavailable)", "is the name right"),
    ],
)
def test_each_refusal_has_its_words(server: Server, status: int, words: str, hint: str) -> None:
    said = json.dumps({"errors": [{"code": "X", "message": "be\x1b told\n"}]}).encode()
    server.says("/v2/a/manifests/1", status, said)
    with pytest.raises(ImageUnavailable) as caught:
        manifest(f"{server.host}/a:1", engine=None)
    assert words in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>hello</html>", "no answer of a registry's"),
        (b"[" * 100_000, "no answer of a registry's"),
        (b"[]", "no answer of a registry's"),
        (b'{"schemaVersion": 1}', "a manifest of a kind that is not known"),
        (b"{" + b" " * 5 * 2**20, "it says more than 4 MiB"),
        (
            json.dumps({"mediaType": SINGLE, "layers": [{"digest": "x"}]}).encode(),
            "layers without digest and size",
        ),
    ],
    ids=["html", "deep", "list", "old", "huge", "layers"],
)
def test_what_is_no_registry_is_told(server: Server, body: bytes, words: str) -> None:
    server.says("/v2/a/manifests/1", 200, body)
    with pytest.raises(ImageUnavailable) as caught:
        manifest(f"{server.host}/a:1")
    assert words in caught.value.message


def test_another_image_than_the_one_that_was_asked_for_is_refused(server: Server) -> None:
    body = put_image(server)
    wrong = f"sha256:{'0' * 64}"
    server.has(f"/v2/a/manifests/{wrong}", body, SINGLE)
    with pytest.raises(ImageUnavailable, match="another image than the one with this digest"):
        manifest(f"{server.host}/a@{wrong}")
    entry = {"digest": wrong, "platform": {"os": "linux", "architecture": "amd64"}}
    server.has("/v2/a/manifests/2", json.dumps({"manifests": [entry]}).encode(), INDEX)
    with pytest.raises(ImageUnavailable, match="another image than the one in its list"):
        manifest(f"{server.host}/a:2", platform="linux/amd64")
    entry["digest"] = "../../secret"
    server.has("/v2/a/manifests/2", json.dumps({"manifests": [entry]}).encode(), INDEX)
    with pytest.raises(ImageUnavailable, match="a list of images without their digests"):
        manifest(f"{server.host}/a:2", platform="linux/amd64")


def test_signatures_in_a_list_are_no_platforms(server: Server) -> None:
    body = put_image(server)
    entries = [
        {"digest": digest_of(body), "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": digest_of(b""), "platform": {"os": "unknown", "architecture": "unknown"}},
        {"digest": digest_of(b"")},
    ]
    server.has("/v2/a/manifests/2", json.dumps({"manifests": entries}).encode(), INDEX)
    found = manifest(f"{server.host}/a:2", platform="linux/arm64/v8")
    assert (found.digest, found.platforms) == (digest_of(body), ("linux/arm64",))


def test_a_server_that_stalls_does_not_hold_anybody_up(server: Server) -> None:
    def stall(_: dict[str, str]) -> Reply:
        server.stalls.wait(60)
        return 200, {}, b"{}"

    server.answers["/v2/a/manifests/1"] = stall
    with pytest.raises(RegistryStalled, match="does not answer") as caught:
        manifest(f"{server.host}/a:1", limit_s=0.5)
    assert caught.value.hint == "is the name right, the net up?"
    asked = len(server.asked)
    # Nor does the next image of the same registry.
    with pytest.raises(RegistryStalled):
        manifest(f"{server.host}/b:1", limit_s=60)
    assert len(server.asked) == asked


def test_a_server_that_says_a_byte_now_and_then_does_not_either(server: Server) -> None:
    def drops() -> Iterator[bytes]:
        while not server.stalls.wait(0.05):
            yield b" "

    server.answers["/v2/a/manifests/1"] = lambda _: (200, {"Content-Length": "1000000"}, drops())
    with pytest.raises(ImageUnavailable, match=r"does not answer \(nothing within 0.5 s\)"):
        manifest(f"{server.host}/a:1", limit_s=0.5)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher:x"])
def test_a_redirect_leads_to_the_web_alone(server: Server, address: str) -> None:
    server.says("/v2/a/manifests/1", 302, Location=address)
    with pytest.raises(ImageUnavailable, match="elsewhere than to a web address"):
        manifest(f"{server.host}/a:1")


def test_a_redirect_in_a_circle_ends(server: Server) -> None:
    server.says("/v2/a/manifests/1", 302, Location="/v2/a/manifests/1")
    with pytest.raises(ImageUnavailable, match="redirects in a circle"):
        manifest(f"{server.host}/a:1")


def test_podman_speaks_without_encryption_only_where_it_is_told(server: Server) -> None:
    put_image(server)
    assert manifest(f"{server.host}/a:1", engine="docker").digest.startswith("sha256:")
    with pytest.raises(ImageUnavailable, match="agree on no encryption") as caught:
        manifest(f"{server.host}/a:1", engine="podman")
    assert "insecure" in str(caught.value.hint)
    assert server.asked[-1][1].startswith("/v2/a/blobs/")


def test_a_registry_is_asked_at_its_mirrors_first(
    server: Server, other: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(other)
    conf = tmp_path / "registries.conf"
    conf.write_text(
        f'[[registry]]\nlocation = "r.invalid"\n'
        f'[[registry.mirror]]\nlocation = "{server.host}"\ninsecure = true\n'
        f'[[registry.mirror]]\nlocation = "{other.host}"\ninsecure = true\n'
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    found = manifest("r.invalid/a:1", engine="podman")
    assert found.digest.startswith("sha256:")
    assert [path for _, path, _ in server.asked] == ["/v2/a/manifests/1"]


def test_proxies_are_those_of_the_environment(
    server: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = put_image(other)
    config = json.loads(body)["config"]["digest"]
    # A proxy is asked for the whole address; https goes through it by CONNECT, which this is not.
    other.answers["http://registry.invalid:80/v2/a/manifests/1"] = lambda _: (
        200,
        {"Content-Type": SINGLE},
        body,
    )
    other.answers[f"http://registry.invalid:80/v2/a/blobs/{config}"] = other.answers[
        f"/v2/a/blobs/{config}"
    ]
    monkeypatch.setenv("http_proxy", f"http://{other.host}")
    monkeypatch.setenv("https_proxy", f"http://{other.host}")
    monkeypatch.setattr(
        registry,
        "endpoints",
        lambda *_, **__: (Endpoint(host="registry.invalid:80", repository="a", is_insecure=True),),
    )
    assert manifest("registry.invalid:80/a:1").digest == digest_of(body)
    assert server.asked == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for this machine that nobody vouches for, and its key beside it."""
    path = tmp_path / "own" / "server.crt"
    path.parent.mkdir()
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *(*names, "-keyout", str(path.with_suffix(".key")), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    return path


def test_a_certificate_is_trusted_where_the_engine_trusts_it(
    certificate: Path, tmp_path: Path
) -> None:
    server = Server(certificate)
    try:
        put_image(server)
        with pytest.raises(ImageUnavailable) as caught:
            manifest(f"{server.host}/a:1", engine="podman")
        assert f"the certificate of {server.host} is not trusted (self" in caught.value.message
        assert f"certs.d/{server.host}" in str(caught.value.hint)
        assert server.asked == []
        folder = tmp_path / ".config" / "containers" / "certs.d" / server.host
        folder.mkdir(parents=True)
        shutil.copy(certificate, folder / "ca.crt")
        assert manifest(f"{server.host}/a:1", engine="podman").digest.startswith("sha256:")
    finally:
        server.close()


def test_tokens_are_asked_for_over_encryption_alone(certificate: Path, tmp_path: Path) -> None:
    server = Server(certificate)
    try:
        put_image(server, authorization="Bearer t0ken")
        plain = "http://127.0.0.1:9/token"
        server.challenge = {"WWW-Authenticate": f'Bearer realm="{plain}",service="s"'}
        log_in(tmp_path / ".docker" / "config.json", server.host)
        with pytest.raises(ImageUnavailable, match="at no encrypted address"):
            manifest(f"{server.host}/a:1", engine="docker")
    finally:
        server.close()
