"""Copies, digests of folders, and what was changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fasthep_flow.environments.data import fetch
from fasthep_flow.environments.data.copies import copy, remove
from fasthep_flow.environments.data.listing import folder_listing, listing_digest
from fasthep_flow.environments.data.unchanged import change, state_of
from fasthep_flow.errors import DataUnavailable
from fasthep_flow.model import DataItem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a folder, odd names, a program, a link."""
    made = tmp_path / "folder"
    (made / "deep er").mkdir(parents=True)
    (made / "deep er" / "x#?%").write_bytes(os.urandom(3 * 2**20))
    (made / "back\\slash\nline").write_text("odd")
    (made / "program").write_text("#!/bin/sh\n")
    (made / "program").chmod(0o755)
    (made / "empty").touch()
    return made


def test_the_digest_of_a_folder_is_what_sha256sum_says(folder: Path) -> None:
    line = "find * -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    said = subprocess.run(
        ["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=True
    )
    digest = f"sha256:{said.stdout.split()[0]}"
    assert f"sha256:{listing_digest(folder_listing(folder))}" == digest
    found = fetch(DataItem(source=str(folder)), with_digest=True, progress=lambda _: None)
    assert found.digest == digest
    assert fetch(DataItem(source=str(folder)), progress=lambda _: None).digest is None
    (folder / "link").symlink_to("program")
    with pytest.raises(DataUnavailable, match=digest):
        fetch(DataItem(source=str(folder), digest=digest), progress=lambda _: None)


@pytest.mark.parametrize("is_writable", [True, False])
def test_a_copy_is_the_same_and_all_of_it_can_be_removed(
    folder: Path, tmp_path: Path, is_writable: bool
) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "deep er" / "x#?%").chmod(0o444)
    (folder / "deep er").chmod(0o555)
    target = tmp_path / "copy"
    copy(str(folder), str(target), is_writable=is_writable)
    assert listing_digest(folder_listing(target)) == listing_digest(folder_listing(folder))
    assert (target / "link").is_symlink()
    modes = [path.lstat().st_mode & 0o200 for path in target.rglob("*") if not path.is_symlink()]
    assert set(modes) == ({0o200} if is_writable else {0})
    assert (target / "program").stat().st_mode & 0o100
    assert (target / "empty").stat().st_mtime_ns == (folder / "empty").stat().st_mtime_ns
    remove(str(target))
    assert not target.exists()
    assert (folder / "program").exists()


def test_what_is_no_file_is_not_copied(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(OSError, match="pipe is neither file nor folder"):
        copy(str(folder), str(tmp_path / "copy"), is_writable=True)


def test_every_change_is_told(folder: Path) -> None:
    before = state_of(str(folder))
    assert change(str(folder), before) is None
    program = folder / "program"
    times = program.stat().st_atime_ns, program.stat().st_mtime_ns
    program.write_text("#!/bin/ls\n")
    # Whoever sets its time back is found by the time of that.
    os.utime(program, ns=times)
    assert change(str(folder), before) == f"{program} was changed"
    before = state_of(str(folder))
    (folder / "new").touch()
    assert change(str(folder), before) == f"{folder / 'new'} was made"
    (folder / "new").unlink()
    (folder / "empty").unlink()
    assert change(str(folder), before) == f"{folder / 'empty'} was removed"
    remove(str(folder))
    assert change(str(folder), before) == f"{folder} was taken away"
