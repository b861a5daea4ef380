"""Images as the stores of podman and docker have them."""

import json
import platform
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from fasthep_flow.environments.engine import Engine
from fasthep_flow.environments.images.stored import (
    StoredImage,
    asked_of_docker,
    inspected,
    repository,
    require_platform,
    stored_image,
)
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

ENGINE = Engine(program="podman", not_there="look")
IDENTITY, OWN, OTHER = (sign * 64 for sign in "abc")
FACTS = {
    "Id": IDENTITY,
    "Os": "linux",
    "Architecture": "amd64",
    "RepoDigests": [f"other.example/a@sha256:{OTHER}", f"docker.io/library/a@sha256:{OWN}"],
}


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the engine answer with this, whatever it is asked; with nothing if it is empty."""

    def put(answer: str) -> None:
        done = subprocess.CompletedProcess((), 0 if answer else 1, answer, "")
        monkeypatch.setattr("fasthep_flow.environments.images.stored.ask", lambda *_arguments: done)

    return put


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("docker.io/library/debian:12", "debian"),
        ("debian", "debian"),
        ("docker.io/rootproject/root:6", "rootproject/root"),
        ("127.0.0.1:5000/x:1@sha256:00", "127.0.0.1:5000/x"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x"),
    ],
)
def test_a_repository_is_named_as_docker_and_podman_name_it(image: str, name: str) -> None:
    assert repository(image) == name


@pytest.mark.parametrize(
    ("reference", "changes", "digest"),
    [
        ("docker.io/library/a:1", {}, OWN),
        ("a", {}, OWN),
        ("other.example/a:1", {}, OTHER),
        # Podman names the one that it had first.
        ("other.example/a:1", {"Digest": f"sha256:{OWN}"}, OTHER),
        (f"a@sha256:{OTHER}", {}, OTHER),
        # It was built here, or came out of a file.
        ("localhost/a:1", {}, IDENTITY),
        ("a", {"RepoDigests": None}, IDENTITY),
        ("a", {"Id": f"sha256:{IDENTITY}", "RepoDigests": []}, IDENTITY),
    ],
)
def test_an_image_has_the_digest_of_its_own_registry(
    says: Callable[[str], None], reference: str, changes: dict[str, Any], digest: str
) -> None:
    says(json.dumps([FACTS | changes]))
    assert inspected(ENGINE, reference) == StoredImage(
        identity=f"sha256:{IDENTITY}", digest=f"sha256:{digest}", platform="linux/amd64"
    )


@pytest.mark.parametrize("answer", ["", "{}", "[]", '["a"]', "[{}]", '[{"Id"', "null"])
def test_what_the_engine_does_not_know_is_not_there(
    says: Callable[[str], None], answer: str
) -> None:
    says(answer)
    assert inspected(ENGINE, "a") is None
    assert stored_image(ENGINE, "a", Image(name="a")) is None


def test_no_name_is_no_image(says: Callable[[str], None]) -> None:
    says(json.dumps([FACTS]))
    assert inspected(ENGINE, "") is None


def test_an_image_for_another_machine_is_as_good_as_none(
    says: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    asked = Image(name="a", platform="linux/arm64/v8")
    says(json.dumps([FACTS]))
    assert stored_image(ENGINE, "a", asked) is None
    assert stored_image(ENGINE, "a", Image(name="a")) is not None
    says(json.dumps([FACTS | {"Architecture": "arm64", "Variant": "v8"}]))
    found = stored_image(ENGINE, "a", asked)
    assert found is not None
    assert found.platform == "linux/arm64/v8"
    # Nothing says what it is for: the engine will.
    says(json.dumps([FACTS | {"Os": "", "Architecture": ""}]))
    assert stored_image(ENGINE, "a", asked) is not None


def test_an_image_for_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    require_platform(Image(name="a"), "linux/amd64")
    require_platform(Image(name="a", platform="linux/arm64"), "linux/arm64")
    asked = Image(name="a", platform="linux/arm64")
    with pytest.raises(ImageUnavailable, match="is there for linux/amd64, not for linux/arm64"):
        require_platform(asked, "linux/amd64")
    with pytest.raises(ImageUnavailable, match="another kind of machine than this one") as caught:
        require_platform(Image(name="a"), "linux/mips64le")
    assert caught.value.hint == "look for one that fits this processor"


def test_docker_is_asked_for_an_image_of_its_own(says: Callable[[str], None]) -> None:
    image = Image(name="docker-daemon:a:1", form="docker-daemon")
    says(f"sha256:{IDENTITY}\n")
    assert asked_of_docker(image) == f"sha256:{IDENTITY}"
    says("")
    with pytest.raises(ImageUnavailable, match="docker on this machine has no image a:1") as caught:
        asked_of_docker(image)
    assert caught.value.hint == "'docker image ls' shows what it has"
