"""What a container of charliecloud's sees of the host, and what not."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.environments.charliecloud.made import run

from fasthep_flow.environments import Mount
from fasthep_flow.environments.charliecloud import CHARLIECLOUD
from fasthep_flow.environments.host.scratch import user_folder
from fasthep_flow.model import Image

pytestmark = [pytest.mark.charliecloud, pytest.mark.registry]


def test_places_that_the_image_does_not_have(busybox_image: str, place: Path) -> None:
    (place / "folder").mkdir()
    (place / "folder/file").write_text("hello")
    odd = "/not/there:at all/\nµ"
    mounts = (
        Mount(source=str(place / "folder"), target=odd),
        Mount(source=str(place / "folder/file"), target="/etc/of/ours", read_only=True),
        Mount(source=str(place / "folder"), target="/bin/deep", read_only=True),
        Mount(source=str(place / "folder"), target="/root"),
    )
    script = (
        'cat "$1/file" /etc/of/ours /bin/deep/file /root/file; echo new >"$1/made"; echo; ls /etc'
    )
    tried = run(busybox_image, place, "sh", "-c", script, "sh", odd, mounts=mounts)
    assert tried.outcome.exit_code == 0, tried.stderr
    assert tried.stdout.startswith("hello" * 4)
    # The image's own files are still there.
    assert {"passwd", "group", "of", "resolv.conf"} <= set(tried.stdout.split())
    assert (place / "folder/made").read_text() == "new\n"
    image = CHARLIECLOUD.resolve(Image(name=busybox_image)).reference
    assert not Path(image, "not").exists()
    assert not Path(image, "etc/of").exists()


def test_read_only_is_read_only(busybox_image: str, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    (folder / "in").mkdir(parents=True)
    mounts = (Mount(source=str(folder), target="/given", read_only=True),)
    script = "for f in /given/x /given/in/x /x /bin/x /etc/x; do (echo x >$f) && echo $f; done; :"
    tried = run(busybox_image, place, "sh", "-c", script, mounts=mounts)
    assert (tried.outcome.exit_code, tried.stdout) == (0, "")
    assert tried.stderr.count("Read-only file system") == 5
    assert not list(folder.rglob("x"))


def test_a_mount_in_a_mount(busybox_image: str, place: Path, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    mounts = (
        Mount(source=str(tmp_path / "inner"), target="/data/below/inner"),
        Mount(source=str(tmp_path / "outer"), target="/data", read_only=True),
    )
    tried = run(busybox_image, place, "ls", "/data", "/data/below/inner", mounts=mounts)
    assert tried.stdout.split() == ["/data:", "below", "outer", "/data/below/inner:", "inner"]
    # Nothing is made in a folder that may only be read.
    assert [path.name for path in (tmp_path / "outer").iterdir()] == ["outer"]


def test_links_of_an_image_lead_nowhere_out_of_it(busybox_root: Path, tmp_path: Path) -> None:
    root, place, target = tmp_path / "image", tmp_path / "place", tmp_path / "target"
    subprocess.run(["cp", "-r", str(busybox_root), str(root)], check=True)
    for path in (place, target):
        path.mkdir()
    (root / "data").symlink_to(target)
    (root / "up").symlink_to("../../../..")
    (place / "mine").write_text("mine")
    mounts = (
        Mount(source=str(place), target="/data/here"),
        Mount(source=str(place), target="/up/there"),
    )
    tried = run(
        str(root), place, "cat", "/data/here/mine", "/there/mine", mounts=mounts, form="folder"
    )
    assert (tried.stdout, tried.outcome.exit_code) == ("minemine", 0)
    assert not list(target.iterdir())
    assert not (root / "there").exists()


def test_a_folder_of_somebody_else_s_is_not_touched(cvmfs_image: Path, place: Path) -> None:
    def listing() -> list[str]:
        return sorted(str(path) for path in cvmfs_image.resolve().rglob("*"))

    before = listing()
    script = "import os, sys; print(os.getcwd()); open('made', 'w')"
    tried = run(str(cvmfs_image), place, "python3", "-c", script, form="folder")
    assert (tried.outcome.exit_code, tried.stdout) == (0, f"{place}\n")
    assert (place / "made").stat().st_uid == os.getuid()
    assert listing() == before


def test_temporary_folders_are_the_container_s_own(busybox_image: str, place: Path) -> None:
    script = "ls -a /tmp /var/tmp; echo x >/tmp/a; echo y >/var/tmp/b; stat -c %a /tmp; df /tmp /"
    for _ in range(2):
        tried = run(busybox_image, place, "sh", "-c", script)
        assert tried.outcome.exit_code == 0, tried.stderr
        lines = tried.stdout.split()
        # Only the way to the folders that it sees.
        assert {"a", "b"}.isdisjoint(lines)
        assert "1777" in lines
    containers = user_folder() / "containers"
    assert not [path for path in containers.iterdir() if (path / "tmp/a").exists()]


def test_host_and_home_stay_outside(busybox_image: str, place: Path) -> None:
    tried = run(busybox_image, place, "sh", "-c", "ls / /root /home 2>/dev/null; ls /tmp")
    assert "work" not in tried.stdout.split()
    assert Path.home().name not in tried.stdout.split() or Path.home() == Path("/root")


def test_files_of_the_host_that_the_container_needs(busybox_root: Path, tmp_path: Path) -> None:
    root, place = tmp_path / "image", tmp_path / "place"
    subprocess.run(["cp", "-r", str(busybox_root), str(root)], check=True)
    place.mkdir()
    for name in ("hosts", "resolv.conf"):
        (root / "etc" / name).unlink(missing_ok=True)
    # As an image has it that was made of an installed system.
    (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    script = "cat /etc/hosts /etc/resolv.conf; : >>/etc/hosts && echo written; whoami"
    tried = run(str(root), place, "sh", "-c", script, form="folder")
    files = [Path("/etc/hosts").read_text(), Path("/etc/resolv.conf").read_text()]
    assert tried.stdout.startswith("".join(files))
    # Not even by root.
    assert "written" not in tried.stdout.removeprefix("".join(files))
    assert "Read-only file system" in tried.stderr


def test_files_belong_to_the_caller(busybox_image: str, place: Path) -> None:
    tried = run(busybox_image, place, "sh", "-c", "id -u; id -g; touch made; mkdir folder")
    assert tried.stdout.split() == [str(os.getuid()), str(os.getgid())]
    for name in ("made", "folder"):
        assert (place / name).stat().st_uid == os.getuid()
