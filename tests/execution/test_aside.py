"""What lies at outputs, renamed: into the attempt's folder, or beside."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fasthep_flow.execution.aside import (
    NOTE,
    Note,
    parents_of,
    read_note,
    set_aside,
    set_aside_left,
    write_note,
)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def attempt(work: Path) -> Path:
    """The folder of an attempt whose outputs lie in the folder where it works."""
    folder = work / "output" / "run-1" / "tasks" / "fit" / "2"
    folder.mkdir(parents=True)
    return folder


def left(attempt: Path) -> list[str]:
    return sorted(path.name for path in (attempt / "left").iterdir())


class TestSetAside:
    def test_what_lies_there_goes_to_the_attempts_folder(self, work: Path, attempt: Path) -> None:
        (work / "a.txt").write_text("half")
        (work / "plots").mkdir()
        (work / "plots" / "p.png").touch()
        (work / "mine.txt").touch()
        outputs = [f"{work}/a.txt", f"{work}/plots/", f"{work}/never-made"]
        aside = set_aside(outputs, parents_of(outputs), str(attempt), "before")
        assert aside.stuck == {}
        assert aside.moved == {
            f"{work}/a.txt": f"{attempt}/before/a.txt",
            f"{work}/plots/": f"{attempt}/before/plots",
        }
        assert (attempt / "before" / "a.txt").read_text() == "half"
        assert (attempt / "before" / "plots" / "p.png").exists()
        assert sorted(path.name for path in work.iterdir()) == ["mine.txt", "output"]

    def test_nothing_is_overwritten(self, work: Path, attempt: Path) -> None:
        for content in ("one", "two", "three"):
            (work / "a").write_text(content)
            set_aside([f"{work}/a"], parents_of([f"{work}/a"]), str(attempt), "left")
        assert [(attempt / "left" / name).read_text() for name in left(attempt)] == [
            *("one", "two", "three")
        ]
        (work / "b").mkdir()
        (work / "b" / "a").write_text("four")
        (work / "a").write_text("five")
        outputs = [f"{work}/a", f"{work}/b/a"]
        set_aside(outputs, parents_of(outputs), str(attempt), "left")
        contents = {(attempt / "left" / name).read_text() for name in left(attempt)}
        assert contents == {"one", "two", "three", "four", "five"}

    def test_an_output_in_another_one_goes_with_it(self, work: Path, attempt: Path) -> None:
        (work / "r").mkdir()
        (work / "r" / "a").touch()
        outputs = [f"{work}/r/a", f"{work}/r"]
        aside = set_aside(outputs, parents_of(outputs), str(attempt), "left")
        assert aside.moved == {f"{work}/r": f"{attempt}/left/r"}
        assert (attempt / "left" / "r" / "a").exists()

    @pytest.mark.parametrize(
        "name", ["two\nlines", os.fsdecode(b"\xff\xfe"), "-rf", "*", "x" * 255, " "]
    )
    def test_any_name_will_do(self, work: Path, attempt: Path, name: str) -> None:
        for content in ("one", "two"):
            Path(work, name).write_text(content)
            output = f"{work}/{name}"
            aside = set_aside([output], parents_of([output]), str(attempt), "left")
            assert list(aside.moved) == [output]
            "".join(aside.moved.values()).encode()
        assert len(left(attempt)) == 2

    def test_a_link_is_renamed_and_not_followed(self, work: Path, attempt: Path) -> None:
        target = work / "precious"
        target.mkdir()
        (work / "out").symlink_to(target)
        output = f"{work}/out"
        set_aside([output], parents_of([output]), str(attempt), "left")
        assert target.is_dir()
        assert (attempt / "left" / "out").is_symlink()

    def test_a_folder_that_became_a_link_is_not_entered(self, work: Path, attempt: Path) -> None:
        precious = work / "precious"
        precious.mkdir()
        (precious / "out").write_text("precious")
        (work / "plots").mkdir()
        output = f"{work}/plots/out"
        before = parents_of([output])
        (work / "plots").rmdir()
        (work / "plots").symlink_to(precious)
        for parents in (before, None):
            aside = set_aside([output], parents, str(attempt), "left")
            assert aside.moved == {}
            assert "nothing is touched there" in aside.stuck[output]
        assert (precious / "out").read_text() == "precious"

    def test_where_a_link_led_there_before_it_is_entered(self, work: Path, attempt: Path) -> None:
        (work / "eos").mkdir()
        (work / "results").symlink_to("eos")
        (work / "eos" / "out").write_text("half")
        output = f"{work}/results/out"
        aside = set_aside([output], parents_of([output]), str(attempt), "left")
        assert aside.stuck == {}
        assert (attempt / "left" / "out").read_text() == "half"

    def test_what_holds_the_attempt_stays(self, work: Path, attempt: Path) -> None:
        aside = set_aside([str(work)], parents_of([str(work)]), str(attempt), "left")
        assert "the attempt's own folder lies in it" in aside.stuck[str(work)]
        assert attempt.is_dir()

    @pytest.mark.parametrize("trap", ["attempt", "left"])
    def test_a_link_in_place_of_the_folder_is_not_followed(
        self, work: Path, attempt: Path, trap: str
    ) -> None:
        elsewhere = work / "elsewhere"
        elsewhere.mkdir()
        if trap == "attempt":
            attempt.rmdir()
            attempt.symlink_to(elsewhere)
        else:
            (attempt / "left").symlink_to(elsewhere)
        (work / "a").write_text("half")
        output = f"{work}/a"
        aside = set_aside([output], parents_of([output]), str(attempt), "left")
        assert list(elsewhere.iterdir()) == []
        assert aside.moved == {output: f"{work}/.a.left-run-1-fit-2"}
        assert (work / ".a.left-run-1-fit-2").read_text() == "half"

    @pytest.mark.parametrize(
        "name", ["x" * 300, "/".join(["x" * 250] * 20), "/".join(["x" * 300] * 20)]
    )
    def test_where_a_name_is_too_long_nothing_can_be(
        self, work: Path, attempt: Path, name: str
    ) -> None:
        output = f"{work}/{name}"
        assert set_aside([output], parents_of([output]), str(attempt), "left") == ({}, {})
        assert set_aside_left([output], str(attempt)) == ({}, {})


class TestOtherFileSystem:
    def test_it_is_renamed_beside(self, small_disk: Path, attempt: Path) -> None:
        for content in ("one", "two"):
            (small_disk / "a").write_text(content)
            output = f"{small_disk}/a"
            set_aside([output], parents_of([output]), str(attempt), "left")
        assert {path.name: path.read_text() for path in small_disk.iterdir()} == {
            ".a.left-run-1-fit-2": "one",
            ".a.left-run-1-fit-2~2": "two",
        }
        assert not (attempt / "left").exists()
        # What has such a name is no input of anybody's.
        assert list(small_disk.glob("[!.]*")) == []

    def test_of_the_longest_name_the_beginning_is_kept(
        self, small_disk: Path, attempt: Path
    ) -> None:
        output = f"{small_disk}/{'x' * 255}"
        Path(output).touch()
        aside = set_aside([output], parents_of([output]), str(attempt), "left")
        assert list(small_disk.iterdir()) == [Path(aside.moved[output])]

    def test_on_a_full_disk_nothing_is_lost(self, small_disk: Path) -> None:
        """Neither a folder nor a note can be made there: a name beside takes no room."""
        attempt = small_disk / "run" / "tasks" / "fit" / "1"
        attempt.mkdir(parents=True)
        (small_disk / "a").write_text("half")
        for number in range(12):
            try:
                (small_disk / f"full-{number}").write_bytes(bytes(64 * 1024))
            except OSError:
                break
        aside = set_aside_left([f"{small_disk}/a"], str(attempt))
        assert aside.stuck == {}
        assert Path(aside.moved[f"{small_disk}/a"]).read_text() == "half"
        assert not (small_disk / "a").exists()

    def test_where_nothing_may_be_renamed_it_stays_and_that_is_said(
        self, small_disk: Path, attempt: Path
    ) -> None:
        (small_disk / "a").write_text("half")
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        aside = set_aside_left([f"{small_disk}/a"], str(attempt))
        assert aside.stuck == {f"{small_disk}/a": "Read-only file system"}
        assert (small_disk / "a").read_text() == "half"
        # So it is tried again.
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        assert list(set_aside_left([f"{small_disk}/a"], str(attempt)).moved) == [f"{small_disk}/a"]


class TestLeft:
    """By whoever goes on after a worker or a driver that is gone."""

    def test_once(self, work: Path, attempt: Path) -> None:
        output = f"{work}/a"
        write_note(str(attempt), Note(parents=parents_of([output])))
        Path(output).write_text("half")
        assert set_aside_left([output], str(attempt)).moved == {output: f"{attempt}/left/a"}
        Path(output).write_text("whole, of a later attempt")
        assert set_aside_left([output], str(attempt)).moved == {}
        assert Path(output).exists()
        note = read_note(str(attempt))
        assert note is not None
        assert (note.is_settled, note.left) == (True, {output: f"{attempt}/left/a"})

    def test_cut_short_it_goes_on(self, work: Path, attempt: Path) -> None:
        outputs = [f"{work}/a", f"{work}/b"]
        write_note(str(attempt), Note(parents=parents_of(outputs)))
        (attempt / "left").mkdir()
        (attempt / "left" / "a").write_text("half")
        (work / "b").write_text("half")
        assert list(set_aside_left(outputs, str(attempt)).moved) == [f"{work}/b"]
        assert left(attempt) == ["a", "b"]

    def test_of_an_attempt_that_made_them_in_full_they_stay(
        self, work: Path, attempt: Path
    ) -> None:
        output = f"{work}/a"
        write_note(str(attempt), Note(parents=parents_of([output]), is_settled=True))
        Path(output).write_text("whole")
        assert set_aside_left([output], str(attempt)).moved == {}
        assert Path(output).read_text() == "whole"

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"is_settled": 1}', "\x00\xff", "link"])
    def test_a_note_that_cannot_be_read_says_nothing(
        self, work: Path, attempt: Path, text: str
    ) -> None:
        note = attempt / NOTE
        if text == "link":
            note.symlink_to("/etc/passwd")
        else:
            note.write_text(text)
        output = f"{work}/a"
        Path(output).write_text("half")
        assert set_aside_left([output], str(attempt)).moved == {output: f"{attempt}/left/a"}
        Path(output).write_text("whole")
        assert set_aside_left([output], str(attempt)).moved == {}

    def test_of_an_attempt_whose_folder_is_gone(self, work: Path, attempt: Path) -> None:
        shutil.rmtree(attempt)
        output = f"{work}/a"
        Path(output).write_text("half")
        assert set_aside_left([output], str(attempt)).moved == {output: f"{attempt}/left/a"}
        Path(output).write_text("whole")
        assert set_aside_left([output], str(attempt)).moved == {}

    def test_where_there_is_nothing(self, work: Path, attempt: Path) -> None:
        outputs = [f"{work}/a", f"{work}/no/such/b", f"{work}/a/c"]
        assert set_aside_left(outputs, str(attempt)) == ({}, {})
        assert not (attempt / "left").exists()
