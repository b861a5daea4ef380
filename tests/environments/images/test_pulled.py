"""Images of podman and docker: found, fetched, loaded."""

import base64
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.environments.images.made import Store, breaking, retag, save

from fasthep_flow.environments.engine import Engine
from fasthep_flow.environments.images.pulled import have_image, look_at_image, why_not_taken
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image, ImageForm, Pull

ENGINE = Engine(program="podman", not_there="look")


@pytest.fixture
def store(engine: str) -> Store:
    return Store(engine)


@pytest.fixture
def own_image(store: Store, busybox_image: str, tmp_path: Path) -> Iterator[str]:
    """An image of the test's own, made here; its name."""
    name = f"localhost/fasthep-test-{uuid.uuid4().hex[:8]}:1"
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {busybox_image}\nLABEL test={uuid.uuid4().hex}\n")
    store.ask("build", "--quiet", "--tag", name, str(folder))
    yield name
    store.forget(name)


def test_a_form_that_an_engine_cannot_have_names_who_can() -> None:
    docker = Engine(program="docker", not_there="look")
    forms: dict[ImageForm, str] = {
        "sif": "/x.sif",
        "oras": "oras://r.ch/a:1",
        "folder": "/cvmfs/unpacked.cern.ch/x",
    }
    for form, name in forms.items():
        for one in (ENGINE, docker):
            why = why_not_taken(one, Image(name=name, form=form))
            assert why is not None
            assert why.startswith(one.program)
            assert why.endswith("apptainer does")
    layout = Image(name="oci:/x", form="oci")
    assert why_not_taken(ENGINE, layout) is None
    assert "oci-archive:" in str(why_not_taken(docker, layout))
    for form in ("registry", "docker-daemon", "docker-archive", "oci-archive"):
        assert why_not_taken(docker, Image(name="x", form=form)) is None


def test_a_look_fetches_nothing(store: Store, unpulled_image: str) -> None:
    image = Image(name=unpulled_image)
    seen = look_at_image(store.engine, store.facts, image)
    assert not seen.is_local
    assert seen.platforms == ("linux/amd64",)
    assert seen.note.endswith("to be pulled")
    assert not store.has(unpulled_image)
    _, digest = store.have(image)
    assert digest == seen.digest
    again = look_at_image(store.engine, store.facts, image)
    assert (again.is_local, again.digest) == (True, digest)


def test_an_image_that_is_here_is_used_without_a_registry(store: Store, own_image: str) -> None:
    policies: tuple[Pull, ...] = ("missing", "never")
    for pull in policies:
        identity, digest = store.have(Image(name=own_image, pull=pull))
        assert identity.startswith("sha256:")
        assert digest.startswith("sha256:")


def test_an_image_of_this_machine_is_to_be_built_first(store: Store) -> None:
    image = Image(name="localhost/fasthep-nobody-built-this:1")
    for ask in (have_image, look_at_image):
        with pytest.raises(ImageUnavailable, match="is not on this machine, where alone") as caught:
            ask(store.engine, store.facts, image)
        assert f"{store.engine.program} build --tag {image} " in str(caught.value.hint)


def test_never_pulled_is_never_pulled(store: Store, unpulled_image: str) -> None:
    image = Image(name=unpulled_image, pull="never")
    for ask in (have_image, look_at_image):
        with pytest.raises(ImageUnavailable, match="'pull: never' is asked for") as caught:
            ask(store.engine, store.facts, image)
        assert caught.value.hint == f"{store.engine.program} pull {unpulled_image}"
    assert not store.has(unpulled_image)


def test_always_pulled_is_what_the_registry_has_now(
    store: Store, unpulled_image: str, python_image: str
) -> None:
    missing, always = Image(name=unpulled_image), Image(name=unpulled_image, pull="always")
    before = store.have(missing)
    retag(python_image, unpulled_image)
    assert store.have(missing) == before
    assert not look_at_image(store.engine, store.facts, always).is_local
    after = store.have(always)
    assert after != before
    assert store.have(missing) == after


def test_another_platform_is_another_image(store: Store, unpulled_image: str) -> None:
    retag(
        unpulled_image.replace("unpulled-", "")[: unpulled_image.index("busybox")] + "multi:1",
        unpulled_image,
    )
    own = store.have(Image(name=unpulled_image))
    foreign = Image(name=unpulled_image, platform="linux/arm64")
    seen = look_at_image(store.engine, store.facts, foreign)
    assert set(seen.platforms) == {"linux/amd64", "linux/arm64"}
    there = store.have(foreign)
    assert there[0] != own[0]
    assert store.ask("image", "inspect", "--format", "{{.Architecture}}", there[0]) == "arm64"
    # What came last is not what the next one asks for.
    assert store.have(Image(name=unpulled_image))[0] == own[0]
    with pytest.raises(ImageUnavailable, match=r"is not there for linux/s390x; there is linux/"):
        look_at_image(store.engine, store.facts, Image(name=unpulled_image, platform="linux/s390x"))
    with pytest.raises(ImageUnavailable, match="is for another kind of machine"):
        store.have(Image(name=unpulled_image, platform="linux/s390x"))
    store.forget(there[0])


def test_an_image_for_another_processor_is_told(
    store: Store, busybox_image: str, unpulled_image: str
) -> None:
    retag(busybox_image.replace("busybox", "foreign"), unpulled_image)
    with pytest.raises(ImageUnavailable) as caught:
        store.have(Image(name=unpulled_image))
    assert "it runs linux/amd64, and has no emulator for linux/arm64" in caught.value.message
    assert caught.value.hint == "look for one that fits this processor"
    asked = Image(name=unpulled_image, platform="linux/amd64")
    with pytest.raises(ImageUnavailable, match=r"linux/arm64, not for linux/amd64|another kind"):
        store.have(asked)


def test_an_image_may_be_named_by_its_digest(store: Store, busybox_image: str) -> None:
    _, digest = store.have(Image(name=busybox_image))
    name = busybox_image.rpartition(":")[0]
    for reference in (f"{name}@{digest}", f"{busybox_image}@{digest}"):
        found = store.have(Image(name=reference))
        assert found[1] == digest
        assert look_at_image(store.engine, store.facts, Image(name=reference)).is_local
    wrong = Image(name=f"{name}@sha256:{'0' * 64}")
    with pytest.raises(ImageUnavailable, match="is not known to"):
        store.have(wrong)
    with pytest.raises(ImageUnavailable, match="is not known to"):
        look_at_image(store.engine, store.facts, wrong)


def test_a_login_of_the_engine_serves_to_look_and_to_pull(
    store: Store, private_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    (tmp_path / "auth.json").write_text("{}")
    image = Image(name=private_image, pull="always")
    host = private_image.partition("/")[0]
    for ask in (look_at_image, have_image):
        with pytest.raises(ImageUnavailable, match="asks for a login") as caught:
            ask(store.engine, store.facts, image)
        assert caught.value.hint == f"{store.engine.program} login {host}"
    told = {"auths": {host: {"auth": base64.b64encode(b"test:test").decode()}}}
    for name in ("auth.json", "config.json"):
        (tmp_path / name).write_text(json.dumps(told))
    seen = look_at_image(store.engine, store.facts, image)
    assert not seen.is_local
    assert store.have(image)[1] == seen.digest


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci"])
def test_a_file_is_loaded_once(store: Store, own_image: str, tmp_path: Path, form: str) -> None:
    path = tmp_path / "image.tar"
    image = save(store, own_image, path, form)
    store.forget(own_image)
    if why_not_taken(store.engine, image) is not None:
        return
    if form == "oci-archive" and not store.facts.podman:
        with pytest.raises(ImageUnavailable, match=r"loads no OCI archives, 25 and newer do"):
            store.have(image)
        return
    seen = look_at_image(store.engine, store.facts, image)
    assert (seen.is_local, seen.note, seen.platforms) == (False, "to be loaded", ("linux/amd64",))
    found = store.have(image)
    assert found[1] == seen.digest
    assert look_at_image(store.engine, store.facts, image).is_local
    assert store.have(image) == found
    store.forget(found[0])
    # The engine's memory is not ours: it is loaded again where it is gone.
    assert store.have(image) == found
    subprocess.run([store.engine.program, "rmi", "--force", found[0]], check=False)


def test_a_file_that_changed_is_loaded_anew(
    store: Store, own_image: str, busybox_image: str, tmp_path: Path
) -> None:
    path = tmp_path / "image.tar"
    image = save(store, own_image, path, "docker-archive")
    before = store.have(image)
    path.unlink()
    save(store, busybox_image, path, "docker-archive")
    assert store.have(image)[0] != before[0]


def test_a_file_of_several_images_is_asked_for_one_by_its_name(
    store: Store, own_image: str, busybox_image: str, tmp_path: Path
) -> None:
    path = tmp_path / "image.tar"
    more = ("--multi-image-archive",) if store.facts.podman else ()
    store.ask("save", *more, "--output", str(path), own_image, busybox_image)
    image = Image(name=f"docker-archive:{path}", form="docker-archive")
    with pytest.raises(ImageUnavailable, match="there are 2 images in it; name one behind a ':'"):
        store.have(image)
    one = store.have(Image(name=f"{image.name}:{own_image}", form="docker-archive"))
    other = store.have(Image(name=f"{image.name}:{busybox_image}", form="docker-archive"))
    assert one != other
    with pytest.raises(ImageUnavailable, match="there is no x:1 in it, but "):
        store.have(Image(name=f"{image.name}:x:1", form="docker-archive"))


@pytest.mark.docker
def test_an_image_of_docker_is_used_by_both(store: Store, busybox_image: str) -> None:
    name = f"fasthep-test-{uuid.uuid4().hex[:8]}:1"
    image = Image(name=f"docker-daemon:{name}", form="docker-daemon")
    for ask in (have_image, look_at_image):
        with pytest.raises(ImageUnavailable, match="is not in the docker on this machine"):
            ask(store.engine, store.facts, image)
    Store("docker").have(Image(name=busybox_image))
    Store("docker").ask("tag", busybox_image, name)
    try:
        look_at_image(store.engine, store.facts, image)
        identity, _ = store.have(image)
        assert identity == Store("docker").ask("image", "inspect", "--format", "{{.Id}}", name)
        assert look_at_image(store.engine, store.facts, image).is_local
    finally:
        Store("docker").forget(name)
        if store.facts.podman:
            store.forget(f"docker.io/library/{name}")


def test_two_runs_pull_an_image_once(store: Store, unpulled_image: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = tmp_path / "bin" / store.engine.program
    program.parent.mkdir()
    real = shutil.which(store.engine.program)
    # Counts the pulls, and is else the engine itself.
    program.write_text(f'#!/bin/sh\n[ "$1" = pull ] && echo pull >> {log}\nexec {real} "$@"\n')
    program.chmod(0o755)
    script = (
        "import sys\n"
        "from fasthep_flow.environments.engine import Engine, read_facts\n"
        "from fasthep_flow.environments.images.pulled import have_image\n"
        "from fasthep_flow.model import Image\n"
        "engine = Engine(program=sys.argv[1], not_there='look')\n"
        "print(have_image(engine, read_facts(engine), Image(name=sys.argv[2])).reference)\n"
    )
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    argv = [sys.executable, "-c", script, store.engine.program, unpulled_image]
    runs = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)
    ]
    said = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(said) == 1
    assert log.read_text() == "pull\n"


@pytest.mark.podman
def test_a_registry_that_goes_in_mid_pull_is_told(
    busybox_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Podman alone: docker tries for more than a minute."""
    store = Store("podman")
    with breaking(busybox_image) as host:
        conf = tmp_path / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        image = Image(name=f"{host}/testbed/busybox:broken")
        assert look_at_image(store.engine, store.facts, image).platforms == ("linux/amd64",)
        with pytest.raises(ImageUnavailable, match=f"{host} does not answer"):
            store.have(image)
        assert not store.has(image.name)
