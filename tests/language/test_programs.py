"""What a command begins with is none of what its task makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.language.made import Bench

from fasthep_flow.language.programs import first_files


def of_line(text: str) -> list[str]:
    return list(first_files(("bash", "-e", "-o", "pipefail", "-c", text)))


@pytest.mark.parametrize(
    "text",
    [
        "src/fit.sh",
        "src/fit.sh > src/a.txt",
        "sh src/fit.sh > src/a.txt",
        "bash -ex -o pipefail src/fit.sh",
        "A=1 B='x y' nice -n 5 python3 -u -W error src/fit.sh",
        "set -e; export A=1 && sh src/fit.sh",
        "source src/fit.sh && other/fit.sh",
        "time 'src/fit.sh' | tee log",
        "(sh src/fit.sh)",
        "echo start\nsh src/fit.sh",
    ],
)
def test_the_program_and_its_script(text: str) -> None:
    assert "src/fit.sh" in of_line(text)


@pytest.mark.parametrize(
    "text",
    [
        "make -C build && build/fit",
        "cp x src/fit.sh; sh src/fit.sh",
        "./fit -o src/fit.sh",
        "cat src/fit.sh",
        "python3 -m fits src/fit.sh",
        "python3 -c 'x' src/fit.sh",
        "perl -e 'x' src/fit.sh",
        "sh -c 'x' src/fit.sh",
        "echo src/fit.sh",
        "fit",
        "'no end",
        "",
    ],
)
def test_what_comes_later_may_have_been_made_by_then(text: str) -> None:
    assert {"src/fit.sh", "build/fit"}.isdisjoint(of_line(text))


@given(st.text())
def test_any_text_comes_to_an_end(text: str) -> None:
    assert all(of_line(text)) or not text.strip()
    assert isinstance(list(first_files(("sh", text))), list)


COMMAND = """\
tasks:
- name: fit
  type: fasthep_flow.operators.BashOperator
  kwargs: {bash_command: "%s"}
  outputs: %s
"""


@pytest.mark.parametrize(
    ("command", "output", "what"),
    [
        ("sh src/fit.sh > src/a.txt", "src/", "holds"),
        ("./src/fit.sh", "src", "holds"),
        ("src/fit.sh", "src/fit.sh", "is"),
    ],
)
def test_an_output_with_the_tasks_own_program_is_refused(
    bench: Bench, command: str, output: str, what: str
) -> None:
    (problem,) = bench.refuse(COMMAND % (command, output)).problems
    assert problem.location.line == 5
    assert problem.message.startswith(f"'{output}' {what} what the task's command begins with, '")
    assert problem.message.endswith(": what lies there is set aside before the task starts")
    assert problem.hint is not None
    assert "one by one" in problem.hint


def test_a_program_beside_the_outputs_is_none_of_them(bench: Bench) -> None:
    bench.plan(COMMAND % ("sh src/fit.sh > out/a.txt", "[out/, src/fit.sh.log]"))
