"""The loop: order, retries, skips, cancellation and what is recorded of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

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
    FlowSpec,
    Job,
    JobResult,
    Plan,
    Resources,
    Retries,
    Secrets,
    TaskSpec,
    Variable,
)
from fasthep_flow.orchestrators.opened import flow_key, open_runners
from fasthep_flow.records.run import RunFolder, read_run
from fasthep_flow.scheduler import Outcome, Scheduler
from fasthep_flow.testing.scripted import ScriptedOrchestrator, ScriptedRunner, succeed

LOCAL = FlowSpec(transform="local", runner="concurrent")


def make_plan(folder: Path, needs: dict[str, tuple[str, ...]], *, retries: int = 0) -> Plan:
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
            retries=Retries(times=retries),
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
        retries: int = 0,
        fail_fast: bool = False,
        hold: bool = False,
        runner: ScriptedRunner | None = None,
    ) -> None:
        self.plan = make_plan(folder, needs, retries=retries)
        self.runner = runner or ScriptedRunner(reply, hold=hold)
        self.folder = RunFolder.create(self.plan, version="0", argv=("fasthep-flow", "run"))
        self.ended: list[Outcome] = []
        self.scheduler = Scheduler(
            self.plan,
            self.folder,
            {flow_key(LOCAL): self.runner},
            dict.fromkeys(needs, "native"),
            fail_fast=fail_fast,
            on_end=self.ended.append,
        )

    def run(self) -> dict[str, str]:
        with self.folder:
            outcomes = self.scheduler.run()
        return {name: outcome.result.status for name, outcome in outcomes.items()}

    @property
    def submitted(self) -> list[str]:
        return [item.label for item in self.runner.submissions]


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
