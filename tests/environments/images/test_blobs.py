"""Parts of images, fetched from registries that do not do as they should."""

import hashlib
import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.environments.images.blobs import fetch_blob
from fasthep_flow.environments.registries.registry import Access
from fasthep_flow.errors import ImageUnavailable


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasthep_flow.environments.images.blobs._PAUSES_S", (0.0, 0.0))


DATA = bytes(range(256)) * 4096
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
PATH = f"/v2/group/image/blobs/{DIGEST}"


class Served:
    """A registry that answers as a test says, and remembers what it was asked."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.asked: list[tuple[str, str | None, str | None]] = []

    def access(self, authorization: str | None = None) -> Access:
        return Access(f"{self.base}/v2/group/image", authorization, ssl.create_default_context())


@contextmanager
def registry(answer: Callable[[Any, int], None]) -> Iterator[Served]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = self.headers
            served.asked.append((self.path, headers.get("Range"), headers.get("Authorization")))
            answer(self, len(served.asked))

        def log_message(self, *_: object) -> None:
            """Nobody reads that."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Served(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def say(handler: Any, status: int, data: bytes, *, length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)


def test_a_part_is_fetched_with_what_proves_who_asks(tmp_path: Path) -> None:
    with registry(lambda handler, _: say(handler, 200, DATA)) as served:
        fetch_blob(served.access("Bearer x"), "image", DIGEST, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA
    assert served.asked == [(PATH, None, "Bearer x")]


def test_where_the_net_fails_it_goes_on_from_there(tmp_path: Path) -> None:
    def answer(handler: Any, count: int) -> None:
        if count == 1:
            say(handler, 200, DATA[:100_000], length=len(DATA))
        else:
            say(handler, 206, DATA[100_000:])

    with registry(answer) as served:
        fetch_blob(served.access(), "image", DIGEST, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA
    assert [asked for _, asked, _ in served.asked] == [None, "bytes=100000-"]


def test_where_a_registry_cannot_go_on_it_begins_anew(tmp_path: Path) -> None:
    def answer(handler: Any, count: int) -> None:
        end = 1000 if count == 1 else len(DATA)
        say(handler, 200, DATA[:end], length=len(DATA))

    with registry(answer) as served:
        fetch_blob(served.access(), "image", DIGEST, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA


def test_another_part_is_refused(tmp_path: Path) -> None:
    with (
        registry(lambda handler, _: say(handler, 200, b"something else")) as served,
        pytest.raises(ImageUnavailable, match=f"instead of {DIGEST}"),
    ):
        fetch_blob(served.access(), "image", DIGEST, tmp_path / "part")
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize(
    ("status", "words"), [(401, "401"), (404, "404"), (416, "416"), (500, "500")]
)
def test_a_registry_that_refuses_is_quoted(tmp_path: Path, status: int, words: str) -> None:
    with (
        registry(lambda handler, _: say(handler, status, b"")) as served,
        pytest.raises(ImageUnavailable, match=rf"127\.0\.0\.1:.* answers with {words}"),
    ):
        fetch_blob(served.access(), "the/image:1", DIGEST, tmp_path / "part")


def test_a_registry_that_breaks_off_each_time_is_told(tmp_path: Path) -> None:
    with (
        registry(lambda handler, _: say(handler, 200, b"", length=10)) as served,
        pytest.raises(ImageUnavailable, match=r"cannot be fetched as a whole.*0 of 10 bytes"),
    ):
        fetch_blob(served.access(), "the/image:1", DIGEST, tmp_path / "part")


def test_a_registry_that_is_gone_is_told(tmp_path: Path) -> None:
    with registry(lambda handler, _: say(handler, 200, DATA)) as served:
        access = served.access()
    with pytest.raises(ImageUnavailable, match="refused"):
        fetch_blob(access, "image", DIGEST, tmp_path / "part")


def test_where_it_is_sent_to_nobody_is_told_who_asks(tmp_path: Path) -> None:
    with registry(lambda handler, _: say(handler, 200, DATA)) as store:

        def answer(handler: Any, _: int) -> None:
            handler.send_response(307)
            handler.send_header("Location", f"{store.base}/store")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        with registry(answer) as served:
            fetch_blob(served.access("Basic secret"), "image", DIGEST, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA
    assert store.asked == [("/store", None, None)]


def test_what_let_it_in_is_asked_for_anew_when_it_holds_no_more(tmp_path: Path) -> None:
    def answer(handler: Any, _: int) -> None:
        is_new = handler.headers.get("Authorization") == "Bearer new"
        say(handler, 200 if is_new else 401, DATA if is_new else b"")

    with registry(answer) as served:
        fetch_blob(
            served.access("Bearer old"),
            "image",
            DIGEST,
            tmp_path / "part",
            again=lambda: served.access("Bearer new"),
        )
        assert (tmp_path / "part").read_bytes() == DATA
        with pytest.raises(ImageUnavailable, match="401"):
            fetch_blob(
                served.access("Bearer old"),
                "image",
                DIGEST,
                tmp_path / "other",
                again=lambda: served.access("Bearer older"),
            )
    assert len(served.asked) == 4


def test_what_is_refused_is_not_asked_for_twice(tmp_path: Path) -> None:
    with registry(lambda handler, _: say(handler, 404, b"")) as served:
        with pytest.raises(ImageUnavailable, match="404"):
            fetch_blob(served.access(), "image", DIGEST, tmp_path / "part")
        assert len(served.asked) == 1
