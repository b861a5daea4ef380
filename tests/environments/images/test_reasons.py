"""Why an image cannot be had, in words of ours."""

import pytest

from fasthep_flow.environments.engine import Engine
from fasthep_flow.environments.images.reasons import registry_of, why_no_image

ENGINE = Engine(program="podman", not_there="look")


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("docker.io/rootproject/root:6.28.04-ubuntu22.04", "docker.io"),
        ("gitlab-registry.cern.ch/a/b/c:1", "gitlab-registry.cern.ch"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000"),
        ("localhost/x", "localhost"),
        ("rootproject/root", "docker.io"),
        ("debian:12", "docker.io"),
    ],
)
def test_a_reference_names_its_registry(image: str, registry: str) -> None:
    assert registry_of(image) == registry


@pytest.mark.parametrize(
    ("said", "words", "hint"),
    [
        (
            (
                "Error: initializing source docker://r.ch/a:1: reading manifest 1 in r.ch/a: "
                "manifest unknown: manifest unknown"
            ),
            "is not known to r.ch",
            "tag",
        ),
        (
            "Error response from daemon: manifest for r.ch/a:1 not found: manifest unknown",
            "is not known to r.ch",
            "tag",
        ),
        (
            (
                "Error response from daemon: pull access denied for a, repository does not exist "
                "or may require 'docker login': denied: requested access to the resource is denied"
            ),
            "may not be read",
            "podman login r.ch",
        ),
        (
            'Head "http://r.ch/v2/a/manifests/1": no basic auth credentials',
            "may not be read",
            "login",
        ),
        ("unauthorized: authentication required", "may not be read", "login"),
        ("Get https://r.ch/v2/: dial tcp: connect: connection refused", "does not answer", "net"),
        ("dial tcp: lookup r.ch: no such host", "does not answer", "net"),
        ("net/http: request canceled (Client.Timeout exceeded)", "does not answer", "net"),
        ("received unexpected HTTP status: 500 Internal Server Error", "does not answer", "net"),
        ("http: server gave HTTP response to HTTPS client", "does not answer", "net"),
        ("x509: certificate signed by unknown authority", "is not trusted", "certs.d/r.ch/"),
        ("invalid reference format: repository name must be lowercase", "no name of", "registry/"),
        ("write /var/lib/x: no space left on device", "disk full", "room"),
        ("toomanyrequests: You have reached your pull rate limit", "limits how often", "login"),
        ("no matching manifest for linux/arm64/v8", "another kind of machine", "processor"),
    ],
)
def test_each_cause_has_its_words(said: str, words: str, hint: str) -> None:
    error = why_no_image(ENGINE, "r.ch/a:1", f"Trying to pull r.ch/a:1...\n{said}\n")
    assert "r.ch/a:1" in error.message
    assert words in error.message
    assert said.rsplit(":", maxsplit=1)[-1].strip() in error.message
    assert error.hint is not None
    assert hint in error.hint


def test_the_name_of_an_image_is_no_cause() -> None:
    image = "r.ch/denied/timeout-404:not-found"
    error = why_no_image(ENGINE, image, f"cannot pull {image}: something new")
    assert "cannot be fetched" in error.message
    assert error.hint is None
