"""What is waited for before a task starts again, what is told meanwhile, and how to end that."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from fasthep_flow.orchestrators.dask.ends import await_ends, await_former, note_job, tail_of
from fasthep_flow.orchestrators.dask.queues import JobState, QueueSilent


class Listed:
    """A batch system whose answers are given: what it lists, or ``None`` for no answer."""

    name = "Slurm"
    advice = "`scontrol show job {job}` tells where"

    def __init__(self, *answers: Collection[str] | None) -> None:
        self._answers: Iterator[Collection[str] | None] = iter(answers)
        self.asked: list[list[str]] = []
        self.cancelled: list[list[str]] = []

    def states(self, jobs: Collection[str], extra: Sequence[str] = ()) -> dict[str, JobState]:
        del extra
        self.asked.append(sorted(jobs))
        answer = next(self._answers)
        if answer is None:
            raise QueueSilent("squeue: no answer")
        return {job: JobState("runs") for job in jobs if job in answer}

    def cancel(self, jobs: Collection[str], extra: Sequence[str] = ()) -> None:
        del extra
        self.cancelled.append(sorted(jobs))

    def refusal(self, script: str, extra: Sequence[str] = ()) -> str | None:
        del script, extra
        return None


def _await(queue: Listed, *jobs: str, stop: threading.Event | None = None) -> list[str]:
    """What was told; the wait is over when the answers are."""
    told: list[str] = []
    stop = stop or threading.Event()
    assert await_ends(queue, jobs, (), told.append, stop, first_told_s=0) == []
    return told


def test_jobs_are_cancelled_and_waited_for_until_none_is_listed() -> None:
    queue = Listed({"7", "8"}, {"8"}, set())
    _await(queue, "8", "7")
    assert queue.cancelled[0] == ["7", "8"]
    # What has ended once is not asked for again: its number may come to be another's.
    assert queue.asked == [["7", "8"], ["7", "8"], ["8"]]


def test_a_batch_system_that_does_not_answer_proves_nothing() -> None:
    queue = Listed(None, None, set())
    [told] = _await(queue, "7")
    assert told.startswith("Slurm cannot be asked (squeue: no answer) about batch job 7, which")


def test_what_is_waited_for_is_told_with_what_to_do() -> None:
    queue = Listed({"7"}, {"7"}, set())
    [told] = _await(queue, "7")
    assert told.startswith("Slurm still lists batch job 7, which was cancelled: ")
    assert "`scontrol show job 7` tells where; or stop the run with Ctrl-C" in told
    # It may not have heard the first time.
    assert queue.cancelled == [["7"], ["7"]]


def test_who_stops_the_run_is_not_kept_waiting() -> None:
    stop = threading.Event()
    stop.set()
    queue = Listed({"7"})
    assert await_ends(queue, ["7"], (), print, stop) == ["7"]


def test_a_run_that_was_cut_short_ends_its_jobs_before_it_goes_on(tmp_path: Path) -> None:
    notes = tmp_path / "jobs.jsonl"
    for job in ("7", "8", "9"):
        note_job(notes, "Slurm", job)
    queue = Listed({"8"}, {"8"}, set())
    await_former(notes, print, {"Slurm": queue})
    assert queue.asked == [["7", "8", "9"], ["8"], ["8"]]
    assert queue.cancelled == [["8"]]
    assert not notes.exists()
    await_former(notes, print, {"Slurm": queue})


def test_it_does_so_too_where_nobody_knows_whether_they_run(tmp_path: Path) -> None:
    notes = tmp_path / "jobs.jsonl"
    note_job(notes, "Slurm", "7")
    queue = Listed(None, {"7"}, set())
    await_former(notes, print, {"Slurm": queue})
    assert queue.cancelled == [["7"]]


def test_the_last_words_are_without_small_talk(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    assert tail_of(log) == ""
    log.write_text(
        "2026-03-14 09:26:53,589 - distributed.worker - INFO - Start worker at: tls://x\n"
        + "".join(f"line {number}\n" for number in range(9))
        + "\n2026-03-14 09:26:54,589 - distributed.worker - ERROR - it is over\n"
    )
    lines = tail_of(log).splitlines()
    assert lines[0] == "line 2"
    assert lines[-1] == "2026-03-14 09:26:54,589 - distributed.worker - ERROR - it is over"
