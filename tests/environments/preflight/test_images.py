"""Before the first task: whether an image can be had, and for which machines."""

import platform
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.environments.preflight.made import IMAGE, Remote, check, task, told

from fasthep_flow.environments.preflight.gate import preflight
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_check_fetches_and_starts_nothing_that_is_not_here(engines: Any, tmp_path: Path) -> None:
    runtime = Remote("podman")
    engines(runtime)
    _, found = check(task("a", image=IMAGE), task("b", image=IMAGE), folder=tmp_path)
    assert (found.tasks, found.image, found.runtime) == (("a", "b"), IMAGE, "podman")
    assert told(found) == {
        "runtime": "ok",
        "image": "ok",
        "platform": "ok",
        "shell": "unknown",
    }
    texts = {one.what: one.detail for one in found.checks}
    assert texts["image"].startswith("1Gi to be pulled, sha256:")
    assert texts["shell"] == "not known before the image is here"
    assert (runtime.resolved, runtime.opened) == ([], [])
    assert preflight([task("a", image=IMAGE)]) == {"a": "podman"}
    _, found = check(task("a", image=IMAGE), folder=tmp_path)
    assert told(found)["shell"] == "ok"


def test_an_image_for_another_processor_is_refused(
    engines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    runtime = Remote("podman")
    runtime.platforms = ("linux/mips64le",)
    engines(runtime)
    _, found = check(task("a", image=IMAGE), folder=tmp_path)
    (refused,) = [one for one in found.checks if one.verdict == "refused"]
    assert "has no emulator for linux/mips64le" in refused.detail
    asked = task("a", image=IMAGE)
    image = Image(name=IMAGE, platform="linux/mips64le")
    environment = msgspec.structs.replace(asked.environment, image=image)
    with pytest.raises(ImageUnavailable, match="asked for on another kind of machine"):
        preflight([msgspec.structs.replace(asked, environment=environment)])
    assert runtime.resolved == []


def test_a_platform_that_nobody_names_is_not_called_well(engines: Any, tmp_path: Path) -> None:
    runtime = Remote("podman")
    runtime.platforms = ()
    engines(runtime)
    _, found = check(task("a", image=IMAGE), folder=tmp_path)
    assert told(found)["platform"] == "unknown"
