"""Whatever is written, the answer is a plan or a list of problems with places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fasthep_flow.errors import WorkflowError
from fasthep_flow.language import Document, make_plan, read_text, read_workflow
from fasthep_flow.model import to_json
from fasthep_flow.orchestrators.catalogue import Catalogue

RUNNERS = Catalogue(
    {"local": ("concurrent", "sequential"), "prefect": ("DaskTaskRunner",)}, {}, plug_ins=False
)
WORDS = [
    *("tasks", "stages", "global", "name", "type", "kwargs", "with", "needs", "dependencies"),
    *("environment", "image", "runtime", "variables", "flow", "workflow", "transform"),
    *("runner", "resources", "cpus", "memory", "gpus", "process_on", "walltime", "retries"),
    *("timeout", "output", "directory", "extra_data", "bash_command", "arguments", "foreach"),
    *("fasthep_flow.operators.BashOperator", "fasthep_flow.operators.PythonOperator"),
    *("local::concurrent", "prefect", "debian:12", "8Gi", "500m", "1h30m", "gpu", "a", "b"),
    *("python_callable", "op_args", "op_kwargs", "mod:f", "<x y>", "${{ x }}", "TBC", ".env"),
    *("setup", "script", "python", "version", "requirements", "credentials", "kind", "file"),
    *("variable", "source", "target", "digest", "mode", "register", "mine::fit", "cpu", "copy"),
    *("inputs", "outputs", "cache", "allow_failure", "times", "delay", "backoff", "on", "lost"),
    *("s3://b/*.root", "https://h/x?token=y", "root://h//x", "../x", "~/x", "sha256:00", ">=3.9"),
]
MARKS = [
    *(": ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "'", '"', "#", "|", ">"),
    *("<<: ", "---", "!t", "~", "\t", "\r\n", "é", "\x1b", "\0", "? ", "%"),
]
scalars = (
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=8)
) | st.sampled_from(WORDS)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)
environments = st.fixed_dictionaries(
    {},
    optional={
        "image": st.sampled_from(["debian:12", "rootproject/root", None])
        | st.fixed_dictionaries(
            {},
            optional={
                "cpu": st.sampled_from(["debian:12", None, {"pull": "never"}]) | values,
                "gpu": st.sampled_from(["debian:12", "cuda:12", None]) | values,
                "name": st.just("debian:12") | values,
            },
        )
        | values,
        "variables": st.dictionaries(st.sampled_from(["A", "B_1"]), scalars) | values,
        "flow": st.sampled_from(["local::sequential", "local"]) | values,
        "setup": st.sampled_from(["a.sh", "A=1", ["a.sh", {"script": "b.sh"}]]) | values,
        "python": st.sampled_from(["3.12", {"requirements": ["numpy>=2"]}]) | values,
        "credentials": st.lists(st.sampled_from(["x509", "token"]), max_size=3) | values,
        "extra_data": st.lists(
            st.sampled_from(["a.root", "https://h/a.root", "s3://b/*"])
            | st.fixed_dictionaries(
                {"source": st.sampled_from(["b.root", "root://h//b.root"]) | values},
                optional={
                    "target": st.sampled_from(["in/", "/opt/b"]) | values,
                    "digest": st.just("adler32:00") | values,
                    "mode": st.sampled_from(["ro", "copy"]) | values,
                },
            ),
            max_size=3,
        )
        | values,
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "memory": st.sampled_from(["8Gi", 2**30, ["1Gi", "2Gi"], []]) | values,
                "cpus": st.sampled_from([1, 0.5, "500m", [1, 2], [2, 1]]) | values,
                "walltime": st.sampled_from(["1h", ["1h", "2h", "3h"]]) | values,
                "process_on": st.sampled_from(["cpu", "gpu", "gpu_if_available"]) | values,
                "gpus": st.integers(0, 3) | values,
            },
        )
        | values,
    },
)
paths = st.sampled_from(["a", "a/", "a/b", "a/*", "/", "..", "../a", "~", "~x/y", "output/a"])
tasks = st.fixed_dictionaries(
    {
        "name": st.sampled_from("abcd") | values,
        "type": st.sampled_from(["fasthep_flow.operators.BashOperator", "m.fit", "mine::fit"])
        | values,
        "kwargs": st.just({"bash_command": "ls"}) | values,
    },
    optional={
        "needs": st.lists(st.sampled_from("abcd"), max_size=2) | values,
        "environment": environments | values,
        "retries": st.integers(0, 2)
        | st.fixed_dictionaries(
            {},
            optional={
                "times": st.integers(0, 2) | values,
                "delay": st.sampled_from(["30s", 0]) | values,
                "backoff": st.sampled_from([1, 2.5]) | values,
                "on": st.lists(st.sampled_from(["failed", "lost"])) | values,
            },
        )
        | values,
        "inputs": st.lists(paths, max_size=3) | values,
        "outputs": st.lists(paths, max_size=3) | paths | values,
        "cache": st.booleans() | values,
        "allow_failure": st.booleans() | values,
        "timeout": st.sampled_from(["2h", 90]) | values,
    },
)
workflows = st.fixed_dictionaries(
    {"tasks": st.lists(tasks, min_size=1, max_size=4) | values},
    optional={
        "name": values,
        "global": environments | values,
        "register": st.dictionaries(
            st.sampled_from(["mine::fit", "fit"]) | st.text(max_size=6),
            st.sampled_from(["m.fit", {"cpu": "m.fit"}]) | values,
            max_size=2,
        )
        | values,
    },
)


def answer(document: Document) -> None:
    plan = make_plan(document, runners=RUNNERS, host={})
    assert plan.tasks
    position = {task.name: number for number, task in enumerate(plan.tasks)}
    assert len(position) == len(plan.tasks)
    assert all(position[other] < position[task.name] for task in plan.tasks for other in task.needs)
    assert len({task.slug.casefold() for task in plan.tasks}) == len(plan.tasks)
    to_json(plan)


def check(text: str) -> None:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    try:
        answer(read_text(text, file="w.yaml", directory=Path("/nowhere")))
    except WorkflowError as error:
        assert error.problems  # noqa: PT017
        for problem in error.problems:
            assert problem.message
            assert problem.location is not None
            assert 1 <= problem.location.line <= len(lines)
            assert 1 <= problem.location.column <= len(lines[problem.location.line - 1]) + 2
            assert "\x1b" not in str(problem)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(workflows | values)
def test_workflows_that_are_nearly_right(workflow: Any) -> None:
    text = json.dumps(workflow, ensure_ascii=False)
    check(text.replace("Infinity", ".inf").replace("NaN", ".nan"))


@given(st.lists(st.sampled_from(WORDS + MARKS), max_size=40))
def test_words_of_the_language_in_any_order(parts: list[str]) -> None:
    check("".join(parts))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b"\xff\xfet\0")
@example(b"%YAML 9.9\n---\n")
@example(b"%TAG ! tag:x,2000:\n---\na: !b c\n")
@example(b"? ? ? a\n")
@example(b"tasks:\n- &a\n  <<: *a\n")
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.yaml"
    path.write_bytes(content)
    with pytest.raises(WorkflowError):
        answer(read_workflow(path))
