"""Before the first task: the device, the runtime that can give it, and the image for it."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from fasthep_flow.environments import ImageFacts
from fasthep_flow.environments.preflight.gate import examine, pinned, preflight
from fasthep_flow.environments.preflight.verdicts import Check
from fasthep_flow.errors import DeviceUnavailable, ImageUnavailable, Location
from fasthep_flow.model import (
    Command,
    Device,
    Environment,
    FlowSpec,
    Gpu,
    Image,
    ProcessOn,
    Resources,
    TaskSpec,
)
from fasthep_flow.testing.runtimes import FakeRuntime

TWO = (Gpu(id="GPU-a", name="H200"), Gpu(id="GPU-b", name="H200"))
CPU = Image(name="registry.invalid/cpu:1")
GPU = Image(name="registry.invalid/gpu:1")
NONE = "no NVIDIA driver answers"

pytestmark = pytest.mark.usefixtures("own_cache")


def task(
    process_on: ProcessOn,
    *,
    gpus: int | None = None,
    versions: Sequence[Device] = ("cpu", "gpu"),
    **environment: Any,
) -> TaskSpec:
    return TaskSpec(
        name="a",
        slug="a",
        operator="o",
        invocations=dict.fromkeys(versions, Command(argv=("true",))),
        environment=Environment(
            flow=FlowSpec(transform="local", runner="concurrent"),
            resources=Resources(process_on=process_on, gpus=gpus),
            **environment,
        ),
        location=Location("w.yaml", 1, 1),
    )


def device_check(checks: Sequence[Check]) -> Check:
    (found,) = [check for check in checks if check.what == "device"]
    return found


def looked_at(one: TaskSpec, devices: tuple[Gpu, ...] | str) -> tuple[str | None, Sequence[Check]]:
    """The runtime and the checks of a task, as `fasthep-flow check` has them."""
    found = examine(
        [one],
        working_directory="/",
        output_directory="/nowhere",
        devices=lambda: devices,
    )
    return found[1].runtime, found[1].checks


@pytest.mark.parametrize("image", [None, CPU])
@pytest.mark.parametrize(
    ("asked", "devices", "words"),
    [
        (task("gpu"), NONE, "the task asks for a gpu: no NVIDIA driver answers"),
        (task("gpu", gpus=3), TWO, "3 gpus: 3 devices are asked for, and 2 can be used here"),
        (task("gpu", versions=("cpu",)), TWO, "a gpu: the task has no gpu version"),
        (task("gpu_if_available", versions=("gpu",)), NONE, "no cpu version, and no NVIDIA"),
        (task("cpu", versions=("gpu",)), NONE, "asks for a cpu, and has a gpu version alone"),
    ],
)
def test_what_no_engine_can_change_is_refused_once(
    engines: Callable[..., None],
    image: Image | None,
    asked: TaskSpec,
    devices: tuple[Gpu, ...] | str,
    words: str,
) -> None:
    one, two = FakeRuntime("one"), FakeRuntime("two")
    engines(one, two)
    asked = with_images(asked, image)
    with pytest.raises(DeviceUnavailable, match=words) as caught:
        preflight([asked], devices=lambda: devices)
    assert caught.value.message.startswith("task 'a': the task ")
    # Nothing was fetched for it.
    assert one.resolved == two.resolved == []
    _, checks = looked_at(asked, devices)
    assert words in device_check(checks).detail
    assert device_check(checks).verdict == "refused"


def test_an_engine_that_can_give_the_devices_is_chosen(engines: Callable[..., None]) -> None:
    cannot = FakeRuntime("one", no_devices="one has no files for it")
    engines(cannot, FakeRuntime("two"))
    asked = task("gpu", image=CPU)
    assert preflight([asked], devices=lambda: TWO) == {"a": "two"}
    assert cannot.resolved == []
    runtime, checks = looked_at(asked, TWO)
    assert runtime == "two"
    assert device_check(checks).detail == "gpu: process_on is gpu: H200"
    # On the processor the first will do.
    assert preflight([task("cpu", image=CPU)], devices=lambda: TWO) == {"a": "one"}


def test_who_can_do_without_still_gets_the_engine_that_gives_them(
    engines: Callable[..., None],
) -> None:
    cannot = FakeRuntime("one", no_devices="one has no files for it")
    engines(cannot, FakeRuntime("two"))
    asked = task("gpu_if_available", image=CPU)
    assert preflight([asked], devices=lambda: TWO) == {"a": "two"}
    assert preflight([asked], devices=lambda: NONE) == {"a": "one"}


def test_why_no_engine_can_give_them_is_said(engines: Callable[..., None]) -> None:
    engines(
        FakeRuntime("one", no_devices="one has no files for it"),
        FakeRuntime("two", no_devices="two is not set up for it"),
    )
    with pytest.raises(DeviceUnavailable) as caught:
        preflight([task("gpu", image=CPU)], devices=lambda: TWO)
    for words in ("one has no files for it", "two is not set up for it"):
        assert caught.value.message.count(words) == 1
    runtime, checks = looked_at(task("gpu_if_available", image=CPU), TWO)
    assert runtime == "one"
    assert device_check(checks).detail == "cpu: no gpu: one has no files for it"
    with pytest.raises(DeviceUnavailable, match="task 'a': the task asks for a gpu: two is not"):
        preflight([task("gpu", image=CPU, runtime="two")], devices=lambda: TWO)


class Watched(FakeRuntime):
    """An engine that says what was only looked at."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.looked: list[str] = []

    def look(self, image: Image) -> ImageFacts:
        self.looked.append(image.name)
        return super().look(image)


def with_images(asked: TaskSpec, image: Image | None, gpu_image: Image | None = None) -> TaskSpec:
    environment = msgspec.structs.replace(asked.environment, image=image, gpu_image=gpu_image)
    return msgspec.structs.replace(asked, environment=environment)


@pytest.mark.parametrize(
    ("devices", "used", "other"), [(TWO, GPU, CPU), (NONE, CPU, GPU)], ids=["gpu", "cpu"]
)
def test_the_image_for_the_device_is_fetched_and_the_other_one_looked_at(
    engines: Callable[..., None], devices: tuple[Gpu, ...] | str, used: Image, other: Image
) -> None:
    engine = Watched("one")
    engines(engine)
    both = with_images(task("gpu_if_available"), CPU, GPU)
    assert preflight([both], devices=lambda: devices) == {"a": "one"}
    assert set(engine.resolved) == {used.name}
    assert engine.looked == [other.name]
    _, checks = looked_at(both, devices)
    details = [check.detail for check in checks if check.what == "image"]
    assert len(details) == 2
    assert details[1].startswith(f"{other}, on the other kind of device: ")


@pytest.mark.parametrize("devices", [TWO, NONE], ids=["gpu", "cpu"])
def test_one_engine_must_have_both_images(
    engines: Callable[..., None], devices: tuple[Gpu, ...] | str
) -> None:
    engines(FakeRuntime("one", images=(CPU.name,)), FakeRuntime("two", images=(GPU.name,)))
    both = with_images(task("gpu_if_available"), CPU, GPU)
    with pytest.raises(ImageUnavailable, match="task 'a'"):
        preflight([both], devices=lambda: devices)


def test_both_images_stay_what_they_are_while_a_run_goes_on(engines: Callable[..., None]) -> None:
    engine = Watched("one")
    engines(engine)
    always = [msgspec.structs.replace(image, pull="always") for image in (CPU, GPU)]
    (fixed,) = pinned([with_images(task("gpu_if_available"), *always)], {"a": "one"})
    for image, name in (
        (fixed.environment.image, CPU.name),
        (fixed.environment.gpu_image, GPU.name),
    ):
        assert image is not None
        assert image.name.startswith(f"{name}@sha256:")
        assert image.pull == "missing"
    # Neither was fetched for that.
    assert engine.resolved == []
