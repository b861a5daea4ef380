import shutil
from pathlib import Path

import pytest

from fasthep_flow.environments import Runtime, find_runtime
from fasthep_flow.environments.host.cache import cache_folder
from fasthep_flow.environments.preflight.inside import (
    Inside,
    known_inside,
    look_inside,
    needs_shell,
    try_options,
)
from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import Image
from fasthep_flow.testing.runtimes import FakeRuntime


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(
    params=[
        pytest.param(name, marks=getattr(pytest.mark, name))
        for name in ("apptainer", "podman", "docker", "charliecloud")
    ]
)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    # Images that were fetched may stay, what was found in them may not.
    shutil.rmtree(cache_folder() / "inside", ignore_errors=True)
    return find_runtime(str(request.param))


def look(runtime: Runtime, name: str) -> Inside:
    image = Image(name=name)
    return look_inside(runtime, image, runtime.resolve(image))


def test_what_is_inside_is_told(runtime: Runtime, python_image: str) -> None:
    found = look(runtime, python_image)
    assert (found.sh, found.bash, found.modules) == (True, True, True)
    assert found.python is not None
    assert found.python.startswith("3.11.")
    assert found.calls


def test_busybox_has_a_shell_alone(runtime: Runtime, busybox_image: str) -> None:
    found = look(runtime, busybox_image)
    assert found == Inside(sh=True)
    assert not found.calls


def test_an_image_may_have_python_and_no_shell(runtime: Runtime, python_image: str) -> None:
    found = look(runtime, python_image.replace("python:3.11", "pythononly:1"))
    assert (found.sh, found.bash, found.calls) == (False, False, True)
    assert found.python is not None
    assert found.python.startswith("3.11.")


def test_an_image_may_have_neither(runtime: Runtime, python_image: str) -> None:
    assert look(runtime, python_image.replace("python:3.11", "noshell:1")) == Inside()


def test_each_digest_is_looked_into_once(cache: Path) -> None:
    runtime, image = FakeRuntime("one"), Image(name="r.example/a:1")
    resolved = runtime.resolve(image)
    assert known_inside(runtime, image, resolved.digest) is None
    found = look_inside(runtime, image, resolved)
    assert found.sh
    started = len(runtime.opened)
    assert started > 0
    assert look_inside(runtime, image, resolved) == found
    assert known_inside(runtime, image, resolved.digest) == found
    assert len(runtime.opened) == started
    # Another runtime may show more of it, another platform may have less in it.
    assert known_inside(FakeRuntime("two"), image, resolved.digest) is None
    foreign = Image(name=image.name, platform="linux/s390x")
    assert known_inside(runtime, foreign, resolved.digest) is None
    (kept,) = (cache / "inside" / "1").glob("*.json")
    kept.write_text("nonsense")
    assert known_inside(runtime, image, resolved.digest) is None


@pytest.mark.usefixtures("cache")
def test_a_folder_may_change_under_its_name() -> None:
    runtime, image = FakeRuntime("one"), Image(name="/data/root", form="folder")
    resolved = runtime.resolve(image)
    look_inside(runtime, image, resolved)
    assert known_inside(runtime, image, resolved.digest) is None


def test_without_room_for_the_answer_it_is_asked_for_again(cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    runtime, image = FakeRuntime("one"), Image(name="r.example/a:1")
    assert look_inside(runtime, image, runtime.resolve(image)).sh
    assert known_inside(runtime, image, runtime.resolve(image).digest) is None
    assert cache.is_file()


@pytest.mark.usefixtures("cache")
def test_what_was_started_is_the_callers_to_end() -> None:
    runtime, image = FakeRuntime("one"), Image(name="r.example/a:1")
    resolved = runtime.resolve(image)
    look_inside(runtime, image, resolved, options=("--privileged",), network="none")
    for spec in runtime.opened:
        assert (spec.options, spec.network) == (("--privileged",), "none")
        assert spec.labels["fasthep.run"] == "look"
        assert spec.labels["fasthep.pid"]
        assert not Path(spec.mounts[0].source).exists()


@pytest.mark.parametrize(
    ("version", "calls"),
    [("3.5.2", False), ("3.6.8", True), ("3.14.0", True), ("2.7.18", False), (None, False)],
)
def test_callables_need_a_python_that_is_not_too_old(version: str | None, calls: bool) -> None:
    assert Inside(python=version, modules=True).calls is calls
    assert not Inside(python=version).calls


def test_charliecloud_starts_programs_without_a_shell() -> None:
    assert [needs_shell(name) for name in ("podman", "charliecloud")] == [True, False]


def attempt(runtime: str, name: str, *options: str, folder: Path) -> str | None:
    found = find_runtime(runtime)
    resolved = found.resolve(Image(name=name))
    try:
        try_options(found, resolved, options, network="host", working_directory=str(folder))
    except EnvironmentRefused as error:
        return f"{error.message}; {error.hint}"
    return None


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        pytest.param(engine, options, words, marks=getattr(pytest.mark, engine))
        for engine, options, words in [
            ("podman", ("--shm-sze=1g",), "unknown flag: --shm-sze"),
            ("podman", ("--label",), "invalid reference format"),
            ("docker", ("--shm-sze=1g",), "unknown flag: --shm-sze"),
            ("docker", ("--label",), "invalid reference format"),
            ("apptainer", ("--vm",), "unknown flag: --vm"),
            ("apptainer", ("--bind", "/no/such:/x"), "mount source /no/such doesn't exist"),
            ("charliecloud", ("--nonsense",), "unrecognized option '--nonsense'"),
            ("charliecloud", ("--bind",), "unknown image type: /bin/sh"),
        ]
    ],
)
def test_options_that_the_runtime_does_not_take(
    name: str, options: tuple[str, ...], words: str, busybox_image: str, tmp_path: Path
) -> None:
    said = attempt(name, busybox_image, *options, folder=tmp_path)
    assert said is not None
    start = f"{name} starts no container of the image {busybox_image} with the options {options[0]}"
    assert said.startswith(start)
    assert words in said
    assert said.endswith("; look at 'options' of the image")
    assert "did not come to its end" not in said


@pytest.mark.docker
def test_a_mount_over_the_tasks_own_folder_is_none(busybox_image: str, tmp_path: Path) -> None:
    said = attempt("docker", busybox_image, "-v", f"/etc:{tmp_path}", folder=tmp_path)
    assert f"Duplicate mount point: {tmp_path}" in (said or "")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(engine, options, marks=getattr(pytest.mark, engine))
        for engine, options in [
            ("podman", ("--shm-size", "64m")),
            ("docker", ("--label=colour=red",)),
            ("apptainer", ("--bind", "/etc:/mnt")),
            ("charliecloud", ("--no-passwd",)),
        ]
    ],
)
def test_options_that_the_runtime_takes(
    name: str, options: tuple[str, ...], python_image: str, tmp_path: Path
) -> None:
    for image in ("python:3.11", "pythononly:1", "noshell:1"):
        named = python_image.replace("python:3.11", image)
        assert attempt(name, named, *options, folder=tmp_path) is None
