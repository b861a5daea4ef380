"""A run whose driver has ended, and another driver that goes on with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fasthep_flow.errors import RecordError, RunClaimed
from fasthep_flow.model import Command, Job, JobResult, Plan, Status, to_json
from fasthep_flow.records.history import latest_run
from fasthep_flow.records.holder import own_holder, write_holder
from fasthep_flow.records.run import RunFolder, read_run


def begin(folder: RunFolder, task: str, *, slug: str | None = None) -> Job:
    attempt = folder.next_attempt(task, slug or task)
    job = Job(
        run_id=folder.run_id,
        task=task,
        slug=slug or task,
        attempt=attempt,
        invocations={"cpu": Command(argv=("true",))},
        directory=folder.attempt_directory(slug or task, attempt),
        working_directory="/",
        run_directory=str(folder.path),
    )
    folder.write_job(job, to_json(job))
    folder.append("task_submitted", task=task, attempt=attempt)
    return job


def end(folder: RunFolder, job: Job, status: Status = "succeeded") -> Path:
    folder.write_result(
        "task_finished", job, JobResult(task=job.task, attempt=job.attempt, status=status)
    )
    folder.sync()
    return Path(job.directory, "result.json")


def reopen(path: Path, plan: Plan, **more: Any) -> RunFolder:
    return RunFolder.reopen(path, plan, version="2", argv=("fasthep-flow", "run"), **more)


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "events.jsonl").read_bytes().splitlines()]


def notes(path: Path) -> list[str]:
    return [event["message"] for event in events(path) if event["event"] == "note"]


@pytest.fixture
def unfinished(plan: Plan) -> Path:
    """A run in which ``a`` succeeded, and ``b`` was under way when its driver stopped."""
    with RunFolder.create(plan, version="1") as folder:
        end(folder, begin(folder, "a"))
        begin(folder, "b")
        folder.request_cancel()
    return folder.path


def test_the_same_folder_goes_on_with_another_driver(plan: Plan, unfinished: Path) -> None:
    before = json.loads((unfinished / "run.json").read_text())
    with reopen(unfinished, plan) as folder:
        assert folder.path == unfinished
        assert (unfinished.parent / "latest").resolve() == unfinished
        now = json.loads((unfinished / "run.json").read_text())
        assert (now["status"], now["version"], now["finished"]) == ("running", "2", None)
        assert (now["run_id"], now["started"]) == (before["run_id"], before["started"])
        assert read_run(unfinished).status == "running"
        assert folder.before is not None
        assert list(folder.before.results) == ["a"]
        [left] = folder.before.under_way
        assert (left.task, left.attempt, left.host) == ("b", 1, os.uname().nodename)
        assert left.directory == str(unfinished / "tasks" / "b" / "1")
        assert folder.former_driver is not None
        assert folder.former_driver.state == "released"
        # Workers of the run before were told to stop; those of this one are not.
        assert not folder.cancel_file.exists()
        end(folder, begin(folder, "b"))
        folder.finish("succeeded")
    record = read_run(unfinished)
    assert record.status == "succeeded"
    assert record.unfinished == ()
    assert record.under_way == ()
    assert [event["event"] for event in events(unfinished)].count("run_resumed") == 1


def test_attempts_are_counted_on(plan: Plan, unfinished: Path) -> None:
    with reopen(unfinished, plan) as folder:
        assert folder.next_attempt("a", "a") == 2
        assert begin(folder, "b").attempt == 2
    # Of an attempt whose driver was killed before it could say so there is the folder alone.
    (unfinished / "tasks" / "b" / "5").mkdir()
    with reopen(unfinished, plan) as folder:
        assert begin(folder, "b").attempt == 6
    (unfinished / "tasks" / "b" / "6" / "job.json").unlink()
    (unfinished / "tasks" / "b" / "6").rmdir()
    with reopen(unfinished, plan) as folder:
        # A number that the journal names is not used again, either.
        assert begin(folder, "b").attempt == 7
    with RunFolder.create(plan, version="1") as folder:
        assert begin(folder, "b").attempt == 1


def test_a_newer_attempt_makes_an_older_success_history(plan: Plan, unfinished: Path) -> None:
    with reopen(unfinished, plan) as folder:
        begin(folder, "a")
    with reopen(unfinished, plan) as folder:
        assert folder.before is not None
        assert folder.before.results == {}
        assert {left.task for left in folder.before.under_way} == {"a", "b"}


def test_a_result_counts_whose_line_was_lost(plan: Plan, unfinished: Path) -> None:
    journal = unfinished / "events.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if b"task_finished" not in line))
    with reopen(unfinished, plan) as folder:
        assert folder.before is not None
        assert folder.before.results["a"].status == "succeeded"
        assert folder.before.is_whole


def test_what_was_skipped_is_open_again(plan: Plan) -> None:
    with RunFolder.create(plan, version="1") as folder:
        end(folder, begin(folder, "a"), "failed")
        folder.append("task_skipped", task="b", message="needs 'a', which failed")
        folder.finish("failed")
    assert read_run(folder.path).results["b"].status == "skipped"
    with reopen(folder.path, plan) as folder:
        record = read_run(folder.path)
        assert record.unfinished == ("b",)
        assert record.results["a"].status == "failed"


def test_the_plan_before_is_kept(plan: Plan, unfinished: Path) -> None:
    first = (unfinished / "plan.json").read_bytes()
    Path(plan.source).write_text("name: second\n")
    second = msgspec.structs.replace(plan, name="second", tasks=plan.tasks[:1])
    with reopen(unfinished, second):
        pass
    assert (unfinished / "former" / "1" / "plan.json").read_bytes() == first
    assert (unfinished / "former" / "1" / "workflow.yaml").read_text() == "name: analysis\n"
    assert (unfinished / "workflow.yaml").read_text() == "name: second\n"
    assert json.loads((unfinished / "plan.json").read_bytes())["name"] == "second"
    assert "former/1" in (unfinished / "events.jsonl").read_text()
    with reopen(unfinished, second):
        assert not (unfinished / "former" / "2").exists()  # nothing was changed
    with reopen(unfinished, plan):
        former = json.loads((unfinished / "former" / "2" / "plan.json").read_bytes())
    assert former["name"] == "second"


def test_what_is_under_way_of_a_task_that_is_no_longer_planned_is_told(
    plan: Plan, unfinished: Path
) -> None:
    with reopen(unfinished, msgspec.structs.replace(plan, tasks=plan.tasks[:1])) as folder:
        assert folder.before is not None
        assert [left.task for left in folder.before.under_way] == ["b"]


def test_a_folder_that_another_task_had_before_is_not_believed(
    plan: Plan, unfinished: Path
) -> None:
    renamed = msgspec.structs.replace(plan.tasks[0], name="A new one")
    (unfinished / "plan.json").unlink()
    with reopen(unfinished, msgspec.structs.replace(plan, tasks=(renamed,))) as folder:
        assert folder.before is not None
        assert folder.before.results == {}
        assert folder.before.damaged == ()
        assert begin(folder, "A new one", slug="a").attempt == 2
    assert (unfinished / "tasks" / "a" / "1" / "result.json").exists()


def test_damage_is_named_set_aside_and_not_met_again(plan: Plan, unfinished: Path) -> None:
    journal = unfinished / "events.jsonl"
    result = unfinished / "tasks" / "a" / "1" / "result.json"
    damaged = journal.read_bytes().replace(b'"succeeded"', b'"SUCCEEDED"')
    journal.write_bytes(damaged)
    result.write_bytes(b"\0" * 100)
    assert len(read_run(unfinished).damaged) == 2
    with reopen(unfinished, plan) as folder:
        assert folder.before is not None
        assert folder.before.results == {}
        assert {left.task for left in folder.before.under_way} == {"a", "b"}
    told = " ".join(notes(unfinished))
    assert str(journal) in told
    assert str(result) in told
    kept = sorted(path for path in (unfinished / "damaged").rglob("*") if path.is_file())
    assert [path.read_bytes() for path in kept] == [damaged, b"\0" * 100]
    assert kept[1].parent == unfinished / "damaged" / "tasks" / "a" / "1"
    assert read_run(unfinished).damaged == ()
    with reopen(unfinished, plan) as folder:
        assert folder.before is not None
        assert folder.before.damaged == ()
    # What is damaged anew does not take its place.
    journal.write_bytes(b"\xff\n")
    with reopen(unfinished, plan):
        pass
    assert len(list((unfinished / "damaged").glob("events.jsonl.*"))) == 2


def test_a_line_that_was_cut_is_no_damage(plan: Plan, unfinished: Path) -> None:
    journal = unfinished / "events.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    assert read_run(unfinished).damaged == ()
    with reopen(unfinished, plan):
        assert read_run(unfinished).damaged == ()
    assert not (unfinished / "damaged").exists()
    assert not any("damaged" in note for note in notes(unfinished))


def test_a_journal_that_is_gone_is_begun_anew(plan: Plan, unfinished: Path) -> None:
    (unfinished / "events.jsonl").unlink()
    with reopen(unfinished, plan) as folder:
        assert folder.before is not None
        assert folder.before.results["a"].status == "succeeded"
        assert [left.task for left in folder.before.under_way] == ["b"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 50])
def test_a_damaged_plan_is_replaced(plan: Plan, unfinished: Path, damage: bytes) -> None:
    (unfinished / "plan.json").write_bytes(damage)
    with reopen(unfinished, plan):
        assert read_run(unfinished).results["a"].status == "succeeded"
    assert (unfinished / "former" / "1" / "plan.json").read_bytes() == damage


def test_a_damaged_claim_is_set_aside_once_it_is_silent(plan: Plan, unfinished: Path) -> None:
    claim = unfinished / "drivers" / "1.json"
    claim.write_bytes(b"garbage")
    with pytest.raises(RunClaimed, match="is damaged"):
        reopen(unfinished, plan)
    os.utime(claim, (claim.stat().st_mtime - 400,) * 2)
    with reopen(unfinished, plan):
        pass
    [kept] = (unfinished / "damaged").iterdir()
    assert kept.read_bytes() == b"garbage"
    assert any("names no driver" in note for note in notes(unfinished))


@pytest.mark.parametrize(("number", "age"), [(1, "an older"), (3, "a newer")])
def test_no_driver_goes_on_with_a_run_of_another_format(
    plan: Plan, unfinished: Path, number: int, age: str
) -> None:
    run_file = unfinished / "run.json"
    run_file.write_text(run_file.read_text().replace('"format": 2', f'"format": {number}'))
    with pytest.raises(RecordError, match=f"{age} fasthep-flow") as refused:
        reopen(unfinished, plan)
    assert "--fresh" in str(refused.value)


def test_a_run_of_the_older_format_is_read(plan: Plan, tmp_path: Path) -> None:
    run = tmp_path / "20200101T000000Z-0000"
    attempt = run / "tasks" / "a" / "1"
    attempt.mkdir(parents=True)
    head = {"format": 1, "run_id": run.name, "name": "n", "status": "failed", "started": "2020"}
    head |= {"finished": None, "host": "h", "pid": 1, "process_started_s": 0.0, "command": ""}
    head |= {"version": "0", "python": "3", "platform": "p"}
    (run / "run.json").write_text(json.dumps(head))
    (run / "plan.json").write_text(to_json(plan))
    result = to_json(JobResult(task="a", attempt=1, status="succeeded"))
    (attempt / "result.json").write_text(result)
    line = {"time": "2020", "event": "task_finished", "task": "b", "attempt": 0}
    line["result"] = json.loads(to_json(JobResult(task="b", attempt=0, status="failed")))
    (run / "events.jsonl").write_text(f'{json.dumps(line)}\n{{"time":"20')
    record = read_run(run)
    assert {name: one.status for name, one in record.results.items()} == {
        "a": "succeeded",
        "b": "failed",
    }
    assert record.damaged == ()
    assert record.format == 1


def test_a_run_of_a_newer_format_is_not_guessed_at(unfinished: Path) -> None:
    run_file = unfinished / "run.json"
    run_file.write_text(run_file.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(RecordError, match="newer fasthep-flow"):
        read_run(unfinished)


def test_a_driver_whose_run_was_taken_over_writes_nothing_more(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("fasthep_flow.records.claim.time.clock_gettime", lambda _: now[0])
    folder = RunFolder.create(plan, version="1")
    job = begin(folder, "a")
    # It was stopped for an hour, and a driver elsewhere went on meanwhile.
    now[0] = 3600.0
    other = msgspec.structs.replace(own_holder(), host="elsewhere", space="another", pid=77)
    write_holder(folder.path / "drivers" / "2.json", other)
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    with pytest.raises(RunClaimed, match="taken over by process 77 on elsewhere"), folder:
        end(folder, job)
    for write in (folder.request_cancel, lambda: folder.finish("failed")):
        with pytest.raises(RunClaimed):
            write()
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


KILLED = """
import os, signal, sys, msgspec
from pathlib import Path
from fasthep_flow.model import *
from fasthep_flow.errors import Location
from fasthep_flow.records.run import RunFolder
local = FlowSpec(transform="local", runner="concurrent")
plan = Plan(name="n", directory="/", source=sys.argv[1], output_directory=sys.argv[2],
    digest="", flow=local, tasks=tuple(TaskSpec(name=n, slug=n, operator="o", invocations={},
    environment=Environment(flow=local), location=Location("f", 1, 1)) for n in "ab"))
if len(sys.argv) == 3:
    folder = RunFolder.create(plan, version="1")
else:
    folder = RunFolder.reopen(Path(sys.argv[3]), plan, version="1")
for name in "ab":
    number = folder.next_attempt(name, name)
    directory = folder.attempt_directory(name, number)
    job = Job(run_id=folder.run_id, task=name, slug=name, attempt=number, invocations={},
        directory=directory, working_directory="/", run_directory=str(folder.path))
    folder.append("task_submitted", task=name, attempt=number)
    folder.write_result("task_finished", job,
        JobResult(task=name, attempt=number, status="succeeded"))
    folder.sync()
    print(name, number, flush=True)
folder.finish("succeeded")
folder.__exit__(None, None, None)
"""


def driven(plan: Plan, *run: Path, traced: Sequence[str] = ()) -> int:
    """The exit status of a driver of its own that makes a run of the plan, or goes on with one."""
    words = [*traced, sys.executable, "-B", "-c", KILLED, plan.source, plan.output_directory]
    words += map(str, run)
    return subprocess.run(words, capture_output=True, check=False).returncode


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.parametrize("call", ["rename", "link", "mkdir", "fsync", "fdatasync"])
def test_wherever_a_driver_is_killed_another_one_goes_on(
    plan: Plan, tmp_path: Path, call: str
) -> None:
    for number in range(1, 40):
        plan = msgspec.structs.replace(plan, output_directory=str(tmp_path / str(number)))
        output = Path(plan.output_directory)
        kills = f"inject={call}:signal=SIGKILL:when={number}"
        traced = ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", kills]
        status = driven(plan, traced=traced)
        if status > 0:
            pytest.skip("no process may be traced here")
        latest = latest_run(output, plan.source)
        assert latest.damaged == ()
        if latest.latest is None:
            # It was killed before there was a run.
            assert driven(plan) == 0
        elif latest.latest.state != "succeeded":
            assert latest.latest.state == "unfinished"
            assert driven(plan, latest.latest.path) == 0
        record = read_run(output)
        assert record.status == "succeeded"
        assert record.damaged == record.unfinished
        assert {one.status for one in record.results.values()} == {"succeeded"}
        if status == 0:
            assert number > 1
            return
    pytest.fail(f"a driver calls {call} without end")


def test_a_driver_that_was_killed_is_followed_at_once(plan: Plan) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, plan.source, plan.output_directory],
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "a 1\n"
        driver.send_signal(signal.SIGKILL)
    record = read_run(Path(plan.output_directory))
    assert record.status in {"interrupted", "succeeded"}
    assert record.results["a"].status == "succeeded"
    assert driven(plan, Path(record.directory)) == 0
    assert read_run(Path(record.directory)).status == "succeeded"
