import json
import ssl
import subprocess
from pathlib import Path

import pytest

from fasthep_flow.environments.registries import endpoints as module
from fasthep_flow.environments.registries.endpoints import Endpoint, endpoints, trusted

CONF = """
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example/hub"
[[registry.mirror]]
location = "127.0.0.2:5000"
insecure = true

[[registry]]
prefix = "old.example/group"
location = "new.example/moved"

[[registry]]
location = "old.example"
insecure = true

[[registry]]
prefix = "*.site.example"
insecure = true
"""


@pytest.fixture(autouse=True)
def _configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    conf, daemon = tmp_path / "registries.conf", tmp_path / "daemon.json"
    conf.write_text(CONF)
    daemon.write_text(
        json.dumps(
            {
                "insecure-registries": ["plain.example:5000", "10.0.0.0/8"],
                "registry-mirrors": ["https://docker-mirror.example/"],
            }
        )
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    monkeypatch.setattr(module, "_DAEMON", str(daemon))
    monkeypatch.setenv("HOME", str(tmp_path))


def at(host: str, repository: str, *, insecure: bool = False) -> Endpoint:
    return Endpoint(host=host, repository=repository, is_insecure=insecure)


@pytest.mark.parametrize(
    ("registry", "repository", "places"),
    [
        (
            "docker.io",
            "library/debian",
            [
                at("mirror.example", "hub/library/debian"),
                at("127.0.0.2:5000", "library/debian", insecure=True),
                at("registry-1.docker.io", "library/debian"),
            ],
        ),
        ("old.example", "group/a", [at("new.example", "moved/a")]),
        ("old.example", "grouped/a", [at("old.example", "grouped/a", insecure=True)]),
        ("a.site.example:5000", "a", [at("a.site.example:5000", "a", insecure=True)]),
        ("quay.io", "a/b", [at("quay.io", "a/b")]),
        # Podman trusts the machine itself no more than any other.
        ("127.0.0.1:5000", "a", [at("127.0.0.1:5000", "a")]),
    ],
)
def test_podman_asks_where_its_configuration_says(
    registry: str, repository: str, places: list[Endpoint]
) -> None:
    assert list(endpoints(registry, repository, engine="podman")) == places


@pytest.mark.parametrize(
    ("registry", "places"),
    [
        ("docker.io", [at("docker-mirror.example", "a"), at("registry-1.docker.io", "a")]),
        ("plain.example:5000", [at("plain.example:5000", "a", insecure=True)]),
        ("plain.example", [at("plain.example", "a")]),
        ("10.1.2.3:5000", [at("10.1.2.3:5000", "a", insecure=True)]),
        ("11.1.2.3:5000", [at("11.1.2.3:5000", "a")]),
        ("127.0.0.1:5000", [at("127.0.0.1:5000", "a", insecure=True)]),
        ("localhost:5000", [at("localhost:5000", "a", insecure=True)]),
        ("[::1]:5000", [at("[::1]:5000", "a", insecure=True)]),
    ],
)
def test_docker_asks_where_its_daemon_is_told(registry: str, places: list[Endpoint]) -> None:
    assert list(endpoints(registry, "a", engine="docker")) == places


def test_without_configuration_the_registry_itself_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "none"))
    monkeypatch.setattr(module, "_DAEMON", str(tmp_path / "none"))
    for engine in (None, "podman", "docker", "apptainer"):
        assert endpoints("docker.io", "a", engine=engine) == (at("registry-1.docker.io", "a"),)


@pytest.mark.parametrize("text", ["", "registry = 1", "[registry", "[[registry]]\nlocation = 1"])
def test_a_file_that_is_none_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "registries.conf").write_text(text)
    (tmp_path / "daemon.json").write_text(text)
    assert endpoints("quay.io", "a") == (at("quay.io", "a"),)


def test_certificates_are_those_of_the_engines(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "containers" / "certs.d" / "r.example:5000"
    folder.mkdir(parents=True)
    key, certificate = folder / "client.key", folder / "ca.crt"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=r.example",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    before = ssl.create_default_context().cert_store_stats()["x509_ca"]
    known = trusted(at("r.example:5000", "a"))
    assert known.cert_store_stats()["x509_ca"] == before + 1
    assert known.verify_mode is ssl.CERT_REQUIRED
    assert trusted(at("r.example", "a")).cert_store_stats()["x509_ca"] == before
    assert trusted(at("r.example", "a", insecure=True)).verify_mode is ssl.CERT_NONE
