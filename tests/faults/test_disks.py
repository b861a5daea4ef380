"""Disks that are full, have no room for names, or can only be read.

By default full at some moments, ``FASTHEP_TEST_KILLS=200`` at 20.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import COMMAND, Said, Site, shell

MOMENTS = 20 if os.environ.get("FASTHEP_TEST_KILLS") else 6
BLOCK = 4096
ROOM = 24 * 2**20
NAMES = 100_000


class Disk:
    """A small disk in memory, at a folder.

    Args:
        folder: Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)],
            check=True,
            capture_output=True,
        )

    def change(self, options: str) -> None:
        """Mount it anew with other options; what lies on it stays."""
        subprocess.run(
            ["mount", "-o", f"remount,{options}", str(self.folder)],
            check=True,
            capture_output=True,
        )

    def clear(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    made = Disk(tmp_path_factory.mktemp("disk"))
    try:
        made.mount(f"size={ROOM},nr_inodes={NAMES}")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    yield made
    subprocess.run(["umount", "-l", str(made.folder)], check=False)


@pytest.fixture
def on_disk(disk: Disk, tmp_path: Path, warm_cache: Path) -> Iterator[Site]:
    """A site whose workflow lies on the small disk."""
    disk.change(f"size={ROOM},nr_inodes={NAMES},rw")
    disk.clear()
    site = Site(tmp_path / "site", warm_cache)
    site.work.rmdir()
    site.work.symlink_to(disk.folder)
    site.own_mounts.append(disk.folder)
    yield site
    site.end()


def tasks(site: Site) -> list[dict[str, Any]]:
    """Six that write, four that read it; each tells its end elsewhere."""
    ended = f">> {site.root}/ended"
    block = "dd if=/dev/zero bs=4k count=40 status=none | tr '\\0' x"
    found = []
    for number in range(6):
        line = (
            f"set -e; {block} > large{number}; {block} >> large{number}; echo large{number} {ended}"
        )
        found.append(shell(f"large{number}", line, outputs=[f"large{number}"], needs=[]))
    for number in range(4):
        line = f"wc -c < large{number} > size{number} && echo size{number} {ended}"
        found.append(
            shell(
                f"size{number}",
                line,
                inputs=[f"large{number}"],
                outputs=[f"size{number}"],
                needs=[f"large{number}"],
            )
        )
    return found


def require_whole(site: Site, said: Said) -> None:
    assert said.code == 0, said
    assert "Traceback" not in said.both
    for number in range(6):
        assert (site.work / f"large{number}").read_bytes() == b"x" * 80 * BLOCK
    for number in range(4):
        assert int((site.work / f"size{number}").read_text()) == 80 * BLOCK
    ended = (site.root / "ended").read_text().split()
    assert len(set(ended)) == 10


@pytest.mark.fault(
    15,
    "the disk is full, at up to 20 moments of a run; later there is room again",
    "the cause is named, nothing that was cut is read; the same command goes on",
)
def test_the_disk_is_full_and_has_room_again(disk: Disk, on_disk: Site) -> None:
    drawn = random.Random(20260314)  # noqa: S311 - no secret
    failed = 0
    for moment in range(MOMENTS):
        disk.change(f"size={ROOM}")
        disk.clear()
        (on_disk.root / "ended").unlink(missing_ok=True)
        on_disk.write(*tasks(on_disk))
        # From where not even the run folder can be made, to where the last output lacks little.
        room = (8 + (20 * moment // MOMENTS) * 24 + drawn.randrange(24)) * BLOCK
        disk.change(f"size={room}")
        said = on_disk.run()
        assert "Traceback" not in said.both, said
        if said.code:
            failed += 1
            assert said.code in {1, 4, 6}, said
            assert "No space left on device" in said.both or "disk" in said.both, (room, said)
        disk.change(f"size={ROOM}")
        require_whole(on_disk, on_disk.run())
    assert failed > MOMENTS / 2


@pytest.mark.fault(
    16,
    "the disk has room for bytes and for no more names",
    "as with a full disk",
)
def test_there_is_room_for_no_more_names(disk: Disk, on_disk: Site) -> None:
    for names in (15, 45):
        disk.change(f"size={ROOM},nr_inodes={NAMES}")
        disk.clear()
        (on_disk.root / "ended").unlink(missing_ok=True)
        on_disk.write(*tasks(on_disk))
        disk.change(f"nr_inodes={names}")
        said = on_disk.run()
        assert said.code in {1, 4, 6}, said
        assert "Traceback" not in said.both, said
        assert "No space left on device" in said.both or "disk" in said.both, said
        disk.change(f"nr_inodes={NAMES}")
        require_whole(on_disk, on_disk.run())


@pytest.mark.fault(
    14,
    "the folder of the run, or of all runs, can only be read",
    "that is said in a line, before any task is started",
)
def test_the_disk_can_only_be_read(disk: Disk, on_disk: Site) -> None:
    on_disk.write(*tasks(on_disk))
    disk.change("ro")
    try:
        said = on_disk.run()
    finally:
        disk.change("rw")
    assert said.code == 6, said
    assert "Read-only file system" in said.err
    assert "Traceback" not in said.both
    assert not (on_disk.root / "ended").exists()
    require_whole(on_disk, on_disk.run())


@pytest.mark.fault(
    16,
    "the task, and the driver, may write no file beyond a size",
    "the task has failed, with its cause; the same command goes on",
)
def test_no_file_may_be_larger(site: Site) -> None:
    site.write(
        shell("small", "echo one > small", outputs=["small"], needs=[]),
        shell("large", "head -c 3000000 /dev/zero > large", outputs=["large"], needs=["small"]),
    )
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 2000; exec "$0" run', str(COMMAND)],
        cwd=site.work,
        env=site.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done
    assert not (site.work / "large").exists()
    said = site.run()
    assert said.code == 0, said
    assert (site.work / "large").stat().st_size == 3000000
