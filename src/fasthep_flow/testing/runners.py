"""What every task runner must do: a suite to subclass, for ours and for anyone's plug-in.

::

    class TestMine(TaskRunnerSuite):
        __test__ = True

        @classmethod
        def orchestrator(cls) -> Orchestrator:
            return MY_ORCHESTRATOR

        @classmethod
        def flow(cls) -> FlowSpec:
            return FlowSpec(transform="mine", runner="some", options={"workers": 2})

The jobs are shell lines on the host, so the workers must be on this machine. For failures
that show values, a ``conftest.py`` calls
``pytest.register_assert_rewrite("fasthep_flow.testing.runners")``.
"""

# ruff: noqa: S101 - pytest's assertions

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, NamedTuple

import psutil
import pytest

from fasthep_flow.errors import EnvironmentRefused, FlowError, Location, OrchestratorUnavailable
from fasthep_flow.model import (
    Command,
    Environment,
    FlowSpec,
    Job,
    JobResult,
    Plan,
    Resources,
    TaskSpec,
    from_json,
    to_json,
)
from fasthep_flow.orchestrators import Orchestrator, TaskRunner
from fasthep_flow.orchestrators.admission import machine_capacity

__all__ = ["TaskRunnerSuite", "Workbench", "reply_of", "wait_until"]

_SOON_S = 120.0
"""Longer than anything here takes on a busy machine; what hangs ends here."""


class Workbench(NamedTuple):
    """A folder that jobs run in, and what makes them.

    Args:
        directory: Every job's working directory.
    """

    directory: Path

    @property
    def run_directory(self) -> Path:
        """Where the run's cancel file would lie."""
        return self.directory / "run"

    @property
    def workers(self) -> Path:
        """Where the engine's own files would lie."""
        return self.run_directory / "workers" / "runner"

    def plan(self, flow: FlowSpec) -> Plan:
        """A plan for :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        return Plan(
            name="runner suite {x} 100%",
            tasks=tuple(
                TaskSpec(
                    name=f"task {number}",
                    slug=f"task-{number}",
                    operator="BashOperator",
                    invocations={"cpu": Command(argv=("true",))},
                    environment=Environment(flow=flow),
                    location=Location("workflow.yaml", number, 1),
                )
                for number in range(1, 101)
            ),
            flow=flow,
            directory=str(self.directory),
            source=str(self.directory / "workflow.yaml"),
            output_directory=str(self.directory),
            digest="sha256:0",
        )

    def job(self, name: str, line: str, *, variables: Iterable[str] = ()) -> str:
        """The text of a job that runs a shell line."""
        return to_json(
            Job(
                run_id="suite",
                task=name,
                slug=name,
                attempt=1,
                invocations={"cpu": Command(argv=("sh", "-c", line))},
                directory=str(self.attempt(name)),
                working_directory=str(self.directory),
                run_directory=str(self.run_directory),
                variables=tuple(variables),
            )
        )

    def held(self, name: str, *, until: str = "go") -> str:
        """A job that makes the file ``<name>.started`` and ends once the file ``until`` is there.

        The file holds the process ids of what started the job, and of the job. It ends by
        itself after a minute, so that a test that fails leaves nothing behind.
        """
        return self.job(
            name,
            f"echo $PPID $$ > {name}.starting; mv {name}.starting {name}.started; n=0; "
            f"while [ ! -e {until} ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done",
        )

    def attempt(self, name: str) -> Path:
        """The folder of the job's attempt."""
        return self.run_directory / "tasks" / name / "1"

    def await_file(self, name: str) -> None:
        """Return once the file is there."""
        wait_until((self.directory / name).exists, f"{name} did not appear")

    def make_file(self, name: str) -> None:
        """Let what waits for the file go on."""
        (self.directory / name).touch()

    def request_cancel(self) -> None:
        """What the driver does first when it stops a run."""
        self.run_directory.mkdir(parents=True, exist_ok=True)
        (self.run_directory / "cancel").touch()


def wait_until(true: Callable[[], bool], complaint: str) -> None:
    """Return once ``true()`` is; fail with ``complaint`` if it takes too long."""
    until_s = time.monotonic() + _SOON_S
    while not true():
        if time.monotonic() > until_s:
            pytest.fail(complaint)
        time.sleep(0.02)


def reply_of(future: Future[str]) -> JobResult:
    """The reply that the future holds, or will hold soon."""
    return from_json(JobResult, future.result(timeout=_SOON_S))


class TaskRunnerSuite:
    """Tests of an orchestrator's runner; a subclass says which.

    The attributes say what the runner is able to do.
    """

    __test__ = False

    concurrent: ClassVar[bool] = True
    """Whether two jobs that ask for half of the room run at the same time."""
    knows_its_room: ClassVar[bool] = True
    """Whether a request that no worker can meet is refused at once."""
    inherits: ClassVar[bool] = True
    """Whether jobs have the driver's environment; else they have what the worker was given."""
    has_options: ClassVar[bool] = True
    """Whether an unknown option is an error of the runner's own."""

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        """The orchestrator to test."""
        raise NotImplementedError

    @classmethod
    def flow(cls) -> FlowSpec:
        """Which of its runners, with options that make it small."""
        raise NotImplementedError

    @classmethod
    def everything(cls) -> Resources:
        """All the room that the runner has for one task."""
        return Resources(cpus=machine_capacity().cpus)

    @classmethod
    def half(cls) -> Resources:
        """At most half of the room that the runner has."""
        # Not every machine can hold a task to half a processor.
        return Resources(cpus=0.5, enforce="best_effort")

    @pytest.fixture
    def engine_folders(self) -> list[Path]:
        """Where the engine keeps files of its own: secrets must not be there."""
        return []

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskRunner]:
        """A runner that is opened once for all tests that leave it as it was."""
        bench = Workbench(tmp_path_factory.mktemp("shared"))
        flow = cls.flow()
        with cls.orchestrator().open(flow, bench.plan(flow), bench.workers) as runner:
            yield runner

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Workbench:
        """A folder of the test's own."""
        directory = tmp_path / "with a blank, a comma"
        directory.mkdir()
        return Workbench(directory)

    @pytest.fixture
    def fresh(self, bench: Workbench) -> AbstractContextManager[TaskRunner]:
        """A runner of the test's own, still to be opened."""
        flow = self.flow()
        return self.orchestrator().open(flow, bench.plan(flow), bench.workers)

    def test_a_job_succeeds_and_its_output_is_in_its_folder(
        self, shared: TaskRunner, bench: Workbench
    ) -> None:
        """The reply is a job's result; stdout and stderr are files of the attempt."""
        text = bench.job("greet", "pwd; echo complaint >&2")
        result = reply_of(shared.submit(text, {}, Resources(), "greet"))
        assert (result.status, result.exit_code, result.failure) == ("succeeded", 0, None)
        assert (bench.attempt("greet") / "stdout.log").read_text() == f"{bench.directory}\n"
        assert (bench.attempt("greet") / "stderr.log").read_text() == "complaint\n"

    def test_a_job_that_fails_is_a_reply_and_no_exception(
        self, shared: TaskRunner, bench: Workbench
    ) -> None:
        """A task's failure is a result; exceptions are for lost workers."""
        future = shared.submit(bench.job("fail", "exit 3"), {}, Resources(), "fail")
        result = reply_of(future)
        assert (result.status, result.exit_code) == ("failed", 3)
        assert result.failure is not None
        assert result.failure.kind == "exit"

    def test_labels_are_any_text(self, shared: TaskRunner, bench: Workbench) -> None:
        """A task's name has blanks, braces, slashes, percent signs and other scripts."""
        labels = ("a b/c", "{x}", "100%", "größe", "-rf", "x" * 300, "$(touch pwned)", "a\nb")
        futures = [
            shared.submit(bench.job(f"named-{index}", "true"), {}, Resources(), label)
            for index, label in enumerate(labels)
        ]
        assert {reply_of(future).status for future in futures} == {"succeeded"}

    def test_many_jobs_are_all_answered(self, shared: TaskRunner, bench: Workbench) -> None:
        """Each future holds the reply of its own job."""
        futures = {
            str(number): shared.submit(
                bench.job(str(number), f"echo {number}"), {}, Resources(), f"job {number}"
            )
            for number in range(40)
        }
        assert {name: reply_of(future).stdout_tail for name, future in futures.items()} == {
            name: f"{name}\n" for name in futures
        }

    def test_a_callback_hears_of_the_end(self, shared: TaskRunner, bench: Workbench) -> None:
        """The driver waits for nothing: it is called."""
        heard: Future[str] = Future()
        future = shared.submit(bench.job("call", "true"), {}, Resources(), "call")
        future.add_done_callback(lambda done: heard.set_result(done.result()))
        assert from_json(JobResult, heard.result(timeout=_SOON_S)).status == "succeeded"

    def test_jobs_run_side_by_side_where_there_is_room(
        self, shared: TaskRunner, bench: Workbench
    ) -> None:
        """A job that holds on does not keep a later one from starting and ending."""
        first = shared.submit(bench.held("first"), {}, self.half(), "first")
        bench.await_file("first.started")
        second = shared.submit(bench.job("second", "true"), {}, self.half(), "second")
        if self.concurrent:
            assert reply_of(second).status == "succeeded"
            assert not first.done()
        else:
            assert not second.running()
        bench.make_file("go")
        assert (reply_of(first).status, reply_of(second).status) == ("succeeded", "succeeded")

    def test_jobs_wait_for_room(self, shared: TaskRunner, bench: Workbench) -> None:
        """Two jobs that ask for everything run one after the other."""
        first = shared.submit(bench.held("first"), {}, self.everything(), "first")
        bench.await_file("first.started")
        line = "if [ -e go ]; then echo after; else echo beside; fi"
        second = shared.submit(bench.job("second", line), {}, self.everything(), "second")
        assert first.running()
        assert not second.running()
        bench.make_file("go")
        assert reply_of(first).status == "succeeded"
        assert reply_of(second).stdout_tail == "after\n"

    def test_what_no_worker_has_is_refused_at_once(
        self, shared: TaskRunner, bench: Workbench
    ) -> None:
        """It must not wait for ever."""
        if not self.knows_its_room:
            pytest.skip("the runner cannot know what its workers have")
        text = bench.job("large", "true")
        for resources in (
            Resources(cpus=1e6),
            Resources(memory=2**60),
            Resources(gpus=10_000, process_on="gpu"),
        ):
            with pytest.raises(EnvironmentRefused, match="large"):
                shared.require(resources, "large")
            with pytest.raises(EnvironmentRefused, match="large"):
                shared.submit(text, {}, resources, "large")
        shared.require(self.everything(), "all of it")

    def test_a_job_is_free_to_use_signals(self, shared: TaskRunner, bench: Workbench) -> None:
        """What the engine's own processes ignore or hold back is not handed down."""
        futures = [
            shared.submit(bench.job(name, f"kill -{name} $$; sleep 60"), {}, Resources(), name)
            for name in ("HUP", "INT", "TERM", "PIPE")
        ]
        replies = [reply_of(future) for future in futures]
        assert [reply.failure and reply.failure.kind for reply in replies] == ["signal"] * 4

    def test_a_job_inherits_the_drivers_environment(
        self, shared: TaskRunner, bench: Workbench
    ) -> None:
        """Whatever the engine sets for its own workers is not the task's."""
        if not self.inherits:
            pytest.skip("its workers have an environment of their own")
        text = bench.job("list", "env -0")
        assert reply_of(shared.submit(text, {}, Resources(), "list")).status == "succeeded"
        lines = os.fsdecode((bench.attempt("list") / "stdout.log").read_bytes()).split("\0")
        theirs = dict(line.split("=", 1) for line in lines if line)
        # What is the shell's, readline's, pytest's or this package's own.
        known = {"PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES", "PYTEST_CURRENT_TEST"}
        known |= {name for name in theirs if name.startswith("FASTHEP_")}
        known |= {name for name in theirs if name.endswith("_VISIBLE_DEVICES")}
        names = (theirs.keys() | os.environ.keys()) - known
        assert {name for name in names if theirs.get(name) != os.environ.get(name)} == set()

    def test_a_lost_worker_is_told_and_the_next_job_runs(
        self, fresh: AbstractContextManager[TaskRunner], bench: Workbench
    ) -> None:
        """The future of its job fails, by name; nothing of the job is left to disturb a retry."""
        with fresh as runner:
            future = runner.submit(bench.held("doomed"), {}, self.everything(), "the doomed one")
            waiting = runner.submit(bench.job("next", "true"), {}, self.everything(), "next")
            bench.await_file("doomed.started")
            worker, job = map(int, (bench.directory / "doomed.started").read_text().split())
            if worker == os.getpid():
                bench.make_file("go")
                pytest.skip("its workers are threads of this process")
            os.kill(worker, signal.SIGKILL)
            problem = future.exception(timeout=_SOON_S)
            assert isinstance(problem, FlowError)
            assert "the doomed one" in problem.message
            wait_until(lambda: not psutil.pid_exists(job), "the lost worker's job lives on")
            assert reply_of(waiting).status == "succeeded"
            again = runner.submit(bench.job("again", "true"), {}, Resources(), "again")
            assert reply_of(again).status == "succeeded"

    def test_secrets_reach_the_job_and_nothing_else(
        self,
        fresh: AbstractContextManager[TaskRunner],
        bench: Workbench,
        engine_folders: list[Path],
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """Not the log, the terminal, what futures show, nor the engine's files."""
        value = "hunter2-5ecret"
        secrets = {"TOKEN": value}
        # Said backwards, so that the job's own output does not give it away.
        line = 'i=${#TOKEN}; while [ $i -gt 0 ]; do printf %.1s "${TOKEN#${TOKEN%?}}"; '
        line += "TOKEN=${TOKEN%?}; i=$((i-1)); done"
        with caplog.at_level(logging.DEBUG), fresh as runner:
            spelled = runner.submit(
                bench.job("spell", line, variables=["TOKEN"]), secrets, Resources(), "spell"
            )
            failed = runner.submit(
                bench.job("fail", "exit 1", variables=["TOKEN"]), secrets, Resources(), "fail"
            )
            damaged = runner.submit("{}", secrets, Resources(), "damaged")
            assert reply_of(spelled).stdout_tail == value[::-1]
            assert reply_of(failed).status == "failed"
            assert reply_of(damaged).status == "failed"
            shown = [repr(spelled), failed.result(), damaged.result()]
        shown += [record.getMessage() for record in caplog.records]
        shown += [record.exc_text or "" for record in caplog.records]
        shown += capfd.readouterr()
        assert [text for text in shown if value in text] == []
        for folder in [bench.directory, *engine_folders]:
            files = [path for path in folder.rglob("*") if path.is_file()]
            assert [path for path in files if value.encode() in path.read_bytes()] == []

    def test_cancelling_ends_every_future(
        self, fresh: AbstractContextManager[TaskRunner], bench: Workbench
    ) -> None:
        """What runs answers that it was cancelled; what waits is dropped."""
        with fresh as runner:
            running = runner.submit(bench.held("running"), {}, self.everything(), "running")
            bench.await_file("running.started")
            waiting = [
                runner.submit(bench.held(f"waiting{number}"), {}, self.everything(), "waiting")
                for number in range(3)
            ]
            bench.request_cancel()
            runner.cancel()
            assert reply_of(running).status == "cancelled"
            done, late = wait(waiting, timeout=_SOON_S)
            assert not late
            assert all(
                future.cancelled() or reply_of(future).status == "cancelled" for future in done
            )
            assert not list(bench.directory.glob("waiting*.started"))

    def test_closing_stops_what_runs_and_leaves_no_process(
        self, fresh: AbstractContextManager[TaskRunner], bench: Workbench
    ) -> None:
        """Even if nobody asked the jobs to stop: the driver may be on its way out."""
        before = _descendants()
        with fresh as runner:
            running = runner.submit(bench.held("running"), {}, self.everything(), "running")
            bench.await_file("running.started")
            waiting = runner.submit(bench.held("waiting"), {}, self.everything(), "waiting")
        assert running.done()
        # A worker that had it at hand says itself that it never began.
        assert waiting.cancelled() or reply_of(waiting).status == "cancelled"
        assert not list(bench.directory.glob("waiting*.started"))
        _, left = psutil.wait_procs(_descendants() - before, timeout=_SOON_S)
        assert [process for process in left if not _is_harmless(process)] == []

    def test_an_unknown_option_is_an_error_that_names_it(self, bench: Workbench) -> None:
        """Before any task starts, and not ignored."""
        if not self.has_options:
            pytest.skip("the runner takes any option")
        flow = self.flow()
        odd = FlowSpec(transform=flow.transform, runner=flow.runner, options={"max_wrokers": 2})
        with (
            pytest.raises(OrchestratorUnavailable, match="max_wrokers"),
            self.orchestrator().open(odd, bench.plan(odd), bench.workers),
        ):
            pytest.fail("it was opened")

    def test_an_unknown_runner_is_an_error_that_names_it(self, bench: Workbench) -> None:
        """A plug-in's runner is found by its own name alone."""
        odd = FlowSpec(transform=self.flow().transform, runner="NoSuchRunner")
        with (
            pytest.raises(OrchestratorUnavailable, match="NoSuchRunner"),
            self.orchestrator().open(odd, bench.plan(odd), bench.workers),
        ):
            pytest.fail("it was opened")


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _is_harmless(process: psutil.Process) -> bool:
    # Python's own, one for the life of the interpreter.
    try:
        return any("multiprocessing.resource_tracker" in part for part in process.cmdline())
    except psutil.NoSuchProcess:
        return True


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("the suite's jobs are lines for a POSIX shell")
