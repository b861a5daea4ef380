"""Images as folders: of every form, made once, and never half."""

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from fasthep_flow.environments.images.cache import image_folder
from fasthep_flow.environments.images.folders import FolderStore, variables_of
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image, ImageForm, Pull

REGISTRY = "127.0.0.1:5000"
TYPE = "application/vnd.oci.image.manifest.v1+json"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HAVE = """
import sys
from fasthep_flow.environments.images.folders import FolderStore
from fasthep_flow.model import Image
print(FolderStore().have(Image(name=sys.argv[1])).reference)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "a cache"
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(path))
    return path


@pytest.fixture
def tag(busybox_image: str) -> str:
    """A tag of the busybox image's that is this test's own."""
    name = f"folders-{uuid.uuid4().hex[:12]}"
    point(name, "busybox", busybox_image.rpartition(":")[2])
    return name


def ask(method: str, path: str, body: bytes | None = None) -> bytes:
    with contextlib.closing(http.client.HTTPConnection(REGISTRY, timeout=30)) as registry:
        registry.request(method, path, body, {"Accept": TYPE, "Content-Type": TYPE})
        answer = registry.getresponse()
        data = answer.read()
        assert answer.status < 300, data
        return data


def point(tag: str, repository: str, to: str) -> None:
    """Let the tag mean what another one does."""
    manifest = ask("GET", f"/v2/testbed/{repository}/manifests/{to}")
    ask("PUT", f"/v2/testbed/{repository}/manifests/{tag}", manifest)


def leftovers(cache: Path) -> list[str]:
    return [str(path) for path in cache.rglob("*.part")] if cache.exists() else []


def have(name: str, form: ImageForm = "registry", pull: Pull = "missing") -> Path:
    return Path(FolderStore().have(Image(name=name, form=form, pull=pull)).reference)


@pytest.mark.registry
def test_an_image_of_a_registry_is_unpacked(busybox_image: str, cache: Path) -> None:
    store, image = FolderStore(), Image(name=busybox_image)
    before = store.look(image)
    assert (before.is_local, before.platforms) == (False, ("linux/amd64",))
    assert not cache.exists()
    found = store.have(image)
    root = Path(found.reference)
    assert root.is_relative_to(image_folder(busybox_image))
    assert os.access(root / "bin/busybox", os.X_OK)
    assert (root / "bin/sh").readlink() == Path("busybox")
    assert (found.name, found.digest) == (busybox_image, before.digest)
    assert variables_of(found)["PATH"] == PATH
    after = store.look(image)
    assert after.is_local
    assert after.digest == found.digest
    assert not leftovers(cache)


@pytest.mark.registry
def test_what_is_here_is_used_without_asking_anybody(
    busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = have(busybox_image)
    monkeypatch.setattr(
        "fasthep_flow.environments.images.folders.located", lambda *_, **__: pytest.fail("asked")
    )
    assert have(busybox_image) == first
    assert have(busybox_image, pull="never") == first


@pytest.mark.registry
def test_never_means_never(busybox_image: str, cache: Path) -> None:
    with pytest.raises(ImageUnavailable, match="never to be pulled"):
        have(busybox_image, pull="never")
    with pytest.raises(ImageUnavailable, match="never to be pulled"):
        FolderStore().look(Image(name=busybox_image, pull="never"))
    assert not cache.exists()


@pytest.mark.registry
def test_always_follows_a_tag(tag: str) -> None:
    name = f"{REGISTRY}/testbed/busybox:{tag}"
    first = have(name)
    manifest = json.loads(ask("GET", "/v2/testbed/busybox/manifests/1"))
    manifest["annotations"] = {"test": tag}
    ask("PUT", f"/v2/testbed/busybox/manifests/{tag}", json.dumps(manifest).encode())
    assert have(name) == first
    second = have(name, pull="always")
    assert second != first
    assert have(name) == second
    # And back again: the newest is not the one that was made last.
    point(tag, "busybox", "1")
    assert have(name, pull="always") == first
    assert have(name) == first


@pytest.mark.registry
def test_a_digest_is_what_it_says(busybox_image: str) -> None:
    digest = FolderStore().look(Image(name=busybox_image)).digest
    repository = busybox_image.rpartition(":")[0]
    found = FolderStore().have(Image(name=f"{repository}@{digest}"))
    assert found.digest == digest
    with pytest.raises(ImageUnavailable, match="not known"):
        have(f"{repository}@sha256:{'0' * 64}")


@pytest.mark.registry
def test_a_login_is_used_and_asked_for(
    private_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "APPTAINER_CONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    with pytest.raises(ImageUnavailable, match="asks for a login"):
        have(private_image)
    auth = base64.b64encode(b"test:test").decode()
    config = {"auths": {private_image.partition("/")[0]: {"auth": auth}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (have(private_image) / "bin/sh").exists()


@pytest.mark.registry
def test_the_login_of_ch_image_is_used(
    private_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("CH_IMAGE_USERNAME", "test")
    monkeypatch.setenv("CH_IMAGE_PASSWORD", "test")
    assert (have(private_image) / "bin/sh").exists()


@pytest.mark.registry
def test_another_machine_s_image_is_refused_unless_it_is_asked_for(
    foreign_image: str, multi_image: str, cache: Path
) -> None:
    for work in (FolderStore().have, FolderStore().look):
        with pytest.raises(ImageUnavailable, match=r"another kind of machine.*linux/arm64"):
            work(Image(name=foreign_image))
    assert not leftovers(cache)
    store = FolderStore()
    own = store.have(Image(name=multi_image))
    other = store.have(Image(name=multi_image, platform="linux/arm64"))
    assert own.reference != other.reference
    assert store.look(Image(name=multi_image, platform="linux/arm64")).platforms == ("linux/arm64",)
    with pytest.raises(ImageUnavailable, match=r"not there for linux/s390x; there is linux/amd64"):
        store.have(Image(name=multi_image, platform="linux/s390x"))


@pytest.mark.registry
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{REGISTRY}/testbed/nothing:1", "not known to"),
        (f"{REGISTRY}/testbed/busybox:nothing", "not known to"),
        ("127.0.0.1:1/testbed/busybox:1", "does not answer"),
        (f"{REGISTRY}/testbed/sif:1", "is a SIF file"),
    ],
)
def test_what_cannot_be_had_is_told(name: str, words: str, cache: Path) -> None:
    with pytest.raises(ImageUnavailable, match=words) as refused:
        have(name)
    assert name in refused.value.message
    assert refused.value.hint
    assert not leftovers(cache)


@pytest.mark.registry
def test_an_image_is_no_sif_file(busybox_image: str) -> None:
    with pytest.raises(ImageUnavailable, match="is no SIF file") as refused:
        have(f"oras://{busybox_image}", "oras")
    assert refused.value.hint == f"try {busybox_image}"


@pytest.mark.registry
def test_a_sif_file_of_a_registry_is_unpacked(oras_image: str, cache: Path) -> None:
    root = have(oras_image, "oras")
    assert (root / "bin/busybox").exists()
    assert [path.name for path in sorted(root.parent.iterdir())] == ["image.json", "root"]
    assert not leftovers(cache)


def test_archives_and_layouts_are_unpacked(
    docker_archive: Path, oci_archive: Path, oci_folder: Path, cache: Path
) -> None:
    forms: dict[ImageForm, Path] = {
        "docker-archive": docker_archive,
        "oci-archive": oci_archive,
        "oci": oci_folder,
    }
    for form, path in forms.items():
        store, image = FolderStore(), Image(name=f"{form}:{path}", form=form)
        assert store.look(image).note == "is to be unpacked"
        found = store.have(image)
        assert (Path(found.reference) / "bin/busybox").exists()
        assert variables_of(found)["PATH"] == PATH
        facts = store.look(image)
        assert (facts.note, facts.digest) == ("", found.digest)
    assert not leftovers(cache)


def test_an_archive_that_lost_a_layer_is_told(oci_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(oci_folder), str(copy)], check=True)
    largest = max((copy / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    largest.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageUnavailable, match="cannot be unpacked: a layer of it"):
        have(f"oci:{copy}", "oci")
    largest.unlink()
    with pytest.raises(ImageUnavailable):
        have(f"oci:{copy}", "oci")


def test_a_sif_file_is_unpacked(sif_file: Path, cache: Path) -> None:
    store, image = FolderStore(), Image(name=str(sif_file), form="sif")
    assert store.look(image).is_local
    found = store.have(image)
    assert (Path(found.reference) / "bin/busybox").exists()
    assert variables_of(found)["PATH"] == PATH
    assert not leftovers(cache)


def test_a_sif_file_without_unsquashfs_says_so(
    sif_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageUnavailable, match="unsquashfs is not installed"):
        have(str(sif_file), "sif")


@pytest.mark.parametrize("size", [0, 40, 128, 5000, 100_000])
def test_half_a_sif_file_is_told(sif_file: Path, tmp_path: Path, size: int) -> None:
    half = tmp_path / "half.sif"
    half.write_bytes(sif_file.read_bytes()[:size])
    with pytest.raises(ImageUnavailable):
        have(str(half), "sif")


def test_folders_are_used_as_they_are(busybox_root: Path, cache: Path) -> None:
    store, image = FolderStore(), Image(name=str(busybox_root), form="folder")
    found = store.have(image)
    assert found.reference == str(busybox_root)
    assert found.digest.startswith("sha256:")
    assert store.look(image).digest == found.digest
    assert variables_of(found) == {}
    assert not cache.exists()


def test_what_cvmfs_has_unpacked_is_used_instead(
    cvmfs_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = cvmfs_image.resolve().name
    found = FolderStore().have(Image(name=str(cvmfs_image), form="folder"))
    assert (found.reference, found.digest) == (str(cvmfs_image), f"sha256:{flat}")
    root = str(cvmfs_image).partition("/registry.hub.docker.com/")[0]
    monkeypatch.setenv("FASTHEP_FLOW_UNPACKED", root)
    image = Image(name="docker.io/testbed/python:3.11")
    assert FolderStore().have(image).digest == f"sha256:{flat}"
    facts = FolderStore().look(image)
    assert (facts.is_local, facts.note) == (True, f"unpacked in {cvmfs_image}")


@pytest.mark.parametrize(
    ("form", "kind"),
    [("folder", "folder"), ("sif", "file"), ("docker-archive", ""), ("oci", "")],
)
def test_a_path_that_leads_nowhere_is_told(form: ImageForm, kind: str, tmp_path: Path) -> None:
    prefix = "" if kind else f"{form}:"
    for work in (FolderStore().have, FolderStore().look):
        with pytest.raises(ImageUnavailable, match=f"no such {kind}|No such file"):
            work(Image(name=f"{prefix}{tmp_path}/nothing", form=form))


@pytest.mark.docker
@pytest.mark.registry
def test_docker_s_own_image_is_unpacked(busybox_image: str) -> None:
    subprocess.run(["docker", "pull", "--quiet", busybox_image], check=True, capture_output=True)
    store = FolderStore()
    image = Image(name=f"docker-daemon:{busybox_image}", form="docker-daemon")
    found = store.have(image)
    assert (Path(found.reference) / "bin/busybox").exists()
    assert store.look(image).digest == found.digest
    with pytest.raises(ImageUnavailable, match="has no image"):
        store.have(Image(name="docker-daemon:never:1", form="docker-daemon"))


@pytest.mark.registry
def test_several_processes_at_once_make_one_folder(busybox_image: str, cache: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HAVE, busybox_image], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(said) == 1
    assert len(list(image_folder(busybox_image).glob("sha256=*"))) == 1
    assert not leftovers(cache)


@pytest.mark.registry
def test_what_a_killed_process_left_half_unpacked_is_removed(
    busybox_image: str, cache: Path
) -> None:
    # It is killed in the middle of a layer.
    killed = (
        "import os, signal\n"
        "from fasthep_flow.environments.images import rootfs\n"
        "rootfs._Folder.add = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", killed + HAVE, busybox_image], check=False)
    assert done.returncode == -signal.SIGKILL
    assert leftovers(cache)
    assert (have(busybox_image) / "bin/busybox").exists()
    assert not leftovers(cache)


@pytest.mark.registry
def test_a_full_disk_is_told_and_nothing_is_left(
    busybox_image: str, python_sif: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as small:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "small", small],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
        try:
            monkeypatch.setenv("FASTHEP_FLOW_CACHE", small)
            for image in (Image(name=busybox_image), Image(name=str(python_sif), form="sif")):
                with pytest.raises(ImageUnavailable, match="disk full") as refused:
                    FolderStore().have(image)
                assert image.name in refused.value.message
                assert small in refused.value.message
                files = [path for path in Path(small, "images").rglob("*") if path.is_file()]
                assert not files
        finally:
            subprocess.run(["umount", small], check=True)


@pytest.mark.registry
def test_a_folder_that_was_removed_is_made_again(busybox_image: str) -> None:
    store, image = FolderStore(), Image(name=busybox_image)
    root = Path(store.have(image).reference)
    subprocess.run(["rm", "-rf", str(root.parent)], check=True)
    assert Path(store.have(image).reference) == root
    assert root.is_dir()
