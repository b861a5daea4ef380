"""Runs that go on, and what need not run: the commands as their users meet them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.waiting import wait_until
from tests.workflows.terminal import Terminal

from fasthep_flow.errors import ExitCode
from fasthep_flow.records.run import read_run

COMMAND = Path(sys.executable).with_name("fasthep-flow")
ANALYSIS = """\
tasks:
  - name: select
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: ./select.sh}
    outputs: [events.txt]
  - name: fit
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: "cat events.txt > fit.txt; test ! -e broken"}
    needs: [select]
    inputs: [events.txt]
    outputs: [fit.txt]
    environment: {variables: {LUMI: "3"}}
  - name: plot
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: echo plotted}
    needs: [fit]
"""

Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an analysis, whose second task fails for as long as there is a file ``broken``."""
    (tmp_path / "workflow.yaml").write_text(ANALYSIS)
    select(tmp_path, "1")
    return tmp_path


@pytest.fixture
def ask(folder: Path) -> Ask:
    """The command, in that folder."""

    def ask(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *words],
            cwd=cwd or folder,
            env={**os.environ, "FASTHEP_FLOW_KEY": str(folder / "key")},
            capture_output=True,
            text=True,
            check=False,
        )

    return ask


def select(folder: Path, events: str) -> None:
    script = folder / "select.sh"
    script.write_text(f"#!/bin/sh\necho {events} > events.txt\n")
    script.chmod(0o755)


def fail(folder: Path, ask: Ask) -> str:
    """Have a run whose second task failed; its id."""
    (folder / "broken").touch()
    assert ask("run").returncode == ExitCode.TASK_FAILED
    (folder / "broken").unlink()
    return (folder / "output" / "latest").resolve().name


def runs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "output").glob("2*"))


def test_the_same_command_goes_on_with_what_failed(folder: Path, ask: Ask) -> None:
    run = fail(folder, ask)
    done = ask("run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"going on with the run {run}: 1 of 3 tasks are done")
    assert not any("select" in line for line in lines)
    assert lines[-1].startswith("3 tasks: 1 done before, 2 succeeded in ")
    assert runs(folder) == [run]


def test_what_succeeded_is_reused_by_the_next_run_in_a_line_each(folder: Path, ask: Ask) -> None:
    ask("run")
    first = runs(folder)[0]
    done = ask("run")
    assert done.stdout.splitlines()[:2] == [
        f"= select  made by the run {first}",
        f"= fit  made by the run {first}",
    ]
    assert "3 tasks: 2 reused, 1 succeeded in " in done.stdout
    assert len(runs(folder)) == 2


def test_json_tells_what_was_done_before_and_what_was_reused(folder: Path, ask: Ask) -> None:
    fail(folder, ask)
    report = json.loads(ask("run", "--format", "json").stdout)
    assert report["done_before"] == ["select"]
    report = json.loads(ask("run", "--format", "json").stdout)
    assert report["done_before"] == []
    assert [task["status"] for task in report["tasks"]] == ["reused", "reused", "succeeded"]


def test_fresh_starts_another_run(folder: Path, ask: Ask) -> None:
    fail(folder, ask)
    done = ask("run", "--fresh")
    assert "going on" not in done.stdout
    assert len(runs(folder)) == 2
    assert "3 tasks: 1 reused, 2 succeeded" in done.stdout


def test_without_the_cache_all_of_a_new_run_runs(ask: Ask) -> None:
    ask("run")
    assert "3 tasks succeeded" in ask("run", "--no-cache").stdout


def test_a_forced_task_runs_though_nothing_has_changed(ask: Ask) -> None:
    ask("run")
    done = ask("run", "--force", "select")
    assert "3 tasks: 1 reused, 2 succeeded" in done.stdout
    assert "= fit" in done.stdout, "it made the same once more"


def test_a_task_that_is_not_there_cannot_be_forced(folder: Path, ask: Ask) -> None:
    done = ask("run", "--force", "fitt")
    assert done.returncode == ExitCode.PLAN
    assert "--force: there is no task 'fitt' among those that are to run" in done.stderr
    assert "did you mean 'fit'?" in done.stderr
    done = ask("run", "--tasks", "select", "--force", "fit")
    assert "there is no task 'fit' among those that are to run" in done.stderr
    assert not (folder / "output").exists()


def test_where_everything_runs_there_is_nothing_to_be_forced(folder: Path, ask: Ask) -> None:
    done = ask("run", "--fresh", "--no-cache", "--force", "fit")
    assert done.returncode == ExitCode.WORKFLOW
    assert "with --fresh and --no-cache every task runs" in done.stderr
    assert not (folder / "output").exists()


@pytest.mark.parametrize("name", ["latest", "id", "path"])
def test_a_run_is_resumed_by_its_name(folder: Path, ask: Ask, name: str) -> None:
    run = fail(folder, ask)
    words = {"latest": "latest", "id": run, "path": str(folder / "output" / run)}
    # By its path from anywhere: its records say which workflow it was.
    done = ask("resume", words[name], cwd=folder.parent if name == "path" else folder)
    assert done.returncode == 0, done.stderr
    assert f"going on with the run {run}: 1 of 3" in done.stdout
    assert runs(folder) == [run]


def test_an_older_run_is_resumed_though_a_later_one_succeeded(folder: Path, ask: Ask) -> None:
    run = fail(folder, ask)
    assert ask("run", "--fresh").returncode == 0
    assert ask("resume", run).returncode == 0
    assert read_run(folder / "output" / run).status == "succeeded"


def test_a_resumed_run_is_as_it_was_started(folder: Path, ask: Ask) -> None:
    (folder / "broken").touch()
    ask("run", "--tasks", "fit", "--flow", "local::sequential", "--offline")
    (folder / "broken").unlink()
    for _ in range(2):
        done = ask("resume", "latest", "--format", "json")
        assert done.returncode == 0, done.stderr
        assert "as before, the run is of 'fit' and what that needs alone" in done.stderr
        assert [task["task"] for task in json.loads(done.stdout)["tasks"]] == ["select", "fit"]
    plan = json.loads((folder / "output" / "latest" / "plan.json").read_text())
    assert (plan["flow"]["runner"], plan["offline"]) == ("sequential", True)


def test_the_long_form_of_a_flow_is_kept_too(folder: Path, ask: Ask) -> None:
    (folder / "broken").touch()
    ask("run", "--workflow", "{transform: local, kwargs: {runner: concurrent, max_workers: 3}}")
    (folder / "broken").unlink()
    done = ask("resume", "latest")
    assert done.returncode == 0, done.stderr
    plan = json.loads((folder / "output" / "latest" / "plan.json").read_text())
    assert plan["flow"]["options"] == {"max_workers": 3}


def test_options_of_resume_go_before_those_of_the_run(folder: Path, ask: Ask) -> None:
    fail(folder, ask)
    done = ask("resume", "latest", "--flow", "local::sequential")
    assert "3 tasks: 1 done before, 2 succeeded" in done.stdout
    plan = json.loads((folder / "output" / "latest" / "plan.json").read_text())
    assert plan["flow"]["runner"] == "sequential"


def test_a_run_is_not_made_one_of_other_tasks(folder: Path, ask: Ask) -> None:
    run = fail(folder, ask)
    done = ask("resume", "latest", "--tasks", "select")
    assert done.returncode == ExitCode.WORKFLOW
    assert (
        f"the run {run} is of the whole workflow, and not of 'select' and what that needs alone"
    ) in done.stderr
    assert "leave out --tasks" in done.stderr
    record = read_run(folder / "output" / run)
    assert (record.status, set(record.results)) == ("failed", {"select", "fit", "plot"})
    # What needs all others is all of it.
    assert ask("resume", "latest", "--tasks", "plot").returncode == 0


def test_a_run_of_some_tasks_stays_one(folder: Path, ask: Ask) -> None:
    ask("run", "--tasks", "fit")
    for other, words in (("plot", "the whole workflow"), ("select", "'select' and what that")):
        done = ask("resume", "latest", "--tasks", other)
        assert done.returncode == ExitCode.WORKFLOW
        assert f"is of 'fit' and what that needs alone, and not of {words}" in done.stderr
    assert ask("resume", "latest", "--tasks", "fit").returncode == 0
    text = (folder / "workflow.yaml").read_text()
    (folder / "workflow.yaml").write_text(
        text.replace("name: fit", "name: sum").replace("[fit]", "[sum]")
    )
    done = ask("resume", "latest")
    assert done.returncode == ExitCode.WORKFLOW
    assert "'fit' and what that needs alone, and the workflow has nothing of that" in done.stderr


def test_a_workflow_that_was_moved_is_named_behind_the_run(folder: Path, ask: Ask) -> None:
    run = fail(folder, ask)
    (folder / "workflow.yaml").rename(folder / "moved.yaml")
    done = ask("resume", str(folder / "output" / run))
    assert done.returncode == ExitCode.RECORD
    assert "is not there any more" in done.stderr
    assert "resume RUN FILE" in done.stderr
    done = ask("resume", run, "moved.yaml")
    assert done.returncode == 0, done.stderr
    assert f"was of {folder}/workflow.yaml, and goes on with {folder}/moved.yaml" in done.stderr
    assert "1 done before, 2 succeeded" in done.stdout


def test_a_run_that_is_not_there_cannot_be_resumed(ask: Ask) -> None:
    done = ask("resume", "20260314T092653Z-1f0c")
    assert done.returncode == ExitCode.RECORD
    assert "there is no run '20260314T092653Z-1f0c'" in done.stderr


def test_a_run_with_a_driver_is_refused_and_told_of(folder: Path, ask: Ask) -> None:
    (folder / "workflow.yaml").write_text(
        "tasks:\n  - name: wait\n    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {bash_command: 'touch up; sleep 600'}\n"
    )
    with subprocess.Popen([COMMAND, "run"], cwd=folder) as driver:
        wait_until((folder / "up").exists)
        for words in (["run"], ["resume", "latest"]):
            done = ask(*words)
            assert done.returncode == ExitCode.CLAIMED
            assert f"is driven by process {driver.pid} on {os.uname().nodename}" in done.stderr
        told = ask("why", "wait").stdout
        assert f"is under way, driven by process {driver.pid}" in told
        driver.send_signal(signal.SIGTERM)


def test_after_a_first_run_the_plan_says_what_would_become_of_each(folder: Path, ask: Ask) -> None:
    first = ask("plan").stdout
    assert "done" not in first
    assert not (folder / "output").exists()
    run = fail(folder, ask)
    told = ask("plan").stdout
    assert "  1. select  done\n" in told
    assert "  2. fit  runs: it failed before\n" in told
    assert "  3. plot  runs: it was skipped before\n" in told
    assert told.endswith(f"the run {run} would go on; 3 tasks: 1 done, 2 to run\n")
    ask("run")
    select(folder, "2")
    told = ask("plan").stdout
    assert "  1. select  runs: select.sh, which its command names, changed\n" in told
    assert "  2. fit  may run: needs 'select', which runs\n" in told
    assert told.endswith("this would be a new run; 3 tasks: 2 to run, 1 that may run\n"), (
        "what declares no outputs runs in each run"
    )


def test_the_plan_as_json_has_the_forecast_beside_it(folder: Path, ask: Ask) -> None:
    first = json.loads(ask("plan", "--format", "json").stdout)
    run = fail(folder, ask)
    later = json.loads(ask("plan", "--format", "json").stdout)
    forecast = later.pop("forecast")
    assert later == first
    assert (forecast["run"], forecast["driver"]) == (run, None)
    assert forecast["tasks"] == {
        "select": {"fate": "done", "reasons": [], "made_by": run},
        "fit": {"fate": "runs", "reasons": ["it failed before"], "made_by": None},
        "plot": {"fate": "runs", "reasons": ["it was skipped before"], "made_by": None},
    }


def test_why_says_in_words_whether_a_task_runs(folder: Path, ask: Ask) -> None:
    assert ask("why", "fit").stdout == "'fit' runs: no earlier run has done it\n"
    run = fail(folder, ask)
    assert ask("why", "select").stdout == (
        "'select' need not run: it is done, and nothing has changed since\n"
        f"the run {run} would go on\n"
    )
    assert ask("why", "fit").stdout.startswith("'fit' runs: it failed before\n")
    ask("run")
    assert ask("why", "fit").stdout == (
        f"'fit' need not run: the run {run} did the same, and nothing has changed since\n"
        "this would be a new run\n"
    )
    text = (folder / "workflow.yaml").read_text()
    (folder / "workflow.yaml").write_text(text.replace('LUMI: "3"', 'LUMI: "4"'))
    assert ask("why", "fit").stdout.startswith("'fit' runs: variable LUMI changed\n")
    select(folder, "2")
    (folder / "workflow.yaml").write_text(text)
    assert ask("why", "fit").stdout == (
        "'fit' may run: needs 'select', which runs\n"
        "it need not if what it reads and needs comes out as it was\n"
        "this would be a new run\n"
    )


def test_why_as_json(folder: Path, ask: Ask) -> None:
    told = json.loads(ask("why", "fit", "--format", "json").stdout)
    assert told == {
        "task": "fit",
        "fate": "runs",
        "reasons": ["no earlier run has done it"],
        "made_by": None,
        "run": None,
        "driver": None,
    }
    run = fail(folder, ask)
    told = json.loads(ask("why", "select", "--format", "json").stdout)
    assert (told["fate"], told["made_by"], told["run"]) == ("done", run, run)


def test_why_of_a_task_that_is_not_there(ask: Ask) -> None:
    done = ask("why", "fitt")
    assert done.returncode == ExitCode.PLAN
    assert "did you mean 'fit'?" in done.stderr


def test_a_forecast_writes_nothing_but_what_it_read(folder: Path, ask: Ask) -> None:
    fail(folder, ask)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    ask("why", "fit")
    ask("plan")
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    after.pop(folder / "output/.cache/digests.json", None)
    before.pop(folder / "output/.cache/digests.json", None)
    assert after == before


def test_a_key_that_others_can_read_keeps_no_plan_from_being_shown(folder: Path, ask: Ask) -> None:
    ask("run")
    (folder / "key").chmod(0o644)
    done = ask("plan")
    assert done.returncode == 0
    assert "warning: other users may read the key" in done.stderr
    assert "  1. select  reused\n" in done.stdout, "it has no variables"
    assert "  2. fit  runs: " in done.stdout
    assert ask("why", "fit").stdout.startswith("'fit' runs")


def test_a_killed_run_says_what_was_under_way(folder: Path, ask: Ask) -> None:
    text = ANALYSIS.replace("cat events.txt > fit.txt", "touch up; sleep 600")
    (folder / "workflow.yaml").write_text(text)
    environment = {**os.environ, "FASTHEP_FLOW_KEY": str(folder / "key")}
    with subprocess.Popen([COMMAND, "run"], cwd=folder, env=environment) as driver:
        wait_until((folder / "up").exists)
        driver.kill()
    assert ask("why", "fit").stdout.startswith(
        "'fit' runs: it was under way when its run was cut short\n"
    )
    (folder / "workflow.yaml").write_text(ANALYSIS)
    done = ask("run")
    assert done.returncode == 0, done.stderr
    assert "1 done before, 2 succeeded" in done.stdout


FORTY = "tasks:\n" + "".join(
    f"""\
  - name: step {number}
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "test {number} -lt 25 -o ! -e '$FAILS'"}}
    needs: [{f"step {number - 1}" if number else ""}]
"""
    for number in range(40)
)


@pytest.mark.parametrize("columns", [40, 80])
def test_a_run_of_forty_tasks_that_goes_on_in_a_terminal(
    folder: Path, ask: Ask, tmp_path_factory: pytest.TempPathFactory, columns: int
) -> None:
    fails = tmp_path_factory.mktemp("elsewhere") / "fails"
    (folder / "workflow.yaml").write_text(FORTY.replace("$FAILS", str(fails)))
    fails.touch()
    assert "25 succeeded, 1 failed, 14 skipped" in ask("run").stdout
    fails.unlink()
    screen = Terminal(
        COMMAND, "run", folder=folder, environment=dict(os.environ), size=(30, columns)
    )
    assert screen.end() == 0
    shown = screen.shown
    assert "25 of 40 tasks are done" in shown
    assert "✓ step 24 " not in shown
    assert "✓ step 25  attempt 2 " in shown
    assert "✓ step 39 " in shown
    assert "40 tasks: 25 done before, 15 succeeded in " in shown


def test_who_has_seen_enough_ends_neither_plan_nor_run(folder: Path) -> None:
    for command in ("plan", "run", "plan"):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {COMMAND} {command} | head -n 1"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert read_run(folder / "output").status == "succeeded"
