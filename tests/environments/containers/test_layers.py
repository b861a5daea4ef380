"""Whether a job changed a container's own files, told from the layer on top of its image."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasthep_flow.environments.containers.layers import has_changed, upper_folder


class Layered:
    """A file system in layers, as an engine makes it for a container.

    Args:
        folder: An empty one.
    """

    def __init__(self, folder: Path) -> None:
        names = ("base", "top", "upper", "work", "root")
        self.base, self.top, self.upper, self.work, self.root = (folder / n for n in names)
        for path in (self.base, self.top, self.upper, self.work, self.root):
            path.mkdir(mode=0o755)
        for name in ("etc/deep", "opt/empty", "usr/lib"):
            (self.base / name).mkdir(parents=True)
        for name in ("etc/passwd", "etc/deep/file", "usr/lib/a", "usr/lib/b"):
            (self.base / name).write_text("of the image")
        (self.base / "opt/link").symlink_to("/etc/passwd")
        (self.top / "etc").mkdir()
        (self.top / "etc/group").write_text("of the image")
        # The engine's own, before anything serves.
        (self.upper / "etc").mkdir()
        (self.upper / "etc/hosts").write_text("of the engine")
        self.since_ns = 0

    def mount(self) -> None:
        options = f"lowerdir={self.top}:{self.base},upperdir={self.upper},workdir={self.work}"
        subprocess.run(
            ["mount", "-t", "overlay", "container", "-o", options, self.root],
            check=True,
            capture_output=True,
        )
        self.now()

    def now(self) -> None:
        """The next job begins; not in the tick of the clock in which files were made."""
        stamp = self.upper.parent / "stamp"
        stamp.touch()
        before = stamp.stat().st_ctime_ns
        while (since_ns := stamp.stat().st_ctime_ns) == before:
            time.sleep(0.001)
            stamp.touch()
        self.since_ns = since_ns

    def run(self, script: str) -> None:
        subprocess.run(["sh", "-ec", script], cwd=self.root, check=True)

    def has_changed(self) -> bool:
        return has_changed(self.upper, (self.top, self.base), self.since_ns)


@pytest.fixture
def layered(tmp_path: Path) -> Iterator[Layered]:
    layered = Layered(tmp_path)
    try:
        layered.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else error
        pytest.skip(f"no overlay can be mounted: {said}")
    try:
        yield layered
    finally:
        subprocess.run(["umount", layered.root], check=True)


@pytest.mark.parametrize(
    "script",
    [
        ":",
        "cat etc/passwd etc/group etc/hosts usr/lib/* >/dev/null; ls -R . >/dev/null",
        "touch new; rm new",
        "touch etc/new etc/deep/new; rm etc/new etc/deep/new",
        "mkdir -p usr/a/b; touch usr/a/b/c; rm -r usr/a",
        "ln -s x usr/x; rm usr/x",
        "mv etc/deep/new opt/new 2>/dev/null || touch opt/new; rm opt/new",
    ],
)
def test_what_leaves_no_trace_is_no_change(layered: Layered, script: str) -> None:
    layered.run(script)
    assert not layered.has_changed()
    layered.run("touch etc/new")
    assert layered.has_changed()


@pytest.mark.parametrize(
    "script",
    [
        "touch new",
        "touch etc/new",
        "mkdir empty",
        "mkdir etc/deep/empty",
        "ln -s nowhere etc/link",
        "mkfifo usr/pipe",
        "echo more >>etc/passwd",
        "echo more >>etc/hosts",
        "echo 'of the image' >etc/group",
        "touch etc/passwd",
        "chmod 600 etc/passwd",
        "chown 1 etc/passwd",
        "ln etc/passwd etc/second",
        "rm etc/passwd",
        "rm opt/link",
        "rmdir opt/empty",
        "rm -r etc/deep",
        "mv etc/passwd etc/passwd-",
        "mv usr/lib/a usr/lib/b",
        "chmod 700 usr/lib",
        "chmod 700 etc/deep opt",
        "chown 1 usr/lib",
        "chgrp 1 etc",
        "chmod 700 .",
        # The folder is there as before, and what the image has in it is not.
        "rm -r usr/lib; mkdir usr/lib",
        "rm -r etc; mkdir etc",
        "rm -r etc/deep; mkdir etc/deep",
        "rm -r etc/deep; touch etc/deep",
        "rm etc/passwd; mkdir etc/passwd",
        "rm etc/passwd; echo 'of the image' >etc/passwd",
    ],
)
def test_what_the_next_job_would_find_is_a_change(layered: Layered, script: str) -> None:
    assert not layered.has_changed()
    layered.run(script)
    assert layered.has_changed()


def test_what_was_before_is_no_change(layered: Layered) -> None:
    layered.run("touch new; rm etc/passwd; chmod 700 usr; rm -r opt; mkdir opt; chmod 700 .")
    assert layered.has_changed()
    layered.now()
    assert not layered.has_changed()
    layered.run("touch etc/deep/a")
    assert layered.has_changed()


@pytest.fixture
def as_another_user() -> Iterator[Path]:
    """A folder that everybody may read, for a user that is not root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        own = os.geteuid()
        if not own:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if not own:
                os.seteuid(own)


def test_what_cannot_be_read_counts_as_changed(as_another_user: Path) -> None:
    if os.geteuid() != as_another_user.stat().st_uid:
        euid = os.geteuid()
        os.seteuid(0)
        (as_another_user / "closed").mkdir(mode=0o700)
        os.seteuid(euid)
    else:
        (as_another_user / "closed").mkdir(mode=0)
    assert has_changed(as_another_user, (), 2**63)
    assert has_changed(as_another_user / "closed" / "deep", (), 2**63)


def test_a_folder_that_is_gone_has_not_changed(tmp_path: Path) -> None:
    assert not has_changed(tmp_path / "gone", (), 0)


class TestUpperFolder:
    def test_is_what_the_engine_says(self, tmp_path: Path) -> None:
        data = {"UpperDir": str(tmp_path), "LowerDir": "/b:/a", "MergedDir": "/c"}
        assert upper_folder({"Name": "overlay2", "Data": data}, 0) == (
            tmp_path,
            (Path("/b"), Path("/a")),
        )
        del data["LowerDir"]
        assert upper_folder({"Data": data}, 0) == (tmp_path, ())

    @pytest.mark.parametrize(
        "driver", [None, {}, {"Data": None}, {"Data": {}}, {"Data": {"UpperDir": "/no/such"}}]
    )
    def test_is_none_where_nobody_says(self, driver: dict[str, object] | None) -> None:
        assert upper_folder(driver, 0) == (None, ())

    def test_is_what_the_kernel_says_else(self, layered: Layered) -> None:
        for command in ("mount", "chroot"):
            if shutil.which(command) is None:
                pytest.skip(f"there is no {command}")
        busybox = shutil.which("busybox")
        if busybox is None:
            pytest.skip("there is no busybox")
        shutil.copy(busybox, layered.root / "busybox")
        # As an engine does it: the container's files are the root of its mounts.
        pivot = (
            'mount --make-rprivate / && cd "$1" && mkdir -p old && mount --rbind . . 2>/dev/null;'
            'cd "$1" && pivot_root . old && exec ./busybox sh -c "./busybox umount -l /old;'
            ' echo up; read x"'
        )
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", pivot, "sh", layered.root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            if process.stdout.readline() != b"up\n":
                pytest.skip("the root cannot be changed here")
            assert upper_folder(None, process.pid) == (
                layered.upper,
                (layered.top, layered.base),
            )
            assert upper_folder({"Data": {"UpperDir": ""}}, process.pid)[0] == layered.upper

    def test_of_this_process_is_none_of_a_containers(self) -> None:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        if any(line.split()[4] == "/" and " - overlay " in line for line in lines):
            pytest.skip("this process is in a container itself")
        assert upper_folder({}, os.getpid()) == (None, ())
        assert upper_folder({}, 2**22 + 1) == (None, ())
