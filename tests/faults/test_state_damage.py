"""What a driver knows is damaged: cut short, emptied, overwritten."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from tests.faults.conftest import Said, Site, shell

from fasthep_flow.records.holder import read_holder, replace_holder
from fasthep_flow.records.run import read_run

NOISE = random.Random(20260314).randbytes(900)  # noqa: S311 - no secret


class Unfinished(NamedTuple):
    """A run of which one task has failed, as it was left.

    Args:
        site: Of the run.
        kept: A copy of its folder.
    """

    site: Site
    kept: Path

    def restore(self) -> None:
        """Have all as it was."""
        shutil.rmtree(self.site.work)
        shutil.copytree(self.kept, self.site.work, symlinks=True)
        (self.site.root / "ended").unlink(missing_ok=True)

    def go_on(self, *words: str) -> tuple[Said, Counter[str]]:
        """What the same command says, with what had failed mended; and which tasks ran then."""
        said = self.site.run(*(words or ("run",)), GO="1")
        path = self.site.root / "ended"
        ran = Counter(path.read_text().split()) if path.exists() else Counter()
        return said, ran

    def files(self, pattern: str) -> list[Path]:
        """The files of the state by that pattern; there is one at least."""
        found = [path for path in self.site.work.glob(pattern) if path.is_file()]
        assert found, pattern
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, warm_cache: Path) -> Iterator[Unfinished]:
    site = Site(tmp_path_factory.mktemp("damage"), warm_cache)
    ended = f">> {site.root}/ended"
    site.write(
        shell("first", f"echo one > first; echo first {ended}", outputs=["first"], needs=[]),
        shell(
            "second",
            f"cat first first > second; echo second {ended}",
            inputs=["first"],
            outputs=["second"],
            needs=["first"],
        ),
        shell("third", f"cat second; echo third {ended}", needs=["second"]),
        shell("fourth", f"test $GO && echo fourth {ended}", needs=["third"]),
    )
    assert site.run().code == 1
    kept = tmp_path_factory.mktemp("kept") / "work"
    shutil.copytree(site.work, kept, symlinks=True)
    yield Unfinished(site, kept)
    site.end()


@pytest.fixture
def unfinished(made: Unfinished) -> Unfinished:
    """All as it was, for a test of its own."""
    made.restore()
    return made


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def noise(path: Path) -> None:
    path.write_bytes(NOISE)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = (empty, half, noise, zeros, one_byte)
JOURNAL = "output/2*/events.jsonl"
RESULTS = "output/2*/tasks/*/1/result.json"
CACHE = "output/.cache/results/**/*.json"
FAULT = pytest.mark.fault(
    13,
    "the journal, results, the plan, the cache or a run's own file is cut, emptied or overwritten",
    "it is named and set aside; what other records still tell is believed, the rest runs again",
)


def has_told(unfinished: Unfinished, said: Said) -> bool:
    """Whether what was damaged is named, by the command or in the journal."""
    journal = (unfinished.site.work / "output" / "latest" / "events.jsonl").read_text()
    return "damaged, not believed" in journal or "cannot be read" in said.both


@FAULT
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("pattern", [JOURNAL, RESULTS])
def test_one_of_the_two_records_of_each_task_is_damaged(
    unfinished: Unfinished, pattern: str, damage: Callable[[Path], None]
) -> None:
    for path in unfinished.files(pattern):
        damage(path)
    said, ran = unfinished.go_on()
    assert said.code == 0, said
    assert "Traceback" not in said.both
    assert set(ran) == {"fourth"}
    # A journal that is cut is as one of a driver that was killed; what is in results nobody asks
    # for where the journal says it.
    assert (
        (damage is half and pattern == JOURNAL) or pattern == RESULTS or has_told(unfinished, said)
    )
    assert read_run(unfinished.site.work / "output").status == "succeeded"


@FAULT
@pytest.mark.parametrize("damage", [empty, noise], ids=lambda damage: damage.__name__)
def test_both_records_and_the_cache_are_damaged(
    unfinished: Unfinished, damage: Callable[[Path], None]
) -> None:
    for pattern in (JOURNAL, RESULTS, CACHE):
        for path in unfinished.files(pattern):
            damage(path)
    said, ran = unfinished.go_on()
    assert said.code == 0, said
    assert "Traceback" not in said.both
    assert set(ran) == {"first", "second", "third", "fourth"}
    assert has_told(unfinished, said)
    assert list(unfinished.site.work.glob("output/2*/damaged/**/result.json.*"))
    # What nobody knows to be whole was not taken for what the tasks make now.
    assert list(unfinished.site.work.glob("output/2*/tasks/first/2/before/first"))


@FAULT
@pytest.mark.parametrize("damage", [empty, half, noise, zeros], ids=lambda damage: damage.__name__)
def test_the_file_of_the_run_itself_is_damaged(
    unfinished: Unfinished, damage: Callable[[Path], None]
) -> None:
    (path,) = unfinished.files("output/2*/run.json")
    damage(path)
    said, ran = unfinished.go_on()
    assert said.code == 0, said
    # Nobody can tell whose run it was; what was kept of it stands for the tasks with outputs.
    assert f"{path} cannot be read, and the run is passed over" in said.both
    assert "Traceback" not in said.both
    assert set(ran) == {"third", "fourth"}


@FAULT
@pytest.mark.parametrize(
    "pattern", ["output/2*/plan.json", "output/2*/tasks/*/1/job.json", "output/.cache/**/*.json"]
)
def test_what_tells_of_no_end_is_damaged(unfinished: Unfinished, pattern: str) -> None:
    for path in unfinished.files(pattern):
        noise(path)
    said, ran = unfinished.go_on()
    assert said.code == 0, said
    assert "Traceback" not in said.both
    assert set(ran) == {"fourth"}


@FAULT
def test_the_cache_of_a_run_that_succeeded_is_damaged(unfinished: Unfinished) -> None:
    assert unfinished.go_on()[0].code == 0
    for path in unfinished.files("output/.cache/**/*.json"):
        noise(path)
    said, ran = unfinished.go_on()
    assert said.code == 0, said
    assert "Traceback" not in said.both
    assert set(ran) == {"first", "second", "third", "fourth"}
    assert max(ran.values()) == 2
    assert list(unfinished.site.work.glob("output/.cache/damaged/*"))


@pytest.mark.fault(
    3,
    "the machine loses power: the newest records are empty or cut",
    "each is as it was before, or is known to be damaged; the same command goes on",
)
@pytest.mark.parametrize("cut", [1, 40, 0])
def test_the_newest_records_are_cut(unfinished: Unfinished, cut: int) -> None:
    (journal,) = unfinished.files(JOURNAL)
    # The end of the run, and some of the last task.
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-2])[: -cut or None])
    (result,) = unfinished.files("output/2*/tasks/third/1/result.json")
    empty(result)
    said, ran = unfinished.go_on()
    assert said.code == 0, said
    assert "Traceback" not in said.both
    assert set(ran) <= {"third", "fourth"}
    assert (unfinished.site.work / "second").read_text() == "one\none\n"


@pytest.mark.fault(
    9,
    "a lock names a driver that is dead, or a process that has its number now",
    "it is taken over at once",
)
@pytest.mark.parametrize("is_reused", [False, True])
def test_the_driver_before_is_dead(unfinished: Unfinished, is_reused: bool) -> None:
    (path,) = unfinished.files("output/2*/drivers/*.json")
    holder = read_holder(path)
    assert holder is not None
    pid = os.getpid() if is_reused else holder.pid
    replace_holder(path, msgspec.structs.replace(holder, released=None, pid=pid))
    said, ran = unfinished.go_on()
    assert said.code == 0, said
    assert set(ran) == {"fourth"}


@FAULT
def test_nobody_can_read_who_drives(unfinished: Unfinished) -> None:
    (path,) = unfinished.files("output/2*/drivers/*.json")
    noise(path)
    said, _ = unfinished.go_on()
    assert said.code == 7
    assert f"{path} is damaged" in said.err
    assert "try again in" in said.err
    # As if so much time had passed.
    os.utime(path, times=(path.stat().st_atime - 400, path.stat().st_mtime - 400))
    said, ran = unfinished.go_on()
    assert said.code == 0, said
    assert set(ran) == {"fourth"}
    assert list(unfinished.site.work.glob("output/2*/damaged/*.json.*"))


@pytest.mark.fault(
    45,
    "the run was written by an older fasthep-flow",
    "it is left as it is, and a new one is started; resume names it and refuses",
)
def test_a_run_of_an_older_format(unfinished: Unfinished) -> None:
    (path,) = unfinished.files("output/2*/run.json")
    text = path.read_text()
    path.write_text(text.replace('"format": 2', '"format": 1'))
    older = path.read_bytes()
    assert older != text.encode()
    said = unfinished.site.run("resume", path.parent.name)
    assert said.code == 6
    assert "older" in said.err
    said, _ = unfinished.go_on()
    assert said.code == 0, said
    assert path.read_bytes() == older
    assert len(unfinished.files("output/2*/run.json")) == 2
