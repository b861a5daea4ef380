"""What a task was made of is recorded with its success, and read by who goes on with the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasthep_flow.model import JobResult, Plan
from fasthep_flow.records.journal import Event, Journal, now_text
from fasthep_flow.records.record import Ended, ended_tasks, read_run_file
from fasthep_flow.records.run import RunFolder

PARTS = {"name": "a", "file ü.sh": "sha256:1", "variable T": "0123"}


def event(kind: str, result: JobResult | None = None, **more: object) -> Event:
    return Event(time=now_text(), event=kind, task="a", attempt=1, result=result, **more)  # type: ignore[arg-type]


@pytest.fixture
def folder(plan: Plan) -> Path:
    with RunFolder.create(plan, version="1") as made:
        made.finish("failed")
        return made.path


def ended(folder: Path, plan: Plan, *events: Event) -> Ended:
    journal = Journal(folder / "events.jsonl")
    for one in events:
        journal.append(one)
    journal.close()
    return ended_tasks(folder, plan.tasks, read_run_file(folder))


SUCCEEDED = JobResult(task="a", attempt=1, status="succeeded")


def test_it_comes_back_as_it_was(folder: Path, plan: Plan) -> None:
    found = ended(folder, plan, event("task_finished", SUCCEEDED, identity=PARTS))
    assert found.identities == {"a": PARTS}
    assert found.results["a"] == SUCCEEDED


def test_a_task_that_began_anew_has_none(folder: Path, plan: Plan) -> None:
    first = event("task_finished", SUCCEEDED, identity=PARTS)
    assert ended(folder, plan, first, event("task_submitted")).identities == {}


def test_a_result_without_one_has_none(folder: Path, plan: Plan) -> None:
    assert ended(folder, plan, event("task_finished", SUCCEEDED)).identities == {}


def test_a_garbled_line_is_not_believed(folder: Path, plan: Plan) -> None:
    found = ended(folder, plan, event("task_finished", SUCCEEDED, identity=PARTS))
    assert found.identities
    path = folder / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0123", b"0124"))
    again = ended(folder, plan)
    assert again.identities == {}
    assert "a" not in again.results
