from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.environments import RUNTIMES
from fasthep_flow.environments.gpu import Gpu
from fasthep_flow.environments.preflight import preflight
from fasthep_flow.errors import (
    EngineUnavailable,
    EnvironmentRefused,
    ImageUnavailable,
    LimitUnenforceable,
    Location,
)
from fasthep_flow.model import (
    Command,
    Device,
    Environment,
    FlowSpec,
    Image,
    Resources,
    TaskSpec,
    Variable,
)
from fasthep_flow.testing.runtimes import FakeRuntime, installed

IMAGE = "registry.invalid/a:1"
OTHER = "registry.invalid/b:1"


def task(
    name: str, *, versions: tuple[Device, ...] = ("cpu", "gpu"), **environment: Any
) -> TaskSpec:
    flow = FlowSpec(transform="local", runner="concurrent")
    if "image" in environment:
        environment["image"] = Image(name=environment["image"])
    return TaskSpec(
        name=name,
        slug=name,
        operator="o",
        invocations=dict.fromkeys(versions, Command(argv=("true",))),
        environment=Environment(flow=flow, **environment),
        location=Location("w.yaml", 1, 1),
    )


def no_devices() -> str:
    return "there is none"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts made-up engines in the place of the real ones."""
    with ExitStack() as stack:

        def put(*runtimes: FakeRuntime) -> None:
            for name in set(RUNTIMES) - {"native"}:
                monkeypatch.delitem(RUNTIMES, name)
            for runtime in runtimes:
                stack.enter_context(installed(runtime))

        yield put


def test_a_task_without_an_image_runs_on_the_host(engines: Any) -> None:
    engines()
    assert preflight([task("a"), task("b", runtime="native")]) == {"a": "native", "b": "native"}
    with pytest.raises(EnvironmentRefused, match="task 'c': the runtime 'podman' is asked for"):
        preflight([task("c", runtime="podman")])


def test_the_first_engine_that_works_takes_the_image(engines: Any) -> None:
    gone, first, second = FakeRuntime("gone", obstacle="no"), FakeRuntime("one"), FakeRuntime("two")
    engines(gone, first, second)
    said: list[str] = []
    chosen = preflight([task("a", image=IMAGE), task("b", image=IMAGE)], progress=said.append)
    assert chosen == {"a": "one", "b": "one"}
    assert (gone.resolved, first.resolved, second.resolved) == ([], [IMAGE], [])
    assert said == [f"one: image {IMAGE}"]


def test_an_engine_that_has_the_image_is_preferred(engines: Any) -> None:
    engines(FakeRuntime("one", images=()), FakeRuntime("two", images=(IMAGE,)))
    assert preflight([task("a", image=IMAGE)]) == {"a": "two"}
    with pytest.raises(ImageUnavailable, match="none of one's"):
        preflight([task("a", image=OTHER)])


def test_an_engine_that_cannot_hold_a_limit_is_passed_over(engines: Any) -> None:
    first, second = FakeRuntime("one", no_limits="one holds nothing"), FakeRuntime("two")
    engines(first, second)
    limited: dict[str, Any] = {"image": IMAGE, "resources": Resources(memory=2**26)}
    said: list[str] = []
    tasks = [task("a", **limited), task("b", image=IMAGE)]
    assert preflight(tasks, progress=said.append) == {"a": "two", "b": "one"}
    assert first.resolved == second.resolved == [IMAGE]
    assert "one is passed over: one holds nothing" in said
    with pytest.raises(LimitUnenforceable, match="task 'a': one holds nothing"):
        preflight([task("a", **limited, runtime="one")])


def test_an_engine_that_is_passed_over_for_an_image_is_named_once(engines: Any) -> None:
    engines(FakeRuntime("one", images=()), FakeRuntime("two"))
    said: list[str] = []
    tasks = [task("a", image=IMAGE), task("b", image=IMAGE, resources=Resources(cpus=1))]
    assert preflight(tasks, progress=said.append) == {"a": "two", "b": "two"}
    passed = f"one is passed over: the image {IMAGE} is none of one's"
    assert said == [f"one: image {IMAGE}", f"two: image {IMAGE}", passed]


def test_why_no_engine_will_do_is_said_of_each(engines: Any) -> None:
    engines(
        FakeRuntime("one", no_limits="one holds nothing"),
        FakeRuntime("two", images=()),
        FakeRuntime("three", obstacle="it is off"),
    )
    with pytest.raises(EnvironmentRefused) as caught:
        preflight([task("a", image=IMAGE, resources=Resources(memory=2**26))])
    assert (
        f"(one: one holds nothing; two: the image {IMAGE} is none of two's; three: it is off)"
        in caught.value.message
    )
    with pytest.raises(ImageUnavailable) as missing:
        preflight([task("a", image=OTHER, runtime="two")])
    assert "three" not in missing.value.message


def test_an_engine_that_is_asked_for_is_the_only_one(engines: Any) -> None:
    engines(FakeRuntime("one"), FakeRuntime("two", images=()), FakeRuntime("gone", obstacle="off"))
    assert preflight([task("a", image=IMAGE, runtime="one")]) == {"a": "one"}
    with pytest.raises(ImageUnavailable, match="none of two's"):
        preflight([task("a", image=IMAGE, runtime="two")])
    with pytest.raises(EngineUnavailable, match="'gone' cannot be used: off"):
        preflight([task("a", image=IMAGE, runtime="gone")])
    with pytest.raises(EngineUnavailable, match="there is no runtime 'three'"):
        preflight([task("a", image=IMAGE, runtime="three")])
    with pytest.raises(ImageUnavailable, match="'native' takes no image"):
        preflight([task("a", image=IMAGE, runtime="native")])


def test_why_no_engine_works_is_said_of_each(engines: Any) -> None:
    engines(FakeRuntime("one", obstacle="it is off"), FakeRuntime("two", obstacle="no daemon"))
    with pytest.raises(EngineUnavailable) as caught:
        preflight([task("a", image=IMAGE)])
    assert "one: it is off; two: no daemon" in caught.value.message


def test_all_that_cannot_be_had_is_said_at_once(engines: Any) -> None:
    engines(FakeRuntime("one", images=(IMAGE,)))
    with pytest.raises(EnvironmentRefused) as caught:
        preflight(
            [
                task("good", image=IMAGE),
                *(task(f"bad {number}", image=OTHER) for number in range(5)),
                task("large", resources=Resources(memory=2**60)),
                task("wide", image=IMAGE, resources=Resources(cpus=100_000)),
                task("device", resources=Resources(process_on="gpu")),
                task("shown", image=IMAGE, resources=Resources(process_on="gpu")),
            ],
            devices=no_devices,
        )
    assert type(caught.value) is EnvironmentRefused
    message = caught.value.message
    assert "5 requests" in message
    assert "tasks 'bad 0', 'bad 1', 'bad 2' and 2 more: the image" in message
    for words in ("'large': 1Ei of", "'wide': 100000 cpus", "'device': the task asks"):
        assert words in message
    assert "there is none" in message
    assert "'shown': the task asks for a gpu: containers are not given devices yet" in message
    assert "good" not in message


def test_one_kind_of_refusal_keeps_its_class(engines: Any) -> None:
    engines(FakeRuntime("one", images=()))
    with pytest.raises(ImageUnavailable) as caught:
        preflight([task("a", image=IMAGE), task("b", image=OTHER)])
    assert "2 requests" in caught.value.message
    with pytest.raises(LimitUnenforceable, match="task 'a': "):
        preflight([task("a", resources=Resources(memory=2**60))])


def test_a_folder_that_no_engine_can_mount_is_refused(engines: Any) -> None:
    engine = FakeRuntime("one")
    engines(engine)
    folders = ["/data/two\nlines", "/data/of\r\nwindows"]
    with pytest.raises(EnvironmentRefused) as caught:
        preflight([task("a", image=IMAGE)], directories=folders)
    assert r"'/data/of\r\nwindows'" in caught.value.message
    assert engine.resolved == []
    assert preflight([task("a", image=IMAGE)], directories=folders[:1]) == {"a": "one"}
    assert preflight([task("b")], directories=folders) == {"b": "native"}


def test_values_that_no_container_can_be_handed_are_refused_by_name(engines: Any) -> None:
    engines(FakeRuntime("one"))
    variables = {
        "GOOD": Variable("µ", "w.yaml"),
        "TOKEN": Variable("secret-\udcff", "the host"),
    }
    with pytest.raises(EnvironmentRefused) as caught:
        preflight([task("a", image=IMAGE, variables=variables)])
    assert "task 'a': no container can be handed the value of the variable TOKEN" in str(
        caught.value
    )
    assert "secret" not in str(caught.value)
    assert "GOOD" not in str(caught.value)
    assert preflight([task("b", variables=variables)]) == {"b": "native"}


def test_what_a_killed_run_left_on_an_engine_is_ended_once(
    engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def end_orphans(runtimes: Iterable[str]) -> int:
        asked.extend(runtimes)
        return 2

    monkeypatch.setattr("fasthep_flow.environments.survivors.end_orphans", end_orphans)
    engines(FakeRuntime("one"), FakeRuntime("two"))
    said: list[str] = []
    preflight([task("a")], progress=said.append)
    assert (asked, said) == ([], [])
    tasks = [task("a", image=IMAGE), task("b", image=OTHER), task("c")]
    preflight(tasks, progress=said.append)
    assert asked == ["one"]
    assert said[-1] == "ended 2 containers that a killed run had left behind"


def test_devices_are_looked_for_where_they_are_asked_for() -> None:
    def unwanted() -> str:
        raise AssertionError

    assert preflight([task("a")], devices=unwanted) == {"a": "native"}
    asked = task("a", resources=Resources(process_on="gpu", gpus=2))
    two = (Gpu(id="GPU-a"), Gpu(id="GPU-b"))
    assert preflight([asked], devices=lambda: two) == {"a": "native"}
    with pytest.raises(EnvironmentRefused, match="2 devices are asked for, and 1"):
        preflight([asked], devices=lambda: two[:1])
    maybe = task("a", resources=Resources(process_on="gpu_if_available"))
    assert preflight([maybe], devices=no_devices) == {"a": "native"}


def test_nothing_is_asked_of_nothing() -> None:
    assert preflight([]) == {}
