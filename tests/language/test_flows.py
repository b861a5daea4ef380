"""Who runs what."""

from __future__ import annotations

from typing import Any

import pytest
from tests.language.made import TASK, Bench

from fasthep_flow.errors import ExitCode

OTHER = (
    "  - name: plot\n"
    "    type: fasthep_flow.operators.BashOperator\n"
    "    kwargs: {bash_command: ./plot.sh}\n"
)


def flows(bench: Bench, text: str, **options: Any) -> list[str]:
    """The flow of the workflow and those of its tasks."""
    plan = bench.plan(text, **options)
    return [str(plan.flow), *(str(task.environment.flow) for task in plan.tasks)]


def test_without_a_word_it_is_this_machine(bench: Bench) -> None:
    assert flows(bench, TASK) == ["local::concurrent", "local::concurrent"]


def test_the_global_setting(bench: Bench) -> None:
    text = f"global: {{flow: 'prefect::SequentialTaskRunner'}}\n{TASK}"
    assert flows(bench, text) == ["prefect::SequentialTaskRunner"] * 2


def test_the_long_form_carries_options(bench: Bench) -> None:
    plan = bench.plan(
        "global:\n  workflow:\n    transform: prefect\n"
        f"    kwargs: {{runner: DaskTaskRunner, cluster_kwargs: {{n_workers: 2}}}}\n{TASK}"
    )
    assert str(plan.flow) == "prefect::DaskTaskRunner"
    assert plan.flow.options == {"cluster_kwargs": {"n_workers": 2}}
    assert plan.tasks[0].environment.flow == plan.flow


@pytest.mark.parametrize(
    "text",
    ["{transform: prefect}", "{transform: prefect, kwargs: }", "{transform: prefect, kwargs: {}}"],
)
def test_a_transform_alone_means_its_default_runner(bench: Bench, text: str) -> None:
    assert flows(bench, f"global: {{workflow: {text}}}\n{TASK}")[0] == "prefect::DaskTaskRunner"
    assert flows(bench, f"global: {{flow: prefect}}\n{TASK}")[0] == "prefect::DaskTaskRunner"


def test_what_tasks_name_decides_where_nothing_else_does(bench: Bench) -> None:
    text = f"{TASK}    environment: {{flow: 'prefect::SequentialTaskRunner'}}\n{OTHER}"
    assert flows(bench, text) == [
        "prefect::DaskTaskRunner",
        "prefect::SequentialTaskRunner",
        "prefect::DaskTaskRunner",
    ]


def test_a_name_means_the_defined_one_with_its_options(bench: Bench) -> None:
    plan = bench.plan(
        "global:\n  workflow:\n    transform: prefect\n"
        f"    kwargs: {{runner: DaskTaskRunner, address: a}}\n{TASK}"
        "    environment: {flow: 'prefect::DaskTaskRunner'}\n"
        f"{OTHER}    environment: {{flow: 'prefect::SequentialTaskRunner'}}\n"
    )
    first, second = (task.environment.flow for task in plan.tasks)
    assert first.options == {"address": "a"}
    assert second.options == {}


def test_the_command_line_wins(bench: Bench) -> None:
    text = f"global: {{workflow: {{transform: prefect, kwargs: {{address: a}}}}}}\n{TASK}"
    assert flows(bench, text, flow="local") == ["local::concurrent"] * 2
    assert flows(bench, text, flow="dask::local") == ["dask::local"] * 2
    assert bench.plan(text, flow="prefect::DaskTaskRunner").flow.options == {"address": "a"}
    assert bench.plan(text, flow="prefect").flow.options == {"address": "a"}


def test_the_long_form_on_the_command_line(bench: Bench) -> None:
    plan = bench.plan(TASK, workflow='{"transform": "prefect", "kwargs": {"address": "a"}}')
    assert str(plan.flow) == "prefect::DaskTaskRunner"
    assert plan.flow.options == {"address": "a"}
    text = f"{TASK}    environment: {{flow: 'prefect::DaskTaskRunner'}}\n"
    plan = bench.plan(text, workflow="{transform: prefect, kwargs: {address: b}}")
    assert plan.tasks[0].environment.flow.options == {"address": "b"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"flow": "local", "workflow": "{}"},
            "--flow and --workflow say the same thing twice\n  keep one of them",
        ),
        ({"flow": "locl"}, "--flow: there is no flow 'locl'\n  did you mean "),
        ({"flow": "prefct::DaskTaskRunner"}, "--flow: there is no transform 'prefct'\n  did you"),
        (
            {"flow": "prefect::DaskRunner"},
            "--flow: 'prefect' has no runner 'DaskRunner'\n  did you mean 'DaskTaskRunner'?",
        ),
        ({"flow": "local::"}, "--flow: 'local::' names no runner"),
        ({"flow": ""}, "--flow: there is no flow ''"),
        ({"flow": "<flow>"}, "--flow: '<flow>' is a placeholder"),
        ({"workflow": "{kwargs: {}}"}, "--workflow: 'workflow' names no transform"),
    ],
)
def test_a_command_line_that_cannot_be(
    bench: Bench, options: dict[str, str], expected: str
) -> None:
    error = bench.refuse(TASK, **options)
    assert str(error).startswith(expected)
    assert error.exit_code == ExitCode.PLAN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{transfrom: local}", "--workflow:1:2: transfrom: there is no key 'transfrom' here"),
        ("{transform: local", "--workflow:1:1: this bracket is not closed"),
        ("local", "--workflow:1:1: must be a mapping, not text"),
        ("{transform: 3}", "--workflow:1:13: transform: must be text, not a number"),
        ("{transform: local, transform: dask}", "--workflow:1:20: the key 'transform' is written"),
        ("", "--workflow:1:1: must be a mapping, not empty"),
    ],
)
def test_a_long_form_on_the_command_line_that_cannot_be(
    bench: Bench, text: str, expected: str
) -> None:
    error = bench.refuse(TASK, workflow=text)
    assert str(error).startswith(expected)
    assert error.exit_code == ExitCode.WORKFLOW


def test_both_forms_at_one_place_name_both_lines(bench: Bench) -> None:
    text = f"global:\n  flow: local::concurrent\n  workflow: {{transform: local}}\n{TASK}"
    assert str(bench.problem(text)).startswith(
        "workflow.yaml:2:3: global.flow: 'flow' (line 2) and 'workflow' (line 3) "
        "say the same thing twice"
    )


def test_a_task_of_another_transform_is_refused(bench: Bench) -> None:
    text = (
        "global:\n  flow: prefect::DaskTaskRunner\n"
        f"{TASK}    environment:\n      flow: local::sequential\n"
    )
    error = bench.refuse(text)
    assert error.exit_code == ExitCode.PLAN
    assert str(error).startswith(
        "workflow.yaml:8:13: tasks[0].environment.flow: this task's flow is one of 'local', "
        "but the global setting in line 2 says 'prefect::DaskTaskRunner'"
    )


def test_tasks_of_two_transforms_are_refused(bench: Bench) -> None:
    text = (
        f"{TASK}    environment: {{flow: 'dask::local'}}\n"
        f"{OTHER}    environment: {{flow: 'local::sequential'}}\n"
    )
    assert str(bench.problem(text)).startswith(
        "workflow.yaml:9:25: tasks[1].environment.flow: this task's flow is one of 'local', "
        "but the task in line 5 says 'dask::local'"
    )


def test_the_command_line_does_not_talk_a_task_out_of_its_flow(bench: Bench) -> None:
    text = f"{TASK}    environment: {{flow: 'prefect::SequentialTaskRunner'}}\n"
    problem = bench.problem(text, flow="local")
    assert problem.message == (
        "this task's flow is one of 'prefect', but the command line says 'local::concurrent'"
    )
    assert "give the command line one of 'prefect', or remove the task's" in problem.hint
    assert flows(bench, text, flow="prefect") == [
        "prefect::DaskTaskRunner",
        "prefect::SequentialTaskRunner",
    ]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            "flow: prefect::DaskTaskRuner",
            "5:25: tasks[0].environment.flow: 'prefect' has no runner",
        ),
        ("flow: <flow>", "5:25: tasks[0].environment.flow: '<flow>' is a placeholder"),
        ("flow: 3", "5:25: tasks[0].environment.flow: must be text, not a number"),
        ("flow: 'dask::slrum'", "5:25: tasks[0].environment.flow: 'dask' has no runner 'slrum'"),
        ("flow: 'mine::cern'", "5:25: tasks[0].environment.flow: there is no transform 'mine'"),
        (
            "workflow: {transform: prefect, kwargs: {runner: A | B | any other supported value}}",
            "5:67: tasks[0].environment.workflow.kwargs.runner: 'A | B | any other supported valu",
        ),
        (
            "workflow: {transform: prefect, runner: A}",
            "5:50: tasks[0].environment.workflow.runner: there is no key 'runner' here",
        ),
    ],
)
def test_a_flow_that_cannot_be(bench: Bench, setting: str, expected: str) -> None:
    text = f"{TASK}    environment: {{{setting}}}\n"
    assert str(bench.problem(text)).startswith(f"workflow.yaml:{expected}")


@pytest.mark.parametrize(
    ("flow", "hint"),
    [
        ("dusk", "did you mean 'dask::local'?"),
        ("dusk::local", "did you mean 'dask::local'?"),
        ("locl", "did you mean 'local::concurrent' or 'local::sequential'?"),
        ("locl::sequential", "did you mean 'local::sequential'?"),
        (
            "xyz",
            (
                "known are local::concurrent, local::sequential, dask::local, "
                "prefect::DaskTaskRunner, prefect::SequentialTaskRunner"
            ),
        ),
    ],
)
def test_a_flow_is_answered_with_names_that_can_be_copied(
    bench: Bench, flow: str, hint: str
) -> None:
    assert bench.problem(TASK, flow=flow).hint == hint
