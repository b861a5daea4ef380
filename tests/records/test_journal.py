"""The journal: what is believed of it, after whatever has happened to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasthep_flow.errors import RecordError
from fasthep_flow.records import journal
from fasthep_flow.records.journal import Event, Journal, Reader, mend


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    one = Journal(path)
    try:
        yield one
    finally:
        one.close()


def append(path: Path, *messages: str) -> None:
    with opened(path) as one:
        for message in messages:
            one.append(Event(time="2026-03-14T09:26:53.589Z", event="note", message=message))
        one.sync()


def messages(path: Path) -> tuple[list[str | None], Reader]:
    reader = Reader(path)
    return [event.message for event in reader], reader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    append(path, "one", "two", "three")
    return path


def test_what_was_appended_is_read_in_order(path: Path) -> None:
    append(path, "four")
    found, reader = messages(path)
    assert found == ["one", "two", "three", "four"]
    assert reader.is_whole
    assert reader.damaged == ()


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    found, reader = messages(tmp_path / "events.jsonl")
    assert found == []
    assert reader.is_whole


def test_a_journal_cut_at_any_byte_has_the_lines_before_the_cut_and_is_not_damaged(
    path: Path,
) -> None:
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found, reader = messages(path)
        # Of a line that lacks nothing but its end nothing is lost.
        assert len(found) == sum(end - 1 <= length for end in ends)
        assert reader.damaged == ()
        assert reader.is_whole == (length in {0, *ends, *(end - 1 for end in ends)})


def test_a_line_in_which_any_byte_is_another_one_is_not_believed(path: Path) -> None:
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for index in range(start, whole.index(b"\n", start)):
        for change in (1, 0x80):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ change]) + whole[index + 1 :])
            found, reader = messages(path)
            assert found == ["one", "three"]
            assert f"{path}:2: is not as it was written" in reader.damaged


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"\0" * 5000, id="zeros"),
        pytest.param(os.urandom(900), id="random"),
        pytest.param(b"{}\n[]\nnull\n\n", id="json"),
        pytest.param(b'{"time":"2026","event":"task_finished","task":"a"}\n', id="no seal"),
    ],
)
def test_damage_is_named_and_what_is_sound_beside_it_is_believed(path: Path, damage: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(damage + b"\n" + whole)
    found, reader = messages(path)
    assert found == ["one", "two", "three"]
    assert reader.damaged
    assert str(path) in reader.damaged[0]
    path.write_bytes(damage)
    found, reader = messages(path)
    assert found == []
    assert reader.damaged


def test_much_damage_is_named_in_few_words(path: Path) -> None:
    path.write_bytes(b"garbage\n" * 1000)
    _, reader = messages(path)
    assert len(reader.damaged) == 6
    assert "995 more lines" in reader.damaged[-1]


def test_a_line_without_end_is_passed_over_and_not_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_LONGEST_LINE", 200)
    whole = path.read_bytes()
    path.write_bytes(b"x" * 3_000_000 + b"\n" + whole)
    found, reader = messages(path)
    assert found == ["one", "two", "three"]
    assert "has no end" in reader.damaged[0]


def test_a_huge_file_is_read_in_little_memory(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(512 * 2**20)  # of zeros, which take no room
    script = (
        "import re, sys; from pathlib import Path\n"
        "from fasthep_flow.records.journal import Reader\n"
        "reader = Reader(Path(sys.argv[1])); print(len(list(reader)), len(reader.damaged))\n"
        # Not getrusage's: a program inherits that from whoever started it.
        "status = Path('/proc/self/status').read_text()\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    events, damaged, memory = map(int, done.stdout.split())
    assert (events, damaged) == (3, 1)
    assert memory < 300


def test_what_is_beyond_the_limit_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LARGEST", path.stat().st_size - 1)
    found, reader = messages(path)
    assert found == ["one", "two"]
    assert "is beyond" in reader.damaged[0]


def test_a_journal_that_is_a_folder_is_named(tmp_path: Path) -> None:
    found, reader = messages(tmp_path)
    assert found == []
    assert "cannot be read" in reader.damaged[0]


def test_mending_drops_a_cut_line_and_keeps_nothing_of_it(path: Path, tmp_path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])
    assert mend(path, tmp_path / "damaged") is None
    assert not (tmp_path / "damaged").exists()
    append(path, "four")
    found, reader = messages(path)
    assert found == ["one", "two", "four"]
    assert reader.is_whole


def test_mending_keeps_the_damaged_journal_as_it_was(path: Path, tmp_path: Path) -> None:
    damaged = path.read_bytes().replace(b"two", b"TWO")
    path.write_bytes(damaged)
    kept = mend(path, tmp_path / "damaged")
    assert kept is not None
    assert kept.read_bytes() == damaged
    append(path, "four")
    assert messages(path)[0] == ["one", "three", "four"]
    assert kept.read_bytes() == damaged
    # A second time nothing takes the place of what was kept.
    path.write_bytes(b"\xff\n")
    second = mend(path, tmp_path / "damaged")
    assert second not in {kept, None}
    assert kept.read_bytes() == damaged


def test_mending_works_without_hard_links(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    damaged = path.read_bytes().replace(b"two", b"TWO")
    path.write_bytes(damaged)
    kept = mend(path, tmp_path / "damaged")
    assert kept is not None
    assert kept.read_bytes() == damaged
    assert messages(path)[0] == ["one", "three"]


FULL = """
import resource, signal, sys
from pathlib import Path
from fasthep_flow.errors import RecordError
from fasthep_flow.records.journal import Event, Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
one = Journal(Path(sys.argv[1]))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
try:
    one.append(Event(time="2026", event="note", message="too long " * 20))
except RecordError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
one.append(Event(time="2026", event="note", message="room again"))
"""


@pytest.mark.parametrize("room", [1, 20, 100])
def test_a_line_that_did_not_fit_leaves_nothing_before_the_next_one(path: Path, room: int) -> None:
    size = path.stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", FULL, path, str(size + room)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot write" in done.stdout
    found, reader = messages(path)
    assert found == ["one", "two", "three", "room again"]
    assert reader.is_whole


def test_a_journal_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot write"):
        Journal(tmp_path / "nowhere" / "events.jsonl")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(start=st.integers(0, 400), length=st.integers(0, 200), damage=st.binary(max_size=64))
def test_no_damage_makes_an_event_that_nobody_wrote(
    path: Path, start: int, length: int, damage: bytes
) -> None:
    path.unlink(missing_ok=True)
    append(path, "one", "two", "three")
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + damage + whole[start + length :])
    found, _ = messages(path)
    wanted: Iterator[str | None] = iter(["one", "two", "three"])
    assert all(message in wanted for message in found)
