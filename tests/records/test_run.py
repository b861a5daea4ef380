"""The run folder: what is written, and what is still readable after a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fasthep_flow.errors import RecordError, RunInterrupted
from fasthep_flow.model import (
    Command,
    Job,
    JobResult,
    Plan,
    to_json,
)
from fasthep_flow.records.run import RunFolder, read_run


def end_task(folder: RunFolder, task: str, attempt: int = 1) -> Path:
    directory = folder.attempt_directory(task, attempt)
    job = Job(
        run_id=folder.run_id,
        task=task,
        slug=task,
        attempt=attempt,
        invocations={"cpu": Command(argv=("true",))},
        directory=directory,
        working_directory="/",
        run_directory=str(folder.path),
    )
    folder.write_job(job, to_json(job))
    result = JobResult(task=task, attempt=attempt, status="succeeded", exit_code=0)
    folder.write_result("task_finished", job, result)
    folder.sync()
    return Path(directory)


def test_a_new_folder_has_the_files_of_the_run_and_latest_points_to_it(plan: Plan) -> None:
    with RunFolder.create(plan, version="1.2", argv=("fasthep-flow", "run", "a b.yaml")) as folder:
        names = sorted(path.name for path in folder.path.iterdir())
        assert names == [
            "drivers",
            "events.jsonl",
            "plan.json",
            "run.json",
            "tasks",
            "workflow.yaml",
        ]
        assert (folder.path.parent / "latest").resolve() == folder.path
        run_file = json.loads((folder.path / "run.json").read_text())
    assert run_file["status"] == "running"
    assert run_file["command"] == "fasthep-flow run 'a b.yaml'"
    assert run_file["pid"] == os.getpid()
    assert (folder.path / "workflow.yaml").read_text() == "name: analysis\n"


def test_latest_points_to_the_newer_of_two_runs(plan: Plan) -> None:
    with RunFolder.create(plan, version="1"), RunFolder.create(plan, version="1") as second:
        assert (second.path.parent / "latest").resolve() == second.path


def test_a_folder_of_the_users_named_latest_is_left_alone(plan: Plan) -> None:
    latest = Path(plan.output_directory, "latest")
    latest.mkdir(parents=True)
    (latest / "thesis.txt").write_text("precious")
    with RunFolder.create(plan, version="1") as folder:
        note = (folder.path / "events.jsonl").read_text()
    assert (latest / "thesis.txt").read_text() == "precious"
    assert "is not a link of ours" in note


def test_the_plan_is_kept_without_the_values_of_variables(plan: Plan) -> None:
    with RunFolder.create(plan, version="1") as folder:
        text = (folder.path / "plan.json").read_text()
    assert "hunter2" not in text
    assert json.loads(text)["tasks"][0]["environment"]["variables"] == {"T": {"origin": "x.env:1"}}


def test_a_finished_run_reads_as_it_ended(plan: Plan) -> None:
    with RunFolder.create(plan, version="1") as folder:
        end_task(folder, "a")
        end_task(folder, "b")
        folder.finish("succeeded")
    record = read_run(Path(plan.output_directory))
    assert record.status == "succeeded"
    assert sorted(record.results) == ["a", "b"]
    assert record.unfinished == ()


def test_the_last_attempt_is_the_one_that_counts(plan: Plan) -> None:
    with RunFolder.create(plan, version="1") as folder:
        end_task(folder, "a", 1)
        end_task(folder, "a", 2)
        assert read_run(folder.path).results["a"].attempt == 2
        folder.attempt_directory("a", 3)
        assert "a" in read_run(folder.path).unfinished


def test_an_error_in_the_run_leaves_a_failed_run_with_the_reason(plan: Plan) -> None:
    with pytest.raises(ValueError, match="no server"), RunFolder.create(plan, version="1"):
        raise ValueError("no server")
    record = read_run(Path(plan.output_directory))
    assert record.status == "failed"
    assert "no server" in Path(record.directory, "events.jsonl").read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunInterrupted(signal.SIGTERM)])
def test_a_run_that_is_stopped_before_its_first_task_is_cancelled(
    plan: Plan, error: BaseException
) -> None:
    with pytest.raises(type(error)), RunFolder.create(plan, version="1"):
        raise error
    assert read_run(Path(plan.output_directory)).status == "cancelled"


def test_a_full_disk_that_has_room_again_leaves_a_failed_run(plan: Plan) -> None:
    with pytest.raises(RecordError), RunFolder.create(plan, version="1"):
        raise RecordError("no space left")
    assert read_run(Path(plan.output_directory)).status == "failed"


KILLED = """
import os, signal, sys, msgspec
from pathlib import Path
sys.path.insert(0, {tests!r})
from fasthep_flow.model import *
from fasthep_flow.errors import Location
from fasthep_flow.records.run import RunFolder
local = FlowSpec(transform="local", runner="concurrent")
plan = Plan(name="n", directory="/", source={source!r}, output_directory={output!r},
    digest="", flow=local, tasks=tuple(TaskSpec(name=n, slug=n, operator="o", invocations={{}},
    environment=Environment(flow=local), location=Location("f", 1, 1)) for n in "ab"))
folder = RunFolder.create(plan, version="1")
directory = folder.attempt_directory("a", 1)
job = Job(run_id=folder.run_id, task="a", slug="a", attempt=1, invocations={{}},
    directory=directory, working_directory="/", run_directory=str(folder.path))
folder.write_result("task_finished", job, JobResult(task="a", attempt=1, status="succeeded"))
folder.attempt_directory("b", 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_driver_leaves_a_folder_that_says_what_had_ended(
    plan: Plan, tmp_path: Path
) -> None:
    script = KILLED.format(tests="", source=plan.source, output=plan.output_directory)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == -9
    record = read_run(Path(plan.output_directory))
    assert record.status == "interrupted"
    assert list(record.results) == ["a"]
    assert record.unfinished == ("b",)


@pytest.mark.parametrize("length", range(0, 200, 7))
def test_a_journal_cut_anywhere_is_still_read(plan: Plan, length: int) -> None:
    with RunFolder.create(plan, version="1") as folder:
        folder.append("task_skipped", task="b", message="needs 'a', which failed")
        end_task(folder, "a")
        journal = folder.path / "events.jsonl"
        journal.write_bytes(journal.read_bytes()[:length])
        assert read_run(folder.path).results["a"].status == "succeeded"


DAMAGE = [b"", b'{"task": ', b"\xff\x00", b'{"task": 3}']


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_result_is_named_and_the_journal_still_has_it(plan: Plan, damage: bytes) -> None:
    with RunFolder.create(plan, version="1") as folder:
        record_file = end_task(folder, "a") / "result.json"
        record_file.write_bytes(damage)
        record = read_run(folder.path)
    assert len(record.damaged) == 1
    assert str(record_file) in record.damaged[0]
    assert record.results["a"].status == "succeeded"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_result_that_is_damaged_everywhere_leaves_its_task_unfinished(
    plan: Plan, damage: bytes
) -> None:
    with RunFolder.create(plan, version="1") as folder:
        record_file = end_task(folder, "a") / "result.json"
        record_file.write_bytes(damage)
        (folder.path / "events.jsonl").write_bytes(damage)
        record = read_run(folder.path)
    assert "a" in record.unfinished
    assert str(record_file) in record.damaged[0]


@pytest.mark.parametrize("name", ["run.json", "plan.json"])
def test_a_damaged_run_file_is_an_error_that_names_it(plan: Plan, name: str) -> None:
    with RunFolder.create(plan, version="1") as folder:
        (folder.path / name).write_bytes(b'{"run_id": ')
        with pytest.raises(RecordError, match=f"{name} is damaged"):
            read_run(folder.path)
        (folder.path / name).write_bytes(b"{}")


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is not a run folder"):
        read_run(tmp_path)


def test_an_output_folder_that_is_a_file_is_refused_before_the_run(plan: Plan) -> None:
    Path(plan.output_directory).write_text("in the way")
    with pytest.raises(RecordError, match="cannot make the folder") as caught:
        RunFolder.create(plan, version="1")
    assert caught.value.exit_code == 6
    assert "--output" in str(caught.value)


def test_a_result_is_never_seen_half_written(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.create(plan, version="1") as folder:

        def full(*_: object, **_more: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("os.replace", full)
            with pytest.raises(RecordError, match="No space left"):
                end_task(folder, "a")
        assert not list(folder.path.rglob("result.json*"))
        assert "a" in read_run(folder.path).unfinished


def test_a_result_is_on_disk_before_the_driver_goes_on(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder.create(plan, version="1") as folder:
        synced: list[int] = []
        monkeypatch.setattr("os.fdatasync", synced.append)
        end_task(folder, "a")
        [descriptor] = synced
        assert os.path.samestat(os.fstat(descriptor), (folder.path / "events.jsonl").stat())
        assert '"task_finished"' in (folder.path / "events.jsonl").read_text()
