"""What names the bytes of images that lie in files and folders."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from fasthep_flow.environments.host.digests import file_digest
from fasthep_flow.environments.images.digests import folder_digest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "a µ.sif"
    file.write_bytes(b"one")
    digest = f"sha256:{hashlib.sha256(b'one').hexdigest()}"
    assert file_digest(file) == digest
    (note,) = (path for path in cache.rglob("*") if path.is_file())
    note.write_text(note.read_text().replace(digest, "sha256:as-noted"))
    assert file_digest(file) == "sha256:as-noted"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(b"two")
    # Whoever sets its time back is found by the time of that.
    os.utime(file, ns=times)
    assert file_digest(file) == f"sha256:{hashlib.sha256(b'two').hexdigest()}"


def test_a_link_is_the_file_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"two")
    link = tmp_path / "link"
    link.symlink_to("one")
    first = file_digest(link)
    link.unlink()
    link.symlink_to("two")
    assert file_digest(link) != first


def test_a_note_that_cannot_be_read_is_no_note(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").write_bytes(b"one")
    digest = file_digest(tmp_path / "file")
    (note,) = (cache / "digests").iterdir()
    note.write_bytes(b'{"path": ')
    assert file_digest(tmp_path / "file") == digest


def test_without_a_cache_it_is_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"one")
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", "/proc/nowhere")
    assert file_digest(tmp_path / "file").startswith("sha256:")


def test_a_folder_is_known_by_its_listing(tmp_path: Path) -> None:
    folder = tmp_path / "root"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "sh").write_text("one")
    (folder / "link").symlink_to("bin/sh")
    first = folder_digest(folder)
    assert folder_digest(folder) == first
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, symlinks=True)
    assert folder_digest(copy) == first
    (folder / "bin" / "sh").write_text("longer")
    second = folder_digest(folder)
    assert second != first
    (folder / "link").unlink()
    (folder / "link").symlink_to("bin")
    third = folder_digest(folder)
    assert third not in {first, second}
    (folder / "bin" / "sh").chmod(0o755)
    assert folder_digest(folder) not in {first, second, third}


def test_cvmfs_says_what_is_in_its_folders(tmp_path: Path) -> None:
    identity = hashlib.sha256(b"image").hexdigest()
    flat = tmp_path / ".flat" / identity[:2] / identity
    flat.mkdir(parents=True)
    (tmp_path / "image:1").symlink_to(flat)
    assert folder_digest(tmp_path / "image:1") == f"sha256:{identity}"
    # The other repository of that kind leaves the first two digits to the folder above.
    images = tmp_path / ".images" / identity[:2] / identity[2:]
    images.mkdir(parents=True)
    assert folder_digest(images) == f"sha256:{identity}"
    odd = tmp_path / ".flat" / "ab" / "abc"
    odd.mkdir(parents=True)
    assert folder_digest(odd) == "abc"


def test_the_testbeds_cvmfs_is_known_by_its_flat_id(cvmfs_image: Path) -> None:
    assert folder_digest(cvmfs_image) == f"sha256:{cvmfs_image.resolve().name}"
