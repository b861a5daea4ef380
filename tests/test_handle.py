import subprocess
import sys
from pathlib import Path

import pytest

import fasthep_flow
from fasthep_flow import Workflow
from fasthep_flow.errors import PlanError, WorkflowError

_TEXT = """
name: two
tasks:
  - name: first
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: "echo one"}
  - name: second
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: "echo two"}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "workflow.yaml"
    path.write_text(_TEXT)
    return path


def test_what_is_said_beside_the_file_holds_for_all_that_is_done(path: Path) -> None:
    workflow = Workflow(
        path,
        flow="local::sequential",
        output_directory=path.parent / "elsewhere",
        tasks=["first"],
    )
    plan = workflow.plan()
    assert (str(plan.flow), [task.name for task in plan.tasks]) == ("local::sequential", ["first"])
    report = workflow.run()
    assert report.succeeded
    assert report.directory.parent == path.parent / "elsewhere"
    assert list(report.outcomes) == ["first"]


def test_the_long_form_is_taken_too(path: Path) -> None:
    text = '{"transform": "local", "kwargs": {"runner": "concurrent", "max_workers": 1}}'
    plan = Workflow(str(path), workflow=text).plan()
    assert plan.flow.options == {"max_workers": 1}


def test_the_file_is_read_each_time(path: Path) -> None:
    workflow = Workflow(path)
    assert workflow.lint() == ()
    path.write_text(_TEXT.replace("kwargs", "kwarg"))
    with pytest.raises(WorkflowError, match="kwarg"):
        workflow.lint()
    path.unlink()
    with pytest.raises(WorkflowError):
        workflow.plan()


def test_tasks_that_there_are_not_are_told(path: Path) -> None:
    with pytest.raises(PlanError, match="third"):
        Workflow(path, tasks=["third"]).plan()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"flow": "local::many"}, r"^Workflow\(flow=...\): 'local' has no runner 'many'"),
        ({"workflow": "{transform: lcal}"}, r"^Workflow\(workflow=...\):1:13: transform: there is"),
        ({"workflow": "{kwargs: {}}"}, r"^Workflow\(workflow=...\): 'workflow' names no"),
        (
            {"flow": "local", "workflow": "{transform: local}"},
            r"^Workflow\(flow=...\) and Workflow\(workflow=...\) say the same thing twice",
        ),
    ],
)
def test_what_is_wrong_beside_the_file_is_told_of_the_argument(
    path: Path, said: dict[str, str], words: str
) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        Workflow(path, flow=said.get("flow"), workflow=said.get("workflow")).plan()
    assert "--" not in str(caught.value)


def test_the_argument_is_where_the_flow_is_from(path: Path) -> None:
    assert Workflow(path, flow="local").plan().flow_origin == "Workflow(flow=...)"
    path.write_text(_TEXT + "    environment: {flow: 'dask::local'}\n")
    with pytest.raises(PlanError, match="but the Python program says 'local::concurrent'"):
        Workflow(path, flow="local").plan()


def test_check_tells_of_this_machine_and_of_each_environment(path: Path) -> None:
    machine, both = Workflow(path).check()
    assert {check.verdict for check in machine.checks} == {"ok"}
    assert both.tasks == ("first", "second")


def test_it_says_which_file_it_is() -> None:
    assert repr(Workflow("a/workflow.yaml")) == "Workflow('a/workflow.yaml')"


def test_the_package_brings_it_along_only_when_asked() -> None:
    program = (
        "import sys, fasthep_flow; "
        "assert 'fasthep_flow.workflow' not in sys.modules; "
        "fasthep_flow.Workflow; "
        "assert 'fasthep_flow.workflow' in sys.modules; "
        "assert not {'prefect', 'dask', 'ray'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert fasthep_flow.__all__ == ["Workflow"]
    with pytest.raises(AttributeError, match="no attribute 'Workflows'"):
        fasthep_flow.Workflows  # noqa: B018
