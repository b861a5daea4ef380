"""What is fetched is made once, and never trusted half-made."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.environments.engine import Engine
from fasthep_flow.environments.host.cache import cache_folder, file_name, make_once
from fasthep_flow.environments.images.cache import image_folder, require_writable
from fasthep_flow.environments.images.folders import FolderStore
from fasthep_flow.environments.images.sif import SifStore
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image, ImageForm

APPTAINER = Engine(program="apptainer", not_there="")
MAKE = """
import sys, time
from pathlib import Path
from fasthep_flow.environments.host.cache import make_once

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


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache on a disk that nobody can write to, with one image in it."""
    path = tmp_path / "read-only"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount")
    try:
        monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(path))
        image_folder("kept").mkdir(parents=True)
        (image_folder("kept") / "image.sif").touch()
        subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_what_could_not_be_kept_is_refused(read_only: Path) -> None:
    image = Image(name="debian:12")
    for target in (image_folder("kept") / "other.sif", image_folder("other") / "image.sif"):
        with pytest.raises(ImageUnavailable) as refused:
            require_writable(image, target)
        why = f"the image debian:12 cannot be kept in {read_only}: Read-only file system"
        assert refused.value.message == why
        assert refused.value.hint == "set FASTHEP_FLOW_CACHE to a folder that you may write to"
    # What is there is not to be written.
    require_writable(image, image_folder("kept") / "image.sif")


@pytest.mark.parametrize("store", [SifStore(APPTAINER), FolderStore()], ids=["sif", "folder"])
@pytest.mark.parametrize("form", ["registry", "oci-archive"])
@pytest.mark.registry
def test_the_stores_refuse_it_before_they_fetch(
    *,
    store: SifStore | FolderStore,
    form: ImageForm,
    read_only: Path,
    tmp_path: Path,
    busybox_image: str,
    oci_archive: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = Image(name=busybox_image)
    if form != "registry":
        image = Image(name=f"{form}:{oci_archive}", form=form)
    with pytest.raises(ImageUnavailable, match="Read-only file system") as refused:
        store.look(image)
    assert str(read_only) in refused.value.message
    assert "FASTHEP_FLOW_CACHE" in str(refused.value.hint)
    # As it is where a folder can be made, which is left to whoever fetches it.
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "a/new/one"))
    assert store.look(image).digest
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_in_the_way_of_a_cache_is_told(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "file":
        (tmp_path / "cache").touch()
    else:
        (tmp_path / "cache").symlink_to("nowhere")
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ImageUnavailable, match="Not a directory"):
        require_writable(Image(name="debian:12"), image_folder("other") / "image.sif")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_elses_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", "/usr/fasthep")
    with pytest.raises(ImageUnavailable, match="Permission denied"):
        require_writable(Image(name="debian:12"), image_folder("other") / "image.sif")
