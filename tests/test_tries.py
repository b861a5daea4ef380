"""Tasks that are tried again, for real: with more memory, after a while, or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.model import Job, JobResult, from_json
from fasthep_flow.workflow import Report, load_plan, run_plan

SOON_S = 60
HOG = "python3 -c 'held = bytearray(60 << 20)'"


def write(folder: Path, *tasks: dict[str, Any], **general: Any) -> Path:
    """A workflow of shell commands; JSON is YAML."""
    listed = [
        {
            "type": "fasthep_flow.operators.BashOperator",
            "kwargs": {"bash_command": task.pop("command")},
            **task,
        }
        for task in tasks
    ]
    path = folder / "workflow.yaml"
    path.write_text(json.dumps({"global": general, "tasks": listed}))
    return path


def attempts(report: Report, task: str) -> list[tuple[Job, JobResult]]:
    folders = sorted((report.directory / "tasks" / task).iterdir())
    return [
        (
            from_json(Job, (folder / "job.json").read_bytes()),
            from_json(JobResult, (folder / "result.json").read_bytes()),
        )
        for folder in folders
    ]


def test_a_task_that_is_out_of_memory_is_given_more(tmp_path: Path) -> None:
    greedy = {
        "name": "greedy",
        "command": HOG,
        "environment": {"resources": {"memory": ["16Mi", "32Mi", "160Mi"]}},
    }
    report = run_plan(load_plan(write(tmp_path, greedy)))
    assert report.succeeded
    tried = attempts(report, "greedy")
    assert [job.resources.memory for job, _ in tried] == [16 << 20, 32 << 20, 160 << 20]
    kinds = [result.failure and result.failure.kind for _, result in tried]
    assert kinds == ["out_of_memory", "out_of_memory", None]


@pytest.mark.podman
@pytest.mark.registry
def test_so_it_is_in_a_container(tmp_path: Path, python_image: str) -> None:
    greedy = {
        "name": "greedy",
        "command": HOG,
        "environment": {
            "image": {"name": python_image, "runtime": "podman"},
            "resources": {"memory": ["32Mi", "160Mi"]},
        },
    }
    report = run_plan(load_plan(write(tmp_path, greedy)))
    assert report.succeeded
    failures = [result.failure for _, result in attempts(report, "greedy")]
    assert [failure and failure.message for failure in failures] == [
        "out of memory: limit 32Mi",
        None,
    ]


def test_a_failure_of_another_kind_is_none_that_more_memory_helps(tmp_path: Path) -> None:
    broken = {
        "name": "broken",
        "command": "exit 3",
        "environment": {"resources": {"memory": ["64Mi", "128Mi"]}},
    }
    report = run_plan(load_plan(write(tmp_path, broken)))
    assert not report.succeeded
    assert len(attempts(report, "broken")) == 1


def test_a_task_that_runs_out_of_time_is_given_more(tmp_path: Path) -> None:
    slow = {
        "name": "slow",
        "command": "test -e begun || { touch begun; sleep 600; }",
        "environment": {"resources": {"walltime": ["500ms", "1h"]}},
    }
    report = run_plan(load_plan(write(tmp_path, slow)))
    assert report.succeeded
    tried = attempts(report, "slow")
    assert [job.timeout_s for job, _ in tried] == [0.5, 3600]
    assert [result.status for _, result in tried] == ["timed_out", "succeeded"]


def test_what_a_failed_attempt_left_is_not_there_for_the_next(tmp_path: Path) -> None:
    twice = {
        "name": "twice",
        "command": "test ! -e made.txt; echo half > made.txt; test -e begun || ! touch begun",
        "outputs": "made.txt",
        "retries": {"times": 1, "delay": "10ms"},
    }
    report = run_plan(load_plan(write(tmp_path, twice)))
    assert report.succeeded
    assert (report.directory / "tasks/twice/1/left").is_dir()
    assert (tmp_path / "made.txt").read_text() == "half\n"


FLAKY = {"name": "flaky", "command": "exit 3", "retries": {"times": 5, "delay": "1h"}}
AFTER = {"name": "after", "command": "touch ran", "needs": ["flaky"]}
BESIDE = {"name": "beside", "command": "echo done beside", "needs": []}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_wait_for_the_next_try(tmp_path: Path, number: signal.Signals) -> None:
    path = write(tmp_path, dict(FLAKY), dict(AFTER), dict(BESIDE))
    command = [sys.executable, "-m", "fasthep_flow", "run", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as driver:
        assert driver.stdout is not None
        seen = set()
        for line in driver.stdout:
            seen.add(line.strip())
            if {
                "flaky: exit code 3; attempt 2 follows, in 1 h 0 min",
                "beside | done beside",
            } <= seen:
                break
        driver.send_signal(number)
        rest = driver.communicate(timeout=SOON_S)[0]
    assert driver.returncode == 128 + number
    assert f"stopped by {number.name}; before that: exit code 3" in rest
    assert not (tmp_path / "ran").exists()
    journal = (tmp_path / "output" / "latest" / "events.jsonl").read_text()
    assert '"task":"flaky","attempt":2,"message":"it starts in 1 h 0 min"' in journal


def test_a_failure_that_is_allowed_is_shown_and_the_run_succeeds(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"name": "extra", "command": "exit 4", "allow_failure": True},
        {"name": "last", "command": "echo all the same"},
    )
    command = [sys.executable, "-m", "fasthep_flow", "run", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=SOON_S, check=False
    )
    assert done.returncode == 0
    assert "✗ extra (allowed to fail)  exit code 4" in done.stdout
    assert "last | all the same" in done.stdout
    assert "2 tasks: 1 succeeded, 1 failed (allowed) in " in done.stdout
    command += ["--format", "json"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=SOON_S, check=False
    )
    assert json.loads(done.stdout)["allowed"] == ["extra"]
