"""The user's key: made once, kept from others, and never a plain hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.records.made import ANY_SPEED

from fasthep_flow.errors import RecordError
from fasthep_flow.records.key import Key, key_path, user_key

ASK = (
    "import sys; from pathlib import Path; from fasthep_flow.records.key import user_key;"
    "sys.stdin.read(1); print(user_key(Path(sys.argv[1])).secret.hex())"
)


def test_it_is_made_once_for_the_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "key"
    key = user_key(path)
    assert user_key(path) == key
    assert len(key.secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["key"]


def test_it_lies_where_the_users_data_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTHEP_FLOW_KEY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert key_path() == tmp_path / "fasthep-flow" / "key"
    assert user_key().secret == key_path().read_bytes()


def test_it_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTHEP_FLOW_KEY", str(tmp_path / "keys" / "mine"))
    assert user_key().secret == (tmp_path / "keys" / "mine").read_bytes()


def test_several_processes_at_once_have_the_same_one(tmp_path: Path) -> None:
    path = tmp_path / "data" / "key"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b".")
        process.stdin.flush()
    answers = {process.communicate()[0] for process in processes}
    assert answers == {path.read_bytes().hex().encode() + b"\n"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_one_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "data" / "key"
    user_key(path)
    path.chmod(mode)
    with pytest.raises(RecordError, match=f"other users may read the key {path}") as refused:
        user_key(path)
    assert refused.value.hint is not None
    assert f"chmod 600 {path}" in refused.value.hint


def test_a_folder_that_others_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data" / "key"
    user_key(path)
    path.parent.chmod(0o777)
    with pytest.raises(RecordError, match="may put another key into"):
        user_key(path)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33, bytes(32)])
def test_a_damaged_one_is_set_aside_and_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data" / "key"
    before = user_key(path)
    path.write_bytes(content)
    told: list[str] = []
    after = user_key(path, noticed=told.append)
    assert after.name != before.name
    (aside,) = path.parent.glob("key.damaged-*")
    assert aside.read_bytes() == content
    assert told == [f"the key {path} was damaged: there is a new one, the old one is {aside}"]


@pytest.mark.parametrize("what", ["folder", "pipe", "link"])
def test_what_is_no_file_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "key"
    tmp_path.chmod(0o700)
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.symlink_to("elsewhere")
    with pytest.raises(RecordError, match=f"the key {path}"):
        user_key(path)


def test_where_it_cannot_be_made_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot be had") as refused:
        user_key(tmp_path / "file" / "fasthep-flow" / "key")
    assert "FASTHEP_FLOW_KEY" in (refused.value.hint or "")


SECRETS = st.binary(min_size=32, max_size=32)


@ANY_SPEED
@given(SECRETS, st.text(), st.text(), st.text())
def test_a_hash_is_of_name_value_and_key(secret: bytes, name: str, one: str, other: str) -> None:
    key = Key.of(secret)
    assert (key.of_value(name, one) == key.of_value(name, other)) == (one == other)
    assert (key.of_value(one, name) == key.of_value(other, name)) == (one == other)
    assert key.of_value(name, one) != Key.of(bytes(32)[:31] + b"\1").of_value(name, one) or (
        secret == bytes(32)[:31] + b"\1"
    )
    for algorithm in ("sha256", "md5", "blake2b"):
        plain = hashlib.new(algorithm, one.encode("utf-8", "surrogatepass")).hexdigest()
        assert plain[:16] not in key.of_value(name, one)


def test_it_shows_nothing_of_itself() -> None:
    key = Key.of(b"k" * 32)
    assert repr(key) == f"Key({key.name})"
    assert b"k" * 4 not in f"{key!r}{key}".encode()
    assert key.name not in key.secret.hex()
