"""Folders for containers: this user's alone, and gone with their process."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fasthep_flow.environments.host import scratch
from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.host.scratch import (
    is_orphaned,
    mark_owned,
    new_scratch,
    orphaned_scratch,
    remove_orphaned_scratch,
    scratch_folder,
    user_folder,
)

SCRIPT = (
    "import sys; from fasthep_flow.environments.host.scratch import new_scratch;"
    "print(new_scratch(), flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_is_new_empty_and_nobody_elses(tmp_path: Path) -> None:
    folder, other = new_scratch(), new_scratch()
    assert folder != other
    assert tmp_path in folder.parents
    assert [path.name for path in folder.iterdir()] == ["owner.json"]
    for path in (folder, *folder.parents):
        if path == tmp_path:
            break
        assert path.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_uid == os.getuid()


def test_those_of_the_dead_are_removed(tmp_path: Path) -> None:
    mine = new_scratch()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        other = Path(process.stdout.readline().rstrip())
        assert other.parent == mine.parent
        (other / "tmp" / "deep").mkdir(parents=True)
        (other / "tmp" / "deep" / "file").touch()
        (other / "tmp" / "link").symlink_to(mine)
        assert remove_orphaned_scratch() == 0
        assert (other / "tmp" / "deep" / "file").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert remove_orphaned_scratch() == 1
    assert not other.exists()
    assert (mine / "owner.json").exists()
    assert remove_orphaned_scratch() == 0


@pytest.mark.parametrize(
    "text",
    [None, "", "[]", "null", "{", "{}", '{"fasthep.pid": 1}', "\udcff", '{"fasthep.pid": "1"}'],
)
def test_whose_owner_is_not_known_is_left_alone(text: str | None) -> None:
    folder = new_scratch()
    if text is None:
        (folder / "owner.json").unlink()
    else:
        (folder / "owner.json").write_text(text, errors="surrogateescape")
    assert remove_orphaned_scratch() == 0
    assert folder.exists()


@pytest.mark.parametrize("pid", [None, ["1"], {}])
def test_labels_that_are_no_text_are_not_judged(pid: object) -> None:
    folder = new_scratch()
    labels = {**owner_labels(), "fasthep.pid": pid}
    (folder / "owner.json").write_text(json.dumps(labels))
    assert remove_orphaned_scratch() == 0
    assert folder.exists()


def test_where_there_is_none_nothing_is_removed() -> None:
    assert remove_orphaned_scratch() == 0


def test_a_folder_that_another_user_made_is_refused(tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("it takes root's rights to be another user")
    folder = user_folder()
    os.chown(folder, 65534, 65534)
    with pytest.raises(PermissionError, match="not this user's"):
        new_scratch()
    assert remove_orphaned_scratch() == 0
    os.chown(folder, 0, 0)
    folder.rmdir()
    # Nor is a link followed to a folder that is this user's.
    (tmp_path / "mine").mkdir()
    folder.symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"not this user's|File exists"):
        new_scratch()
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("place", ["here", "short"])
@pytest.mark.parametrize("name", ["fasthep-flow-dask", "ff-ray"])
def test_other_folders_of_a_killed_process_are_found_where_they_are_marked(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / "short"
    short.mkdir()
    monkeypatch.setattr(scratch, "_SHORT", str(short))
    folder = Path(tempfile.gettempdir() if place == "here" else short, f"{name}-abc")
    folder.mkdir()
    mark_owned(folder)
    assert not is_orphaned(folder)
    owner = json.loads((folder / "owner.json").read_text())
    (folder / "owner.json").write_text(json.dumps({**owner, "fasthep.started": "1"}))
    folder.with_name(f"{name}-of-nobody").mkdir()
    link = folder.with_name(f"{name}-link")
    link.symlink_to(folder)
    assert orphaned_scratch() == [folder], "a link is not followed"
    assert remove_orphaned_scratch() == 1
    assert not folder.exists()
    link.unlink()


def test_a_folder_for_a_while_goes_with_the_block_or_with_the_next_cleaning() -> None:
    with scratch_folder() as folder:
        (folder / "more").mkdir()
        assert not is_orphaned(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    with pytest.raises(KeyError), scratch_folder() as folder:
        raise KeyError
    assert not folder.exists()
