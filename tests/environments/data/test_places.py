"""Where data lies: decided before anything is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fasthep_flow.environments.data.places import Place, arranged
from fasthep_flow.errors import DataUnavailable
from fasthep_flow.model import DataItem


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working directory beside a folder of data."""
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (tmp_path / "data" / name).write_text(name)
    return folder


def places(work: Path, *items: DataItem, contained: bool = True) -> list[Place]:
    found, _ = arranged(
        items,
        folder=f"{work}/out/1/data",
        contained=contained,
        offline=True,
        directory=f"{work}/out/1",
        working_directory=str(work),
    )
    return found


def targets(work: Path, *items: DataItem, contained: bool = True) -> list[str]:
    below = f"{work}/out/1/data/"
    return [one.target.removeprefix(below) for one in places(work, *items, contained=contained)]


def item(work: Path, source: str, target: str | None = None, **more: str) -> DataItem:
    return DataItem(source=str(work.parent / "data" / source), target=target, **more)  # type: ignore[arg-type]


def test_targets_are_files_folders_or_the_source_s_own_path(work: Path) -> None:
    data = work.parent / "data"
    assert targets(work, item(work, "a")) == [str(data / "a")]
    assert targets(work, item(work, "a", "x")) == ["x"]
    assert targets(work, item(work, "a", "x/")) == ["x/a"]
    assert targets(work, item(work, "a", "/opt/x/")) == ["/opt/x/a"]
    assert targets(work, item(work, "a", mode="copy")) == ["a"]
    assert targets(work, item(work, "sub", "x/")) == ["x"]
    assert targets(work, item(work, "[ab]")) == [str(data / "a"), str(data / "b")]
    assert targets(work, item(work, "[ab]", "x")) == ["x/a", "x/b"]
    assert targets(work, item(work, "**", "x")) == ["x/a", "x/b", "x/sub/c"]
    assert targets(work, item(work, "a"), item(work, "a")) == [str(data / "a")]


def test_a_file_by_the_name_of_a_pattern_is_that_file(work: Path) -> None:
    (work.parent / "data" / "[ab]").write_text("it")
    assert targets(work, item(work, "[ab]", "x")) == ["x"]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ((("a", "x"), ("b", "x")), r"would both lie at \$FASTHEP_DATA/x\n"),
        ((("a", "x"), ("b", "x/y")), r"b would lie at \$FASTHEP_DATA/x/y, in .*data/a"),
        ((("a", "../x"),), "may not hold '..'"),
        ((("a", "/"),), "names no file or folder"),
        ((("a", "/proc/x"),), "is the system's own"),
    ],
)
def test_what_cannot_lie_there_is_refused(
    work: Path, items: tuple[tuple[str, str], ...], words: str
) -> None:
    with pytest.raises(DataUnavailable, match=words):
        places(work, *(item(work, source, target) for source, target in items))


def test_no_place_is_made_in_the_user_s_own_folder(work: Path) -> None:
    with pytest.raises(DataUnavailable, match="your own folder"):
        places(work, item(work, "a", str(work / "new")))
    (work / "old").write_text("there")
    assert targets(work, item(work, "a", str(work / "old"))) == [str(work / "old")]


def test_of_a_link_a_container_sees_what_it_leads_to(work: Path) -> None:
    data = work.parent / "data"
    (work / "inside").symlink_to("next")
    (work / "next").symlink_to(data / "a")
    (data / "elsewhere").symlink_to("a")
    for name in ("inside", "next"):
        (one,) = places(work, DataItem(source=str(work / name)))
        # The links in the working directory are there; they lead here.
        assert (one.source, one.target) == (str(data / "a"), str(data / "a"))
    (one,) = places(work, item(work, "elsewhere"))
    assert (one.source, one.target) == (str(data / "a"), str(data / "elsewhere"))
    (one,) = places(work, item(work, "elsewhere"), contained=False)
    assert one.is_in_place


def test_a_name_that_no_engine_can_be_handed_is_refused(work: Path) -> None:
    name = os.fspath(work.parent / "data" / "two\nlines")
    Path(name).write_text("x")
    with pytest.raises(DataUnavailable, match="line break"):
        places(work, DataItem(source=name))
    assert places(work, DataItem(source=name), contained=False)


def test_what_is_missing_may_be_what_another_task_makes(work: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"there is no .*/data/made") as missing:
        places(work, item(work, "made"))
    assert "what another task makes is read without being named" in (missing.value.hint or "")
