import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.environments.images.archives import read_archive
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image, ImageForm

AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64", "variant": "v8"}


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pack(path: Path, files: Mapping[str, bytes], *, prefix: str = "", mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # the mode is a plain one
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def saved(*images: tuple[list[str], dict[str, Any]]) -> dict[str, bytes]:
    """What `docker save` writes, as far as it is read."""
    files: dict[str, bytes] = {}
    entries = []
    for tags, told in images:
        data = json.dumps(told).encode()
        name = f"{digest_of(data).removeprefix('sha256:')}.json"
        files[name] = data
        entries.append({"Config": name, "RepoTags": tags, "Layers": []})
    return {**files, "manifest.json": json.dumps(entries).encode()}


class Layout:
    """An OCI layout."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b"{}"}
        self.entries: list[dict[str, Any]] = []

    def blob(self, told: Any) -> str:
        data = json.dumps(told).encode()
        digest = digest_of(data)
        self.files[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = data
        return digest

    def image(self, told: dict[str, Any]) -> dict[str, Any]:
        manifest = {"config": {"digest": self.blob(told)}, "layers": []}
        return {"digest": self.blob(manifest)}

    def add(self, entry: dict[str, Any], **more: Any) -> None:
        self.entries.append({**entry, **more})
        self.files["index.json"] = json.dumps({"manifests": self.entries}).encode()


def image(form: ImageForm, path: Path, inner: str = "") -> Image:
    return Image(name=f"{form}:{path}{inner}", form=form)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_an_archive_of_docker_is_read(tmp_path: Path, mode: str, prefix: str) -> None:
    path = tmp_path / "a.tar"
    pack(path, saved((["a:1"], ARM64)), prefix=prefix, mode=mode)
    found = read_archive(image("docker-archive", path), "linux/amd64")
    assert found.identity == found.digest == digest_of(json.dumps(ARM64).encode())
    assert found.platform == "linux/arm64/v8"


def test_one_of_several_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    pack(path, saved((["a:1", "a:2"], AMD64), (["b:1"], ARM64)))
    for inner in (":a:2", ":docker.io/library/a:1"):
        assert read_archive(image("docker-archive", path, inner), "x").platform == "linux/amd64"
    assert read_archive(image("docker-archive", path, ":b:1"), "x").platform == "linux/arm64/v8"
    with pytest.raises(ImageUnavailable, match="there are 2 images in it; name one behind a ':'"):
        read_archive(image("docker-archive", path), "x")
    with pytest.raises(ImageUnavailable, match="there is no c:1 in it, but a:1, a:2, b:1"):
        read_archive(image("docker-archive", path, ":c:1"), "x")


@pytest.mark.parametrize("form", ["oci-archive", "oci"])
def test_a_layout_is_read(tmp_path: Path, form: ImageForm) -> None:
    layout = Layout()
    names = "org.opencontainers.image.ref.name"
    own, other = layout.image(AMD64), layout.image(ARM64)
    layout.add(own, platform=AMD64, annotations={names: "1"})
    path = tmp_path / "image"
    write(form, path, layout)
    found = read_archive(image(form, path), "linux/amd64")
    assert (found.digest, found.platform) == (own["digest"], "linux/amd64")
    assert found.identity == digest_of(json.dumps(AMD64).encode())
    layout.add(other, platform=ARM64, annotations={names: "2"})
    write(form, path, layout)
    assert read_archive(image(form, path), "linux/arm64").digest == other["digest"]
    assert read_archive(image(form, path, ":1"), "linux/arm64").digest == own["digest"]
    with pytest.raises(ImageUnavailable, match="not there for linux/s390x; there is linux/amd64"):
        read_archive(image(form, path), "linux/s390x")
    with pytest.raises(ImageUnavailable, match="there is no 3 in it, but 1, 2"):
        read_archive(image(form, path, ":3"), "linux/amd64")


def test_a_list_within_a_list_is_followed(tmp_path: Path) -> None:
    layout = Layout()
    inner = {"manifests": [{**layout.image(AMD64), "platform": AMD64}]}
    layout.add({"digest": layout.blob(inner)})
    write("oci", tmp_path / "image", layout)
    found = read_archive(image("oci", tmp_path / "image"), "linux/amd64")
    assert found.platform == "linux/amd64"


def test_an_archive_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for told in (AMD64, ARM64):
        path.unlink(missing_ok=True)
        pack(path, saved((["a:1"], told)))
        found = read_archive(image("docker-archive", path), "x")
        assert found.identity == digest_of(json.dumps(told).encode())


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("docker-archive", b""),
        ("docker-archive", b"nonsense"),
        ("docker-archive", {"manifest.json": b"{}"}),
        ("docker-archive", {"manifest.json": b'[{"Config": "x"}]'}),
        ("docker-archive", {"index.json": b"{}"}),
        ("docker-archive", {"manifest.json": b"[" * 100_000}),
        ("docker-archive", {"manifest.json": b" " * 5 * 2**20}),
        ("oci-archive", {"index.json": b'{"manifests": [{"digest": "sha256:../../etc/passwd"}]}'}),
        ("oci-archive", {"index.json": b'{"manifests": [{}]}'}),
        ("oci-archive", {"manifest.json": b"[]"}),
    ],
)
def test_what_is_no_image_is_told(
    tmp_path: Path, form: ImageForm, content: bytes | dict[str, bytes]
) -> None:
    path = tmp_path / "a.tar"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pack(path, content)
    kind = {"docker-archive": "what 'docker save' writes", "oci-archive": "a packed OCI image"}
    with pytest.raises(ImageUnavailable, match=f"it is not {kind[form]}"):
        read_archive(image(form, path), "linux/amd64")


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_a_file_that_is_not_there_is_told(tmp_path: Path, form: ImageForm) -> None:
    with pytest.raises(ImageUnavailable, match="cannot be read: No such file") as caught:
        read_archive(image(form, tmp_path / "none"), "linux/amd64")
    assert caught.value.hint == "look at its path"
    with pytest.raises(ImageUnavailable, match="cannot be read: Is a directory"):
        read_archive(image(form, tmp_path), "linux/amd64")


def write(form: ImageForm, path: Path, layout: Layout) -> None:
    if form == "oci-archive":
        path.unlink(missing_ok=True)
        pack(path, layout.files)
        return
    for name, data in layout.files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
