"""What is asked of a web server again, and what is not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.environments.data.server import FileServer, serving

from fasthep_flow.environments.data import fetch, remote
from fasthep_flow.errors import DataUnavailable
from fasthep_flow.model import DataItem

PATH = "/a b:c,d 'e' ü #1 100%?.txt"


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES_S", ())
    with serving() as one:
        one.files[PATH] = b"one"
        yield one


def had(server: FileServer, digest: str | None = None, *, offline: bool = False) -> str:
    item = DataItem(source=server.url(PATH), digest=digest)
    return fetch(item, offline=offline, anew=True, progress=lambda _: None).digest or ""


@pytest.mark.parametrize("kind", ["etag", "modified"])
def test_what_did_not_change_is_not_fetched_again(server: FileServer, kind: str) -> None:
    server.validators = "etag" if kind == "etag" else "modified"
    assert [had(server), had(server)] == [sha256(b"one")] * 2
    assert [status for _, _, status in server.log] == [200, 304]
    server.files[PATH] = b"two"
    server.modified_s += 60
    assert had(server) == sha256(b"two")


def test_a_source_that_says_nothing_of_its_changes_is_fetched_each_time(
    server: FileServer,
) -> None:
    server.validators = "none"
    assert had(server) == sha256(b"one")
    server.files[PATH] = b"two"
    assert had(server) == sha256(b"two")
    assert server.got(PATH) == 2


def test_a_time_that_may_hide_a_change_is_not_believed(server: FileServer) -> None:
    server.validators = "modified"
    # What is dated in the future may change and keep its date.
    server.modified_s = 4_000_000_000.0
    assert had(server) == sha256(b"one")
    server.files[PATH] = b"two"
    assert had(server) == sha256(b"two")


def test_a_changed_source_with_a_digest_names_both(server: FileServer) -> None:
    assert had(server, sha256(b"one")) == sha256(b"one")
    assert had(server, f"md5:{hashlib.md5(b'one', usedforsecurity=False).hexdigest()}") == (
        sha256(b"one")
    )
    server.files[PATH] = b"two"
    for _ in range(2):
        with pytest.raises(DataUnavailable) as raised:
            had(server, sha256(b"one"))
        assert sha256(b"one") in raised.value.message
        assert sha256(b"two") in raised.value.message
    # It is asked whether it has changed, and not fetched to say the same again.
    assert server.got(PATH) == 2
    # What is asked for by its digest is here all the same.
    assert had(server, sha256(b"one"), offline=True) == sha256(b"one")
    with pytest.raises(DataUnavailable, match="nothing may be fetched"):
        had(server, sha256(b"three"), offline=True)


def test_what_has_the_digest_serves_where_the_server_is_silent(server: FileServer) -> None:
    assert had(server) == sha256(b"one")
    server.statuses[PATH] = 503
    assert had(server, sha256(b"one")) == sha256(b"one")
    with pytest.raises(DataUnavailable, match="cannot serve it now"):
        had(server)
    # What the server says of it is believed.
    server.statuses[PATH] = 404
    with pytest.raises(DataUnavailable, match="there is no such file"):
        had(server, sha256(b"one"))


def test_redirects_are_followed_and_circles_are_not(server: FileServer) -> None:
    server.redirects["/here"] = server.url(PATH)
    server.redirects["/round"] = "/round"
    item = DataItem(source=server.url("/here"))
    assert fetch(item, progress=lambda _: None).digest == sha256(b"one")
    with pytest.raises(DataUnavailable, match="redirects in a circle"):
        fetch(DataItem(source=server.url("/round")), progress=lambda _: None)


def test_it_is_asked_once_in_a_process(server: FileServer) -> None:
    item = DataItem(source=server.url(PATH))
    for _ in range(3):
        assert fetch(item, progress=lambda _: None).digest == sha256(b"one")
    assert len(server.log) == 1


def test_a_cache_that_cannot_be_written_to_is_told(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataUnavailable, match="it cannot be kept in") as raised:
        had(server)
    assert raised.value.hint is not None
    assert "FASTHEP_FLOW_CACHE" in raised.value.hint
