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


def test_what_was_taken_back_meanwhile_is_no_tasks(
    monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    """An engine that starts sets variables of its own, a password among them."""
    monkeypatch.setenv("MARK", "of an engine")
    assert laid_over_ours({"FASTHEP_RUN_ID": run_id})["MARK"] == "of an engine"
    monkeypatch.delenv("MARK")
    assert "MARK" not in laid_over_ours({"FASTHEP_RUN_ID": run_id})


def test_nobody_changes_what_the_next_task_inherits(run_id: str) -> None:
    made = laid_over_ours({"FASTHEP_RUN_ID": run_id})
    made["MARK"] = "of one task"
    assert "MARK" not in laid_over_ours({"FASTHEP_RUN_ID": run_id})
