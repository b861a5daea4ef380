"""Registered names and plain functions as the type of a task."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from tests.language.made import Bench

from fasthep_flow.model import Call, Command

BASH = "fasthep_flow.operators.BashOperator"


def invocations(
    bench: Bench, type_: str, kwargs: str = "{}", *, register: str = "", own: str = ""
) -> Any:
    (task,) = bench.plan(workflow(type_, kwargs, register=register, own=own)).tasks
    assert task.operator == type_
    return task.invocations


def workflow(type_: str, kwargs: str = "{}", *, register: str = "", own: str = "") -> str:
    return (
        f"register: {{{register}}}\ntasks:\n  - name: fit\n    type: '{type_}'\n"
        f"    kwargs: {kwargs}\n    environment: {{{own}}}\n"
    )


def refusal(bench: Bench, type_: str = "ls", **options: Any) -> str:
    problem = bench.problem(workflow(type_, **options))
    place = f"{problem.location.line}:{problem.location.column}"
    return f"{place} {problem.location.path}: {problem.message} | {problem.hint}"


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("mymodule.fit", "mymodule:fit"),
        ("mymodule:fit", "mymodule:fit"),
        ("package.module.fit", "package.module:fit"),
        ("package.module:Class.fit", "package.module:Class.fit"),
        # What is in another package is no slip of ours.
        ("other.operators.bash", "other.operators:bash"),
    ],
)
def test_a_plain_function(bench: Bench, written: str, target: str) -> None:
    call = Call(target=target, kwargs={"events": 10, "cuts": ["a", {"b": 1.5}]})
    kwargs = "{events: 10, cuts: [a, {b: 1.5}]}"
    assert invocations(bench, written, kwargs) == {"cpu": call, "gpu": call}


def test_nothing_of_the_authors_is_imported(bench: Bench, monkeypatch: Any) -> None:
    bench.write("mymodule.py", "raise SystemExit\n")
    monkeypatch.syspath_prepend(str(bench.folder))
    invocations(bench, "mymodule.fit")
    invocations(bench, "mine::fit", register="mine::fit: mymodule.fit")
    assert "mymodule" not in sys.modules


def test_a_registered_function(bench: Bench) -> None:
    call = Call(target="mymodule:fit", kwargs={"a": 1})
    made = invocations(bench, "mine::fit", "{a: 1}", register="mine::fit: mymodule.fit")
    assert made == {"cpu": call, "gpu": call}


def test_a_function_for_each_kind_of_device(bench: Bench) -> None:
    made = invocations(
        bench, "mine::fit", "{a: 1}", register="mine::fit: {cpu: mymodule.fit, gpu: 'mymodule:on'}"
    )
    assert made == {
        "cpu": Call(target="mymodule:fit", kwargs={"a": 1}),
        "gpu": Call(target="mymodule:on", kwargs={"a": 1}),
    }


def test_a_name_for_an_operator(bench: Bench) -> None:
    made = invocations(bench, "site::sh", "{bash_command: ls}", register=f"site::sh: {BASH}")
    assert isinstance(made["cpu"], Command)
    problem = bench.problem(workflow("site::sh", register=f"site::sh: {BASH}"))
    assert problem.message == "BashOperator needs 'bash_command'"


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ("{a-b: 1}", "5:19 tasks[0].kwargs.a-b: no function has an argument 'a-b'"),
        ("{a: .inf}", "inf cannot be handed to a task"),
        ("[a]", "must be a mapping, not a list"),
    ],
)
def test_arguments_that_no_function_takes(bench: Bench, kwargs: str, expected: str) -> None:
    problem = bench.problem(workflow("m.fit", kwargs))
    place = f"{problem.location.line}:{problem.location.column}"
    assert expected in f"{place} {problem.location.path}: {problem.message}"


@pytest.mark.parametrize(
    ("register", "expected"),
    [
        ("fit: m.fit", "1:12 register.fit: 'fit' is no name with a namespace | did you mean 'mine"),
        ("'a:fit': m.fit", "'a:fit' is no name with a namespace | such as mine::fit"),
        ("'a::b::c': m.fit", "is no name with a namespace"),
        ("'::fit': m.fit", "is no name with a namespace"),
        ("'a::': m.fit", "is no name with a namespace"),
        (
            "fasthep::fit: m.fit",
            "names that start with 'fasthep' are not yours to give | did you mean 'mine::fit'?",
        ),
        ("FASTHEP_flow::fit: m.fit", "names that start with 'fasthep' are not yours to give"),
        ("'<ns>::fit': m.fit", "'<ns>' is a placeholder"),
        ("mine::fit: fit", "1:23 register['mine::fit']: 'fit' does not name a function | write"),
        ("mine::fit: m.fit()", "'m.fit()' does not name a function"),
        ("mine::fit: <function>", "'<function>' is a placeholder | write your own function"),
        ("mine::fit: ''", "this is empty, and no function"),
        ("mine::fit: fasthep_flow.operators.BashOp", "does not name a function"),
        ("mine::fit: other::fit", "'other::fit' is a registered name itself | write the function"),
        ("mine::fit: 3", "register['mine::fit']: must be text or a mapping, not a number"),
        ("mine::fit: [a]", "must be text or a mapping, not a list"),
        ("mine::fit: ", "register['mine::fit']: must be text or a mapping, not empty"),
        ("mine::fit: {}", "this names no function | add 'cpu: module.function'"),
        ("mine::fit: {cpu: null}", "this names no function"),
        ("mine::fit: {gpus: m.fit}", "there is no key 'gpus' here | did you mean 'gpu'?"),
        (f"mine::fit: {{cpu: {BASH}}}", "serves either kind of device | write it without"),
        ("mine::fit: {cpu: fit}", "1:29 register['mine::fit'].cpu: 'fit' does not name a functi"),
    ],
)
def test_what_cannot_be_registered(bench: Bench, register: str, expected: str) -> None:
    # A task that uses the name is not told besides that there is none.
    assert expected in refusal(bench, BASH, kwargs="{bash_command: ls}", register=register)
    name = register.partition(": ")[0].strip("'")
    if name == "mine::fit":
        assert expected in refusal(bench, name, register=register)


@pytest.mark.parametrize(
    ("register", "type_", "expected"),
    [
        ("mine::fit: m.fit", "mine::fitt", "no registered name 'mine::fitt' | did you mean 'mine"),
        ("mine::fit: m.fit", "other::x", "no registered name 'other::x' | known are mine::fit"),
        ("", "mine::fit", "there is no registered name 'mine::fit' | add it under 'register'"),
        ("", "fit", "there is no operator 'fit' | "),
        ("", "m.fit()", "there is no operator 'm.fit()'"),
        ("", "fasthep_flow.operators.bash", "there is no operator"),
        ("", "operators.BashOperator", f"did you mean '{BASH}'?"),
    ],
)
def test_a_type_that_is_none(bench: Bench, register: str, type_: str, expected: str) -> None:
    assert expected in refusal(bench, type_, register=register)


@pytest.mark.parametrize("place", ["task", "environment", "global"])
def test_where_it_belongs(bench: Bench, place: str) -> None:
    text = {
        "task": workflow("m.fit") + "    register: {}\n",
        "environment": workflow("m.fit", own="register: {}"),
        "global": workflow("m.fit") + "global: {register: {}}\n",
    }[place]
    assert bench.problem(text).hint == "put it at the top, beside 'tasks'"


class TestDevices:
    ONE = "mine::fit: {cpu: m.fit}"
    OTHER = "mine::fit: {gpu: m.fit}"

    @pytest.mark.parametrize(
        ("register", "process_on", "expected"),
        [
            (
                ONE,
                "gpu",
                (
                    "6:43 tasks[0].environment.resources.process_on: 'mine::fit' has no gpu "
                    "version, and the task is to run on the gpu | "
                    "register one, or write 'process_on: cpu' at the task"
                ),
            ),
            (OTHER, "cpu", "'mine::fit' has no cpu version, and the task is to run on the cpu"),
        ],
    )
    def test_a_version_that_is_missing(
        self, bench: Bench, register: str, process_on: str, expected: str
    ) -> None:
        own = f"resources: {{process_on: {process_on}}}"
        assert expected in refusal(bench, "mine::fit", register=register, own=own)

    def test_the_default_is_the_cpu(self, bench: Bench) -> None:
        said = refusal(bench, "mine::fit", register=self.OTHER)
        assert "4:11 tasks[0].type: 'mine::fit' has no cpu version" in said

    def test_the_global_setting_is_named(self, bench: Bench) -> None:
        text = workflow("mine::fit", register=self.ONE)
        problem = bench.problem(f"{text}global: {{resources: {{process_on: gpu}}}}\n")
        assert str(problem.location.path) == "global.resources.process_on"

    @pytest.mark.parametrize(
        ("register", "expected"),
        [
            (ONE, "'mine::fit' has no gpu version: the task runs on the cpu in any case"),
            (OTHER, "'mine::fit' has no cpu version: the task needs a gpu in any case"),
        ],
    )
    def test_a_choice_that_is_none_is_told(
        self, bench: Bench, register: str, expected: str
    ) -> None:
        own = "resources: {process_on: gpu_if_available}"
        (warning,) = bench.plan(workflow("mine::fit", register=register, own=own)).warnings
        assert expected in warning

    @pytest.mark.parametrize("type_", [BASH, "m.fit"])
    def test_others_have_both(self, bench: Bench, type_: str) -> None:
        kwargs = "{bash_command: ls}" if type_ == BASH else "{}"
        assert invocations(bench, type_, kwargs, own="resources: {process_on: gpu}")
