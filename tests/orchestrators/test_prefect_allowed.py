"""Failures that are allowed, as Prefect is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from fasthep_flow.model import Failure, JobResult
from fasthep_flow.orchestrators.prefect.deployment import final_state
from fasthep_flow.orchestrators.prefect.flow_run import FlowRun

pytestmark = pytest.mark.prefect


class Ended(NamedTuple):
    run_id: str
    directory: Path
    results: dict[str, JobResult]
    allowed: tuple[str, ...]


def ended(*allowed: str) -> Ended:
    failure = Failure(kind="exit", message="exit code 4")
    results = {
        "good": JobResult(task="good", attempt=1, status="succeeded"),
        "again": JobResult(task="again", attempt=1, status="reused"),
        "extra": JobResult(task="extra", attempt=1, status="failed", failure=failure),
    }
    return Ended("1", Path("/runs/1"), results, allowed)


def test_a_run_with_an_allowed_failure_is_completed_and_says_so() -> None:
    state = final_state(ended("extra"))
    assert state.is_completed()
    assert state.message == "2 of 3 tasks succeeded, 1 failed and may; run folder /runs/1"


def test_without_leave_it_has_failed() -> None:
    state = final_state(ended())
    assert state.is_failed()
    assert state.message == (
        "2 of 3 tasks succeeded; 'extra' failed: exit code 4; run folder /runs/1"
    )


@pytest.mark.parametrize(("may_fail", "is_failed"), [({"extra"}, False), (set[str](), True)])
def test_the_flow_run_ends_by_the_tasks_that_may_not_fail(
    may_fail: set[str], is_failed: bool
) -> None:
    run = FlowRun("w", may_fail=may_fail)
    run.note_loss("extra")
    # What is posted last is the end of the calls.
    run._calls.put(None)
    assert run.serve().is_failed() is is_failed
