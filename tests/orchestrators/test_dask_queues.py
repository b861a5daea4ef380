"""What batch systems answer, odd answers too: stand-ins for their commands, which cannot be had."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fasthep_flow.orchestrators.dask.queues import (
    HTCONDOR,
    SLURM,
    JobState,
    Queue,
    QueueSilent,
)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test puts its commands: the only ones there are, besides the system's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def _command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _answer(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.txt").write_text(text)
    _command(folder, name, f'cat "{folder}/{name}.txt"')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("7|RUNNING|None", JobState("runs")),
        ("7|PENDING|Priority", JobState("waits", "Priority")),
        ("7|PENDING|None", JobState("waits")),
        ("7|PENDING|JobHeldAdmin", JobState("held", "JobHeldAdmin")),
        ("7|PENDING|BadConstraints", JobState("held", "BadConstraints")),
        ("7|COMPLETING|None", JobState("ends")),
        ("7|CONFIGURING|None", JobState("waits", "CONFIGURING")),
        ("7|A_NEW_WORD|None", JobState("waits", "A_NEW_WORD")),
        ("7|CANCELLED|None", None),
        ("7|PREEMPTED|None", None),
        ("7|NODE_FAIL|None", None),
        ("7|OUT_OF_MEMORY|OutOfMemory", None),
        ("7|TIMEOUT|TimeLimit", None),
        ("7|COMPLETED|None", None),
        ("8|RUNNING|None", None),
        ("", None),
        ("\n\n", None),
    ],
)
def test_slurms_words_are_understood(commands: Path, line: str, expected: JobState | None) -> None:
    _answer(commands, "squeue", f"{line}\n")
    assert SLURM.states(["7"]) == ({} if expected is None else {"7": expected})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("7, 0, 1, undefined", JobState("waits")),
        ("7, 0, 2, undefined", JobState("runs")),
        ("7, 0, 3, undefined", JobState("ends")),
        ("7, 0, 5, over memory, by 3 MB", JobState("held", "over memory, by 3 MB")),
        ("7, 0, 6, undefined", JobState("waits")),
        ("7, 0, 4, undefined", None),
        ("7, 1, 2, undefined", None),
        ("", None),
    ],
)
def test_htcondors_numbers_are_understood(
    commands: Path, line: str, expected: JobState | None
) -> None:
    _answer(commands, "condor_q", f"{line}\n" if line else "")
    assert HTCONDOR.states(["7.0"]) == ({} if expected is None else {"7.0": expected})


@pytest.mark.parametrize(("queue", "name"), [(SLURM, "squeue"), (HTCONDOR, "condor_q")])
def test_a_batch_system_that_is_away_says_nothing_of_its_jobs(
    commands: Path, queue: Queue, name: str
) -> None:
    _command(commands, name, "echo 'cannot reach the controller' >&2; exit 1")
    with pytest.raises(QueueSilent, match="cannot reach the controller"):
        queue.states(["7"])
    _command(commands, name, "exit 1")
    with pytest.raises(QueueSilent, match="exit code 1"):
        queue.states(["7"])


def test_an_answer_of_htcondor_that_cannot_be_read_is_none(commands: Path) -> None:
    _answer(commands, "condor_q", "who knows\n")
    with pytest.raises(QueueSilent, match="who knows"):
        HTCONDOR.states(["7.0"])


@pytest.mark.parametrize(
    ("queue", "name", "job"), [(SLURM, "scancel", "7"), (HTCONDOR, "condor_rm", "7.0")]
)
def test_a_job_that_is_gone_can_be_cancelled(
    commands: Path, queue: Queue, name: str, job: str
) -> None:
    _command(commands, name, f'echo "$@" >> "{commands}/log"; echo "no such job" >&2; exit 1')
    queue.cancel([job], ("-name", "there"))
    queue.cancel([])
    assert (commands / "log").read_text() == f"-name there {job}\n"


def test_what_slurm_refuses_is_told_in_its_words(commands: Path) -> None:
    words = "sbatch: error: Memory specification can not be satisfied"
    words += "\\nallocation failure: Requested node configuration is not available"
    _command(commands, "sbatch", f"cat >/dev/null; printf '{words}\\n' >&2; exit 1")
    refusal = SLURM.refusal("#!/bin/sh\n")
    assert refusal is not None
    assert refusal.startswith("Memory specification can not be satisfied")
    assert refusal.endswith("Requested node configuration is not available")


@pytest.mark.parametrize(
    "script",
    [
        "cat >/dev/null; echo 'sbatch: Job 3 to start at 2026-03-14T09:26:53' >&2",
        "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
        "exit 1",
    ],
)
def test_what_it_takes_or_cannot_say_is_no_refusal(commands: Path, script: str) -> None:
    _command(commands, "sbatch", script)
    assert SLURM.refusal("#!/bin/sh\n") is None


def test_a_submit_file_that_htcondor_cannot_read_is_refused(commands: Path) -> None:
    _command(commands, "condor_submit", "cat >/dev/null; echo 'ERROR: on Line 3 of' >&2; exit 1")
    assert HTCONDOR.refusal("Queue\n") == "on Line 3 of"
    _command(commands, "condor_submit", 'echo "ERROR: Can\'t find address of schedd" >&2; exit 1')
    assert HTCONDOR.refusal("Queue\n") is None
