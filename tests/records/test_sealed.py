"""Files are whole and sound, or they are not believed."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.records.made import ANY_SPEED

from fasthep_flow.records.sealed import read_whole, sealed, set_aside, unsealed, write_whole

TEXTS = st.dictionaries(st.text(), st.text() | st.integers() | st.none()).map(msgspec.json.encode)


@ANY_SPEED
@given(TEXTS)
def test_what_was_sealed_comes_back_and_is_json_of_its_own(text: bytes) -> None:
    whole = sealed(text)
    assert unsealed(whole) == text
    assert unsealed(whole + b"\n") == text
    assert msgspec.json.decode(whole).keys() == {*msgspec.json.decode(text), "crc"}


@ANY_SPEED
@given(TEXTS, st.data())
def test_no_other_byte_and_no_cut_is_believed(text: bytes, data: st.DataObject) -> None:
    whole = sealed(text)
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(1, 255))
    garbled = whole[:at] + bytes([whole[at] ^ other]) + whole[at + 1 :]
    assert unsealed(garbled) is None
    assert unsealed(whole[:at]) is None
    assert unsealed(whole[at + 1 :]) is None


@pytest.mark.parametrize("text", [b"", b"{}", b"\0" * 64, b'"crc":"00000000"}', b'{"crc":"'])
def test_what_has_no_seal_is_not_believed(text: bytes) -> None:
    assert unsealed(text) is None


def test_a_file_is_the_users_own_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_whole(path, b"one")
    write_whole(path, b"two", sync=False)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", b"three")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "record.json"]


def test_a_pipe_a_link_and_a_file_without_end_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "large").write_bytes(b"x" * 11)
    for name in ("pipe", "link", "large"):
        with pytest.raises(OSError, match=r"is no file|is a link|larger"):
            read_whole(tmp_path / name, 10)


def test_what_is_set_aside_is_kept_in_bounds(tmp_path: Path) -> None:
    for number in range(120):
        path = tmp_path / "record"
        path.write_text(str(number))
        where = set_aside(path, tmp_path / "damaged")
        assert where is not None
        assert where.read_text() == str(number)
    assert len(list((tmp_path / "damaged").iterdir())) == 100
    assert set_aside(tmp_path / "record", tmp_path / "damaged") is None
