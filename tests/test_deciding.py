"""What is found out beside the loop: at once where it is quick, later where files are read."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from tests.records.made import plan, succeeded, task, write

from fasthep_flow.deciding import Decided, Deciding, Known, reuse_of
from fasthep_flow.model import Plan, TaskSpec
from fasthep_flow.records.digests import Digests

_NO_NEEDS: Mapping[str, Any] = {}


def deciding(of: Plan, stop: threading.Event | None = None, **options: Any) -> Deciding[str]:
    stop = stop or threading.Event()
    runtimes = {one.name: "native" for one in of.tasks}
    reuse = reuse_of(of, runtimes, run_id="run-1", is_stopped=stop.is_set, **options)
    return Deciding(of, reuse, stop)


def told(ask: Deciding[str], one: TaskSpec) -> Decided:
    """What is told of a task, in whichever way."""
    queue: SimpleQueue[Decided] = SimpleQueue()
    at_once = ask.ask(one, _NO_NEEDS, queue.put)
    if at_once is not None:
        return at_once
    assert ask
    found = queue.get(timeout=60)
    ask.told()
    return found


def made(ask: Deciding[str], one: TaskSpec, decided: Decided, **facts: Any) -> Known[str]:
    assert decided.decision is not None
    queue: SimpleQueue[Known[str]] = SimpleQueue()
    known = ask.know("item", one, decided.decision.identity, succeeded(one, **facts), queue.put)
    if known is None:
        known = queue.get(timeout=60)
        ask.told()
    return known


def test_where_no_task_has_files_the_answer_is_there_at_once(tmp_path: Path) -> None:
    one = task("a", "true")
    whole = plan(tmp_path, one)
    (one,) = whole.tasks
    with deciding(whole) as ask:
        decided = ask.ask(one, _NO_NEEDS, lambda _: pytest.fail("it was told later"))
        assert decided is not None
        assert decided.decision is not None
        assert decided.decision.reused is None
        assert not ask


def test_where_a_task_has_files_the_answer_comes_later(tmp_path: Path) -> None:
    write(tmp_path / "in.txt")
    one = task("a", "true", inputs=("in.txt",), outputs=("out.txt",))
    whole = plan(tmp_path, one)
    (one,) = whole.tasks
    with deciding(whole) as ask:
        later: SimpleQueue[Decided] = SimpleQueue()
        assert ask.ask(one, _NO_NEEDS, later.put) is None
        assert later.get(timeout=60).task == one
        assert ask
        ask.told()
        assert not ask


def test_what_a_run_did_stands_for_it_in_the_next_one(tmp_path: Path) -> None:
    one = task("a", "true", outputs=("out.txt",))
    whole = plan(tmp_path, one)
    (one,) = whole.tasks
    with deciding(whole) as ask:
        decided = told(ask, one)
        assert decided.decision is not None
        assert decided.decision.reused is None
        write(tmp_path / "out.txt")
        digest = Digests().of(one.outputs[0])
        assert digest is not None
        known = made(ask, one, decided, outputs={one.outputs[0]: digest})
        assert known.item == "item"
        assert known.identity.parts == decided.decision.identity.parts
    with deciding(whole) as ask:
        again = told(ask, one).decision
        assert again is not None
        assert again.reused is not None
        assert again.reused.status == "reused"
    with deciding(whole, forced=["a"]) as ask:
        forced = told(ask, one).decision
        assert forced is not None
        assert forced.reused is None
        assert forced.reasons == ("it was asked for",)
    with deciding(whole, no_cache=True) as ask:
        unwanted = told(ask, one).decision
        assert unwanted is not None
        assert unwanted.reused is None


def test_at_the_end_of_a_run_goes_what_can_stand_for_nothing_any_more(tmp_path: Path) -> None:
    one = task("a", "true", outputs=("out.txt",))
    whole = plan(tmp_path, one)
    (one,) = whole.tasks
    out = write(tmp_path / "out.txt")
    with deciding(whole) as ask:
        made(ask, one, told(ask, one), outputs={one.outputs[0]: "sha256:1"})
    records = list(Path(whole.output_directory, ".cache", "results").glob("*/*"))
    assert len(records) == 1
    os.utime(records[0], (0, 0))
    with deciding(whole):
        assert records[0].exists()
    assert records[0].exists()
    out.unlink()
    with deciding(whole):
        pass
    assert not records[0].exists()


def test_once_the_run_is_stopped_no_file_is_read_any_further(tmp_path: Path) -> None:
    write(tmp_path / "in.txt", "x" * 2**21)
    one = task("a", "true", inputs=("in.txt",))
    stop = threading.Event()
    whole = plan(tmp_path, one)
    (one,) = whole.tasks
    with deciding(whole, stop) as ask:
        before = told(ask, one)
        assert before.decision is not None
        write(tmp_path / "in.txt", "y" * 2**21)
        ask.stop()
        assert stop.is_set()
        assert told(ask, one).decision is None
        # A success is recorded all the same, with what was known of it.
        assert made(ask, one, before).identity is not None


def test_who_leaves_does_not_wait_for_files(tmp_path: Path) -> None:
    write(tmp_path / "in.txt", "x" * 2**21)
    one = task("a", "true", inputs=("in.txt",))
    found: SimpleQueue[Decided] = SimpleQueue()
    whole = plan(tmp_path, one)
    (one,) = whole.tasks
    with deciding(whole) as ask:
        for _ in range(50):
            assert ask.ask(one, _NO_NEEDS, found.put) is None
    assert found.qsize() == 50


def test_without_a_key_no_earlier_result_stands_for_a_task_with_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").mkdir()
    monkeypatch.setenv("FASTHEP_FLOW_KEY", str(tmp_path / "key"))
    whole = plan(tmp_path, task("a", "true", variables={"A": "1"}, outputs=("out.txt",)))
    (one,) = whole.tasks
    write(tmp_path / "out.txt")
    digest = Digests().of(one.outputs[0])
    assert digest is not None
    for _ in range(2):
        lines: list[str] = []
        with deciding(whole, noticed=lines.append) as ask:
            decided = told(ask, one)
            assert decided.decision is not None
            assert decided.decision.reused is None
            made(ask, one, decided, outputs={one.outputs[0]: digest})
        [line] = lines
        assert line.startswith(f"the key {tmp_path / 'key'}, by which values of variables are")
        assert line.endswith("no earlier result stands for a task with variables")
