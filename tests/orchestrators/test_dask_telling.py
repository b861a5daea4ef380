"""Jobs that a worker of ours has at hand, and answers that it tells by itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fasthep_flow.errors import WorkerLost
from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators.admission import machine_capacity
from fasthep_flow.orchestrators.dask import DASK
from fasthep_flow.testing.runners import Workbench, reply_of

pytestmark = pytest.mark.dask

FLOW = FlowSpec(transform="dask", runner="local")
EVERYTHING = Resources(cpus=machine_capacity().cpus)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def test_answers_of_any_length_arrive_whole(bench: Workbench) -> None:
    with DASK.open(FLOW, bench.plan(FLOW), bench.workers) as runner:
        # The longer one is more than is told: it is fetched.
        for length in (10, 60_000):
            name = f"of {length}"
            text = bench.job(name, f"head -c {length} /dev/zero | tr '\\0' x")
            reply = reply_of(runner.submit(text, {}, Resources(), name))
            assert (reply.status, reply.stdout_tail) == ("succeeded", "x" * length)


def test_jobs_that_were_only_at_hand_are_not_lost_with_their_worker(bench: Workbench) -> None:
    with DASK.open(FLOW, bench.plan(FLOW), bench.workers) as runner:
        running = runner.submit(bench.held("running"), {}, EVERYTHING, "running")
        bench.await_file("running.started")
        others = [
            runner.submit(bench.job(name, f"echo {name}"), {}, EVERYTHING, name) for name in "abcde"
        ]
        assert running.running()
        assert not any(other.running() for other in others)
        os.kill(int((bench.directory / "running.started").read_text().split()[0]), signal.SIGKILL)
        assert isinstance(running.exception(timeout=60), WorkerLost)
        assert [reply_of(other).stdout_tail for other in others] == [f"{n}\n" for n in "abcde"]


def test_what_fits_beside_is_not_held_up_by_what_is_at_hand(bench: Workbench) -> None:
    cpus = machine_capacity().cpus
    # Where nothing holds a task to a share of a processor, it may have more.
    large, small = (Resources(cpus=share, enforce="best_effort") for share in (cpus - 0.5, 0.5))
    with DASK.open(FLOW, bench.plan(FLOW), bench.workers) as runner:
        running = runner.submit(bench.held("running"), {}, large, "running")
        bench.await_file("running.started")
        others = [runner.submit(bench.held(name), {}, large, name) for name in "abc"]
        beside = runner.submit(bench.job("beside", "echo beside"), {}, small, "beside")
        assert reply_of(beside).stdout_tail == "beside\n"
        assert not running.done()
        bench.make_file("go")
        assert {reply_of(one).status for one in (running, *others)} == {"succeeded"}
