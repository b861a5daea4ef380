"""What an author gets wrong, and what is said about it: place, words, hint, exit code."""

from __future__ import annotations

import pytest
from tests.language.made import TASK, Bench

from fasthep_flow.errors import ExitCode

SECOND = TASK.replace("tasks:\n", "").replace("fit", "plot")
NAMES = "known are name, global, orchestrations, register, tasks, stages"


def check(bench: Bench, text: str, code: int, expected: str, hint: str | None) -> None:
    error = bench.refuse(text)
    (problem,) = error.problems
    path = f"{problem.location.path}: " if problem.location.path else ""
    place = f"{problem.location.line}:{problem.location.column}"
    assert f"{place}: {path}{problem.message}" == expected
    assert problem.hint == hint
    assert error.exit_code == code


@pytest.mark.parametrize(
    ("text", "expected", "hint"),
    [
        ("", "1:1: the file is empty", "a workflow has the key 'tasks'"),
        ("# nothing\n", "1:1: the file is empty", "a workflow has the key 'tasks'"),
        (
            "- name: a\n",
            "1:1: a workflow is a mapping",
            "start the file with 'tasks:' and indent the rest",
        ),
        (
            "just text\n",
            "1:1: a workflow is a mapping",
            "start the file with 'tasks:' and indent the rest",
        ),
        ("name: a\n", "1:1: the workflow has no tasks", "list them under 'tasks'"),
        ("tasks: []\n", "1:8: tasks: the workflow has no tasks", "list them under 'tasks'"),
        ("tasks:\n", "1:7: tasks: the workflow has no tasks", "list them under 'tasks'"),
        (
            "tasks: {a: {type: x}}\n",
            "1:8: tasks: tasks must be a list",
            "start each one with '- name:'",
        ),
        ("tasks: [a]\n", "1:9: tasks[0]: must be a mapping, not text", None),
        ("tasks: [null]\n", "1:9: tasks[0]: must be a mapping, not empty", None),
        (
            f"{TASK}stages: []\n",
            "5:1: stages: 'tasks' and 'stages' say the same thing twice",
            "keep 'tasks'",
        ),
        (
            f"{TASK}globl: {{}}\n",
            "5:1: globl: there is no key 'globl' here",
            "did you mean 'global'?",
        ),
        (f"{TASK}version: 1\n", "5:1: version: there is no key 'version' here", NAMES),
        (
            f"{TASK}image: a:1\n",
            "5:1: image: there is no key 'image' here",
            "put it under 'global': image for every task is part of that",
        ),
        (
            f"{TASK}secrets: [A]\n",
            "5:1: secrets: there is no key 'secrets' here",
            "put it under 'global': secrets for every task is part of that",
        ),
        (f"{TASK}name: 3\n", "5:7: name: must be text, not a number", "put it in quotes"),
        (
            f'{TASK}name: ""\n',
            "5:7: name: the workflow's name is empty or holds control characters",
            None,
        ),
        (f"{TASK}global: 3\n", "5:9: global: must be a mapping, not a number", None),
        (f"{TASK}global: [a]\n", "5:9: global: must be a mapping, not a list", None),
        (
            f"{TASK}global: {{output: out}}\n",
            "5:18: global.output: must be a mapping, not text",
            None,
        ),
        (
            f"{TASK}global: {{output: {{directory: <folder>}}}}\n",
            "5:30: global.output.directory: '<folder>' is a placeholder",
            None,
        ),
        (
            f"{TASK}global: {{output: {{directory: ''}}}}\n",
            "5:30: global.output.directory: this is not the name of a folder",
            None,
        ),
        (
            f"{TASK}tasks: []\n",
            "5:1: the key 'tasks' is written twice, first at workflow.yaml:1:1",
            None,
        ),
        *(
            (f"{TASK}{key}: [x]\n", f"5:1: {key}: {key!r} is not supported yet", "remove it")
            for key in ("params", "variations")
        ),
    ],
)
def test_the_file(bench: Bench, text: str, expected: str, hint: str | None) -> None:
    check(bench, text, ExitCode.WORKFLOW, expected, hint)


@pytest.mark.parametrize(
    ("line", "expected", "hint"),
    [
        ("need: [a]", "5:5: tasks[0].need: there is no key 'need' here", "did you mean 'needs'?"),
        (
            "Retries: 1",
            "5:5: tasks[0].Retries: there is no key 'Retries' here",
            "did you mean 'retries'?",
        ),
        (
            "with_: {}",
            "5:5: tasks[0].with_: there is no key 'with_' here",
            "did you mean 'with'?",
        ),
        (
            "resources: {}",
            "5:5: tasks[0].resources: there is no key 'resources' here",
            "put it under 'environment': a task's resources is part of that",
        ),
        ("retries: 1001", "5:14: tasks[0].retries: 1001 is more than 1000", "1000 is the most"),
        ("retries: -1", "5:14: tasks[0].retries: -1 is less than 0", None),
        (
            "retries: '2'",
            "5:14: tasks[0].retries: must be a whole number, not text",
            "remove the quotes",
        ),
        (
            "retries: 1.5",
            "5:14: tasks[0].retries: must be a whole number, not a number with a fraction",
            None,
        ),
        (
            "retries: true",
            "5:14: tasks[0].retries: must be a whole number, not true or false",
            None,
        ),
        ("timeout: 1:30", "5:14: tasks[0].timeout: '1:30' is not a time", "did you mean '1h30m'?"),
        ("timeout: 0", "5:14: tasks[0].timeout: 0 is no time at all", "leave it out for no limit"),
        ("needs: 3", "5:12: tasks[0].needs: must be a list, not a number", None),
        ("needs: [3]", "5:13: tasks[0].needs[0]: must be text, not a number", "put it in quotes"),
        (
            "needs: {a: b}",
            "5:12: tasks[0].needs: must be a list, not a mapping",
            "start each item with '- '",
        ),
        (
            "with: {}",
            "5:5: tasks[0].with: 'kwargs' (line 4) and 'with' (line 5) say the same thing twice",
            "keep 'kwargs'",
        ),
        ("environment: gpu", "5:18: tasks[0].environment: must be a mapping, not text", None),
        (
            "environment: {varables: a.env}",
            "5:19: tasks[0].environment.varables: there is no key 'varables' here",
            "did you mean 'variables'?",
        ),
        (
            "environment: {output: {directory: a}}",
            "5:19: tasks[0].environment.output: there is no key 'output' here",
            (
                "known are image, network, reuse, variables, secrets, setup, python, credentials, "
                "extra_data, flow, workflow, resources"
            ),
        ),
        (
            "environment: {resources: {cpu: 1}}",
            "5:31: tasks[0].environment.resources.cpu: there is no key 'cpu' here",
            "did you mean 'cpus'?",
        ),
        (
            "environment: {resources: 8Gi}",
            "5:30: tasks[0].environment.resources: must be a mapping, not text",
            None,
        ),
        (
            "environment: {resources: {memory: 8gb}}",
            "5:39: tasks[0].environment.resources.memory: '8gb' is not an amount of memory",
            "did you mean '8G', or '8Gi'?",
        ),
        (
            "environment: {resources: {memory: 500m}}",
            "5:39: tasks[0].environment.resources.memory: '500m' is thousandths of a byte",
            "write 500M or 500Mi for megabytes",
        ),
        (
            "environment: {resources: {process_on: gpus}}",
            "5:43: tasks[0].environment.resources.process_on: 'gpus' is not a device policy",
            "did you mean 'gpu'?",
        ),
        (
            "environment: {resources: {process_on: fpga}}",
            "5:43: tasks[0].environment.resources.process_on: 'fpga' is not a device policy",
            "known are cpu, gpu, gpu_if_available",
        ),
        (
            "environment: {resources: {process_on: 1}}",
            "5:43: tasks[0].environment.resources.process_on: must be text, not a number",
            "known are cpu, gpu, gpu_if_available",
        ),
        *(
            (f"{key}: [x]", f"5:5: tasks[0].{key}: {key!r} is not supported yet", "remove it")
            for key in ("foreach",)
        ),
        (
            "environment: {extra_data: TBC}",
            "5:31: tasks[0].environment.extra_data: 'TBC' is a placeholder",
            "remove 'extra_data': it is not needed",
        ),
        (
            "environment: {variables: {A: !env x}}",
            "5:34: this tag is not allowed",
            "a workflow is plain data: remove what starts with '!', or put the text in quotes",
        ),
    ],
)
def test_a_key_of_a_task(bench: Bench, line: str, expected: str, hint: str | None) -> None:
    text = f"{TASK}    {line}\n"
    check(bench, text, ExitCode.WORKFLOW, expected, hint)


@pytest.mark.parametrize(
    ("task", "expected", "hint"),
    [
        ("type: BASH", "2:5: tasks[0]: the task has no name", "add 'name: ...'"),
        ("name: , type: BASH", "2:5: tasks[0]: the task has no name", "add 'name: ...'"),
        ("name: ' ', type: BASH", "2:12: tasks[0].name: the task's name is empty", None),
        (
            "name: 2016, type: BASH",
            "2:12: tasks[0].name: must be text, not a number",
            "put it in quotes",
        ),
        (
            'name: "a\\nb", type: BASH',
            "2:12: tasks[0].name: the name 'a\\nb' holds control characters",
            "names are printed: keep them on one line",
        ),
        (
            'name: "a\\x1b[31m", type: BASH',
            "2:12: tasks[0].name: the name 'a\\x1b[31m' holds control characters",
            "names are printed: keep them on one line",
        ),
        (
            "name: a",
            "2:5: tasks[0]: the task has no type",
            "add 'type: fasthep_flow.operators.BashOperator'",
        ),
        (
            "name: a, type: BashOperator",
            "2:21: tasks[0].type: there is no operator 'BashOperator'",
            "did you mean 'fasthep_flow.operators.BashOperator'?",
        ),
        (
            "name: a, type: bash",
            "2:21: tasks[0].type: there is no operator 'bash'",
            "did you mean 'fasthep_flow.operators.BashOperator'?",
        ),
        (
            "name: a, type: fasthep_flow.operators.BashOperater",
            "2:21: tasks[0].type: there is no operator 'fasthep_flow.operators.BashOperater'",
            "did you mean 'fasthep_flow.operators.BashOperator'?",
        ),
        (
            "name: a, type: airflow.operators.bash.BashOperator",
            "2:21: tasks[0].type: there is no operator 'airflow.operators.bash.BashOperator'",
            "did you mean 'fasthep_flow.operators.BashOperator'?",
        ),
        (
            "name: a, type: fasthep_flow.fit",
            "2:21: tasks[0].type: there is no operator 'fasthep_flow.fit'",
            "known are fasthep_flow.operators.BashOperator, fasthep_flow.operators.PythonOperator",
        ),
        (
            "name: a, type: my-module.fit",
            "2:21: tasks[0].type: there is no operator 'my-module.fit'",
            "known are fasthep_flow.operators.BashOperator, fasthep_flow.operators.PythonOperator",
        ),
        (
            "name: a, type: 'mine::fit'",
            "2:21: tasks[0].type: there is no registered name 'mine::fit'",
            "add it under 'register'",
        ),
        (
            "name: a, type: <operator>",
            "2:21: tasks[0].type: '<operator>' is a placeholder",
            "known are fasthep_flow.operators.BashOperator, fasthep_flow.operators.PythonOperator",
        ),
        ("name: a, type: 3", "2:21: tasks[0].type: must be text, not a number", "put it in quotes"),
        (
            "name: a, type: BASH, kwargs: [x]",
            "2:66: tasks[0].kwargs: must be a mapping, not a list",
            "start each argument with its name",
        ),
        (
            "name: a, type: BASH, kwargs: {bash_command: root <path to macro>}",
            "2:81: tasks[0].kwargs.bash_command: '<path to macro>' is a placeholder",
            "write your own value, or put it in quotes if it is meant so",
        ),
        (
            "name: a, type: PYTHON, kwargs: {python_callable: 'm:f', op_args: [.inf]}",
            (
                "2:103: tasks[0].kwargs.op_args[0]: inf cannot be handed to a task: "
                "JSON has no such number"
            ),
            "put it in quotes, or let the task know it",
        ),
    ],
)
def test_a_task(bench: Bench, task: str, expected: str, hint: str | None) -> None:
    for short, name in (("BASH", "Bash"), ("PYTHON", "Python")):
        task = task.replace(f"type: {short}", f"type: fasthep_flow.operators.{name}Operator")
    if "kwargs" not in task:
        task += ", kwargs: {bash_command: ls}"
    check(bench, f"tasks:\n  - {{{task}}}\n", ExitCode.WORKFLOW, expected, hint)


@pytest.mark.parametrize(
    ("text", "expected", "hint"),
    [
        (
            f"{TASK}    needs: [plt]\n{SECOND}",
            "5:13: tasks[0].needs[0]: there is no task 'plt'",
            "did you mean 'plot'?",
        ),
        (
            f"{TASK}    needs: unknown\n{SECOND}",
            "5:12: tasks[0].needs: there is no task 'unknown'",
            "known are fit, plot",
        ),
        (f"{TASK}    needs: [fit]\n", "5:13: tasks[0].needs[0]: 'fit' needs itself", None),
        (
            f"{TASK}    needs: [plot]\n{SECOND}    dependencies: [fit]\n",
            (
                "5:12: tasks[0].needs: these tasks wait for each other: "
                "'fit' (line 2) -> 'plot' (line 6) -> 'fit'"
            ),
            "each needs the next one; one of these needs must go",
        ),
        (
            f"{TASK}    environment: {{variables: no.env}}\n",
            "5:30: tasks[0].environment.variables: the .env file 'no.env' does not exist",
            None,
        ),
    ],
)
def test_what_cannot_be_planned(bench: Bench, text: str, expected: str, hint: str | None) -> None:
    if "no.env" in text:
        hint = f"it was looked for as {bench.folder.resolve()}/no.env"
    check(bench, text, ExitCode.PLAN, expected, hint)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"{TASK}    environment: {{variables: {{A: '${{{{ x }}}}'}}}}\n", "5:34"),
        (TASK.replace("./fit.sh", "'echo ${{ tasks.a.result }}'"), "4:28"),
        (f"name: ${{{{ params.x }}}}\n{TASK}", "1:7"),
    ],
)
def test_expressions_come_later(bench: Bench, text: str, place: str) -> None:
    problem = bench.problem(text)
    assert f"{problem.location.line}:{problem.location.column}" == place
    assert problem.message == "expressions, ${{ ... }}, are not supported yet"


def test_an_expression_in_a_comment_is_none(bench: Bench) -> None:
    assert bench.plan(f"{TASK}# ${{{{ x }}}}\n").tasks


def test_an_empty_task(bench: Bench) -> None:
    error = bench.refuse("tasks:\n  - {}\n")
    assert [problem.message for problem in error.problems] == [
        "the task has no name",
        "the task has no type",
    ]


def test_many_equal_keys_are_all_told(bench: Bench) -> None:
    error = bench.refuse("".join(f"k{number % 3000}: 1\n" for number in range(6000)))
    assert sum("is written twice" in problem.message for problem in error.problems) == 3000


def test_two_tasks_of_one_name_name_both_places(bench: Bench) -> None:
    check(
        bench,
        f"{TASK}{SECOND.replace('plot', 'fit', 1)}",
        ExitCode.WORKFLOW,
        "5:11: tasks[1].name: a task is called 'fit' already, at workflow.yaml:2:11",
        "every task has a name of its own",
    )


def test_both_spellings_of_needs(bench: Bench) -> None:
    check(
        bench,
        f"{TASK}    dependencies: []\n    needs: []\n",
        ExitCode.WORKFLOW,
        "5:5: tasks[0].dependencies: "
        "'needs' (line 6) and 'dependencies' (line 5) say the same thing twice",
        "keep 'needs'",
    )


def test_the_form_of_a_message(bench: Bench) -> None:
    text = f"{TASK}    environment:\n      resources:\n        process_on: gpu_if_availible\n"
    assert str(bench.refuse(text)) == (
        "workflow.yaml:7:21: tasks[0].environment.resources.process_on: "
        "'gpu_if_availible' is not a device policy\n"
        "    7 |         process_on: gpu_if_availible\n"
        "      |                     ^ did you mean 'gpu_if_available'?"
    )


def test_every_problem_is_told_in_one_go_in_the_order_of_the_file(bench: Bench) -> None:
    bench.write("bad.env", "KEY\n")
    text = (
        "nam: x\n"  # 1
        "global:\n"
        "  flow: prefect::Dask\n"  # 3
        "  resources: {memory: 8gb, cpus: zero}\n"  # 4
        "tasks:\n"
        "  - name: a\n"  # 6
        "    type: Bash\n"  # 7
        "    needs: [b, nobody]\n"  # 8
        "    retries: x\n"
        "    environment:\n"
        "      variables: bad.env\n"
        "      image: Debian\n"  # 12
        "  - name: b\n"
        "    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {}\n"  # 15
        "    needs: a\n"
        "    retries: 1\n"
        "    retries: 2\n"  # 18
    )
    error = bench.refuse(text)
    assert [f"{problem.location.file}:{problem.location.line}" for problem in error.problems] == [
        *(f"workflow.yaml:{line}" for line in (1, 3, 4, 4, 7, 8, 8, 9, 12, 15, 18)),
        "bad.env:1",
    ]
    assert error.exit_code == ExitCode.WORKFLOW


def test_no_value_of_a_variable_is_shown_whatever_else_is_wrong(bench: Bench) -> None:
    text = (
        "global: {variables: {TOKEN: hunter2}, flow: nonsense}\n"
        "tasks:\n"
        "  - {name: a, type: x, environment: {variables: &v {PASSWORD: hunter2,\n"
        "      PASSWORD: hunter2, MORE: hunter2}, image: A}}\n"
        "  - {name: b, type: y, environment: {variables: [{<<: *v, 1: hunter2}], imag: A}}\n"
        "  - {name: c, type: z, environment: {variables: {N: 12345678901}, resources: 1}}\n"
    )
    said = str(bench.refuse(text))
    assert "hunter2" not in said
    assert "12345678901" not in said
    assert len(bench.refuse(text).problems) == 9


def test_a_value_that_is_endless_is_cut(bench: Bench) -> None:
    long = "x" * 100_000
    text = f"{TASK}    environment: {{image: {long.upper()}, flow: {long}}}\n    retries: {long}\n"
    said = str(bench.refuse(f"{text}    ? {long}\n    : 1\n"))
    assert len(said) < 2000


def test_many_problems_are_all_told(bench: Bench) -> None:
    number = 3000
    text = "tasks:\n" + "".join(
        f"- {{name: t{n}, needs: [u{n}], x{n}: 1}}\n" for n in range(number)
    )
    assert len(bench.refuse(text).problems) == 3 * number
