"""Digests: of the content and nothing else, and read once as long as nothing changes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.records.made import write

from fasthep_flow.environments.data.listing import folder_listing, listing_digest
from fasthep_flow.records.digests import Digests
from fasthep_flow.records.sealed import unsealed


def later() -> float:
    """The clock, once files that were just written are quiet."""
    return time.time() + 10


def test_of_a_file_it_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "content")
    assert Digests().of(str(path)) == f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    assert Digests().of(str(tmp_path / "nothing")) is None
    assert Digests().of(f"{path}/below") is None


def test_of_a_folder_it_is_what_sha256sum_makes_of_its_listing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("b", "a", "sub/c", "with blank"):
        write(folder / name, name)
    (folder / "empty").mkdir()
    command = r"find * -type f | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum"
    said = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True
    )
    assert Digests().of(str(folder)) == f"sha256:{said.stdout.split()[0]}"
    before = Digests().of(str(folder))
    (folder / "link").symlink_to("a")
    assert Digests().of(str(folder)) != before


def test_it_is_the_workers_own(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(folder / "x/y", "1")
    write(folder / "z", "2")
    (folder / "l").symlink_to("z")
    assert Digests().of(str(folder)) == f"sha256:{listing_digest(folder_listing(folder))}"


def of_input(folder: Path) -> str | None:
    return Digests().of(str(folder), follows=True)


def test_of_an_input_what_links_lead_to_counts(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(folder / "a", "1")
    assert of_input(folder) == Digests().of(str(folder))
    write(tmp_path / "ext/real", "1")
    write(tmp_path / "far/deep/x", "1")
    (tmp_path / "ext/more").symlink_to("../far")
    (folder / "file").symlink_to("../ext/real")
    (folder / "sub").symlink_to("../ext")
    (folder / "gone").symlink_to("../nothing")
    told = {of_input(folder), Digests().of(str(folder))}
    for name in ("ext/real", "far/deep/x", "far/new", "nothing"):
        write(tmp_path / name, "2")
        told.add(of_input(folder))
    assert len(told) == 6
    assert Digests().of(str(folder)) in told


def test_links_in_a_circle_and_twofold_ones_come_to_an_end(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "self").symlink_to(".")
    write(folder / "a", "1")
    (folder / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        of_input(folder)
    (folder / "loop").unlink()
    for number in range(40):
        below = tmp_path / f"ext/{number}"
        below.mkdir(parents=True)
        for name in ("one", "other"):
            (below / name).symlink_to(f"../{number + 1}")
    (folder / "ext").symlink_to("../ext/0")
    before = of_input(folder)
    assert before == of_input(folder)
    write(tmp_path / "ext/40/x", "2")
    assert of_input(folder) != before


@pytest.mark.parametrize("to", ["..", "/"])
def test_a_link_to_a_folder_around_it_is_not_followed(tmp_path: Path, to: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/up").symlink_to(to)
    with pytest.raises(OSError, match="which holds it"):
        of_input(tmp_path / "folder")


def test_a_long_way_along_links_is_not_followed(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/on").symlink_to(f"../{number + 1}")
    with pytest.raises(OSError, match="more than 100 links"):
        of_input(tmp_path / "0")
    assert of_input(tmp_path / "100") is not None


def test_links_to_many_folders_are_not_all_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasthep_flow.records.digests._MOST_FOLLOWED", 3)
    (tmp_path / "folder").mkdir()
    for number in range(5):
        (tmp_path / f"ext/{number}").mkdir(parents=True)
        (tmp_path / f"folder/{number}").symlink_to(f"../ext/{number}")
    with pytest.raises(OSError, match="more than 3 links"):
        of_input(tmp_path / "folder")


def test_a_quiet_file_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "content")
    digests = Digests(clock=later)
    for _ in range(3):
        digests.of(str(path))
    assert digests.bytes_read == len("content")


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "content")
    digests = Digests(clock=lambda: path.stat().st_ctime + 1.9)
    first = digests.of(str(path))
    # The same size, and the same times as far as such a clock tells.
    found = path.stat()
    path.write_text("CONTENT")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert digests.of(str(path)) != first


@pytest.mark.parametrize("how", ["write", "same size and time", "exchange"])
def test_a_changed_file_is_read_again(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "a", "content")
    digests = Digests(clock=later)
    first = digests.of(str(path))
    found = path.stat()
    if how == "exchange":
        write(tmp_path / "b", "CONTENT").replace(path)
    else:
        path.write_text("CONTENT")
    if how != "write":
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert digests.of(str(path)) != first
    assert digests.of(str(path)) == f"sha256:{hashlib.sha256(b'CONTENT').hexdigest()}"


def test_the_next_run_need_not_read(tmp_path: Path) -> None:
    memo = tmp_path / "cache" / "digests.json"
    paths = [str(write(tmp_path / f"files/{name}", name)) for name in ("a", "b", "ü")]
    folder = str(tmp_path / "files")
    first = Digests(memo, clock=later)
    before = [first.of(path) for path in (*paths, folder)]
    first.save()
    assert memo.stat().st_mode & 0o777 == 0o600
    second = Digests(memo, clock=later)
    assert [second.of(path) for path in (*paths, folder)] == before
    assert second.bytes_read == 0


def test_two_runs_at_once_lose_nothing_that_they_saved(tmp_path: Path) -> None:
    memo = tmp_path / "digests.json"
    a, b = (str(write(tmp_path / name, name)) for name in ("a", "b"))
    one, other = Digests(memo, clock=later), Digests(memo, clock=later)
    one.of(a)
    other.of(b)
    one.save()
    other.save()
    third = Digests(memo, clock=later)
    third.of(a)
    third.of(b)
    assert third.bytes_read == 0


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasthep_flow.records.digests._MOST", 3)
    memo = tmp_path / "digests.json"
    paths = [str(write(tmp_path / f"{number}", str(number))) for number in range(5)]
    digests = Digests(memo, clock=later)
    for path in paths:
        digests.of(path)
    digests.of(paths[0])
    digests.save()
    known = Digests(memo, clock=later)
    for path in (paths[0], paths[3], paths[4]):
        known.of(path)
    assert known.bytes_read == 0


def test_wherever_it_is_garbled_it_is_not_believed(tmp_path: Path) -> None:
    memo = tmp_path / "digests.json"
    path = str(write(tmp_path / "a", "content"))
    digests = Digests(memo, clock=later)
    right = digests.of(path)
    digests.save()
    whole = memo.read_bytes()
    assert unsealed(whole) is not None
    for at in range(len(whole)):
        for text in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            memo.write_bytes(text)
            again = Digests(memo, clock=later)
            assert again.of(path) == right
            assert again.bytes_read == len("content"), f"believed with byte {at} changed"


def test_an_odd_name_is_no_trouble(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n")
    with open(path, "w") as file:  # noqa: PTH123 - a name that is no text
        file.write("content")
    digests = Digests(tmp_path / "digests.json", clock=later)
    assert digests.of(path) == f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    digests.save()
    assert Digests(tmp_path / "digests.json").of(path) == digests.of(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="neither file nor folder"):
        Digests().of(str(tmp_path / "pipe"))
    with pytest.raises(OSError, match="neither file nor folder"):
        Digests().of(str(tmp_path))


def test_where_nothing_can_be_saved_no_run_fails(tmp_path: Path) -> None:
    write(tmp_path / "file")
    path = str(write(tmp_path / "a", "content"))
    digests = Digests(tmp_path / "file" / "digests.json", clock=later)
    digests.of(path)
    digests.save()


SAVE = (
    "import sys, time; from pathlib import Path; from fasthep_flow.records.digests import Digests;"
    "sys.stdin.read(1);"
    "digests = Digests(Path(sys.argv[1]), clock=lambda: time.time() + 10);"
    "[(digests.of(path), digests.save()) for path in sys.argv[2:]]"
)


def test_processes_that_save_at_once_leave_a_sound_file(tmp_path: Path) -> None:
    memo = tmp_path / "digests.json"
    paths = [str(write(tmp_path / f"f{number}", str(number))) for number in range(20)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE, str(memo), *paths[number::2]], stdin=subprocess.PIPE
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b".")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert unsealed(memo.read_bytes()) is not None
    assert sorted(one.name for one in tmp_path.glob(".*")) == []
