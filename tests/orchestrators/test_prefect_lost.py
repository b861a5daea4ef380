"""Whole workflows on Prefect's runners whose workers die in the middle of a task."""

from pathlib import Path

import pytest

from fasthep_flow.records.run import read_run
from fasthep_flow.workflow import Report, load_plan, run_plan

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]

# A job's parent is its worker.
_ONCE = (
    "echo begun >> {0}.log; if [ ! -e {0}.died ]; then touch {0}.died; kill -9 $PPID; sleep 60; fi"
)
_WORKFLOW = f"""
name: two runners
global:
  flow: prefect::ProcessPoolTaskRunner
tasks:
  - name: before
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "echo begun >> before.log"}}
  - name: in a process
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "{_ONCE.format("process")}"}}
    needs: [before]
  - name: on dask
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "{_ONCE.format("dask")}"}}
    needs: [before]
    environment: {{flow: "prefect::DaskTaskRunner"}}
  - name: after
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "cat *.log > all"}}
    needs: [in a process, on dask]
"""
_FATAL = """
name: fatal
global:
  workflow:
    transform: prefect
    kwargs: {{runner: {runner}, allowed_failures: 1}}
tasks:
  - name: doomed
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "kill -9 $PPID; sleep 60"}}
  - name: later
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "true"}}
"""


def _run(folder: Path, text: str) -> Report:
    path = folder / "workflow.yaml"
    path.write_text(text)
    return run_plan(load_plan(path))


def test_tasks_on_two_runners_go_on_after_their_workers_were_killed(tmp_path: Path) -> None:
    report = _run(tmp_path, _WORKFLOW)
    assert {
        name: outcome.result.status for name, outcome in report.outcomes.items()
    } == dict.fromkeys(("before", "in a process", "on dask", "after"), "succeeded")
    attempts = {name: outcome.result.attempt for name, outcome in report.outcomes.items()}
    assert attempts == {"before": 1, "in a process": 2, "on dask": 2, "after": 1}
    # What was done before stays done.
    assert (tmp_path / "all").read_text() == "begun\n" * 5
    first = [
        (report.directory / "tasks" / slug / "1" / "result.json").read_text()
        for slug in ("in-a-process", "on-dask")
    ]
    for text in first:
        assert '"kind":"worker"' in text
        assert "died" in text


@pytest.mark.parametrize("runner", ["ProcessPoolTaskRunner", "DaskTaskRunner", "RayTaskRunner"])
def test_a_task_whose_workers_die_each_time_fails_with_what_is_known(
    tmp_path: Path, runner: str
) -> None:
    report = _run(tmp_path, _FATAL.format(runner=runner))
    doomed, later = (report.outcomes[name].result for name in ("doomed", "later"))
    assert (doomed.status, doomed.attempt) == ("failed", 2)
    assert doomed.failure is not None
    assert doomed.failure.kind == "worker"
    assert doomed.failure.message.startswith("Prefect lost task 'doomed': ")
    assert "died" in doomed.failure.message
    assert later.status == "skipped"
    assert read_run(report.directory).status == "failed"
