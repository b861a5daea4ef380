"""An engine of command lines, and a plug-in over it as the how-to guide has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fasthep_flow.errors import OrchestratorUnavailable, WorkerLost
from fasthep_flow.model import FlowSpec, Plan, Resources
from fasthep_flow.orchestrators import Orchestrator, TaskRunner
from fasthep_flow.orchestrators.admission import Admission
from fasthep_flow.orchestrators.commands import CommandEngine
from fasthep_flow.orchestrators.options import check_options
from fasthep_flow.orchestrators.runner import EngineRunner
from fasthep_flow.testing.runners import TaskRunnerSuite, Workbench


def here(place: str, argv: Sequence[str]) -> Sequence[str]:
    """Places of this machine; one of them cannot be reached."""
    if place == "nowhere":
        return ["sh", "-c", "echo 'no route to nowhere' >&2; exit 255"]
    return argv


class Commands(Orchestrator):
    runners = ("here",)

    @contextmanager
    def open(self, flow: FlowSpec, plan: Plan, directory: Path) -> Iterator[TaskRunner]:
        del plan, directory
        if flow.runner not in self.runners:
            raise OrchestratorUnavailable(f"there is no runner {flow}")
        check_options(flow, flow.options, {"places"})
        places = flow.options.get("places", ["a"])
        runner = EngineRunner(
            CommandEngine("the command", places, here),
            Admission(None, len(places)),
            None,
            place="a place",
            on_this_machine=False,
        )
        try:
            yield runner
        finally:
            runner.close()


class TestOnePlace(TaskRunnerSuite):
    __test__ = True
    concurrent = False
    knows_its_room = False

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return Commands()

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="commands", runner="here")


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def _open(bench: Workbench, *places: str) -> Iterator[TaskRunner]:
    flow = FlowSpec(transform="commands", runner="here", options={"places": list(places)})
    with Commands().open(flow, bench.plan(flow), bench.workers) as runner:
        yield runner


def test_places_work_side_by_side(bench: Workbench) -> None:
    for runner in _open(bench, "a", "b"):
        futures = [
            runner.submit(bench.held(name), {}, Resources(), name) for name in ("one", "two")
        ]
        bench.await_file("one.started")
        bench.await_file("two.started")
        bench.make_file("go")
        assert all('"succeeded"' in future.result(timeout=60) for future in futures)


def test_a_place_that_cannot_be_reached_is_a_lost_worker_with_its_words(bench: Workbench) -> None:
    for runner in _open(bench, "nowhere"):
        future = runner.submit(bench.job("lost", "true"), {}, Resources(), "the lost one")
        problem = future.exception(timeout=60)
        assert isinstance(problem, WorkerLost)
        assert problem.message == (
            "the command lost task 'the lost one': nowhere did not answer: no route to nowhere"
        )
        assert not bench.attempt("lost").exists()


def test_a_command_that_is_not_there_is_told(bench: Workbench) -> None:
    engine = CommandEngine("ssh", ["a"], lambda _, argv: ["no-such-program-at-all", *argv])
    runner = EngineRunner(engine, Admission(None, 1), None, place="a host", on_this_machine=False)
    future = runner.submit(bench.job("lost", "true"), {}, Resources(), "lost")
    assert "no-such-program-at-all" in str(future.exception(timeout=60))
    runner.close()
