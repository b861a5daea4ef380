"""What sources name, and what items must be."""

import pytest

from fasthep_flow.environments.data.fetching import asked_digest
from fasthep_flow.environments.data.sources import source_of
from fasthep_flow.errors import DataUnavailable
from fasthep_flow.model import DataItem


@pytest.mark.parametrize(
    ("text", "kind", "name", "is_pattern"),
    [
        ("/data/a.root", "local", "a.root", False),
        ("/data/run*.root", "local", "run*.root", True),
        ("file:///data/a%20b.root", "local", "a b.root", False),
        ("https://host/a%20b/c%23.root", "http", "c#.root", False),
        ("https://host/a.root?run=*&token=hunter2", "http", "a.root", False),
        ("https://[::1]/a.root", "http", "a.root", False),
        ("https://host/run*.root", "http", "run*.root", False),
        ("https://host/a%2Fb", "http", "", False),
        ("https://host/", "http", "", False),
        ("s3://bucket/run?/a#b", "s3", "a#b", True),
        ("s3://bucket/run%3F/a%20b", "s3", "a b", False),
        ("root://host//eos/a.root?authz=hunter2", "root", "a.root", False),
        ("xroot://host//eos/*.root", "root", "*.root", True),
    ],
)
def test_a_source_says_what_it_names(text: str, kind: str, name: str, is_pattern: bool) -> None:
    source = source_of(DataItem(source=text))
    assert (source.kind, source.name, source.may_be_pattern) == (kind, name, is_pattern)
    assert "hunter2" not in source.shown
    assert "hunter2" not in source.key


@pytest.mark.parametrize(
    "text", ["gs://bucket/key", "ftp://host/file", "zip://a::https://host/b.zip", "https:///file"]
)
def test_what_cannot_be_fetched_is_refused(text: str) -> None:
    with pytest.raises(DataUnavailable):
        source_of(DataItem(source=text))


def test_digests_are_compared_whatever_tool_wrote_them() -> None:
    item = DataItem(source="/a", digest="ADLER32:62C0215")
    assert asked_digest(item) == ("adler32", "062c0215")
    for digest in ("crc64:00", "sha256:", "sha256:xyz", "sha256"):
        with pytest.raises(DataUnavailable, match="no digest that can be looked at"):
            asked_digest(DataItem(source="/a", digest=digest))
