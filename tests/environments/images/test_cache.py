"""What is fetched is made once, and never trusted half-made."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.environments.images.cache import cache_folder, file_name, image_folder, make_once

MAKE = """
import sys, time
from pathlib import Path
from fasthep_flow.environments.images.cache import make_once

def make(part):
    part.write_text("half")
    print("half made", flush=True)
    sys.stdin.read()
    part.write_text("whole")
    with open(sys.argv[2], "a") as file:
        file.write("made\\n")

make_once(Path(sys.argv[1]), make)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path))
    return tmp_path


def test_the_cache_is_where_the_author_says(folder: Path) -> None:
    assert cache_folder() == folder
    assert image_folder("docker.io/library/debian:12") == (
        folder / "images" / "docker.io+library+debian=12"
    )


def test_else_where_the_system_keeps_such_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTHEP_FLOW_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setenv("HOME", "/home/physicist")
    assert cache_folder().name == "fasthep-flow"
    assert cache_folder().is_absolute()


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_are_names_of_files_and_differ(first: str, second: str) -> None:
    names = [file_name(text) for text in (first, second)]
    assert (names[0] == names[1]) is (first == second)
    for name in names:
        assert name.isascii()
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) < 200


def test_names_can_be_read() -> None:
    assert file_name("127.0.0.1:5000/a/b:1.2_x-y") == "127.0.0.1=5000+a+b=1.2_x-y"
    assert file_name("/data/my image.tar") == "+data+my%20image.tar"
    assert file_name("..") == "%2E."


def test_it_is_made_once(tmp_path: Path) -> None:
    made = []

    def make(part: Path) -> None:
        made.append(part)
        part.write_text("whole")

    target = tmp_path / "new" / "target"
    make_once(target, make)
    make_once(target, make)
    assert len(made) == 1
    assert made[0].parent == target.parent
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_folder_can_be_made_too(tmp_path: Path) -> None:
    make_once(tmp_path / "target", Path.mkdir)
    assert (tmp_path / "target").is_dir()


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    def make(part: Path) -> None:
        part.mkdir()
        (part / "file").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        make_once(tmp_path / "target", make)
    assert list(tmp_path.iterdir()) == []


def start(target: Path, log: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", MAKE, str(target), str(log)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    target, log = tmp_path / "target", tmp_path / "log"
    both = [start(target, log) for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait() for process in both] == [0, 0]
    assert target.read_text() == "whole"
    assert log.read_text() == "made\n"
    for process in both:
        assert process.stdout is not None
        process.stdout.close()


def test_what_was_killed_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    with start(folder / "target", tmp_path / "log") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half made\n"
        process.send_signal(signal.SIGKILL)
    assert not (folder / "target").exists()
    assert [path.name for path in folder.iterdir() if path.suffix == ".part"]
    make_once(folder / "target", Path.touch)
    assert [path.name for path in folder.iterdir()] == ["target"]
