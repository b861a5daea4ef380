"""Images as apptainer runs them, with a real apptainer and real registries."""

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.waiting import wait_until

from fasthep_flow.environments.engine import Engine
from fasthep_flow.environments.images.sif import SifStore, sif_platform
from fasthep_flow.environments.images.unpacked import find_unpacked
from fasthep_flow.environments.registries.registry import Manifest, manifest
from fasthep_flow.errors import EngineUnavailable, ImageUnavailable
from fasthep_flow.model import Image, ImageForm

pytestmark = [pytest.mark.apptainer, pytest.mark.registry]

ENGINE = Engine(program="apptainer", not_there="install it")
REGISTRY = "127.0.0.1:5000"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "a cache"))
    monkeypatch.setenv("FASTHEP_FLOW_UNPACKED", str(tmp_path / "no-cvmfs"))
    # Logins of whoever runs the tests are none of theirs.
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setenv("APPTAINER_CONFIGDIR", str(tmp_path / "apptainer"))
    return tmp_path / "a cache"


@pytest.fixture
def counting(tmp_path: Path) -> tuple[Engine, Path]:
    """An apptainer that notes what it is asked to do, and where."""
    log = tmp_path / "log"
    script = tmp_path / "counting" / "apptainer"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$*" >>"{log}"\nexec {shutil.which("apptainer")} "$@"\n')
    script.chmod(0o755)
    return Engine(program=str(script), not_there="it is there"), log


class Asked:
    """Asks the registry, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Manifest:
        self.count += 1
        return manifest(*args, **kwargs)


def said_inside(path: str) -> str:
    argv = ["apptainer", "-s", "exec", "--userns", path, "echo", "hello"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def sifs(cache: Path) -> list[Path]:
    return sorted(cache.glob("images/*/*.sif"))


def tag(image: str, new: str) -> None:
    """Let a new tag mean what an old reference of the same repository means."""
    host, _, rest = image.partition("/")
    repository, _, version = rest.rpartition(":")
    registry = http.client.HTTPConnection(host, timeout=30)
    accept = f"{MANIFEST_TYPE}, application/vnd.oci.image.index.v1+json"
    registry.request("GET", f"/v2/{repository}/manifests/{version}", headers={"Accept": accept})
    answer = registry.getresponse()
    kind, body = answer.headers["Content-Type"], answer.read()
    assert answer.status == 200, body
    registry.request("PUT", f"/v2/{repository}/manifests/{new}", body, {"Content-Type": kind})
    assert registry.getresponse().status == 201
    registry.close()


def test_an_image_in_a_registry_is_pulled_once(
    busybox_image: str, cache: Path, counting: tuple[Engine, Path]
) -> None:
    engine, log = counting
    image = Image(name=busybox_image)
    there = SifStore(engine).look(image)
    assert (there.is_local, there.platforms) == (False, ("linux/amd64",))
    found = SifStore(engine).have(image)
    assert found.name == busybox_image
    assert found.digest == there.digest
    (file,) = sifs(cache)
    assert found.reference == str(file)
    assert file.parent.name == "127.0.0.1=5000+testbed+busybox=1"
    assert file.name == f"{found.digest.replace(':', '=')}.amd64.sif"
    assert said_inside(found.reference) == "hello\n"
    assert SifStore(engine).have(image) == found
    assert SifStore(engine).look(image).is_local
    assert len(log.read_text().splitlines()) == 1
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_pinned_one_is_pulled_by_its_digest(busybox_image: str) -> None:
    digest = manifest(busybox_image).digest
    for name in (f"{busybox_image}@{digest}", f"{REGISTRY}/testbed/busybox@{digest}"):
        found = SifStore(ENGINE).have(Image(name=name))
        assert found.digest == digest
        assert said_inside(found.reference) == "hello\n"


def test_a_registry_that_is_gone_is_no_matter_for_what_is_here(busybox_image: str) -> None:
    asked = Asked()
    found = SifStore(ENGINE, ask_registry=asked).have(Image(name=busybox_image))
    assert asked.count == 1

    def gone(*_: object, **__: object) -> Manifest:
        raise ImageUnavailable("the registry does not answer")

    offline = SifStore(ENGINE, ask_registry=gone)
    assert offline.have(Image(name=busybox_image)) == found
    assert offline.have(Image(name=busybox_image, pull="never")) == found
    with pytest.raises(ImageUnavailable, match="does not answer"):
        offline.have(Image(name=busybox_image, pull="always"))


def test_a_tag_that_moves_is_followed_by_who_pulls_always(cache: Path) -> None:
    name = f"{REGISTRY}/testbed/busybox:moving-{os.getpid()}"
    version = name.rpartition(":")[2]
    store = SifStore(ENGINE)
    digests = []
    for source in ("busybox:1", "multi:1", "busybox:1"):
        if source == "multi:1":
            # Another manifest of the same repository: the same image, otherwise described.
            move_to_other(name)
        else:
            tag(f"{REGISTRY}/testbed/{source}", version)
        digests.append(store.have(Image(name=name, pull="always")).digest)
        assert store.have(Image(name=name)).digest == digests[-1]
    assert digests[0] == digests[2] != digests[1]
    assert len(sifs(cache)) == 2


def move_to_other(name: str) -> None:
    """Let the tag mean another image with the same layers."""
    host, _, rest = name.partition("/")
    repository, _, version = rest.rpartition(":")
    registry = http.client.HTTPConnection(host, timeout=30)
    registry.request(
        "GET", f"/v2/{repository}/manifests/{version}", headers={"Accept": MANIFEST_TYPE}
    )
    said = json.loads(registry.getresponse().read())
    said["annotations"] = {"fasthep.test": "other"}
    body = json.dumps(said)
    registry.request(
        "PUT", f"/v2/{repository}/manifests/{version}", body, {"Content-Type": MANIFEST_TYPE}
    )
    assert registry.getresponse().status == 201
    registry.close()


def test_never_is_never(busybox_image: str, cache: Path) -> None:
    for ask in (SifStore(ENGINE).have, SifStore(ENGINE).look):
        with pytest.raises(ImageUnavailable, match="never to be pulled") as caught:
            ask(Image(name=busybox_image, pull="never"))
        assert "pull: missing" in str(caught.value.hint)
    assert sifs(cache) == []


def test_a_sif_file_in_a_registry(oras_image: str) -> None:
    image = Image(name=oras_image, form="oras")
    assert not SifStore(ENGINE).look(image).is_local
    found = SifStore(ENGINE).have(image)
    assert found.name == oras_image
    assert sif_platform(Path(found.reference)) == "linux/amd64"
    assert said_inside(found.reference) == "hello\n"
    assert SifStore(ENGINE).have(image) == found


def test_what_is_no_sif_file_in_a_registry(busybox_image: str, cache: Path) -> None:
    image = Image(name=f"oras://{busybox_image}", form="oras")
    with pytest.raises(ImageUnavailable, match="is no SIF file") as caught:
        SifStore(ENGINE).have(image)
    assert "without oras://" in str(caught.value.hint)
    assert not list(cache.glob("images/*/*"))


@pytest.mark.parametrize(
    ("form", "fixture"),
    [
        ("docker-archive", "docker_archive"),
        ("oci-archive", "oci_archive"),
        ("oci", "oci_folder"),
    ],
)
def test_archives_are_built_once(
    form: ImageForm,
    fixture: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    counting: tuple[Engine, Path],
) -> None:
    engine, log = counting
    # What breaks a command line is no matter, but for the colon that no path here may have.
    path = tmp_path / "an archive, 'odd' \"µ"
    path.symlink_to(request.getfixturevalue(fixture))
    image = Image(name=f"{form}:{path}", form=form)
    assert SifStore(engine).look(image).note == "a SIF file is to be built of it"
    found = SifStore(engine).have(image)
    assert found.digest.startswith("sha256:")
    assert said_inside(found.reference) == "hello\n"
    assert SifStore(engine).have(image) == found
    assert len(log.read_text().splitlines()) == 1
    assert SifStore(engine).look(image).note == ""


@pytest.mark.docker
def test_an_image_of_dockers(busybox_image: str) -> None:
    subprocess.run(["docker", "pull", "--quiet", busybox_image], check=True, capture_output=True)
    image = Image(name=f"docker-daemon:{busybox_image}", form="docker-daemon")
    found = SifStore(ENGINE).have(image)
    assert said_inside(found.reference) == "hello\n"
    assert SifStore(ENGINE).look(image).digest == found.digest
    with pytest.raises(ImageUnavailable, match="docker on this machine has no image") as caught:
        SifStore(ENGINE).have(Image(name="docker-daemon:no/such:1", form="docker-daemon"))
    assert "docker image ls" in str(caught.value.hint)


def test_a_sif_file_is_used_as_it_is(sif_file: Path, cache: Path) -> None:
    image = Image(name=str(sif_file), form="sif")
    found = SifStore(ENGINE).have(image)
    assert found.reference == str(sif_file)
    assert SifStore(ENGINE).look(image).digest == found.digest
    assert SifStore(ENGINE).look(image).platforms == ("linux/amd64",)
    assert sifs(cache) == []


def test_a_folder_is_used_as_it_is(busybox_root: Path, cvmfs_image: Path) -> None:
    image = Image(name=str(busybox_root), form="folder")
    assert SifStore(ENGINE).have(image).reference == str(busybox_root)
    image = Image(name=str(cvmfs_image), form="folder")
    assert SifStore(ENGINE).have(image).digest == f"sha256:{cvmfs_image.resolve().name}"


def test_cvmfs_is_asked_before_a_registry(cvmfs_image: Path) -> None:
    root = str(cvmfs_image.parents[2])
    assert root.endswith("unpacked.cern.ch")

    def nobody(*_: object, **__: object) -> Manifest:
        raise AssertionError

    store = SifStore(ENGINE, ask_registry=nobody, unpacked=root)
    image = Image(name="docker.io/testbed/python:3.11")
    found = store.have(image)
    assert found.reference == str(cvmfs_image)
    assert found.digest == f"sha256:{cvmfs_image.resolve().name}"
    there = store.look(image)
    assert there.is_local
    assert there.note == f"unpacked in {cvmfs_image}"
    # Who asks for the very newest, for a digest or for another processor is not served by it.
    others = (
        Image(name=image.name, pull="always"),
        Image(name=f"{image.name}@sha256:{'0' * 64}"),
        Image(name=image.name, platform="linux/s390x"),
        Image(name="docker.io/testbed/python:3.12"),
        Image(name="oras://docker.io/testbed/python:3.11", form="oras"),
    )
    assert [find_unpacked(other, root) for other in others] == [None] * len(others)


def test_an_image_for_another_processor(foreign_image: str, multi_image: str, cache: Path) -> None:
    with pytest.raises(ImageUnavailable, match="is for linux/arm64, and this machine is"):
        SifStore(ENGINE).have(Image(name=foreign_image))
    with pytest.raises(ImageUnavailable, match="is not there for linux/s390x"):
        SifStore(ENGINE).have(Image(name=multi_image, platform="linux/s390x"))
    assert sifs(cache) == []
    own = SifStore(ENGINE).have(Image(name=multi_image))
    other = SifStore(ENGINE).have(Image(name=multi_image, platform="linux/arm64"))
    assert own.digest == other.digest
    # A cache may serve machines of both kinds.
    assert [path.name[-10:] for path in sifs(cache)] == [".amd64.sif", ".arm64.sif"]
    assert {own.reference, other.reference} == set(map(str, sifs(cache)))


def test_a_sif_file_for_another_processor(sif_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "foreign.sif"
    header = bytearray(sif_file.read_bytes())
    header[45:47] = b"04"
    file.write_bytes(header)
    assert sif_platform(file) == "linux/arm64"
    with pytest.raises(ImageUnavailable, match="is for linux/arm64, and this machine is"):
        SifStore(ENGINE).have(Image(name=str(file), form="sif"))


def login(folder: Path, name: str, word: str = "test") -> None:
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"test:{word}".encode()).decode()
    (folder / name).write_text(json.dumps({"auths": {"127.0.0.1:5001": {"auth": auth}}}))


def test_a_login_is_asked_for_in_apptainers_words(private_image: str, cache: Path) -> None:
    for image in (Image(name=private_image), Image(name=f"oras://{private_image}", form="oras")):
        with pytest.raises(ImageUnavailable, match="asks for a login") as caught:
            SifStore(ENGINE).have(image)
        scheme = "oras" if image.form == "oras" else "docker"
        hint = f"apptainer registry login --username YOU {scheme}://127.0.0.1:5001"
        assert caught.value.hint == hint
    assert sifs(cache) == []


@pytest.mark.parametrize(
    ("folder", "name"),
    [("docker", "config.json"), (".", "auth.json"), ("apptainer", "docker-config.json")],
)
def test_a_login_of_any_engine_counts(
    folder: str, name: str, private_image: str, tmp_path: Path
) -> None:
    login(tmp_path / folder, name)
    found = SifStore(ENGINE).have(Image(name=private_image))
    assert said_inside(found.reference) == "hello\n"


def test_no_login_is_in_a_command_line(
    private_image: str, tmp_path: Path, counting: tuple[Engine, Path]
) -> None:
    engine, log = counting
    login(tmp_path / "docker", "config.json")
    SifStore(engine).have(Image(name=private_image))
    assert "pull" in log.read_text()
    assert "test:test" not in log.read_text()
    assert "--docker-" not in log.read_text()


def test_what_is_not_there_is_named(tmp_path: Path, cache: Path) -> None:
    not_sif = tmp_path / "not.sif"
    not_sif.write_text("hello")
    cases = {
        Image(name=f"{REGISTRY}/testbed/busybox:nope"): "is not known to 127.0.0.1:5000",
        Image(name=f"oras://{REGISTRY}/testbed/sif:nope", form="oras"): "is not known to 127",
        Image(name="127.0.0.1:9/testbed/busybox:1"): "127.0.0.1:9 does not answer",
        Image(name="/no/such.sif", form="sif"): "no such file",
        Image(name="/no/such", form="folder"): "no such folder",
        Image(name=str(not_sif), form="sif"): "is no SIF file",
        Image(name=str(not_sif), form="folder"): "is no folder",
        Image(name=str(tmp_path), form="sif"): "is no file",
        Image(name="docker-archive:/no/such.tar", form="docker-archive"): "cannot be read",
        Image(name=f"docker-archive:{not_sif}", form="docker-archive"): "not what 'docker save'",
        Image(name=f"oci:{tmp_path}", form="oci"): "is not an OCI layout",
    }
    for image, words in cases.items():
        for ask in (SifStore(ENGINE).have, SifStore(ENGINE).look):
            with pytest.raises(ImageUnavailable) as caught:
                ask(image)
            assert words in caught.value.message, image
            assert image.reference in caught.value.message
    assert not list(cache.glob("images/*/*"))


def test_without_apptainer_it_says_so(busybox_image: str) -> None:
    engine = Engine(program="no-apptainer", not_there="install apptainer")
    with pytest.raises(EngineUnavailable, match="no-apptainer is not installed"):
        SifStore(engine).have(Image(name=busybox_image))


@pytest.fixture
def breaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry that breaks off in the middle of a layer."""
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    settings = tmp_path / "registries.conf"
    settings.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(settings))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            asked = client.recv(100_000).replace(b"keep-alive", b"close")
            host, port = REGISTRY.split(":")
            with socket.create_connection((host, int(port))) as registry:
                lines = asked.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                registry.sendall(lines)
                sent = 0
                while sent < 300_000 and (data := registry.recv(50_000)):
                    client.sendall(data)
                    sent += len(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield address
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_a_registry_that_breaks_off_is_named(breaking: str, cache: Path) -> None:
    with pytest.raises(ImageUnavailable, match="does not answer") as caught:
        SifStore(ENGINE).have(Image(name=f"{breaking}/testbed/busybox:1"))
    assert breaking in caught.value.message
    assert not [path for path in cache.rglob("*") if path.is_file()]


HAVE = """
import sys
from fasthep_flow.environments.engine import Engine
from fasthep_flow.environments.images.sif import SifStore
from fasthep_flow.model import Image
engine = Engine(program=sys.argv[1], not_there="")
print(SifStore(engine).have(Image(name=sys.argv[2])).reference)
"""


def start(program: str, image: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", HAVE, program, image]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_processes_that_want_one_image_at_once_pull_it_once(
    busybox_image: str, cache: Path, counting: tuple[Engine, Path]
) -> None:
    engine, log = counting
    processes = [start(engine.program, busybox_image) for _ in range(3)]
    said = {process.communicate()[0] for process in processes}
    (file,) = sifs(cache)
    assert said == {f"{file}\n"}
    assert len(log.read_text().splitlines()) == 1


def test_a_pull_that_is_killed_leaves_nothing_that_is_trusted(
    busybox_image: str, cache: Path, tmp_path: Path
) -> None:
    # An apptainer that writes half a file, and then takes its time.
    script = tmp_path / "slow"
    script.write_text(
        f'#!/bin/sh\nfor word; do case $word in *.part) echo half >"$word";; esac; done\n'
        f'echo $$ >"{tmp_path}/pid"\nexec sleep 600\n'
    )
    script.chmod(0o755)
    with start(str(script), busybox_image) as process:
        pid = tmp_path / "pid"
        wait_until(lambda: pid.exists() and pid.read_text())
        process.kill()
    (part,) = cache.glob("images/*/.*.part")
    assert part.read_text() == "half\n"
    assert not SifStore(ENGINE).look(Image(name=busybox_image)).is_local
    found = SifStore(ENGINE).have(Image(name=busybox_image))
    assert said_inside(found.reference) == "hello\n"
    assert os.listdir(Path(found.reference).parent) == [Path(found.reference).name]  # noqa: PTH208
    # The client went with who waited for it.
    client = int(pid.read_text())
    wait_until(lambda: not is_alive(client))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("variable", ["FASTHEP_FLOW_CACHE", "APPTAINER_TMPDIR"])
def test_a_full_disk_is_named_and_left_clean(
    variable: str, busybox_image: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "other").write_bytes(bytes(700_000))
    monkeypatch.setenv(variable, str(small_disk))
    image = Image(name=busybox_image)
    with pytest.raises(ImageUnavailable, match="disk full") as caught:
        SifStore(ENGINE).have(image)
    assert f"no room left in {small_disk}" in caught.value.message
    assert variable in str(caught.value.hint)
    left = [path for path in small_disk.rglob("*") if path.is_file()]
    assert left == [small_disk / "other"]
    # With room it goes on from nothing that was left behind.
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    assert said_inside(SifStore(ENGINE).have(image).reference) == "hello\n"


def test_a_cache_that_cannot_be_written_is_named(
    busybox_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "file"))
    with pytest.raises(ImageUnavailable, match="cannot be kept in") as caught:
        SifStore(ENGINE).have(Image(name=busybox_image))
    assert "FASTHEP_FLOW_CACHE" in str(caught.value.hint)
