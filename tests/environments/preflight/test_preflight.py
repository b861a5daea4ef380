import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.environments.preflight.made import IMAGE, OTHER, check, no_devices, task, told

from fasthep_flow.environments.preflight.gate import pinned, preflight
from fasthep_flow.errors import (
    EngineUnavailable,
    EnvironmentRefused,
    ImageUnavailable,
    LimitUnenforceable,
)
from fasthep_flow.model import Gpu, Image, Resources, Variable
from fasthep_flow.testing.runtimes import FakeRuntime

pytestmark = pytest.mark.usefixtures("own_cache")


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
    assert "4 requests" in message
    assert "tasks 'bad 0', 'bad 1', 'bad 2' and 2 more: the image" in message
    for words in ("'large': 1Ei of", "'wide': 100000 cpus"):
        assert words in message
    # No engine could change that: it is said once for both.
    assert "tasks 'device', 'shown': the task asks for a gpu: there is none" in message
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


def test_every_check_of_an_environment_is_made(engines: Any, tmp_path: Path) -> None:
    engines(FakeRuntime("podman", images=()))
    bad = task(
        "bad",
        image=OTHER,
        runtime="podman",
        resources=Resources(memory=2**60, process_on="gpu"),
        variables={"TOKEN": Variable("\udcff", "the host, w.yaml:3"), "A": Variable("", "a.env:1")},
    )
    _, found = check(bad, folder=tmp_path)
    assert found.is_refused
    assert found.runtime is None
    whats = [one.what for one in found.checks if one.verdict == "refused"]
    assert {"variables", "limits", "image", "device"} <= set(whats)
    assert {one.error for one in found.checks if one.what == "image"} == {"ImageUnavailable"}
    assert "read from a.env" in {one.detail for one in found.checks}


def test_what_was_passed_over_is_said(engines: Any, tmp_path: Path) -> None:
    engines(FakeRuntime("gone", obstacle="it is off"), Choosy("one"), FakeRuntime("two"))
    _, found = check(task("a", image=IMAGE), folder=tmp_path)
    assert found.checks[0].detail == (
        "two is the first that can (one: takes no such images; gone: it is off)"
    )


class Choosy(FakeRuntime):
    def takes(self, _: Image) -> str | None:
        return f"{self.name} takes no such images"


def test_limits_are_told_one_by_one(engines: Any, tmp_path: Path) -> None:
    engines(Best("one"))
    resources = Resources(memory=2**26, cpus=1, walltime_s=5400, enforce="best_effort")
    _, found = check(task("a", image=IMAGE, resources=resources), folder=tmp_path)
    limits = [(one.verdict, one.detail) for one in found.checks if one.what == "limits"]
    assert limits == [
        ("note", "memory 64Mi is not enforced: there is none"),
        ("ok", "cpus 1: held by the kernel's control groups"),
        ("ok", "walltime 90m: timed, and the task stopped"),
    ]


class Best(FakeRuntime):
    def check(self, *_: Any) -> dict[str, str]:
        return {"memory": "not enforced: there is none", "cpus": "cgroup"}


def test_a_network_that_is_kept_away_is_told(engines: Any, tmp_path: Path) -> None:
    engines(FakeRuntime("one"))
    _, found = check(task("a", image=IMAGE, network="none"), folder=tmp_path)
    assert told(found)["network"] == "ok"


def test_folders_of_the_machine_are_looked_at(
    engines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines()
    (machine,) = check(folder=tmp_path)
    assert [one.verdict for one in machine.checks] == ["ok", "ok"]
    assert not machine.is_refused
    assert not (tmp_path / "output").exists()
    blocked = tmp_path / "a file"
    blocked.write_text("")
    (machine,) = check(folder=tmp_path, output=blocked / "output")
    assert machine.is_refused
    assert f"{blocked} cannot be written to" in machine.checks[1].detail
    assert machine.checks[1].hint == "choose another folder with --output"
    # Root may write anywhere: the kernel's own answer is what counts.
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    (machine,) = check(folder=tmp_path)
    assert machine.checks[0].detail.endswith("which cannot be written to")
    assert machine.checks[1].verdict == "refused"


def test_tasks_that_ask_alike_are_examined_once(engines: Any, tmp_path: Path) -> None:
    engines(FakeRuntime("one"))
    tasks = [task(f"t{number}", image=IMAGE) for number in range(20)]
    tasks.append(task("other", image=IMAGE, resources=Resources(walltime_s=60)))
    found = check(*tasks, folder=tmp_path)
    assert [len(one.tasks) for one in found] == [0, 20, 1]


def test_what_was_fetched_for_the_run_is_what_all_tasks_get(engines: Any) -> None:
    engines(FakeRuntime("one"))
    often = task("often", image=Image(name=IMAGE, pull="always"))
    named = task("named", image=Image(name=f"{IMAGE}@sha256:{'0' * 64}", pull="always"))
    once, host = task("once", image=IMAGE), task("host")
    tasks = [often, named, once, host]
    exact = pinned(tasks, preflight(tasks))
    assert exact[2:] == (once, host)
    images = [one.environment.image for one in exact[:2]]
    digest = FakeRuntime("one").resolve(Image(name=IMAGE)).digest
    assert [None if image is None else (image.name, image.pull) for image in images] == [
        (f"{IMAGE}@{digest}", "missing"),
        (f"{IMAGE}@sha256:{'0' * 64}", "missing"),
    ]


def test_a_folder_of_outputs_that_no_container_would_see_is_refused(
    engines: Any, tmp_path: Path
) -> None:
    engine = FakeRuntime("one")
    engines(engine)
    output = f"{tmp_path}/eos/out.root"
    tasks = [
        msgspec.structs.replace(task("a", image=IMAGE), outputs=(output,)),
        msgspec.structs.replace(task("b", image=IMAGE), inputs=(output,)),
        msgspec.structs.replace(task("c"), outputs=(output,)),
    ]
    words = f"task 'a': there is no folder {tmp_path}/eos, which a container needs for an output"
    with pytest.raises(EnvironmentRefused, match=words):
        preflight(tasks, directories=(f"{tmp_path}/work",))
    # Before anything is fetched; and b, which reads what a makes, is not to blame.
    assert engine.resolved == []
    (tmp_path / "eos").mkdir()
    assert preflight(tasks, directories=(f"{tmp_path}/work",)) == {
        "a": "one",
        "b": "one",
        "c": "native",
    }
    assert preflight(tasks, directories=(str(tmp_path),))["a"] == "one"


def test_a_folder_that_a_task_makes_need_not_be_there_yet(engines: Any, tmp_path: Path) -> None:
    engines(FakeRuntime("one"))
    made = msgspec.structs.replace(task("a"), outputs=(f"{tmp_path}/made",))
    for inputs, outputs in (((f"{tmp_path}/made/x",), ()), ((), (f"{tmp_path}/made/y/z",))):
        reads = msgspec.structs.replace(task("b", image=IMAGE), inputs=inputs, outputs=outputs)
        preflight([made, reads], directories=(f"{tmp_path}/work",))


def test_a_check_tells_which_folders_a_container_is_given(engines: Any, tmp_path: Path) -> None:
    engines(FakeRuntime("one"))
    (tmp_path / "in").mkdir()
    reads = msgspec.structs.replace(
        task("a", image=IMAGE),
        inputs=(f"{tmp_path}/in/*.root",),
        outputs=(f"{tmp_path}/out/a", f"{tmp_path}/work/b"),
    )
    work = tmp_path / "work"
    work.mkdir()
    _, found = check(reads, folder=work)
    rows = [one for one in found.checks if one.what == "folder"]
    assert [(row.verdict, row.detail.partition(",")[0]) for row in rows] == [
        ("ok", f"{tmp_path}/in: inputs are read there"),
        ("refused", f"there is no folder {tmp_path}/out"),
    ]
    assert "make it before" in str(rows[1].hint)


def test_tasks_whose_outputs_lie_in_the_workflows_folder_ask_alike(
    engines: Any, tmp_path: Path
) -> None:
    engines(FakeRuntime("one"))
    tasks = [
        msgspec.structs.replace(task(name, image=IMAGE), outputs=(f"{tmp_path}/{name}",))
        for name in "abc"
    ]
    assert len(check(*tasks, folder=tmp_path)) == 2
