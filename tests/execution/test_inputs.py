"""Files that a task reads: there, or named."""

import os
import threading
from pathlib import Path

import pytest

from fasthep_flow.execution.inputs import matches, missing_input
from fasthep_flow.model import Failure


def message(*paths: Path | str, patience_s: float = 0.0) -> str:
    found = missing_input(map(str, paths), is_stopped=lambda: False, patience_s=patience_s)
    if found is None:
        return ""
    assert isinstance(found, Failure)
    assert found.kind == "input"
    return found.message


class TestMissing:
    def test_what_is_there_is_no_matter(self, tmp_path: Path) -> None:
        (tmp_path / "a.root").touch()
        (tmp_path / "folder").mkdir()
        (tmp_path / "f[1].root").touch()
        (tmp_path / "link").symlink_to("a.root")
        assert message() == ""
        assert message(*tmp_path.iterdir()) == ""
        assert message(tmp_path / "*.root", f"{tmp_path}/fold*/", f"{tmp_path}/**/a.root") == ""

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.root").touch()
        assert message(tmp_path / "a.root", tmp_path / "b.root") == (
            f"there is no input {tmp_path}/b.root"
        )
        assert message(tmp_path / "*.txt") == f"no file or folder fits the input {tmp_path}/*.txt"
        assert message(tmp_path / "a.root" / "b") == f"there is no input {tmp_path}/a.root/b"

    def test_of_many_some_are_named(self, tmp_path: Path) -> None:
        words = message(*(tmp_path / f"{number}" for number in range(7)))
        assert words.startswith(f"there is no input {tmp_path}/0; there is no")
        assert words.endswith("; and 4 more")

    def test_a_link_to_nothing_is_said_to_be_one(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(os.fsdecode(b"gone\xff"))
        words = message(tmp_path / "link")
        assert words == f"the input {tmp_path}/link is a link to gone\\xff, which is not there"
        assert message(tmp_path / "l*") == f"no file or folder fits the input {tmp_path}/l*"

    def test_what_is_neither_file_nor_folder_is_said(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("pipe")
        for name in ("pipe", "link"):
            words = f"the input {tmp_path}/{name} is a named pipe: neither file nor folder"
            assert message(tmp_path / name) == words
        assert message(tmp_path / "p*") == f"no file or folder fits the input {tmp_path}/p*"
        assert message("/dev/zero") == "the input /dev/zero is a device: neither file nor folder"

    def test_what_may_not_be_read_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a").touch()
        # To root everything is open.
        monkeypatch.setattr("os.access", lambda *_: False)
        assert message(tmp_path / "a") == f"the input {tmp_path}/a may not be read"


class TestPatience:
    def test_what_comes_late_is_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By reading its folder: else a network's file system remembers that it was not there."""
        looked_at: list[str] = []
        scan = os.scandir

        def scandir(path: str) -> object:
            looked_at.append(path)
            if len(looked_at) == 3:
                (tmp_path / "late.root").touch()
            return scan(path)

        monkeypatch.setattr("os.scandir", scandir)
        assert message(tmp_path / "late.root", patience_s=600.0) == ""
        assert looked_at == [str(tmp_path)] * 3

    def test_also_where_its_folder_is_late(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = tmp_path / "a" / "b" / "late.root"
        scan = os.scandir

        def scandir(path: str) -> object:
            if path == str(tmp_path):
                late.parent.mkdir(parents=True, exist_ok=True)
                late.touch()
            return scan(path)

        monkeypatch.setattr("os.scandir", scandir)
        assert message(tmp_path / "a" / "b" / "*.root", patience_s=600.0) == ""

    def test_it_has_an_end(self, tmp_path: Path) -> None:
        assert message(tmp_path / "a", patience_s=0.2) == f"there is no input {tmp_path}/a"

    def test_when_the_run_is_stopped_nobody_waits(self, tmp_path: Path) -> None:
        stopped = threading.Event()
        threading.Timer(0.1, stopped.set).start()
        path = str(tmp_path / "a")
        assert missing_input([path], is_stopped=stopped.is_set, patience_s=600.0) is not None


class TestMatches:
    def test_a_pattern_names_all_that_fit_in_one_order(self, tmp_path: Path) -> None:
        for name in ("b.root", "a.root", "\udcff.root", "c.txt", ".a.root.left-run-fit-1"):
            (tmp_path / name).touch()
        names = [Path(one).name for one in matches(f"{tmp_path}/*.root")]
        assert names == ["a.root", "b.root", "\udcff.root"]
        assert len(matches(f"{tmp_path}/*")) == 4
        assert matches(f"{tmp_path}/*.png") == []

    def test_what_is_no_pattern_is_itself_there_or_not(self, tmp_path: Path) -> None:
        assert matches(f"{tmp_path}/a") == [f"{tmp_path}/a"]
        (tmp_path / "a[1]").touch()
        (tmp_path / "a1").touch()
        assert matches(f"{tmp_path}/a[1]") == [f"{tmp_path}/a[1]"]

    def test_links_in_a_circle_have_an_end(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "up").symlink_to("..")
        (tmp_path / "a.root").touch()
        assert f"{tmp_path}/a.root" in matches(f"{tmp_path}/**/*.root")

    def test_what_was_set_aside_is_no_input(self, tmp_path: Path) -> None:
        """Else what a failed attempt has left would be one for ``**``."""
        aside = tmp_path / "output" / "run" / "tasks" / "fit" / "1"
        for where in ("left", "before"):
            (aside / where).mkdir(parents=True)
            (aside / where / "half.root").touch()
        assert matches(f"{tmp_path}/**/*.root") == []
        words = f"no file or folder fits the input {tmp_path}/**/*.root"
        assert message(f"{tmp_path}/**/*.root") == words
        assert matches(f"{aside}/left/*.root") == [f"{aside}/left/half.root"]
