"""The nouns: what goes through JSON comes back, and secrets do not go through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.errors import Location
from fasthep_flow.model import (
    Call,
    Command,
    Environment,
    FlowSpec,
    Invocation,
    Job,
    JobResult,
    Plan,
    Resources,
    TaskSpec,
    Variable,
    from_json,
    to_json,
)

# What JSON can hold: text without lone surrogates, finite numbers.
TEXT = st.text(st.characters(codec="utf-8"))
COMMANDS = st.builds(Command, argv=st.lists(TEXT, min_size=1).map(tuple), stdin=st.none() | TEXT)
FINITE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CALLS = st.builds(
    Call,
    target=TEXT,
    args=st.lists(FINITE, max_size=3).map(tuple),
    kwargs=st.dictionaries(TEXT, FINITE, max_size=3),
)
RESOURCES = st.builds(
    Resources,
    cpus=st.none() | st.floats(0.1, 1e3),
    memory=st.none() | st.integers(1, 2**50),
    gpus=st.none() | st.integers(1, 8),
    process_on=st.sampled_from(["cpu", "gpu", "gpu_if_available"]),
    walltime_s=st.none() | st.floats(0.1, 1e6),
)


@given(
    invocation=COMMANDS | CALLS,
    resources=RESOURCES,
    name=TEXT,
    variables=st.lists(TEXT, max_size=3).map(tuple),
)
def test_a_job_comes_back_from_its_text(
    invocation: Invocation, resources: Resources, name: str, variables: tuple[str, ...]
) -> None:
    job = Job(
        run_id="r",
        task=name,
        slug="s",
        attempt=2,
        invocations={"cpu": invocation},
        directory="/a b",
        working_directory="/",
        run_directory="/r",
        variables=variables,
        resources=resources,
        timeout_s=1.5,
    )
    assert from_json(Job, to_json(job)) == job


@given(value=FINITE, tail=TEXT)
def test_a_result_comes_back_from_its_text(value: object, tail: str) -> None:
    result = JobResult(
        task="t", attempt=1, status="succeeded", exit_code=0, value=value, stdout_tail=tail
    )
    assert from_json(JobResult, to_json(result)) == result


def test_a_value_of_none_is_not_the_same_as_no_value() -> None:
    returned = JobResult(task="t", attempt=1, status="succeeded", value=None)
    silent = JobResult(task="t", attempt=1, status="succeeded")
    assert '"value":null' in to_json(returned)
    assert "value" not in to_json(silent)
    assert from_json(JobResult, to_json(returned)).value is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"task": "t"}', '{"task":"t","attempt":1,"status":"fine"}', '"text"'],
)
def test_text_that_is_no_result_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(JobResult, text)


def test_the_value_of_a_variable_is_neither_shown_nor_encoded() -> None:
    variable = Variable("hunter2", "common.env:3")
    flow = FlowSpec(transform="local", runner="concurrent")
    task = TaskSpec(
        name="t",
        slug="t",
        operator="o",
        invocations={"cpu": Command(argv=("true",))},
        environment=Environment(flow=flow, variables={"TOKEN": variable}),
        location=Location("workflow.yaml", 3, 5, "tasks[0]"),
    )
    plan = Plan(
        name="p",
        tasks=(task,),
        flow=flow,
        directory="/",
        source="/workflow.yaml",
        output_directory="/output",
        digest="sha256:0",
    )
    for shown in (repr(variable), str(variable), repr(plan), to_json(plan)):
        assert "hunter2" not in shown
        assert "common.env:3" in shown


def test_variables_are_equal_by_value_and_origin() -> None:
    assert Variable("a", "x") == Variable("a", "x")
    assert Variable("a", "x") != Variable("b", "x")
    assert len({Variable("a", "x"), Variable("a", "x")}) == 1
    assert Variable("a", "x") != "a"


def test_a_flow_reads_as_the_page_writes_it() -> None:
    assert str(FlowSpec(transform="prefect", runner="DaskTaskRunner")) == "prefect::DaskTaskRunner"
