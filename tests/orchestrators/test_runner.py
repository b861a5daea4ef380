from concurrent.futures import Future
from pathlib import Path

import pytest

from fasthep_flow.errors import (
    FlowError,
    LimitUnenforceable,
    OrchestratorUnavailable,
    WorkerLost,
)
from fasthep_flow.model import Resources
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Admission, Capacity, Room
from fasthep_flow.orchestrators.runner import Done, EngineRunner, Errand
from fasthep_flow.testing.runners import Workbench


class _Engine:
    name = "Ours"

    def __init__(self) -> None:
        self.errands: list[tuple[Errand, Done]] = []
        self.stopped = 0
        self.closed = False
        self.answer_when_stopped = True
        self.refuses = False

    def start(self, errand: Errand, done: Done) -> None:
        if self.refuses:
            raise ConnectionError("no route\nto the scheduler")
        self.errands.append((errand, done))

    def stop_jobs(self) -> None:
        self.stopped += 1
        if self.answer_when_stopped:
            for _, done in self.errands:
                done("stopped")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine() -> _Engine:
    return _Engine()


@pytest.fixture
def runner(engine: _Engine) -> EngineRunner:
    room = Capacity(2, 2**30, 0)
    return EngineRunner(
        engine, Admission(Room(room), None), room, place="a worker", on_this_machine=False
    )


@pytest.fixture
def text(tmp_path: Path) -> str:
    return Workbench(tmp_path).job("some", "true")


def _submit(runner: EngineRunner, text: str, cpus: float = 1) -> Future[str]:
    return runner.submit(text, {"TOKEN": "hunter2"}, Resources(cpus=cpus), "some task")


def test_the_engines_reply_is_the_futures(engine: _Engine, runner: EngineRunner, text: str) -> None:
    future = _submit(runner, text)
    errand, done = engine.errands[0]
    assert (errand.job_text, errand.label) == (text, "some task")
    assert errand.sealed.reveal() == {"TOKEN": "hunter2"}
    assert "hunter2" not in repr(errand)
    assert future.running()
    done("reply")
    assert future.result(0) == "reply"


@pytest.mark.parametrize("problem", [ConnectionError("gone\n  away"), KeyError(), SystemExit()])
def test_a_lost_job_is_told_in_one_line_with_the_engines_words(
    engine: _Engine, runner: EngineRunner, text: str, problem: BaseException
) -> None:
    future = _submit(runner, text)
    engine.errands[0][1](problem)
    error = future.exception(0)
    assert isinstance(error, FlowError)
    words = "gone away" if problem.args else type(problem).__name__
    assert error.message == f"Ours lost task 'some task': {words}"


def test_last_words_of_a_worker_stay_below_the_message(
    engine: _Engine, runner: EngineRunner, text: str
) -> None:
    future = _submit(runner, text)
    engine.errands[0][1](WorkerLost("worker 3 died", hint="the end of 3.err:\nno memory left"))
    error = future.exception(0)
    assert isinstance(error, WorkerLost)
    assert error.message == "Ours lost task 'some task': worker 3 died"
    assert error.hint == "the end of 3.err:\nno memory left"


def test_an_engine_that_is_gone_has_lost_no_worker(
    engine: _Engine, runner: EngineRunner, text: str
) -> None:
    """Another worker would do no better: what it says is not a loss."""
    future = _submit(runner, text)
    engine.errands[0][1](OrchestratorUnavailable("nobody answers", hint="start it anew"))
    error = future.exception(0)
    assert isinstance(error, OrchestratorUnavailable)
    assert (error.message, error.hint) == ("nobody answers", "start it anew")


def test_a_runner_that_is_given_up_ends_what_waits_with_the_reason(
    engine: _Engine, runner: EngineRunner, text: str
) -> None:
    running, waiting = _submit(runner, text, cpus=2), _submit(runner, text)
    runner.fail(OrchestratorUnavailable("no worker ever comes"))
    engine.errands[0][1]("reply")
    assert running.result(0) == "reply"
    assert isinstance(waiting.exception(0), OrchestratorUnavailable)
    assert len(engine.errands) == 1


def test_what_is_said_of_losses_and_of_pages_is_the_engines(engine: _Engine) -> None:
    made = EngineRunner(
        engine,
        Admission(None, None),
        None,
        place="a worker",
        on_this_machine=False,
        allowed_failures=7,
        dashboard="http://127.0.0.1:1/status",
    )
    assert (made.allowed_failures, made.dashboard) == (7, "http://127.0.0.1:1/status")


def test_an_engine_that_cannot_start_a_job_has_lost_it(
    engine: _Engine, runner: EngineRunner, text: str
) -> None:
    engine.refuses = True
    error = _submit(runner, text).exception(0)
    assert isinstance(error, FlowError)
    assert "no route to the scheduler" in error.message


def test_only_the_first_answer_counts(engine: _Engine, runner: EngineRunner, text: str) -> None:
    future = _submit(runner, text)
    done = engine.errands[0][1]
    done("first")
    done("second")
    done(ConnectionError("third"))
    assert future.result(0) == "first"


def test_what_never_fits_is_refused(runner: EngineRunner, text: str) -> None:
    with pytest.raises(LimitUnenforceable, match="a worker has"):
        _submit(runner, text, cpus=3)


def test_cancelling_drops_what_waits_and_stops_what_runs(
    engine: _Engine, runner: EngineRunner, text: str
) -> None:
    running, waiting = _submit(runner, text, cpus=2), _submit(runner, text)
    runner.cancel()
    assert waiting.cancelled()
    assert running.result(0) == "stopped"
    assert len(engine.errands) == 1


def test_closing_an_idle_runner_stops_no_job(engine: _Engine, runner: EngineRunner) -> None:
    runner.close()
    assert (engine.stopped, engine.closed) == (0, True)


def test_closing_ends_futures_of_an_engine_that_never_answers(
    engine: _Engine, runner: EngineRunner, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.0)
    engine.answer_when_stopped = False
    running, waiting = _submit(runner, text, cpus=2), _submit(runner, text)
    runner.close()
    assert waiting.cancelled()
    assert isinstance(running.exception(0), FlowError)
    assert (engine.stopped, engine.closed) == (1, True)
    assert _submit(runner, text).cancelled()


@pytest.mark.parametrize("asked_first", [True, False])
def test_who_ends_the_run_on_the_engines_side_is_heard(
    runner: EngineRunner, engine: _Engine, *, asked_first: bool
) -> None:
    heard: list[str] = []
    if asked_first:
        runner.ask_for_stop()
    runner.on_stop(lambda: heard.append("stop"))
    if not asked_first:
        assert heard == []
        runner.ask_for_stop()
    assert heard == ["stop"]
    # What to do of it is the run's to say.
    assert not engine.stopped
