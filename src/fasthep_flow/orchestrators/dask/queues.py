"""What a batch system says of its jobs: Slurm and HTCondor, each by its own commands.

dask-jobqueue submits and cancels, and never looks again. A job that is cancelled while it
waits, is held, or dies before its worker has called would be waited for without an end.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

__all__ = ["HTCONDOR", "QUEUES", "SLURM", "JobState", "Queue", "QueueSilent"]

State: TypeAlias = Literal["waits", "runs", "held", "ends"]
_PATIENCE_S: Final = 30.0
_SLURM_ENDED: Final = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
    | {"OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
)
"""Slurm goes on to show a job for some minutes after its end. A word that is not here is one
of a job that lives: `man squeue`, JOB STATE CODES."""
_CONDOR_STATES: Final[Mapping[str, State]] = {"1": "waits", "2": "runs", "3": "ends", "5": "held"}
"""`JobStatus` in the manual of HTCondor, Job ClassAd Attributes; 4 is completed."""

_CONDOR_REASON: Final = (
    "ifThenElse(JobStatus == 1 && time() - QDate > 60, LastRejMatchReason, HoldReason)"
)
"""Why a job is held, or that no machine was found for one that has waited for a minute."""


class JobState(NamedTuple):
    """A batch job that the batch system knows and that has not ended.

    Args:
        state: What it does.
        reason: Why it waits, or is held, in the batch system's words.
    """

    state: State
    reason: str = ""


class QueueSilent(Exception):  # noqa: N818 - nothing is known to be wrong
    """The batch system did not answer, or not so that it can be read."""


class Queue(Protocol):
    """A batch system.

    Attributes:
        name: For people.
        advice: What to do about a job that does not go, with its id as ``{job}``.
    """

    name: str
    advice: str

    def states(self, jobs: Collection[str], extra: Sequence[str] = ()) -> dict[str, JobState]:
        """The jobs among these that have not ended.

        Args:
            jobs: Their ids.
            extra: Further arguments of the command, such as another scheduler's name.

        Raises:
            QueueSilent: That cannot be said now.
        """
        ...

    def cancel(self, jobs: Collection[str], extra: Sequence[str] = ()) -> None:
        """Cancel these jobs, as far as they are still there.

        Args:
            jobs: Their ids.
            extra: As for :meth:`states`.
        """
        ...

    def refusal(self, script: str, extra: Sequence[str] = ()) -> str | None:
        """Why such a job could never run, in the batch system's words, as far as it can say.

        Args:
            script: Of the job.
            extra: Further arguments of the command that submits.
        """
        ...


class _Slurm:
    name = "Slurm"
    advice = (
        "`scontrol show job {job}` tells where; if that node is lost, an operator of the farm can "
        "set it down, which ends the job"
    )

    def states(self, jobs: Collection[str], extra: Sequence[str] = ()) -> dict[str, JobState]:
        # Of all my jobs: asked for one that is forgotten, squeue fails for all.
        output = _ask(["squeue", *extra, "--me", "--noheader", "--states=all", "--format=%A|%T|%r"])
        states = {}
        for line in output.splitlines():
            number, _, rest = line.strip().partition("|")
            word, _, reason = rest.partition("|")
            if number in jobs and word not in _SLURM_ENDED:
                states[number] = _slurm_state(word, reason)
        return states

    def cancel(self, jobs: Collection[str], extra: Sequence[str] = ()) -> None:
        if jobs:
            _try(["scancel", *extra, *jobs])

    def refusal(self, script: str, extra: Sequence[str] = ()) -> str | None:
        try:
            done = _run(["sbatch", "--test-only", *extra], script)
        except OSError as error:
            return f"sbatch cannot be started: {error.strerror}"
        except subprocess.TimeoutExpired:
            return None
        said = re.sub(r"(?m)^(sbatch|allocation failure): (error: )?", "", done.stderr)
        words = " ".join(said.split())
        # A controller that is away for a moment refuses nothing.
        is_away = re.search(r"[Uu]nable to contact|[Ss]ocket timed out", words)
        return words if done.returncode and words and not is_away else None


def _slurm_state(word: str, reason: str) -> JobState:
    told = "" if reason in {"None", "(null)"} else reason
    if word == "PENDING":
        held = reason.startswith("JobHeld") or reason in {
            "BadConstraints",
            "DependencyNeverSatisfied",
        }
        return JobState("held" if held else "waits", told)
    if word in {"COMPLETING", "STAGE_OUT", "SIGNALING"}:
        return JobState("ends")
    return JobState("runs", told) if word == "RUNNING" else JobState("waits", told or word)


class _HTCondor:
    name = "HTCondor"
    advice = (
        "`condor_q -long {job}` tells where; once you know that nothing of it runs there, "
        "`condor_rm -forcex {job}` takes it off the list"
    )

    def states(self, jobs: Collection[str], extra: Sequence[str] = ()) -> dict[str, JobState]:
        command = ["condor_q", *extra, *sorted(jobs), "-autoformat:,"]
        output = _ask([*command, "ClusterId", "ProcId", "JobStatus", _CONDOR_REASON])
        states = {}
        for line in output.splitlines():
            parts = [part.strip() for part in line.split(",", 3)]
            if len(parts) != 4:  # noqa: PLR2004 - as many as are asked for
                raise QueueSilent(f"condor_q answers {line!r}")
            job, status = f"{parts[0]}.{parts[1]}", parts[2]
            if job in jobs and status != "4":
                reason = "" if parts[3] == "undefined" else parts[3]
                states[job] = JobState(_CONDOR_STATES.get(status, "waits"), reason)
        return states

    def cancel(self, jobs: Collection[str], extra: Sequence[str] = ()) -> None:
        if jobs:
            _try(["condor_rm", *extra, *jobs])

    def refusal(self, script: str, extra: Sequence[str] = ()) -> str | None:
        # It knows what is wrong with a submit file; whether a machine matches, only time shows.
        try:
            done = _run(["condor_submit", *extra, "-dry-run", "/dev/null", "-"], script)
        except OSError as error:
            return f"condor_submit cannot be started: {error.strerror}"
        except subprocess.TimeoutExpired:
            return None
        words = " ".join(done.stderr.split()).removeprefix("ERROR: ")
        is_away = re.search(r"[Cc]an't (find|connect)|[Ff]ailed to connect|locate", words)
        return words if done.returncode and words and not is_away else None


def _run(command: list[str], script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=script, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueSilent(f"{shlex.join(command[:1])}: {error}") from error
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise QueueSilent(f"{command[0]}: {words}")
    return done.stdout


def _try(command: list[str]) -> None:
    try:
        _ask(command)
    except QueueSilent:
        # What is gone cannot be cancelled; who waits for its end looks again.
        return


SLURM: Final[Queue] = _Slurm()
HTCONDOR: Final[Queue] = _HTCondor()
QUEUES: Final[Mapping[str, Queue]] = {queue.name: queue for queue in (SLURM, HTCONDOR)}
