"""What a task on the host has of this process's variables."""

from __future__ import annotations

import secrets

import pytest

from fasthep_flow.environments.host.inherited import laid_over_ours


@pytest.fixture
def run_id() -> str:
    return secrets.token_hex(4)


def test_the_tasks_own_lie_over_the_hosts(monkeypatch: pytest.MonkeyPatch, run_id: str) -> None:
    monkeypatch.setenv("MARK", "of the host")
    monkeypatch.setenv("KEPT", "too")
    made = laid_over_ours({"FASTHEP_RUN_ID": run_id, "MARK": "of the task", "HOME": None})
    assert (made["MARK"], made["KEPT"]) == ("of the task", "too")
    assert "HOME" not in made


def test_what_a_run_that_is_itself_a_task_has_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    for name in ("FASTHEP_RUN_ID", "FASTHEP_TASK_NAME", "FASTHEP_MEMORY_BYTES"):
        monkeypatch.setenv(name, "of the outer run")
    made = laid_over_ours({"FASTHEP_RUN_ID": run_id})
    assert "of the outer run" not in made.values()
    assert made["FASTHEP_RUN_ID"] == run_id


def test_tasks_of_a_run_inherit_the_same_and_another_run_what_is_there_then(
    monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    monkeypatch.setenv("MARK", "first")
    first = laid_over_ours({"FASTHEP_RUN_ID": run_id})
    monkeypatch.setenv("MARK", "then")
    assert laid_over_ours({"FASTHEP_RUN_ID": run_id}) == first
    assert laid_over_ours({"FASTHEP_RUN_ID": f"{run_id}-2"})["MARK"] == "then"
    # Without a run there is nothing to remember it by.
    assert laid_over_ours({})["MARK"] == "then"


def test_nobody_changes_what_the_next_task_inherits(run_id: str) -> None:
    made = laid_over_ours({"FASTHEP_RUN_ID": run_id})
    made["MARK"] = "of one task"
    assert "MARK" not in laid_over_ours({"FASTHEP_RUN_ID": run_id})
