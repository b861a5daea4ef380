"""Data of buckets and of XRootD's storage, from real servers."""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.conftest import REQUIRED
from tests.environments.data.stores import Buckets, Storage, buckets, storage, why_no_xrootd

from fasthep_flow.environments.data import fetch, remote
from fasthep_flow.environments.data.kept import kept
from fasthep_flow.errors import DataUnavailable
from fasthep_flow.model import DataItem

ODD = "a b:c,d 'e' ü #1 100%.txt"
LISTING = "".join(
    f"{hashlib.sha256(content).hexdigest()}  {name}\n"
    for name, content in (("deep/two", b"two"), ("one", b"one"))
)
FOLDER = f"sha256:{hashlib.sha256(LISTING.encode()).hexdigest()}"


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES_S", ())


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Buckets]:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with buckets() as one:
        for name, value in one.variables.items():
            monkeypatch.setenv(name, value)
        one.put("bucket", ODD, b"odd")
        one.put("bucket", "folder/one", b"one")
        one.put("bucket", "folder/deep/two", b"two")
        yield one


@pytest.fixture(scope="module")
def eos() -> Iterator[Storage]:
    if reason := why_no_xrootd():
        if REQUIRED:
            pytest.fail(f"{reason}; tests/testbed/up.sh installs it", pytrace=False)
        pytest.skip(reason)
    with storage() as one:
        one.put(ODD, b"odd")
        one.put("folder/one", b"one")
        one.put("folder/deep/two", b"two")
        yield one


def had(source: str, digest: str | None = None, *, offline: bool = False) -> str:
    """The digest that it comes with, and nothing else is told."""
    item = DataItem(source=source, digest=digest)
    return fetch(item, offline=offline, anew=True, progress=lambda _: None).digest or ""


def told(source: str) -> list[str]:
    words: list[str] = []
    fetch(DataItem(source=source), anew=True, progress=words.append)
    return words


def test_an_object_is_fetched_once_and_again_when_it_changed(store: Buckets) -> None:
    url = f"s3://bucket/{quote(ODD)}"
    assert told(url) == [f"data {url}: 3 bytes"]
    assert told(url) == []
    assert had(url) == sha256(b"odd")
    store.put("bucket", ODD, b"other")
    assert had(url) == sha256(b"other")
    with pytest.raises(DataUnavailable, match="found was") as raised:
        had(url, sha256(b"odd"))
    assert sha256(b"odd") in raised.value.message
    assert sha256(b"other") in raised.value.message


@pytest.mark.parametrize("name", ["folder", "folder/", "fol*/**"])
def test_what_lies_below_a_prefix_is_a_folder(store: Buckets, name: str) -> None:
    assert store.variables
    digest = had(f"s3://bucket/{name}")
    if "*" in name:
        assert digest.startswith("sha256:")
        return
    assert digest == FOLDER
    path = kept(digest.partition(":")[2], is_folder=True)
    assert path is not None
    assert (path / "deep" / "two").read_bytes() == b"two"
    assert had(f"s3://bucket/{name}", offline=True) == FOLDER


def test_what_no_bucket_has_and_a_server_that_is_gone_are_told(
    store: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in ("s3://bucket/nothing", "s3://nobody/one"):
        with pytest.raises(DataUnavailable, match="there is no such object or bucket"):
            had(source)
    with pytest.raises(DataUnavailable, match="nothing fits it"):
        had("s3://bucket/folder/*.root")
    assert had("s3://bucket/folder/one") == sha256(b"one")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(DataUnavailable, match="cannot be reached") as raised:
        had("s3://bucket/folder/one")
    assert store.variables["AWS_SECRET_ACCESS_KEY"] not in str(raised.value)
    # By its digest it is what is asked for, wherever it came from.
    assert had("s3://bucket/folder/one", sha256(b"one")) == sha256(b"one")
    assert had("s3://bucket/folder/one", offline=True) == sha256(b"one")


def test_an_open_bucket_needs_no_credentials(
    store: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("bucket", "open", b"open", acl="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert had("s3://bucket/open") == sha256(b"open")
    with pytest.raises(DataUnavailable, match="it may not be read"):
        had("s3://bucket/folder/one")


def test_a_file_of_xrootd_is_fetched_once_and_again_when_it_changed(eos: Storage) -> None:
    eos.put("events.root", b"events")
    url = eos.url("/events.root")
    assert told(url) == [f"data {url}: 6 bytes"]
    assert told(url) == []
    assert had(url) == sha256(b"events")
    # As EOS and its tools write it, some without leading zeros.
    assert had(url, "adler32:8eb0296") == sha256(b"events")
    eos.put("events.root", b"EVENTS")
    assert had(url) == sha256(b"EVENTS")
    with pytest.raises(DataUnavailable, match="found was") as raised:
        had(url, sha256(b"events"))
    assert sha256(b"EVENTS") in raised.value.message


def test_folders_patterns_and_odd_names_of_xrootd(eos: Storage) -> None:
    assert had(eos.url(f"/{quote(ODD)}")) == sha256(b"odd")
    assert had(eos.url("/folder")) == FOLDER
    assert had(eos.url("/folder/")) == FOLDER
    assert had(eos.url("/folder/**/[ot]*")) == FOLDER
    assert had(eos.url("/folder/**/[ot]*"), offline=True) == FOLDER
    one = f"{hashlib.sha256(b'one').hexdigest()}  one\n".encode()
    assert had(eos.url("/folder/o*")) == sha256(one)


def test_what_xrootd_does_not_have_and_a_server_that_is_not_there_are_told(eos: Storage) -> None:
    with pytest.raises(DataUnavailable, match="there is no such file"):
        had(eos.url("/nothing.root"))
    with pytest.raises(DataUnavailable, match="nothing fits it"):
        had(eos.url("/folder/*.root"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DataUnavailable, match="cannot be reached: Connection refused"):
        had(f"root://127.0.0.1:{port}//events.root")
    with pytest.raises(DataUnavailable, match=r"there is no host no\.such\.host\.invalid"):
        had("root://no.such.host.invalid//events.root")


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [("s3://bucket/key", "s3fs", "s3"), ("root://host//file", "XRootD", "xrootd")],
)
def test_an_extra_that_is_missing_is_named(
    source: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    name = {"s3": "objects", "xrootd": "xrootd"}[extra]
    monkeypatch.delitem(sys.modules, f"fasthep_flow.environments.data.{name}", raising=False)
    with pytest.raises(DataUnavailable) as raised:
        had(source)
    assert raised.value.hint == f"pip install 'fasthep-flow[{extra}]'"
