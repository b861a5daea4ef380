"""The loop: order, retries, skips, cancellation and what is recorded of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import Empty
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasthep_flow.errors import (
    LimitUnenforceable,
    Location,
    OrchestratorUnavailable,
    RecordError,
    RunInterrupted,
    WorkerLost,
)
from fasthep_flow.model import (
    Command,
    Environment,
    Failure,
    FailureKind,
    FlowSpec,
    Job,
    JobResult,
    Plan,
    Resources,
    Retries,
    RetryCause,
    Secrets,
    TaskSpec,
    Variable,
    from_json,
)
from fasthep_flow.orchestrators.opened import flow_key, open_runners
from fasthep_flow.outcomes import Outcome
from fasthep_flow.records.run import RunFolder, read_run
from fasthep_flow.scheduler import Scheduler
from fasthep_flow.testing.scripted import ScriptedOrchestrator, ScriptedRunner, succeed
from fasthep_flow.tries import LONGEST_WAIT_S

LOCAL = FlowSpec(transform="local", runner="concurrent")


def make_plan(
    folder: Path, needs: dict[str, tuple[str, ...]], *, retries: int | Retries = 0
) -> Plan:
    source = folder / "workflow.yaml"
    source.write_text("tasks: []\n")
    tasks = tuple(
        TaskSpec(
            name=name,
            slug=name,
            operator="fasthep_flow.operators.BashOperator",
            invocations={"cpu": Command(argv=("true",))},
            needs=wanted,
            environment=Environment(
                flow=LOCAL, variables={"TOKEN": Variable("hunter2", "common.env:1")}
            ),
            retries=Retries(times=retries) if isinstance(retries, int) else retries,
            location=Location(str(source), 1, 1, f"tasks[{index}]"),
        )
        for index, (name, wanted) in enumerate(needs.items())
    )
    return Plan(
        name="analysis",
        tasks=tasks,
        flow=LOCAL,
        directory=str(folder),
        source=str(source),
        output_directory=str(folder / "output"),
        digest="sha256:0",
    )


class Driven:
    """A scheduler over a scripted runner, and what came of it."""

    def __init__(
        self,
        folder: Path,
        needs: dict[str, tuple[str, ...]],
        reply: Callable[[Job], JobResult] = succeed,
        *,
        retries: int | Retries = 0,
        fail_fast: bool = False,
        hold: bool = False,
        runner: ScriptedRunner | None = None,
        **changes: Any,
    ) -> None:
        plan = make_plan(folder, needs, retries=retries)
        # What else the first task is.
        first = msgspec.structs.replace(plan.tasks[0], **changes)
        self.plan = msgspec.structs.replace(plan, tasks=(first, *plan.tasks[1:]))
        self.runner = runner or ScriptedRunner(reply, hold=hold)
        self.folder = RunFolder.create(self.plan, version="0", argv=("fasthep-flow", "run"))
        self.ended: list[Outcome] = []
        self.told: list[str] = []
        self.scheduler = Scheduler(
            self.plan,
            self.folder,
            {flow_key(LOCAL): self.runner},
            dict.fromkeys(needs, "native"),
            fail_fast=fail_fast,
            on_end=self.ended.append,
            tell=self.told.append,
        )

    def run(self) -> dict[str, str]:
        with self.folder:
            outcomes = self.scheduler.run()
        return {name: outcome.result.status for name, outcome in outcomes.items()}

    @property
    def submitted(self) -> list[str]:
        return [item.label for item in self.runner.submissions]

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = (self.folder.path / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def fail(*names: str) -> Callable[[Job], JobResult]:
    def reply(job: Job) -> JobResult:
        if job.task not in names:
            return succeed(job)
        failure = Failure(kind="exit", message="exit code 3")
        return JobResult(
            task=job.task, attempt=job.attempt, status="failed", exit_code=3, failure=failure
        )

    return reply


DIAMOND: dict[str, tuple[str, ...]] = {
    "fetch": (),
    "left": ("fetch",),
    "right": ("fetch",),
    "join": ("left", "right"),
    "aside": (),
}


def test_a_diamond_runs_in_the_order_of_its_needs(tmp_path: Path) -> None:
    driven = Driven(tmp_path, DIAMOND)
    assert set(driven.run().values()) == {"succeeded"}
    assert driven.submitted.index("fetch") < driven.submitted.index("left")
    assert driven.submitted.index("join") > driven.submitted.index("left")
    assert driven.submitted.index("join") > driven.submitted.index("right")
    assert sorted(driven.submitted) == sorted(DIAMOND)


def test_the_outcomes_come_in_the_order_of_the_plan(tmp_path: Path) -> None:
    assert list(Driven(tmp_path, DIAMOND).run()) == list(DIAMOND)


def test_what_needs_a_failed_task_is_skipped_and_the_rest_goes_on(tmp_path: Path) -> None:
    driven = Driven(tmp_path, DIAMOND, fail("left"))
    assert driven.run() == {
        "fetch": "succeeded",
        "left": "failed",
        "right": "succeeded",
        "join": "skipped",
        "aside": "succeeded",
    }
    [skipped] = [item for item in driven.ended if item.result.status == "skipped"]
    assert skipped.result.failure is not None
    assert skipped.result.failure.message == "needs 'left', which failed"
    assert read_run(driven.folder.path).status == "failed"


def test_every_task_below_a_failure_is_skipped_once(tmp_path: Path) -> None:
    needs: dict[str, tuple[str, ...]] = {
        "a": (),
        "b": (),
        "c": ("a", "b"),
        "d": ("c",),
    }
    driven = Driven(tmp_path, needs, fail("a", "b"))
    assert driven.run() == {"a": "failed", "b": "failed", "c": "skipped", "d": "skipped"}
    assert len(driven.ended) == len(needs)


def test_a_task_is_tried_as_often_as_it_may(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": ()}, fail("a"), retries=2)
    assert driven.run() == {"a": "failed"}
    assert [item.job.attempt for item in driven.runner.submissions] == [1, 2, 3]
    folders = sorted(path.name for path in (driven.folder.path / "tasks" / "a").iterdir())
    assert folders == ["1", "2", "3"]


def test_a_retry_that_succeeds_is_a_success_and_releases_what_needs_it(tmp_path: Path) -> None:
    def reply(job: Job) -> JobResult:
        return fail("a")(job) if job.attempt == 1 else succeed(job)

    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, reply, retries=1)
    assert driven.run() == {"a": "succeeded", "b": "succeeded"}
    assert read_run(driven.folder.path).results["a"].attempt == 2


def test_fail_fast_stops_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": (), "b": (), "c": ("b",)}, fail("a"), fail_fast=True)
    assert driven.run() == {"a": "failed", "b": "succeeded", "c": "cancelled"}
    assert driven.submitted == ["a", "b"]
    assert driven.runner.cancelled == 1


def test_a_lost_worker_fails_its_task_with_what_the_engine_said(tmp_path: Path) -> None:
    def reply(_: Job) -> JobResult:
        raise ConnectionError("worker tcp://127.0.0.1:1 died")

    driven = Driven(tmp_path, {"a": ()}, reply)
    assert driven.run() == {"a": "failed"}
    failure = driven.ended[0].result.failure
    assert failure is not None
    assert failure.kind == "worker"
    assert "tcp://127.0.0.1:1 died" in failure.message


def lose(times: int, then: Callable[[Job], JobResult] = succeed) -> Callable[[Job], JobResult]:
    """The reply of workers of which so many are lost."""

    def reply(job: Job) -> JobResult:
        if job.attempt <= times:
            raise WorkerLost(f"node{job.attempt:02} is gone: {job.task}")
        return then(job)

    return reply


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_task_whose_worker_is_lost_runs_again_without_a_retry_of_its_own(
    tmp_path: Path, losses: int
) -> None:
    runner = ScriptedRunner(lose(losses), allowed_failures=3)
    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, runner=runner)
    assert driven.run() == {"a": "succeeded", "b": "succeeded"}
    attempts = [item.job.attempt for item in runner.submissions if item.label == "a"]
    assert attempts == list(range(1, losses + 2))
    folders = [item.job.directory for item in runner.submissions if item.label == "a"]
    assert len(set(folders)) == losses + 1, "attempts share a folder"


def test_the_last_allowed_loss_fails_the_task_with_the_last_words(tmp_path: Path) -> None:
    runner = ScriptedRunner(lose(10), allowed_failures=2)
    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, runner=runner)
    assert driven.run() == {"a": "failed", "b": "skipped"}
    failure = driven.ended[0].result.failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("worker", "node03 is gone: a")
    assert driven.ended[0].result.attempt == 3


def test_no_loss_is_allowed_where_the_runner_allows_none(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": ()}, runner=ScriptedRunner(lose(1), allowed_failures=0))
    assert driven.run() == {"a": "failed"}
    assert len(driven.runner.submissions) == 1


def test_retries_are_not_used_up_by_losses_nor_losses_by_retries(tmp_path: Path) -> None:
    """Lost, failed, failed: the third attempt was the second that said something."""
    runner = ScriptedRunner(lose(1, then=fail("a")), allowed_failures=1)
    driven = Driven(tmp_path, {"a": ()}, retries=1, runner=runner)
    assert driven.run() == {"a": "failed"}
    assert [item.job.attempt for item in runner.submissions] == [1, 2, 3]
    failure = driven.ended[0].result.failure
    assert failure is not None
    assert failure.kind == "exit"


def test_losses_after_failures_are_counted_by_themselves(tmp_path: Path) -> None:
    def reply(job: Job) -> JobResult:
        return fail("a")(job) if job.attempt == 1 else lose(2)(job)

    runner = ScriptedRunner(reply, allowed_failures=1)
    driven = Driven(tmp_path, {"a": ()}, retries=1, runner=runner)
    assert driven.run() == {"a": "succeeded"}
    assert [item.job.attempt for item in runner.submissions] == [1, 2, 3]


def test_each_task_has_its_own_count_of_losses(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(5)]
    runner = ScriptedRunner(lose(1), allowed_failures=1)
    driven = Driven(tmp_path, dict.fromkeys(names, ()), runner=runner)
    assert set(driven.run().values()) == {"succeeded"}
    assert len(runner.submissions) == 10


def test_a_lost_attempt_is_in_the_journal_with_its_reason(tmp_path: Path) -> None:
    runner = ScriptedRunner(lose(1), allowed_failures=1)
    driven = Driven(tmp_path, {"a": ()}, runner=runner)
    driven.run()
    lines = (driven.folder.path / "events.jsonl").read_text().splitlines()
    [again] = [event for event in map(json.loads, lines) if event["event"] == "task_retried"]
    assert (again["attempt"], again["message"]) == (1, "node01 is gone: a")


def end_with(*kinds: FailureKind) -> Callable[[Job], JobResult]:
    """The first attempts of a task end with these, one after the other; then it succeeds."""

    def reply(job: Job) -> JobResult:
        if job.attempt > len(kinds):
            return succeed(job)
        kind = kinds[job.attempt - 1]
        if kind == "worker":
            raise WorkerLost(f"node{job.attempt:02} is gone")
        return JobResult(
            task=job.task,
            attempt=job.attempt,
            status="timed_out" if kind == "timeout" else "failed",
            failure=Failure(kind=kind, message=f"it ended: {kind}"),
        )

    return reply


@pytest.mark.parametrize(
    ("on", "kind", "status"),
    [
        (("failed",), "exit", "succeeded"),
        (("failed",), "exception", "succeeded"),
        (("failed",), "output", "succeeded"),
        (("failed",), "out_of_memory", "failed"),
        (("failed",), "timeout", "timed_out"),
        (("timed_out",), "timeout", "succeeded"),
        (("timed_out",), "exit", "failed"),
        (("out_of_memory",), "out_of_memory", "succeeded"),
        (("out_of_memory",), "exit", "failed"),
        (("lost",), "worker", "succeeded"),
        (("failed", "timed_out", "out_of_memory"), "worker", "failed"),
    ],
)
def test_a_task_is_tried_again_after_the_ends_that_it_names_alone(
    tmp_path: Path, on: tuple[RetryCause, ...], kind: FailureKind, status: str
) -> None:
    driven = Driven(tmp_path, {"a": ()}, end_with(kind), retries=Retries(times=1, on=on))
    assert driven.run() == {"a": status}
    assert len(driven.submitted) == (2 if status == "succeeded" else 1)


def test_losses_beyond_those_that_the_runner_makes_up_for_are_tries(tmp_path: Path) -> None:
    """Of three losses the runner makes up for one; the two retries are for the others."""
    runner = ScriptedRunner(lose(3), allowed_failures=1)
    driven = Driven(tmp_path, {"a": ()}, runner=runner, retries=Retries(times=2, on=("lost",)))
    assert driven.run() == {"a": "succeeded"}
    assert len(driven.submitted) == 4
    runner = ScriptedRunner(lose(4), allowed_failures=1)
    driven = Driven(tmp_path, {"a": ()}, runner=runner, retries=Retries(times=2, on=("lost",)))
    assert driven.run() == {"a": "failed"}
    assert len(driven.submitted) == 4


GROWN = tuple(Resources(memory=size << 20, walltime_s=size) for size in (8, 16))


def test_each_attempt_asks_for_its_own_size_and_is_stopped_after_its_own_time(
    tmp_path: Path,
) -> None:
    reply = end_with("exit", "exit", "exit")
    driven = Driven(
        tmp_path,
        {"a": ()},
        reply,
        retries=Retries(times=3),
        environment=Environment(flow=LOCAL, resources=Resources(memory=4 << 20, walltime_s=4)),
        timeout_s=4.0,
        growth=GROWN,
    )
    assert driven.run() == {"a": "succeeded"}
    jobs = [item.job for item in driven.runner.submissions]
    assert [(job.resources.memory or 0) >> 20 for job in jobs] == [4, 8, 16, 16]
    assert [job.timeout_s for job in jobs] == [4, 8, 16, 16]
    assert [item.resources for item in driven.runner.submissions] == [job.resources for job in jobs]
    assert driven.told == [
        "a: it ended: exit; attempt 2 follows with 8 MiB of memory and 8.00 s of time",
        "a: it ended: exit; attempt 3 follows with 16 MiB of memory and 16.0 s of time",
        "a: it ended: exit; attempt 4 follows",
    ]


def test_an_attempt_that_was_lost_asks_for_no_more_the_next_time(tmp_path: Path) -> None:
    runner = ScriptedRunner(end_with("worker", "out_of_memory", "worker"), allowed_failures=2)
    driven = Driven(
        tmp_path,
        {"a": ()},
        runner=runner,
        retries=Retries(times=1),
        environment=Environment(flow=LOCAL, resources=Resources(memory=4 << 20)),
        timeout_s=7.0,
        growth=(Resources(memory=8 << 20), Resources(memory=16 << 20)),
    )
    assert driven.run() == {"a": "succeeded"}
    jobs = [item.job for item in runner.submissions]
    assert [(job.resources.memory or 0) >> 20 for job in jobs] == [4, 4, 8, 8]
    assert {job.timeout_s for job in jobs} == {7.0}


def test_a_size_that_no_worker_could_be_asked_for_is_refused_before_the_first_task(
    tmp_path: Path,
) -> None:
    class Tight(ScriptedRunner):
        def require(self, resources: Resources, label: str) -> None:
            if (resources.memory or 0) > 8 << 20:
                raise LimitUnenforceable(f"task {label!r} asks for too much")

    driven = Driven(tmp_path, {"a": ()}, runner=Tight(), growth=GROWN)
    with pytest.raises(LimitUnenforceable, match="asks for too much"):
        driven.run()
    assert not driven.submitted


def test_what_a_task_reads_and_makes_goes_with_its_job(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": ()}, inputs=("/data/*.txt",), outputs=("/made/a", "/made/b"))
    driven.run()
    [submission] = driven.runner.submissions
    assert submission.job.inputs == ("/data/*.txt",)
    assert submission.job.outputs == ("/made/a", "/made/b")


class Clock:
    """Time passes only where somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.waits_s: list[float] = []
        monkeypatch.setattr("time.monotonic", lambda: self.now_s)

    def watch(self, driven: Driven) -> None:
        """Let the scheduler's waiting for arrivals be the waiting."""
        arrivals = driven.scheduler._arrivals
        clock = self

        class Watched:
            put = arrivals.put
            get_nowait = arrivals.get_nowait

            def get(self, block: bool, timeout: float | None) -> object:
                try:
                    return arrivals.get_nowait()
                except Empty:
                    assert block
                    assert timeout is not None, "it would wait for ever"
                    clock.waits_s.append(timeout)
                    clock.now_s += timeout
                    raise

        driven.scheduler._arrivals = Watched()  # type: ignore[misc, assignment]  # a twin


def test_a_delay_grows_from_try_to_try_and_is_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven = Driven(
        tmp_path,
        {"a": (), "b": ()},
        lambda job: end_with("exit", "exit", "exit")(job) if job.task == "a" else succeed(job),
        retries=Retries(times=3, delay_s=30, backoff=2),
    )
    clock = Clock(monkeypatch)
    clock.watch(driven)
    assert driven.run() == {"a": "succeeded", "b": "succeeded"}
    assert clock.waits_s == [30, 60, 120]
    notes = [event for event in driven.events if event["event"] == "note"]
    assert [(note["task"], note["attempt"], note["message"]) for note in notes] == [
        ("a", 2, "it starts in 30.0 s"),
        ("a", 3, "it starts in 1 min 0 s"),
        ("a", 4, "it starts in 2 min 0 s"),
    ]
    assert driven.told[0] == "a: it ended: exit; attempt 2 follows, in 30.0 s"
    assert [item.task.name for item in driven.ended] == ["b", "a"], "nothing else waits"


def test_a_worker_that_was_lost_is_made_up_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ScriptedRunner(end_with("worker", "worker", "exit"), allowed_failures=1)
    retries = Retries(times=2, delay_s=5, backoff=3, on=("failed", "lost"))
    driven = Driven(tmp_path, {"a": ()}, runner=runner, retries=retries)
    clock = Clock(monkeypatch)
    clock.watch(driven)
    assert driven.run() == {"a": "succeeded"}
    assert clock.waits_s == [5, 15]


_EXITS: list[FailureKind] = ["exit"] * 200


def test_no_wait_is_longer_than_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retries = Retries(times=200, delay_s=3600, backoff=1e10)
    driven = Driven(tmp_path, {"a": ()}, end_with(*_EXITS), retries=retries)
    clock = Clock(monkeypatch)
    clock.watch(driven)
    assert driven.run() == {"a": "succeeded"}
    assert clock.waits_s[0] == 3600
    assert set(clock.waits_s[1:]) == {LONGEST_WAIT_S}


def test_a_signal_ends_the_waiting_at_once(tmp_path: Path) -> None:
    retries = Retries(times=3, delay_s=3600)
    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, end_with("exit"), retries=retries)
    driven.scheduler._tell = lambda _: driven.scheduler.stop(signal.SIGINT)  # type: ignore[misc]
    with pytest.raises(RunInterrupted):
        driven.run()
    assert {item.task.name: item.result.status for item in driven.ended} == {
        "a": "cancelled",
        "b": "cancelled",
    }
    failure = driven.ended[0].result.failure
    assert failure is not None
    assert failure.message == "the run was stopped by SIGINT; before that: it ended: exit"
    assert driven.ended[0].directory == driven.folder.path / "tasks" / "a" / "1"


def test_what_waits_is_not_tried_once_another_task_stopped_the_run(tmp_path: Path) -> None:
    driven = Driven(
        tmp_path,
        {"a": (), "b": ()},
        lambda job: end_with("timeout" if job.task == "a" else "exit")(job),
        retries=Retries(times=3, delay_s=3600, on=("timed_out",)),
        fail_fast=True,
    )
    assert driven.run() == {"a": "cancelled", "b": "failed"}
    assert driven.submitted == ["a", "b"]


@pytest.mark.parametrize("kind", ["exit", "out_of_memory", "timeout", "output"])
def test_what_needs_a_task_that_may_fail_runs_all_the_same(
    tmp_path: Path, kind: FailureKind
) -> None:
    def reply(job: Job) -> JobResult:
        return end_with(kind)(job) if job.task == "a" else succeed(job)

    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, reply, allow_failure=True, fail_fast=True)
    first = "timed_out" if kind == "timeout" else "failed"
    assert driven.run() == {"a": first, "b": "succeeded"}
    assert [item.is_allowed for item in driven.ended] == [True, False]
    assert read_run(driven.folder.path).status == "succeeded"


def test_a_task_that_may_fail_is_tried_again_before_it_does(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, fail("a"), retries=2, allow_failure=True)
    assert driven.run() == {"a": "failed", "b": "succeeded"}
    assert driven.submitted == ["a", "a", "a", "b"]


def test_a_task_that_may_fail_may_not_be_missing_what_it_needs(tmp_path: Path) -> None:
    needs: dict[str, tuple[str, ...]] = {"a": ("b",), "b": (), "c": ("a",)}
    driven = Driven(tmp_path, needs, fail("b"), allow_failure=True)
    assert driven.run() == {"a": "skipped", "b": "failed", "c": "skipped"}
    assert read_run(driven.folder.path).status == "failed"


def test_every_attempt_is_kept_with_how_it_ended(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": ()}, end_with("exit", "out_of_memory"), retries=2)
    assert driven.run() == {"a": "succeeded"}
    kept = [
        from_json(JobResult, path.read_bytes())
        for path in sorted((driven.folder.path / "tasks" / "a").glob("*/result.json"))
    ]
    assert [one.failure and one.failure.kind for one in kept] == ["exit", "out_of_memory", None]


class Gone(ScriptedRunner):
    """Its engine goes while it has jobs in hand."""

    def submit(
        self, job_text: str, secrets: Secrets, resources: Resources, label: str
    ) -> Future[str]:
        future = super().submit(job_text, secrets, resources, label)
        if len(self.submissions) == 3:
            for _, held in self._held:
                held.set_exception(OrchestratorUnavailable("the scheduler is gone", hint="again"))
            self._held.clear()
        return future


def test_an_engine_that_is_gone_ends_the_run_with_one_error(tmp_path: Path) -> None:
    needs = {"a": (), "b": (), "c": (), "d": ("a",)}
    driven = Driven(tmp_path, needs, retries=3, runner=Gone(hold=True, allowed_failures=3))
    with pytest.raises(OrchestratorUnavailable, match="the scheduler is gone") as caught:
        driven.run()
    assert caught.value.hint == "again"
    assert driven.submitted == ["a", "b", "c"], "nothing is tried on an engine that is gone"
    assert {item.task.name: item.result.status for item in driven.ended} == dict.fromkeys(
        needs, "cancelled"
    )
    assert driven.runner.cancelled == 1
    assert read_run(driven.folder.path).status == "failed"


class Ending(ScriptedRunner):
    """Its workers die of being told to stop."""

    def cancel(self) -> None:
        self.cancelled += 1
        self.release()


def test_no_lost_task_runs_again_once_the_run_is_stopped(tmp_path: Path) -> None:
    runner = Ending(lose(10), hold=True, allowed_failures=3)
    driven = Driven(tmp_path, {"a": ()}, runner=runner)
    driven.scheduler.stop(signal.SIGTERM)
    with pytest.raises(RunInterrupted):
        driven.run()
    assert len(runner.submissions) == 1


def test_the_largest_of_what_is_ready_is_submitted_first(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, {"a": (), "b": (), "c": (), "d": ("a",)})
    cpus = {"a": 1, "b": 4, "c": 2, "d": 8}
    tasks = tuple(
        msgspec.structs.replace(
            task,
            environment=msgspec.structs.replace(
                task.environment, resources=Resources(cpus=cpus[task.name])
            ),
        )
        for task in plan.tasks
    )
    runner = ScriptedRunner()
    with RunFolder.create(plan, version="1") as folder:
        Scheduler(
            msgspec.structs.replace(plan, tasks=tasks),
            folder,
            {flow_key(LOCAL): runner},
            dict.fromkeys(cpus, "native"),
        ).run()
    assert [submission.label for submission in runner.submissions] == ["b", "c", "a", "d"]


class Small(ScriptedRunner):
    """Has no room for one of the tasks."""

    def require(self, _: Resources, label: str) -> None:
        if label == "b":
            raise LimitUnenforceable("task 'b' asks for 64 cpus of 2", hint="ask for less")


def test_a_task_that_no_worker_could_run_is_refused_before_the_first(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, runner=Small())
    with pytest.raises(LimitUnenforceable, match="asks for 64 cpus of 2"):
        driven.run()
    assert not driven.submitted
    assert read_run(driven.folder.path).status == "failed"


class Refusing(ScriptedRunner):
    """Finds out late that it has no room."""

    def submit(self, *_: object) -> Future[str]:
        raise LimitUnenforceable("task 'a' asks for 64 cpus of 2", hint="ask for less")


def test_a_request_that_is_refused_late_fails_its_task_with_the_reason(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": ()}, runner=Refusing())
    assert driven.run() == {"a": "failed"}
    failure = driven.ended[0].result.failure
    assert failure is not None
    assert (failure.kind, failure.hint) == ("environment", "ask for less")


def test_what_needs_a_task_that_timed_out_is_told_so(tmp_path: Path) -> None:
    def reply(job: Job) -> JobResult:
        failure = Failure(kind="timeout", message="timed out after 2 s")
        return JobResult(task=job.task, attempt=1, status="timed_out", failure=failure)

    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, reply)
    assert driven.run() == {"a": "timed_out", "b": "skipped"}
    failure = driven.ended[1].result.failure
    assert failure is not None
    assert failure.message == "needs 'a', which timed out"


def test_a_reply_that_cannot_be_read_is_a_lost_worker(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": ()}, hold=True)
    driven.scheduler._submit_ready()
    [(_, future)] = driven.runner._held
    driven.runner._held.clear()
    future.set_result('{"task": 3}')
    assert driven.run() == {"a": "failed"}
    failure = driven.ended[0].result.failure
    assert failure is not None
    assert failure.kind == "worker"


def test_a_signal_stops_all_and_leaves_a_record(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, hold=True)
    driven.scheduler.stop(signal.SIGTERM)
    with pytest.raises(RunInterrupted) as caught:
        driven.run()
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert driven.runner.cancelled == 1
    assert driven.folder.cancel_file.exists()
    record = read_run(driven.folder.path)
    assert record.status == "cancelled"
    assert {item.task.name: item.result.status for item in driven.ended} == {
        "a": "cancelled",
        "b": "cancelled",
    }


class Stubborn(ScriptedRunner):
    """Lets go of its jobs only when it is told twice."""

    def cancel(self) -> None:
        if self.cancelled:
            super().cancel()
        else:
            self.cancelled += 1


def test_a_second_signal_cancels_once_more(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": ()}, runner=Stubborn(hold=True))
    driven.scheduler.stop(signal.SIGINT)
    driven.scheduler.stop(signal.SIGINT)
    with pytest.raises(RunInterrupted):
        driven.run()
    assert driven.runner.cancelled == 2


def test_values_of_variables_go_beside_the_job_and_into_no_file(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": ()})
    driven.run()
    [submission] = driven.runner.submissions
    assert submission.secrets == {"TOKEN": "hunter2"}
    assert submission.job.variables == ("TOKEN",)
    files = [path for path in driven.folder.path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"job.json", "result.json", "plan.json"}
    for path in files:
        assert b"hunter2" not in path.read_bytes(), path


def test_a_full_disk_stops_the_run_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, hold=True)
    driven.scheduler._submit_ready()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    driven.runner.release()
    with pytest.raises(RecordError, match="No space left on device"):
        driven.scheduler.run()
    assert driven.runner.cancelled == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_graph_runs_every_task_behind_what_it_needs(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    count = data.draw(st.integers(1, 12))
    names = [f"t{number}" for number in range(count)]
    needs = {
        name: tuple(data.draw(st.lists(st.sampled_from(names[:index]), unique=True)))
        if index
        else ()
        for index, name in enumerate(names)
    }
    failing = data.draw(st.sets(st.sampled_from(names), max_size=3))
    driven = Driven(tmp_path_factory.mktemp("run"), needs, fail(*failing))
    statuses = driven.run()
    position = {name: index for index, name in enumerate(driven.submitted)}
    assert len(position) == len(driven.submitted), "a task was submitted twice"
    for name, wanted in needs.items():
        good = all(statuses[need] == "succeeded" for need in wanted)
        expected = ("failed" if name in failing else "succeeded") if good else "skipped"
        assert statuses[name] == expected
        if good:
            assert all(position[need] < position[name] for need in wanted)


def test_what_ends_together_goes_to_the_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fdatasync", synced.append)
    names = [f"t{number}" for number in range(50)]
    driven = Driven(tmp_path, dict.fromkeys(names, ()))
    assert set(driven.run().values()) == {"succeeded"}
    assert len(synced) == 1


def test_the_journal_tells_the_story_in_order(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": (), "b": ("a",)}, fail("a"))
    driven.run()
    lines = (driven.folder.path / "events.jsonl").read_text().splitlines()
    story = [(event["event"], event.get("task")) for event in map(json.loads, lines)]
    assert story == [
        ("run_started", None),
        ("task_submitted", "a"),
        ("task_finished", "a"),
        ("task_skipped", "b"),
        ("run_finished", None),
    ]


def test_tasks_ask_their_runner_for_their_own_resources(tmp_path: Path) -> None:
    driven = Driven(tmp_path, {"a": ()})
    driven.run()
    assert driven.runner.submissions[0].resources == Resources()


def make_mixed_plan(folder: Path) -> Plan:
    plan = make_plan(folder, {"a": (), "b": (), "c": ()})
    flows = (
        FlowSpec(transform="mine", runner="here"),
        FlowSpec(transform="mine", runner="there/../far"),
        FlowSpec(transform="mine", runner="here", options={"size": 2}),
    )
    tasks = tuple(
        msgspec.structs.replace(
            task, environment=msgspec.structs.replace(task.environment, flow=flow)
        )
        for task, flow in zip(plan.tasks, flows, strict=True)
    )
    return msgspec.structs.replace(plan, tasks=tasks, flow=flows[0])


def test_each_runner_has_a_folder_of_its_own_that_nobody_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = ScriptedOrchestrator(ScriptedRunner())
    monkeypatch.setattr("fasthep_flow.orchestrators.opened.find_orchestrator", lambda *_: scripted)
    with open_runners(make_mixed_plan(tmp_path), tmp_path / "workers") as runners:
        assert len(runners) == 3
    folders = scripted.directories
    assert len(set(folders)) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "workers"}
    assert not (tmp_path / "workers").exists()


def test_what_may_take_long_is_told_before_it_starts_and_a_dashboard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = ScriptedOrchestrator(ScriptedRunner(dashboard="http://127.0.0.1:8787/status"))
    monkeypatch.setattr("fasthep_flow.orchestrators.opened.find_orchestrator", lambda *_: scripted)
    plan = msgspec.structs.replace(
        make_mixed_plan(tmp_path), tasks=make_mixed_plan(tmp_path).tasks[:1]
    )
    progress: list[str] = []
    told: list[str] = []
    with open_runners(plan, tmp_path / "workers", progress.append, told.append):
        assert progress == ["starting mine::here"]
        assert told == ["dashboard of mine::here: http://127.0.0.1:8787/status"]


def test_no_dashboard_is_told_where_there_is_none(tmp_path: Path) -> None:
    told: list[str] = []
    plan = make_plan(tmp_path, {"a": ()})
    with open_runners(plan, tmp_path / "workers", tell=told.append) as runners:
        assert runners[flow_key(LOCAL)].dashboard is None
    assert told == []
