"""Registries that break off or fall silent, disks that are full, two runs that want one image."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.conftest import ENGINES, Site, in_image, said_by, shell, wait_until
from tests.faults.daemon import Daemon
from tests.faults.registry import Registry

from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.workflow import load_plan, run_plan


@pytest.fixture
def registry(site: Site) -> Iterator[Registry]:
    """Its image is in no cache, and in no engine's store when the test is over."""
    started = Registry()
    site.cache = site.root / "cache"
    # Of these podman reads the one by its variable, apptainer the one in the home.
    conf = site.root / ".config" / "containers" / "registries.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(f'[[registry]]\nlocation = "{started.host}"\ninsecure = true\n')
    site.variables |= {"CONTAINERS_REGISTRIES_CONF": str(conf), "HOME": str(site.root)}
    yield started
    started.close()


@pytest.fixture
def image(registry: Registry, container_runtime: str) -> Iterator[str]:
    """The registry's image."""
    yield registry.name
    if container_runtime in ENGINES:
        argv = [container_runtime, "rmi", "--force", registry.name]
        subprocess.run(argv, capture_output=True, check=False)


def write(site: Site, runtime: str, image: str) -> None:
    site.write(
        shell("first", ": > ran"),
        shell("inside", "echo inside", environment=in_image(runtime, image)),
    )


def kept(site: Site) -> list[Path]:
    """The images in the cache."""
    return list(site.cache.glob("images/*/*"))


@pytest.fixture
def impatient(site: Site, container_runtime: str) -> Iterator[None]:
    """A docker that asks a registry once, and not for more than a minute."""
    if container_runtime != "docker":
        yield
        return
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="fault-")), "--max-download-attempts", "1")
    site.variables["DOCKER_HOST"] = daemon.host
    yield
    daemon.close()


@pytest.mark.fault(
    28,
    "a registry breaks off in the middle of an image",
    "no task is started, nothing that was cut is used, and the next run fetches it",
)
@pytest.mark.usefixtures("impatient")
def test_a_registry_that_breaks_off(
    site: Site, container_runtime: str, registry: Registry, image: str
) -> None:
    write(site, container_runtime, image)
    registry.mood = "cut"
    said = site.run()
    assert said.code == 4, said
    assert f"task 'inside': the image {image}" in said.err
    assert registry.host in said.err.replace(image, "")
    assert "Traceback" not in said.both
    assert not site.up("ran")
    assert kept(site) == []
    assert site.left(container_runtime) == {}
    registry.mood = "well"
    said = site.run()
    assert said.code == 0, said
    assert site.result("inside").stdout_tail == "inside\n"
    assert site.left(container_runtime) == {}


def test_two_runs_that_want_one_image(
    site: Site, container_runtime: str, registry: Registry, image: str, tmp_path: Path
) -> None:
    other = Site(tmp_path / "other", site.cache)
    other.variables, other.temporary = site.variables, site.temporary
    for one in (site, other):
        write(one, container_runtime, image)
    drivers = [one.start() for one in (site, other)]
    said = [said_by(driver) for driver in drivers]
    assert [one.code for one in said] == [0, 0], said
    for one in (site, other):
        assert one.result("inside").stdout_tail == "inside\n"
    assert registry.layers_asked == 1
    assert len(kept(site)) == (0 if container_runtime in ENGINES else 1)
    other.end()
    assert site.left(container_runtime) == {}


@pytest.fixture
def disk(site: Site) -> Iterator[Path]:
    """A disk of its own."""
    folder = Path(tempfile.mkdtemp(prefix="fault-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("only root may mount")
    site.own_mounts.append(folder)
    yield folder
    subprocess.run(["umount", "--recursive", "--lazy", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def images_on(site: Site, container_runtime: str, registry: Registry, disk: Path) -> Iterator[None]:
    """The runtime keeps its images on the disk."""
    del registry
    if container_runtime == "docker":
        daemon = Daemon(disk)
        site.variables["DOCKER_HOST"] = daemon.host
        yield
        daemon.close()
        return
    if container_runtime == "podman":
        conf = site.root / "storage.conf"
        conf.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{disk}/images"\n'
            f'runroot = "{disk}/containers"\n'
        )
        site.variables["CONTAINERS_STORAGE_CONF"] = str(conf)
    else:
        site.cache = disk / "cache"
    yield


@pytest.mark.fault(
    15, "the disk is full while an image comes", "that is said before the first task"
)
@pytest.mark.usefixtures("images_on")
def test_a_disk_that_is_full(site: Site, container_runtime: str, image: str, disk: Path) -> None:
    write(site, container_runtime, image)
    if container_runtime == "podman":
        # What it makes once for itself.
        subprocess.run(["podman", "info"], env=site.environment(), capture_output=True, check=True)
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - 2**20))
    said = site.run()
    assert said.code == 4, said
    assert f"task 'inside': the image {image}" in said.err
    assert "disk full" in said.err
    assert "Traceback" not in said.both
    assert not site.up("ran")
    assert kept(site) == []
    assert site.left(container_runtime) == {}
    filler.unlink()
    said = site.run()
    assert said.code == 0, said
    assert site.result("inside").stdout_tail == "inside\n"
    assert site.left(container_runtime) == {}


def test_a_registry_that_falls_silent(
    site: Site,
    container_runtime: str,
    registry: Registry,
    image: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process, which alone can be told not to wait for minutes."""
    monkeypatch.setattr("fasthep_flow.environments.images.fetching.SILENCE_S", 1.0)
    monkeypatch.setattr("fasthep_flow.environments.images.blobs._SILENCE_S", 1.0)
    monkeypatch.setattr("tempfile.tempdir", str(site.temporary))
    for name, value in site.environment().items():
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.setenv(name, value)
    write(site, container_runtime, image)
    plan = load_plan(site.work / "workflow.yaml")
    registry.mood = "silent"
    with pytest.raises(ImageUnavailable) as refused:
        run_plan(plan)
    assert f"task 'inside': the image {image}" in refused.value.message
    assert registry.host in refused.value.message.replace(image, "")
    words = "answers with" if container_runtime == "charliecloud" else "fell silent in the middle"
    assert words in refused.value.message
    assert not site.up("ran")
    assert kept(site) == []
    monkeypatch.undo()
    assert site.left(container_runtime) == {}


@pytest.mark.fault(
    28, "the run is stopped or killed while an image comes", "nothing that was cut is used later"
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_while_an_image_comes(
    site: Site, container_runtime: str, registry: Registry, image: str, number: signal.Signals
) -> None:
    write(site, container_runtime, image)
    registry.mood = "silent"
    driver = site.start()
    wait_until(lambda: registry.layers_asked > 0, "the image comes")
    os.killpg(driver.pid, number)
    said = said_by(driver)
    assert not site.up("ran")
    if number == signal.SIGINT:
        assert said.code == 130, said
        assert kept(site) == []
        assert site.left(container_runtime) == {}
    # The same again needs nothing done by hand.
    registry.mood = "well"
    said = site.run()
    assert said.code == 0, said
    assert site.result("inside").stdout_tail == "inside\n"
    assert site.left(container_runtime) == {}
