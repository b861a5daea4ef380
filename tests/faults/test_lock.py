"""What is locked, pulled and carried, and what may befall it."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import ENGINES, REGISTRY
from tests.faults.conftest import Site, in_image, said_by, shell, wait_until
from tests.faults.registry import Registry
from tests.workflows.own_registry import OwnRegistry, push

BUNDLED = [
    pytest.param(name, marks=getattr(pytest.mark, name))
    for name in ("podman", "docker", "apptainer", "charliecloud")
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A folder for a run, with a cache of its own."""
    made = Site(tmp_path / "site", tmp_path / "cache")
    yield made
    made.end()


def trust(site: Site, host: str) -> None:
    """Have the site's engines take a registry at its word."""
    conf = site.root / ".config" / "containers" / "registries.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
    site.variables |= {"CONTAINERS_REGISTRIES_CONF": str(conf), "HOME": str(site.root)}


@pytest.fixture
def own(site: Site, tmp_path: Path) -> Iterator[OwnRegistry]:
    started = OwnRegistry(tmp_path / "registry")
    trust(site, started.host)
    yield started
    started.stop()


@contextlib.contextmanager
def pushed(host: str, runtime: str) -> Iterator[str]:
    """An image of a name of its own, of which nothing is left in an engine's store."""
    repository = f"lock/{uuid.uuid4().hex[:12]}"
    digest = push(host, repository, "1", f"faults {uuid.uuid4()}")
    image = f"{host}/{repository}:1"
    try:
        yield image
    finally:
        remove(runtime, image, f"{host}/{repository}@{digest}")


def remove(runtime: str, *images: str) -> None:
    if runtime in ENGINES:
        for image in images:
            subprocess.run([runtime, "rmi", "--force", image], capture_output=True, check=False)


def bundle(site: Site, runtime: str, image: str) -> Path:
    """The site's image in a folder, and in no engine's store."""
    site.write(shell("inside", "cat /said", environment=in_image(runtime, image)))
    folder = site.root / "bundle"
    assert site.run("pull", "--to", str(folder)).code == 0
    remove(runtime, image)
    for path in folder.glob("images/*/*.json"):
        remove(runtime, json.loads(path.read_text())["identity"])
    site.cache = folder
    return folder


def carried(folder: Path, runtime: str) -> Path:
    """The one file of an image in a bundle on which all depends."""
    if runtime in ENGINES:
        return next(folder.glob("archives/*.tar"))
    if runtime == "apptainer":
        return next(folder.glob("images/*/*.sif"))
    return next(folder.glob("images/*/*.unpacked/root/said"))


@pytest.mark.registry
class TestABundle:
    @pytest.mark.parametrize("runtime", BUNDLED)
    def test_that_is_damaged_on_its_way_is_refused(self, site: Site, runtime: str) -> None:
        with pushed(REGISTRY, runtime) as image:
            file = carried(bundle(site, runtime, image), runtime)
            file.write_bytes(file.read_bytes()[:-7])
            said = site.run("run", "--offline")
            assert said.code == 4, said
            assert f"the image {image} is damaged" in said.err
            assert "fasthep-flow pull" in said.err
            assert not (site.work / "output").exists()

    @pytest.mark.parametrize("runtime", BUNDLED[:3])
    def test_of_which_a_byte_is_another_is_refused(self, site: Site, runtime: str) -> None:
        with pushed(REGISTRY, runtime) as image:
            file = carried(bundle(site, runtime, image), runtime)
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
            said = site.run("run", "--offline")
            assert said.code == 4, said
            assert f"the image {image} is damaged" in said.err

    @pytest.mark.podman
    def test_with_the_archive_of_another_image_is_refused(self, site: Site) -> None:
        with pushed(REGISTRY, "podman") as image, pushed(REGISTRY, "podman") as other:
            folder = bundle(site, "podman", image)
            second = site.root / "second"
            site.write(shell("inside", "cat /said", environment=in_image("podman", other)))
            assert site.run("pull", "--to", str(second)).code == 0
            file = carried(folder, "podman")
            shutil.copy(carried(second, "podman"), file)
            file.with_name(f"{file.name}.sha256").unlink()
            site.write(shell("inside", "cat /said", environment=in_image("podman", image)))
            said = site.run("run", "--offline")
            assert said.code == 4, said
            assert f"the image {image} is damaged" in said.err

    @pytest.mark.apptainer
    def test_that_may_only_be_read_serves_as_well(self, site: Site) -> None:
        with pushed(REGISTRY, "apptainer") as image:
            folder = bundle(site, "apptainer", image)
            subprocess.run(["mount", "--bind", folder, folder], check=True)
            try:
                options = "remount,bind,ro"
                subprocess.run(["mount", "-o", options, folder], check=True)
                said = site.run("run", "--offline")
                assert said.code == 0, said
            finally:
                subprocess.run(["umount", folder], check=True)

    @pytest.mark.podman
    def test_cannot_be_kept_where_there_is_a_file(self, site: Site, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pushed(REGISTRY, "podman") as image:
            site.write(shell("inside", "cat /said", environment=in_image("podman", image)))
            said = site.run("pull", "--to", str(tmp_path / "file"))
            assert said.code == 4, said
            assert "nothing can be kept in" in said.err
            assert "Traceback" not in said.both


class TestAPull:
    @pytest.mark.apptainer
    def test_at_the_same_time_as_another_is_done_once(self, site: Site, own: OwnRegistry) -> None:
        with pushed(own.host, "apptainer") as image:
            site.write(shell("inside", "cat /said", environment=in_image("apptainer", image)))
            before = len(own.asked("^GET .*/blobs/"))
            pulls = [site.start("pull"), site.start("pull"), site.start("run")]
            for one in map(said_by, pulls):
                assert one.code == 0, one
            layers = own.asked("^GET .*/blobs/")[before:]
            # Whoever looks what the image is for asks for its configuration.
            assert len(once(own, layers)) == 1
            assert len(list(site.cache.glob("images/*/*.sif"))) == 1

    @pytest.mark.apptainer
    def test_that_is_killed_leaves_nothing_that_is_trusted(self, site: Site) -> None:
        registry = Registry(extra=2**22)
        trust(site, registry.host)
        site.write(shell("inside", "echo inside", environment=in_image("apptainer", registry.name)))
        registry.mood = "silent"
        folder = site.root / "bundle"
        try:
            driver = site.start("pull", "--to", str(folder))
            wait_until(lambda: registry.layers_asked > 0)
            driver.send_signal(signal.SIGKILL)
            said_by(driver)
            assert not list(folder.glob("images/*/*.sif"))
            site.cache = folder
            refused = site.run("run", "--offline")
            assert refused.code == 4, refused
            assert "is not on this machine" in refused.err
            # The same words again go on where it was left, and leave nothing else.
            registry.mood = "well"
            again = site.run("pull", "--to", str(folder))
            assert again.code == 0, again
            assert site.run("run", "--offline").code == 0
            assert not list(folder.rglob("*.part"))
        finally:
            registry.close()

    def test_of_what_is_nowhere_names_all_of_it(self, site: Site) -> None:
        site.write(
            shell("one", "true", environment={"extra_data": ["none.txt"]}),
            shell("two", "true", environment={"extra_data": ["neither.txt"]}),
        )
        said = site.run("pull")
        assert said.code == 4, said
        assert "none.txt" in said.err
        assert "neither.txt" in said.err

    def test_of_one_task_leaves_the_others_alone(self, site: Site) -> None:
        site.work.joinpath("here.txt").write_text("here")
        site.write(
            shell("one", "true", environment={"extra_data": ["here.txt"]}),
            shell("two", "true", environment={"extra_data": ["none.txt"]}),
        )
        said = site.run("pull", "--tasks", "one")
        assert said.code == 0, said
        assert "./here.txt" in said.out

    def test_runs_nothing_of_the_authors(self, site: Site) -> None:
        site.write(
            shell(
                "one",
                ": > ran",
                environment={"setup": ": > sourced", "credentials": ["x509"]},
            )
        )
        said = site.run("pull")
        assert said.code == 0, said
        assert "nothing is to be brought in" in said.out
        assert not site.up("sourced")
        assert not site.up("ran")


class TestOffline:
    @pytest.mark.registry
    def test_what_is_not_here_is_refused_before_the_first_task(
        self, site: Site, container_runtime: str
    ) -> None:
        with pushed(REGISTRY, container_runtime) as image:
            site.write(
                shell("first", ": > ran"),
                shell("inside", "cat /said", environment=in_image(container_runtime, image)),
            )
            for words in (("run", "--offline"), ("check", "--offline")):
                said = site.run(*words)
                assert said.code == 4, said
                assert f"the image {image} is not on this machine" in said.words
                assert "fasthep-flow pull" in said.both
            assert not site.up("ran")

    @pytest.mark.podman
    @pytest.mark.registry
    def test_an_image_that_is_always_pulled_is_taken_as_it_is_here(self, site: Site) -> None:
        with pushed(REGISTRY, "podman") as image:
            environment = in_image("podman", image)
            environment["image"]["pull"] = "always"
            site.write(shell("inside", "cat /said", environment=environment))
            assert site.run("pull").code == 0
            repository = image.partition("/")[2].partition(":")[0]
            push(REGISTRY, repository, "1", "newer")
            assert site.run("run", "--offline").code == 0
            assert "newer" not in (site.attempt("inside") / "stdout.log").read_text()

    def test_data_that_is_not_here_is_refused(self, site: Site) -> None:
        source = "http://127.0.0.1:9/none.root"
        site.write(shell("one", "true", environment={"extra_data": [source]}))
        said = site.run("run", "--offline")
        assert said.code == 4, said
        assert source in said.err
        assert "fasthep-flow pull" in said.err


class TestALock:
    def test_that_holds_marks_of_a_merge_says_where(self, site: Site) -> None:
        site.write(shell("one", "true"))
        assert site.run("lock").code == 0
        path = site.work / "workflow.lock"
        path.write_text(f"{path.read_text()}<<<<<<< ours\nimages: []\n=======\n>>>>>>> theirs\n")
        for words in (("run", "--locked"), ("run",), ("check", "--locked")):
            said = site.run(*words)
            assert said.code == 2, said
            assert "workflow.lock:" in said.err
            assert "fasthep-flow lock" in said.err
            assert "Traceback" not in said.err
        assert site.run("lock").code == 0
        assert site.run("run", "--locked").code == 0

    def test_in_a_folder_that_may_only_be_read_is_an_error(self, site: Site) -> None:
        site.write(shell("one", "true"))
        subprocess.run(["mount", "--bind", site.work, site.work], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", site.work], check=True)
            said = site.run("lock")
            assert said.code == 6, said
            assert "workflow.lock cannot be written" in said.err
        finally:
            subprocess.run(["umount", site.work], check=True)

    def test_that_would_change_is_told_by_its_exit_code(self, site: Site) -> None:
        site.work.joinpath("x.txt").write_text("x")
        site.write(shell("one", "true", environment={"extra_data": ["x.txt"]}))
        assert site.run("lock", "--check").code == 4
        assert not (site.work / "workflow.lock").exists()
        assert site.run("lock").code == 0
        assert site.run("lock", "--check").code == 0
        told = json.loads(site.run("lock", "--check", "--format", "json").out)
        assert told["changed"] is False
        assert told["changes"] == []

    def test_of_a_source_that_does_not_answer_is_an_error(self, site: Site) -> None:
        site.write(
            shell("one", "true", environment={"extra_data": ["http://127.0.0.1:9/x.root"]}),
            shell("two", "true", environment={"image": "127.0.0.1:9/none:1"}),
        )
        said = site.run("lock")
        assert said.code == 4, said
        assert "127.0.0.1:9/x.root" in said.err
        assert "127.0.0.1:9/none:1" in said.err
        assert not (site.work / "workflow.lock").exists()


def once(own: OwnRegistry, asked: list[str]) -> list[str]:
    """The requests of the largest part."""
    largest = max(
        own.root.glob("store/docker/registry/v2/blobs/sha256/*/*/data"),
        key=lambda path: path.stat().st_size,
    )
    return [one for one in asked if largest.parent.name in one]
