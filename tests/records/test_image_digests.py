"""Images count by their digest, asked for once."""

from __future__ import annotations

from pathlib import Path

from tests.records.made import environment, parts_of, task

from fasthep_flow.environments import ImageFacts
from fasthep_flow.model import Image
from fasthep_flow.records.image_digests import image_digests
from fasthep_flow.testing.runtimes import FakeRuntime, installed

DEBIAN = Image(name="docker.io/library/debian:12")
NONE = Image(name="docker.io/library/none:1")


class Counting(FakeRuntime):
    asked = 0

    def look(self, image: Image) -> ImageFacts:
        self.asked += 1
        return super().look(image)


def test_an_image_counts_by_what_its_runtime_says(tmp_path: Path) -> None:
    runtime = Counting("podman", images=(DEBIAN.name,))
    with installed(runtime):
        digests = image_digests(dict.fromkeys(("a", "b", "c"), "podman"))
        found = [
            parts_of(
                tmp_path, task(name, environment=environment(image=image)), image_digest=digests
            )["image"]
            for name, image in (("a", DEBIAN), ("b", DEBIAN), ("c", NONE), ("other", DEBIAN))
        ]
    digest = runtime.resolve(DEBIAN).digest
    assert found == [digest, digest, "unknown", "unknown"]
    assert runtime.asked == 2
