"""Which run goes on, and what is made sure of before it does."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.records.made import plan, succeeded, task, write

from fasthep_flow.beside import Outputs
from fasthep_flow.errors import RecordError, RunClaimed
from fasthep_flow.jobs import job_of
from fasthep_flow.model import Job, Plan, to_json
from fasthep_flow.orchestrators.dask.ends import note_job
from fasthep_flow.records.claim import Claim
from fasthep_flow.records.history import run_ids
from fasthep_flow.records.run import RunFolder, read_run
from fasthep_flow.records.sealed import sealed, unsealed
from fasthep_flow.resuming import open_run, require_no_driver
from fasthep_flow.settling import settle, settle_other


@pytest.fixture
def whole(tmp_path: Path) -> Plan:
    write(tmp_path / "workflow.yaml", "name: analysis\n")
    made = plan(tmp_path, task("make", outputs=("made.txt",)), task("use", needs=("make",)))
    return msgspec.structs.replace(
        made, source=str(tmp_path / "workflow.yaml"), output_directory=str(tmp_path / "output")
    )


def begin(folder: RunFolder, of: Plan, name: str, number: int = 1) -> Job:
    """An attempt that was begun."""
    (one,) = (one for one in of.tasks if one.name == name)
    job = job_of(
        one,
        of,
        run_id=folder.run_id,
        runtime="native",
        attempt=number,
        directory=folder.attempt_directory(one.slug, number),
        run_directory=str(folder.path),
        resources=one.environment.resources,
    )
    folder.write_job(job, to_json(job))
    folder.append("task_submitted", task=name, attempt=number)
    return job


def end(folder: RunFolder, of: Plan, job: Job) -> None:
    (one,) = (one for one in of.tasks if one.name == job.task)
    folder.write_result("task_finished", job, succeeded(one, attempt=job.attempt))


def opened(of: Plan, **options: object) -> AbstractContextManager[RunFolder]:
    return open_run(of, version="1", **options)  # type: ignore[arg-type]  # as the test says


def told(folder: RunFolder, of: Plan, *gone: str) -> list[str]:
    lines: list[str] = []
    settle(folder, of, gone=gone, noticed=lines.append)
    return lines


def test_the_first_run_is_a_new_one(whole: Plan) -> None:
    require_no_driver(whole)
    with opened(whole) as folder:
        assert folder.before is None
        assert told(folder, whole) == []


def test_an_unfinished_run_goes_on_and_a_finished_one_does_not(whole: Plan) -> None:
    with opened(whole) as first:
        end(first, whole, begin(first, whole, "make"))
    with opened(whole) as second:
        assert second.path == first.path
        second.finish("succeeded")
    with opened(whole) as third:
        assert third.path != first.path


def test_who_wants_a_new_run_gets_one(whole: Plan) -> None:
    with opened(whole) as first:
        begin(first, whole, "make")
    with opened(whole, fresh=True) as second:
        assert second.path != first.path
    with opened(whole, resume=first.path) as third:
        assert third.path == first.path


def test_a_run_of_some_tasks_is_a_run_of_its_own(whole: Plan) -> None:
    some = msgspec.structs.replace(whole, tasks=whole.tasks[:1], selection=("make",))
    with opened(whole) as of_all:
        begin(of_all, whole, "make")
    with opened(some) as of_some:
        assert of_some.path != of_all.path
        begin(of_some, some, "make")
    with opened(some) as again:
        assert again.path == of_some.path
        again.finish("succeeded")
    with opened(whole) as on:
        assert on.path == of_all.path


def test_while_a_driver_has_it_another_one_is_refused(whole: Plan) -> None:
    with opened(whole) as first:
        words = f"run {first.run_id} is driven by process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(RunClaimed, match=words):
            require_no_driver(whole)
        with pytest.raises(RunClaimed, match=words), opened(whole):
            pytest.fail("it was opened")


def _making(whole: Plan, *outputs: str, source: str = "") -> Plan:
    """The plan of a run of its own, whose task makes other files."""
    [first, *_] = whole.tasks
    one = msgspec.structs.replace(
        first, outputs=tuple(f"{whole.directory}/{output}" for output in outputs)
    )
    return msgspec.structs.replace(
        whole, tasks=(one,), selection=("make",), source=source or whole.source
    )


@pytest.mark.parametrize("of_whom", ["the same workflow", "another one"])
@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ("sel.txt", "sel.txt"),
        ("data/", "data"),
        ("data/", "data/sel.txt"),
        ("data/sel.txt", "data/"),
        ("link/sel.txt", "data/sel.txt"),
    ],
)
def test_what_a_living_driver_has_made_is_made_by_no_other_one(
    whole: Plan, tmp_path: Path, of_whom: str, made: str, wanted: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    other = str(write(tmp_path / "other.yaml")) if of_whom == "another one" else ""
    plain = _making(whole, wanted, source=other)
    with opened(plain) as former:
        begin(former, plain, "make")
    beside = msgspec.structs.replace(_making(whole, "a", made), selection=())
    with opened(beside) as first:
        words = (
            f"run {first.run_id}, which makes {tmp_path}/{made} too, is driven by process"
            f" {os.getpid()} on"
        )
        for options in ({}, {"fresh": True}, {"resume": former.path}):
            with pytest.raises(RunClaimed, match=words) as refused:
                require_no_driver(plain, **options)
            assert refused.value.hint == "wait for its end"
            with pytest.raises(RunClaimed, match=words), opened(plain, **options):
                pytest.fail("it was opened")
    with opened(plain) as on:
        assert on.path == former.path


def test_who_makes_other_files_is_not_kept_waiting(whole: Plan) -> None:
    with (
        opened(_making(whole, "made.txt", "data/a")),
        opened(_making(whole, "made", "data/ab"), fresh=True) as second,
        opened(_making(whole), fresh=True) as third,
    ):
        assert second.path != third.path
        require_no_driver(_making(whole, "data/b", "made.txt.gz"), fresh=True)


@pytest.mark.parametrize("outputs", [(), ("made.txt",)])
def test_another_run_beside_is_named_where_there_can_be_one(
    whole: Plan, outputs: tuple[str, ...]
) -> None:
    one = _making(whole, *outputs)
    with opened(one), pytest.raises(RunClaimed) as refused:
        require_no_driver(one)
    assert ("--fresh starts another run beside it" in str(refused.value)) is (not outputs)


def test_a_driver_of_which_nobody_can_tell_what_it_makes_is_waited_for(whole: Plan) -> None:
    with opened(_making(whole, "a")) as first:
        (first.path / "plan.json").write_text("{")
        with (
            pytest.raises(RunClaimed, match=r"of which .*plan\.json cannot say what it makes"),
            opened(_making(whole, "b"), fresh=True),
        ):
            pytest.fail("it was opened")
        with opened(_making(whole), fresh=True) as beside:
            assert beside.path != first.path


def test_of_runs_that_came_to_their_ends_nothing_is_read(
    whole: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        with opened(whole, fresh=True) as folder:
            folder.finish("failed")
    read: list[Path] = []
    true = Outputs.shared_with

    def counted(outputs: Outputs, run: Path) -> str | None:
        read.append(run)
        return true(outputs, run)

    monkeypatch.setattr(Outputs, "shared_with", counted)
    with opened(whole, fresh=True), opened(_making(whole, "b"), fresh=True) as last:
        pass
    assert len(set(read)) == 1
    assert last.path not in read


def test_what_a_former_attempt_left_is_set_aside_and_what_is_done_is_not(
    whole: Plan, tmp_path: Path
) -> None:
    with opened(whole) as first:
        begin(first, whole, "make")
        half = write(tmp_path / "made.txt", "half")
    with opened(whole) as second:
        [line] = told(second, whole)
        assert not half.exists()
        aside = second.path / "tasks" / "make" / "1" / "left" / "made.txt"
        assert line == f"{half}, as attempt 1 of 'make' left it, is in {aside}"
        assert aside.read_text() == "half"
        job = begin(second, whole, "make", 2)
        write(half, "whole")
        end(second, whole, job)
    with opened(whole) as third:
        assert told(third, whole) == []
        assert half.read_text() == "whole"


def test_what_a_later_attempt_made_is_not_taken_for_what_an_earlier_one_left(
    whole: Plan, tmp_path: Path
) -> None:
    """The first one failed before it could begin, and so has set nothing aside."""
    with opened(whole) as first:
        begin(first, whole, "make")
        end(first, whole, begin(first, whole, "make", 2))
        made = write(tmp_path / "made.txt", "whole")
    with opened(whole) as second:
        assert told(second, whole) == []
        assert made.read_text() == "whole"


@pytest.mark.parametrize("goes_on", [True, False], ids=["the run", "another run"])
def test_what_a_task_wrote_over_its_job_moves_nothing_else_away(
    whole: Plan, tmp_path: Path, *, goes_on: bool
) -> None:
    """The folder of an attempt is the task's own, in a container, too."""
    private = write(tmp_path / "private.txt", "of another project")
    _, job = _cut_short(whole)
    half = write(tmp_path / "made.txt", "half")
    forged = msgspec.structs.replace(job, outputs=(*job.outputs, str(private)))
    Path(job.directory, "job.json").write_text(to_json(forged))
    lines: list[str] = []
    with opened(whole, fresh=not goes_on, noticed=lines.append) as second:
        lines += told(second, whole)
        assert not half.exists()
        assert private.read_text() == "of another project"
        assert f"'{private}' is no output of its task, and is left alone" in " ".join(lines)


def test_what_the_plan_before_had_as_outputs_is_set_aside_too(whole: Plan, tmp_path: Path) -> None:
    with opened(whole) as first:
        begin(first, whole, "make")
        half = write(tmp_path / "made.txt", "half")
    changed = msgspec.structs.replace(_making(whole, "other.txt"), selection=())
    with opened(changed) as second:
        assert second.path == first.path
        told(second, changed)
        assert not half.exists()


def test_an_attempt_of_which_little_is_there_is_no_trouble(whole: Plan) -> None:
    with opened(whole) as first:
        job = begin(first, whole, "make")
    Path(job.directory, "job.json").write_text("{")
    (first.path / "tasks" / "use" / "1").mkdir(parents=True)
    with opened(whole) as second:
        assert told(second, whole) == []


@contextmanager
def _left(directory: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of an attempt, which its driver could not end any more."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        cwd=directory,
        env={**os.environ, "FASTHEP_TASK_DIRECTORY": directory},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_still_runs_is_ended_before_anything_else(whole: Plan) -> None:
    with opened(whole) as first:
        job = begin(first, whole, "make")
    with _left(job.directory) as process, opened(whole) as second:
        [line] = told(second, whole)
        assert line == "1 process or container of a former driver still ran, and had to be ended"
        assert process.wait(60) < 0


def _cut_short(of: Plan, *done: str) -> tuple[RunFolder, Job]:
    """A run of which the task ``make`` has no end."""
    with suppress(KeyboardInterrupt), opened(of, fresh=True) as folder:
        for name in done:
            end(folder, of, begin(folder, of, name))
        job = begin(folder, of, "make")
        raise KeyboardInterrupt
    return folder, job


@pytest.mark.parametrize("options", [{}, {"fresh": True}])
def test_what_another_run_left_is_neither_written_to_nor_read(
    whole: Plan, tmp_path: Path, options: dict[str, bool]
) -> None:
    some = _making(whole, "data/made.txt", "other.txt")
    all_of_it = msgspec.structs.replace(_making(whole, "data/"), selection=())
    former, job = _cut_short(some)
    half = write(tmp_path / "data" / "made.txt", "half")
    lines: list[str] = []
    with (
        _left(job.directory) as process,
        opened(all_of_it, **options, noticed=lines.append) as folder,
    ):
        assert folder.path != former.path
        assert process.wait(60) < 0
        write(half, "whole")
    aside = Path(job.directory, "left", "made.txt")
    whose = f"the run {former.run_id}, whose driver is gone,"
    assert lines == [
        f"1 process or container of {whose} still ran, and had to be ended",
        f"{half}, as attempt 1 of 'make' left it, is in {aside}",
    ]
    assert aside.read_text() == "half"
    with opened(some, resume=former.path) as again:
        assert again.before is not None
        assert [one.task for one in again.before.under_way] == ["make"]
        assert told(again, some) == []
    assert half.read_text() == "whole"


def test_what_another_run_has_made_in_full_stays(whole: Plan, tmp_path: Path) -> None:
    made = write(tmp_path / "made.txt", "whole")
    with suppress(KeyboardInterrupt), opened(whole) as former:
        end(former, whole, begin(former, whole, "make"))
        begin(former, whole, "use")
        raise KeyboardInterrupt
    with opened(whole, fresh=True, noticed=pytest.fail):
        assert made.read_text() == "whole"


def test_a_run_that_makes_other_files_is_let_be(whole: Plan, tmp_path: Path) -> None:
    _, job = _cut_short(_making(whole, "half.txt"))
    half = write(tmp_path / "half.txt", "half")
    with _left(job.directory) as process:
        for other in (_making(whole, "made.txt"), _making(whole)):
            with opened(other, fresh=True, noticed=pytest.fail):
                assert process.poll() is None
                assert half.exists()
        with opened(_making(whole, "half.txt"), fresh=True):
            assert not half.exists()


@pytest.mark.parametrize("damaged", ["plan.json", "run.json", "events.jsonl"])
def test_of_a_damaged_run_too_nothing_is_left(whole: Plan, tmp_path: Path, damaged: str) -> None:
    former, _ = _cut_short(whole)
    half = write(tmp_path / "made.txt", "half")
    (former.path / damaged).write_text("{")
    with opened(whole, fresh=True):
        assert not half.exists()


def test_a_run_that_was_removed_is_no_trouble(whole: Plan) -> None:
    former, _ = _cut_short(whole)
    shutil.rmtree(former.path)
    with opened(whole, fresh=True, noticed=pytest.fail):
        pass


def test_what_cannot_be_moved_away_keeps_a_run_from_its_start(whole: Plan, tmp_path: Path) -> None:
    of_both = _making(whole, "data/made.txt")
    _cut_short(of_both)
    half = write(tmp_path / "elsewhere" / "made.txt", "half")
    (tmp_path / "data").symlink_to("elsewhere")
    with pytest.raises(RecordError, match=r"made\.txt .* cannot be set aside"):
        opened(of_both, fresh=True).__enter__()
    assert half.exists()
    assert len(run_ids(tmp_path / "output")) == 1


def test_another_run_is_settled_once(whole: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    _cut_short(whole)
    settled: list[Path] = []

    def counted(run: Path, *arguments: Any, **options: Any) -> None:
        settled.append(run)
        settle_other(run, *arguments, **options)

    monkeypatch.setattr("fasthep_flow.resuming.settle_other", counted)
    for _ in range(3):
        with opened(whole, fresh=True):
            pass
    assert len(settled) == 1


def test_what_another_run_had_under_way_on_another_machine_cannot_be_proven_dead(
    whole: Plan, tmp_path: Path
) -> None:
    former, _ = _cut_short(whole, "use")
    half = write(tmp_path / "made.txt", "half")
    _on_another_machine(former.path)
    with pytest.raises(RunClaimed, match=rf"'make' of the run {former.run_id} .* on node07"):
        opened(whole, fresh=True).__enter__()
    with opened(_making(whole, "other.txt"), fresh=True):
        assert half.exists()
    assert len(run_ids(tmp_path / "output")) == 2
    with opened(whole, resume=former.path, gone={"node07"}) as on:
        assert told(on, whole, "node07")
    with opened(whole, fresh=True):
        assert not half.exists()


def _on_another_machine(path: Path) -> None:
    journal = path / "events.jsonl"
    lines = []
    for line in journal.read_bytes().splitlines():
        text = unsealed(line)
        assert text is not None
        here = f'"{os.uname().nodename}"'.encode()
        lines.append(sealed(text.replace(here, b'"node07"')) + b"\n")
    journal.write_bytes(b"".join(lines))


def test_what_was_under_way_on_another_machine_cannot_be_proven_dead(whole: Plan) -> None:
    with opened(whole) as first:
        begin(first, whole, "make")
    _on_another_machine(first.path)
    with opened(whole) as second:
        with pytest.raises(
            RunClaimed, match=r"task 'make' of .* was under way .* on node07"
        ) as refusal:
            settle(second, whole)
        assert refusal.value.hint is not None
        assert f"resume {first.run_id} --host-is-gone node07" in refusal.value.hint
        assert told(second, whole, "node07") == []


def test_batch_jobs_of_any_former_runner_are_ended(
    whole: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with opened(whole) as first:
        folder = first.path / "workers" / "3-dask-cern"
        folder.mkdir(parents=True)
        note_job(folder / "jobs.jsonl", "Slurm", "17", ["--clusters=x"])
    bin_folder = tmp_path / "bin"
    for name in ("squeue", "scancel"):
        script = write(bin_folder / name, f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    with opened(whole) as second:
        assert told(second, whole) == []
        assert not (folder / "jobs.jsonl").exists()
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("squeue --clusters=x --me")


def test_a_signal_at_any_moment_is_recorded(whole: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it comes while the choice among runs is ended."""
    release = Claim.release

    def released(claim: Claim) -> None:
        release(claim)
        if ".claims" in claim.path.parts:
            raise KeyboardInterrupt

    monkeypatch.setattr(Claim, "release", released)
    with pytest.raises(KeyboardInterrupt), opened(whole):
        pytest.fail("it was opened")
    assert read_run(Path(whole.output_directory)).status == "cancelled"
