"""Images that are resolved once in a process."""

import threading
from pathlib import Path

import pytest

from fasthep_flow.environments import ResolvedImage
from fasthep_flow.environments.images.known import KnownImages
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

IMAGE = Image(name="r.ch/a:1")


class Resolver:
    """Resolves an image, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.problem: Exception | None = None

    def __call__(self, image: Image) -> ResolvedImage:
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return ResolvedImage(name=image.name, reference=f"/{self.asked}", digest="sha256:0")


def test_asks_once_whatever_the_threads() -> None:
    known, resolve = KnownImages(), Resolver()
    found: list[ResolvedImage] = []
    threads = [
        threading.Thread(target=lambda: found.append(known.have(IMAGE, resolve))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (resolve.asked, len(set(map(id, found)))) == (1, 1)
    # Pulled in another way it may be another one.
    known.have(Image(name=IMAGE.name, pull="always"), resolve)
    assert resolve.asked == 2


def test_a_failure_is_not_kept() -> None:
    known, resolve = KnownImages(), Resolver()
    resolve.problem = ImageUnavailable("not now")
    with pytest.raises(ImageUnavailable, match="not now"):
        known.have(IMAGE, resolve)
    resolve.problem = None
    assert known.have(IMAGE, resolve).reference == "/2"


def test_what_is_gone_or_forgotten_is_asked_for_anew() -> None:
    there = {"/1"}
    known, resolve = KnownImages(lambda image: image.reference in there), Resolver()
    assert known.have(IMAGE, resolve).reference == "/1"
    there.clear()
    assert known.have(IMAGE, resolve).reference == "/2"
    there.add("/2")
    known.forget()
    assert known.have(IMAGE, resolve).reference == "/3"


def test_another_cache_has_other_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known, resolve = KnownImages(), Resolver()
    known.have(IMAGE, resolve)
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path))
    known.have(IMAGE, resolve)
    assert resolve.asked == 2
