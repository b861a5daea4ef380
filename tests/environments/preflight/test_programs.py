"""Before the first task: what a container of the image tells of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.environments.preflight.made import IMAGE, Remote, check, task, told

from fasthep_flow.environments import Container, ContainerSpec, find_runtime
from fasthep_flow.environments.preflight.gate import preflight
from fasthep_flow.environments.preflight.inside import Inside, look_inside
from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import Call, Command, Device, Image, Invocation, Resources, Variable
from fasthep_flow.testing.runtimes import FakeRuntime

pytestmark = pytest.mark.usefixtures("own_cache")


def test_what_was_once_seen_inside_is_known_before_the_image_is_here(
    engines: Any, tmp_path: Path
) -> None:
    runtime = Remote("podman")
    engines(runtime)
    preflight([task("a", image=IMAGE)])
    runtime.resolved.clear()
    runtime.opened.clear()
    _, found = check(task("a", image=IMAGE), folder=tmp_path)
    assert told(found)["shell"] == "ok"
    assert (runtime.resolved, runtime.opened) == ([], [])


def test_a_check_looks_into_what_is_here(engines: Any, tmp_path: Path) -> None:
    runtime = FakeRuntime("podman")
    engines(runtime)
    _, found = check(task("a", image=IMAGE), folder=tmp_path)
    assert told(found)["shell"] == "ok"
    assert len(runtime.opened) == 1


def test_what_is_missing_inside_is_refused_before_the_run(engines: Any, tmp_path: Path) -> None:
    engines(FakeRuntime("podman"))
    image = Image(name=IMAGE)
    runtime = find_runtime("podman")
    path = tmp_path / "cache" / "inside" / "1"
    look_inside(runtime, image, runtime.resolve(image))
    (kept,) = path.glob("*.json")
    call: dict[Device, Invocation] = {"cpu": Call(target="m:f")}
    line: dict[Device, Invocation] = {"cpu": Command(argv=("bash", "-c", "true"))}
    plain: dict[Device, Invocation] = {"cpu": Command(argv=("tool",))}
    cases: list[tuple[Inside, dict[Device, Invocation], str | None]] = [
        (Inside(sh=True, bash=True), call, "has no python3"),
        (Inside(python="3.5.2", modules=True), call, "has python3 3.5.2; callables need 3.6"),
        (Inside(python="3.11.2"), call, "without the modules of its standard library"),
        (Inside(python="3.11.2", modules=True), call, None),
        (Inside(sh=True), line, "has no bash"),
        (Inside(python="3.11.2", modules=True), plain, "has no /bin/sh"),
        (Inside(sh=True), plain, None),
    ]
    for found, invocations, words in cases:
        kept.write_bytes(msgspec.json.encode(found))
        asked = msgspec.structs.replace(task("a", image=IMAGE), invocations=invocations)
        if words is None:
            assert preflight([asked]) == {"a": "podman"}
            continue
        with pytest.raises(EnvironmentRefused, match=words) as caught:
            preflight([asked])
        assert IMAGE in caught.value.message
        assert caught.value.hint is not None


def test_a_path_of_the_tasks_own_may_have_what_the_image_lacks(
    engines: Any, tmp_path: Path
) -> None:
    engines(FakeRuntime("podman"))
    runtime, image = find_runtime("podman"), Image(name=IMAGE)
    look_inside(runtime, image, runtime.resolve(image))
    (kept,) = (tmp_path / "cache" / "inside" / "1").glob("*.json")
    kept.write_bytes(msgspec.json.encode(Inside(sh=True)))
    variables = {"PATH": Variable("/cvmfs/tools:/bin", "w.yaml:3")}
    asked = task("a", image=IMAGE, variables=variables)
    invocations: dict[Device, Invocation] = {"cpu": Command(argv=("bash", "-c", "true"))}
    assert preflight([msgspec.structs.replace(asked, invocations=invocations)]) == {"a": "podman"}


class Strict(FakeRuntime):
    """Takes no options that say no."""

    @contextmanager
    def open(self, spec: ContainerSpec) -> Iterator[Container]:
        with super().open(spec) as container:
            if "--no" in spec.options:
                raise EnvironmentRefused("there is no --no")
            yield container


def test_options_are_tried_once_before_the_first_task(engines: Any, tmp_path: Path) -> None:
    engines(one := Strict("one"))
    asked: dict[str, Any] = {"image": IMAGE, "runtime": "one"}
    tasks = [
        task("a", **asked, options=("--yes", "a b")),
        task("b", **asked, options=("--yes", "a b"), resources=Resources(cpus=1)),
        task("c", **asked),
    ]
    assert preflight(tasks, directories=(str(tmp_path),)) == dict.fromkeys("abc", "one")
    (tried,) = [spec for spec in one.opened if spec.name.startswith("fasthep-try-")]
    assert tried.options == ("--yes", "a b")
    assert tried.mounts[0].source == str(tmp_path)
    # Nothing of it is kept: the engine may be another one in the next run.
    preflight(tasks[:1])
    assert len([spec for spec in one.opened if spec.name.startswith("fasthep-try-")]) == 2
    with pytest.raises(EnvironmentRefused, match="tasks 'd', 'e': there is no --no"):
        preflight([task(name, **asked, options=("--no",)) for name in "de"])


def test_a_check_tries_the_options_of_images_that_are_here(engines: Any, tmp_path: Path) -> None:
    engines(Strict("one"), Remote("two"))
    _, well, ill, away = check(
        task("a", image=IMAGE, runtime="one", options=("--yes", "a b")),
        task("b", image=IMAGE, runtime="one", options=("--no",)),
        task("c", image=IMAGE, runtime="two", options=("--no",)),
        folder=tmp_path,
    )
    assert told(well)["options"] == "ok"
    assert ill.is_refused
    assert ill.runtime is None
    assert told(ill)["options"] == "refused"
    assert "shell" not in told(ill)
    assert told(away)["options"] == "unknown"
    (row,) = [one for one in well.checks if one.what == "options"]
    assert row.detail == "--yes 'a b': a container starts with them"
