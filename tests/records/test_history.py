"""Which run of a workflow goes on; and that of two drivers at once one chooses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fasthep_flow.errors import RecordError, RunClaimed
from fasthep_flow.model import Plan
from fasthep_flow.records import history
from fasthep_flow.records.history import (
    choosing,
    forget_begun,
    latest_run,
    note_begun,
    run_ids,
)
from fasthep_flow.records.run import RunFolder, RunStatus


def ended(plan: Plan, status: RunStatus = "failed") -> Path:
    with RunFolder.create(plan, version="1") as folder:
        folder.finish(status)
    return folder.path


def old_run(output: Path, run_id: str, **changes: object) -> Path:
    """A run as one of long ago left it."""
    folder = output / run_id
    folder.mkdir(parents=True)
    head = {"format": 2, "source": "/elsewhere.yaml", "status": "failed", **changes}
    (folder / "run.json").write_text(json.dumps(head))
    return folder


@pytest.fixture
def output(plan: Plan) -> Path:
    return Path(plan.output_directory)


def test_there_is_none_at_first(plan: Plan, output: Path) -> None:
    assert latest_run(output, plan.source) == (None, (), ())
    with choosing(output, plan.source) as found:
        assert found.latest is None


@pytest.mark.parametrize(
    ("status", "state"),
    [("succeeded", "succeeded"), ("failed", "unfinished"), ("cancelled", "unfinished")],
)
def test_the_state_is_how_the_run_ended(
    plan: Plan, output: Path, status: RunStatus, state: str
) -> None:
    path = ended(plan, status)
    latest = latest_run(output, plan.source).latest
    assert latest is not None
    assert (latest.path, latest.run_id, latest.state) == (path, path.name, state)


def test_a_run_that_a_driver_has_is_claimed(plan: Plan, output: Path) -> None:
    with RunFolder.create(plan, version="1"):
        latest = latest_run(output, plan.source).latest
        assert latest is not None
        assert latest.state == "claimed"
        assert latest.claimed is not None
        assert latest.claimed.holder is not None
        assert latest.claimed.holder.pid == os.getpid()
        with pytest.raises(RunClaimed, match=f"process {os.getpid()}"):
            RunFolder.reopen(latest.path, plan, version="1")


def test_runs_of_other_workflows_are_passed_over(plan: Plan, output: Path) -> None:
    own = ended(plan)
    old_run(output, "29990101T000000Z-0000")
    latest = latest_run(output, plan.source).latest
    assert latest is not None
    assert latest.path == own


def test_many_runs_in_the_same_second_are_in_order(plan: Plan, output: Path) -> None:
    made = [ended(plan).name for _ in range(30)]
    assert run_ids(output) == made[::-1]


def test_a_clock_that_was_set_back_changes_no_order(plan: Plan, output: Path) -> None:
    future = datetime.now(UTC) + timedelta(days=300)
    old_run(output, f"{future:%Y%m%dT%H%M%SZ}-fffe")
    first, second, third = (ended(plan).name for _ in range(3))
    assert run_ids(output)[:3] == [third, second, first]
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", name) for name in (first, second, third))


def test_of_20000_runs_only_the_latest_one_of_the_workflow_is_read(
    plan: Plan, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.mkdir()
    for number in range(20_000):
        (output / f"2020{number // 10_000}101T000000Z-{number % 10_000:04x}").mkdir()
    own = ended(plan)
    read: list[str] = []
    true = history._read

    def counted(path: str) -> bytes:
        read.append(path)
        return true(path)

    monkeypatch.setattr(history, "_read", counted)
    latest = latest_run(output, plan.source).latest
    assert latest is not None
    assert latest.path == own
    assert read == [f"{own}/run.json"]


@pytest.mark.parametrize("damage", [b"", b'{"format": 2, ', b"\0" * 100, b"[]", b"\xff\xfe"])
def test_a_run_whose_file_is_damaged_is_named_and_passed_over(
    plan: Plan, output: Path, damage: bytes
) -> None:
    own = ended(plan)
    damaged = ended(plan)
    (damaged / "run.json").write_bytes(damage)
    found = latest_run(output, plan.source)
    assert found.latest is not None
    assert found.latest.path == own
    [told] = found.damaged
    assert str(damaged / "run.json") in told


def test_many_damaged_runs_are_named_in_few_words(plan: Plan, output: Path) -> None:
    for number in range(50):
        (old_run(output, f"20200101T000000Z-{number:04x}") / "run.json").write_text("{")
    found = latest_run(output, plan.source)
    assert len(found.damaged) == 6
    assert "45 more" in found.damaged[-1]


@pytest.mark.parametrize("number", [1, 3])
def test_a_run_of_another_format_is_passed_over(plan: Plan, output: Path, number: int) -> None:
    old_run(output, "20200101T000000Z-0000", format=number, source=plan.source)
    assert latest_run(output, plan.source) == (None, (), ())


def test_what_is_no_run_is_passed_over(plan: Plan, output: Path) -> None:
    output.mkdir()
    (output / "20200101T000000Z-0000").mkdir()  # of a driver that was killed then
    (output / "20200101T000000Z-0001").write_text("a file")
    (output / "plots").mkdir()
    assert latest_run(output, plan.source) == (None, (), ())


CHOOSES = """
import sys, time
from pathlib import Path
from fasthep_flow.errors import RunClaimed
from fasthep_flow.model import FlowSpec, Plan
from fasthep_flow.records.history import choosing
from fasthep_flow.records.run import RunFolder, RunStatus
source, output = sys.argv[1:]
plan = Plan(name="n", directory="/", source=source, output_directory=output, digest="",
    flow=FlowSpec(transform="local", runner="concurrent"), tasks=())
print("ready", flush=True)
sys.stdin.readline()
try:
    with choosing(Path(output), source) as found:
        if found.latest is None:
            folder = RunFolder.create(plan, version="1")
            print("made", flush=True)
        else:
            folder = RunFolder.reopen(found.latest.path, plan, version="1")
            print("reopened", flush=True)
except RunClaimed as error:
    print("refused", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("has_unfinished", [False, True])
def test_of_many_drivers_at_once_one_has_the_run(
    plan: Plan, output: Path, has_unfinished: bool
) -> None:
    if has_unfinished:
        ended(plan)
    with ExitStack() as stack:
        drivers = []
        for _ in range(5):
            driver = subprocess.Popen(
                [sys.executable, "-c", CHOOSES, plan.source, output],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            stack.enter_context(driver)
            stack.callback(driver.kill)
            assert driver.stdin is not None
            assert driver.stdout is not None
            drivers.append((driver.stdin, driver.stdout))
        for _, answers in drivers:
            assert answers.readline() == "ready\n"
        for orders, _ in drivers:
            orders.write("go\n")
        told = sorted(answers.readline().strip() for _, answers in drivers)
    assert told == sorted(["reopened" if has_unfinished else "made", *["refused"] * 4])
    assert len(run_ids(output)) == 1


def test_another_workflow_is_waited_for_too(plan: Plan, output: Path) -> None:
    """The one may make what the other one does."""
    with (
        choosing(output, plan.source),
        pytest.raises(RunClaimed, match=f"the next run under {output}"),
        choosing(output, "/another.yaml", patience_s=0),
    ):
        pass


def test_runs_that_have_begun_are_known_until_they_are_forgotten(plan: Plan, output: Path) -> None:
    with RunFolder.create(plan, version="1") as first:
        note_begun(first.path)
        killed = ended(plan)
        note_begun(killed)
        ended(plan)
        begun = latest_run(output, "/another.yaml").begun
        assert [(one.path, one.state) for one in begun] == [
            (killed, "unfinished"),
            (first.path, "claimed"),
        ]
        forget_begun(killed)
        forget_begun(killed)
        [left] = latest_run(output, plan.source).begun
        assert left.run_id == first.run_id


def test_choosing_leaves_one_small_file(plan: Plan, output: Path) -> None:
    for _ in range(5):
        with choosing(output, plan.source):
            pass
    [left] = (path for path in (output / ".claims").rglob("*") if path.is_file())
    assert left.name == "5.json"


def test_an_output_folder_that_is_a_file_is_told_in_one_line(plan: Plan, output: Path) -> None:
    output.write_text("in the way")
    with pytest.raises(RecordError) as refused, choosing(output, plan.source):
        pass
    assert "\n" not in refused.value.message
