"""What the name of an image stands for now, in each of its forms."""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
from pathlib import Path

import pytest
from tests.conftest import REGISTRY

from fasthep_flow.environments.images.exact import exact_digest, why_inexact
from fasthep_flow.environments.registries.registry import digest_now
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

DIGEST = f"sha256:{'0' * 64}"


def told_by_registry(repository: str, tag: str, kind: str) -> str:
    """The digest that the registry itself puts into its answer."""
    registry = http.client.HTTPConnection(REGISTRY, timeout=30)
    registry.request("HEAD", f"/v2/{repository}/manifests/{tag}", headers={"Accept": kind})
    answer = registry.getresponse()
    registry.close()
    return str(answer.headers["Docker-Content-Digest"])


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_of_a_tag_it_is_what_the_registry_says(busybox_image: str) -> None:
    said = told_by_registry("testbed/busybox", "1", "application/vnd.oci.image.manifest.v1+json")
    assert exact_digest(Image(name=busybox_image)) == said


def test_of_several_platforms_it_is_that_of_the_list(multi_image: str) -> None:
    said = told_by_registry("testbed/multi", "1", "application/vnd.oci.image.index.v1+json")
    for platform in (None, "linux/amd64", "linux/arm64", "linux/s390x"):
        assert exact_digest(Image(name=multi_image, platform=platform)) == said


def test_of_a_sif_file_in_a_registry_it_is_that_of_the_manifest(oras_image: str) -> None:
    said = told_by_registry("testbed/sif", "1", "application/vnd.oci.image.manifest.v1+json")
    assert exact_digest(Image(name=oras_image, form="oras")) == said


def test_what_is_named_by_digest_is_asked_of_nobody() -> None:
    assert exact_digest(Image(name=f"127.0.0.1:9/none:1@{DIGEST}")) == DIGEST


@pytest.mark.registry
def test_what_is_not_there_is_told() -> None:
    with pytest.raises(ImageUnavailable, match="is not known to"):
        digest_now(f"{REGISTRY}/testbed/none:1")
    with pytest.raises(ImageUnavailable, match="does not answer"):
        digest_now("127.0.0.1:9/none:1")
    with pytest.raises(ImageUnavailable):
        digest_now(f"{REGISTRY}/testbed/busybox@{DIGEST}")


def test_of_a_file_it_is_that_of_its_bytes(sif_file: Path, docker_archive: Path) -> None:
    assert exact_digest(Image(name=str(sif_file), form="sif")) == digest_of(sif_file)
    archive = Image(name=f"docker-archive:{docker_archive}", form="docker-archive")
    assert exact_digest(archive) == digest_of(docker_archive)


def test_of_a_layout_it_is_that_of_the_manifest(oci_folder: Path) -> None:
    (entry,) = json.loads((oci_folder / "index.json").read_text())["manifests"]
    assert exact_digest(Image(name=f"oci:{oci_folder}", form="oci")) == entry["digest"]


def test_of_a_folder_of_cvmfs_it_is_its_name(cvmfs_image: Path, busybox_root: Path) -> None:
    image = Image(name=str(cvmfs_image), form="folder")
    assert why_inexact(image) is None
    assert exact_digest(image) == f"sha256:{cvmfs_image.resolve().name}"
    assert "folder" in (why_inexact(Image(name=str(busybox_root), form="folder")) or "")


@pytest.mark.docker
def test_of_dockers_own_it_is_the_id(busybox_image: str) -> None:
    subprocess.run(["docker", "pull", "--quiet", busybox_image], capture_output=True, check=True)
    done = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", busybox_image],
        capture_output=True,
        text=True,
        check=True,
    )
    image = Image(name=f"docker-daemon:{busybox_image}", form="docker-daemon")
    assert exact_digest(image) == done.stdout.strip()
    with pytest.raises(ImageUnavailable, match="docker on this machine has no image"):
        exact_digest(Image(name="docker-daemon:no/such:1", form="docker-daemon"))


def test_built_on_this_machine_it_has_none() -> None:
    assert "built on this machine" in (why_inexact(Image(name="localhost/own:1")) or "")
    assert why_inexact(Image(name=f"localhost/own@{DIGEST}")) is None
    assert why_inexact(Image(name="localhost:5000/own:1")) is None


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match="No such file"):
        exact_digest(Image(name=str(tmp_path / "none.sif"), form="sif"))
