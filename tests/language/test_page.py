"""The specification page: its YAML works as it is written, its placeholders filled in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.language.made import Bench

from fasthep_flow.errors import ExitCode
from fasthep_flow.model import Command, Resources

PAGE = Path(__file__).parents[3] / "shared" / "spec" / "environments.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the page is not at hand")


@pytest.fixture
def blocks() -> list[str]:
    """The page's YAML; one of its fences of four never closes, so that fences do not pair."""
    return re.findall(r"^```yaml\n(.*?)^````?$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def fill(text: str, **values: str) -> str:
    for placeholder, value in values.items():
        name = placeholder.replace("_", " ")
        text = re.sub(rf"<{re.escape(name)}>", value, text)
    assert "<" not in text
    return text


def wrapped(environment: str) -> str:
    """The page's `environment`, as a task's."""
    lines = "".join(f"    {line}\n" for line in environment.splitlines())
    return (
        "tasks:\n  - name: a\n    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {bash_command: ls}\n" + lines
    )


def test_the_example_as_it_is_written_names_its_placeholders(
    bench: Bench, blocks: list[str]
) -> None:
    error = bench.refuse(blocks[0])
    assert [(problem.location.line, problem.message) for problem in error.problems] == [
        (5, "'<path to ROOT macro>' is a placeholder"),
        (8, "'<path to .env>' is a placeholder"),
        (15, "'<namespace>', '<project>' and '<my image>' are placeholders"),
    ]


def test_the_example_with_its_placeholders_filled_in(bench: Bench, blocks: list[str]) -> None:
    bench.write("root.env", "STATS_METHOD=CLs\n")
    text = blocks[0].replace("<path to .env>", "root.env")
    text = text.replace("<path to ROOT macro>", "macro.C")
    text = fill(text, namespace="group", project="stats", my_image="cls:1")
    plan = bench.plan(text)
    first, second = plan.tasks
    assert str(plan.flow) == "prefect::DaskTaskRunner"
    assert first.name == "runROOTMacro"
    assert first.environment.image is not None
    assert first.environment.image.name == "docker.io/rootproject/root:6.28.04-ubuntu22.04"
    assert first.environment.variables["STATS_METHOD"].value == "CLs"
    assert str(first.environment.flow) == "prefect::SequentialTaskRunner"
    command = first.invocations["cpu"]
    assert isinstance(command, Command)
    assert "root -bxq macro.C" in command.argv
    assert second.needs == ("runROOTMacro",)
    assert second.environment.image is not None
    assert second.environment.image.name == "gitlab.cern/group/stats/cls:1"
    assert second.environment.variables["STATS_METHOD"].value == "CLS"
    assert second.environment.resources == Resources(
        memory=8 * 2**30, process_on="gpu_if_available"
    )
    assert plan.warnings == ()


def test_the_full_set_as_it_is_written_names_a_placeholder(bench: Bench, blocks: list[str]) -> None:
    error = bench.refuse(wrapped(blocks[1]))
    assert error.exit_code == ExitCode.WORKFLOW
    assert "'<path to .env>' is a placeholder: put your own value there" in str(error)


@pytest.mark.parametrize("variables", ["my.env", "{ A: 1, B: 2 }"])
@pytest.mark.parametrize("runner", ["SequentialTaskRunner", "DaskTaskRunner"])
def test_the_full_set_with_its_placeholders_filled_in(
    bench: Bench, blocks: list[str], variables: str, runner: str
) -> None:
    bench.write("my.env", "A=1\nB=2\n")
    text = re.sub(r"variables: .*", f"variables: {variables}", blocks[1])
    text = re.sub(r"runner: .*", f"runner: {runner}", text)
    text = text.replace("<image name>", "debian:12").replace("TBC", "[]")
    (task,) = bench.plan(wrapped(text)).tasks
    assert task.environment.image is not None
    assert task.environment.image.name == "docker.io/library/debian:12"
    assert {name: v.value for name, v in task.environment.variables.items()} == {
        "A": "1",
        "B": "2",
    }
    assert str(task.environment.flow) == f"prefect::{runner}"
    assert task.environment.resources == Resources()


def test_what_is_left_of_the_full_set_is_named(bench: Bench, blocks: list[str]) -> None:
    text = re.sub(r"variables: .*", "variables: {}", blocks[1])
    error = bench.refuse(wrapped(text))
    assert [problem.message for problem in error.problems] == [
        "'<image name>' is a placeholder",
        "'SequentialTaskRunner | DaskTaskRunner | any other supported value' is a choice to make",
        "'TBC' is a placeholder",
    ]
