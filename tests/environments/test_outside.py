"""Folders of inputs and outputs that a container would not see."""

from pathlib import Path

import pytest

from fasthep_flow.environments import Mount
from fasthep_flow.environments.outside import folders_outside, mounts_outside
from fasthep_flow.errors import EnvironmentRefused

SEEN = ("/work", "/work/output/run")


@pytest.mark.parametrize(
    ("inputs", "outputs", "folders"),
    [
        (["/work/a", "/work/data/*.root"], ["/work/out", "/work/output/run/x"], {}),
        (["/eos/in/a", "/eos/in/b"], [], {"/eos/in": False}),
        (["/eos/in/*/a.root"], [], {"/eos/in": False}),
        (["/eos/in/a*"], [], {"/eos/in": False}),
        ([], ["/eos/out/a", "/eos/out/folder/"], {"/eos/out": True}),
        (["/eos/x/a"], ["/eos/x/b"], {"/eos/x": True}),
        # What is above has it with it.
        (["/eos/x/in/a"], ["/eos/x/b"], {"/eos/x": True}),
        (["/eos/x/a"], ["/eos/x/out/b"], {"/eos/x": False, "/eos/x/out": True}),
        ([], ["/eos/x/res", "/eos/x/res/a"], {"/eos/x": True}),
        (["/workshop/a"], [], {"/workshop": False}),
        (["/a"], [], {"/a": False}),
        (["/etc/hosts", "/opt/a"], [], {"/etc/hosts": False, "/opt/a": False}),
    ],
)
def test_of_what_is_not_seen_the_folder_is(
    inputs: list[str], outputs: list[str], folders: dict[str, bool]
) -> None:
    assert folders_outside(inputs, outputs, SEEN) == folders


def test_a_link_that_leads_out_is_followed_to_where_it_does(tmp_path: Path) -> None:
    work, eos = tmp_path / "work", tmp_path / "eos"
    for folder in (work / "real", eos / "pool"):
        folder.mkdir(parents=True)
    (eos / "user").symlink_to("pool")
    (work / "data").symlink_to(eos / "user")
    (work / "near").symlink_to("real")
    (work / "there").symlink_to("data")
    paths = [f"{work}/{name}/a.root" for name in ("data", "near", "there")]
    found = folders_outside(paths[:1], paths[1:], (str(work),))
    # Not at its own path: the link's text is what the container's kernel reads.
    assert found == {f"{eos}/user": True}
    assert mounts_outside(found) == (
        Mount(source=f"{eos}/pool", target=f"{eos}/user", read_only=False),
    )


def test_links_without_an_end_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert folders_outside([f"{tmp_path}/a/x"], [], (str(tmp_path),)) == {}


def test_inputs_may_only_be_read_and_what_is_above_comes_first(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    found = folders_outside([f"{tmp_path}/a"], [f"{tmp_path}/out/b"], SEEN)
    assert [(mount.target, mount.read_only) for mount in mounts_outside(found)] == [
        (str(tmp_path), True),
        (f"{tmp_path}/out", False),
    ]


@pytest.mark.parametrize("folder", ["/", "/tmp", "/usr/lib", "/proc/self", "/dev/shm"])  # noqa: S108
def test_what_a_container_has_of_its_own_is_refused(folder: str) -> None:
    outputs = [f"{folder.rstrip('/')}/out.root"]
    with pytest.raises(EnvironmentRefused, match="it has one of its own"):
        mounts_outside(folders_outside([], outputs, SEEN))


def test_a_folder_that_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRefused, match=f"there is no folder {tmp_path}/new, which a"):
        mounts_outside(folders_outside([], [f"{tmp_path}/new/out.root"], SEEN))
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentRefused, match="there is no folder"):
        mounts_outside(folders_outside([], [f"{tmp_path}/file/out.root"], SEEN))


def test_a_line_break_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\nb").mkdir()
    with pytest.raises(EnvironmentRefused, match="its path holds a line break"):
        mounts_outside(folders_outside([], [f"{tmp_path}/a\nb/out"], SEEN))


def test_a_folder_that_may_not_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(EnvironmentRefused, match=f"no output can be made in {tmp_path}"):
        mounts_outside(folders_outside([], [f"{tmp_path}/out"], SEEN))
    assert mounts_outside(folders_outside([f"{tmp_path}/in"], [], SEEN))
