"""Errors: each tells what, where, why and what to do next, and knows its exit code."""

from __future__ import annotations

import inspect
import signal

import pytest

from fasthep_flow import errors
from fasthep_flow.errors import (
    FlowError,
    Location,
    PlanError,
    Problem,
    RunInterrupted,
    WorkflowError,
)


def test_a_problem_reads_as_in_the_design() -> None:
    location = Location("workflow.yaml", 17, 21, "tasks[1].environment.resources.process_on")
    problem = Problem(
        "'gpu_if_availible' is not a device policy",
        location,
        hint="did you mean 'gpu_if_available'?",
        source="        process_on: gpu_if_availible",
    )
    assert str(problem) == (
        "workflow.yaml:17:21: tasks[1].environment.resources.process_on: "
        "'gpu_if_availible' is not a device policy\n"
        "   17 |         process_on: gpu_if_availible\n"
        "      |                     ^ did you mean 'gpu_if_available'?"
    )


def test_a_problem_without_a_file_reads_as_a_sentence() -> None:
    assert str(Problem("no such task", hint="known is 'fit'")) == "no such task\n  known is 'fit'"
    assert str(Problem("no such task")) == "no such task"


def test_a_problem_of_a_whole_file_has_a_place_but_no_line_to_show() -> None:
    problem = Problem("the file is empty", Location("w.yaml", 1, 1), hint="write tasks")
    assert str(problem).splitlines() == ["w.yaml:1:1: the file is empty", "      write tasks"]


def test_the_caret_stands_under_the_column_where_the_line_has_tabs() -> None:
    problem = Problem("tab", Location("w.yaml", 1, 2), source="\tx: 1")
    line, caret = str(problem).splitlines()[1:]
    assert line.index("x") == caret.index("^")


def test_all_problems_are_in_the_message() -> None:
    error = WorkflowError(Problem("one"), Problem("two"))
    assert str(error) == "one\ntwo"
    assert [problem.message for problem in error.problems] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("WorkflowError", 2),
        ("ArgumentError", 2),
        ("PlanError", 3),
        ("EnvironmentRefused", 4),
        ("EngineUnavailable", 4),
        ("ImageUnavailable", 4),
        ("LimitUnenforceable", 4),
        ("OrchestratorUnavailable", 5),
        ("RecordError", 6),
    ],
)
def test_each_class_knows_its_exit_code(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_a_signal_gives_the_code_that_a_shell_gives() -> None:
    assert RunInterrupted(signal.SIGINT).exit_code == 130
    assert str(RunInterrupted(signal.SIGTERM)) == "stopped by SIGTERM"


def test_one_tree_holds_every_error() -> None:
    classes = [
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, Exception)
    ]
    assert len(classes) > 8
    assert all(issubclass(member, FlowError) for member in classes)
    assert issubclass(PlanError, WorkflowError)


def test_a_hint_stands_on_a_line_of_its_own() -> None:
    assert str(FlowError("no room", hint="make room")) == "no room\n  make room"
