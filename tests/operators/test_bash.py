import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.operators.made import prepared, refused

from fasthep_flow.errors import ArgumentError
from fasthep_flow.model import Command
from fasthep_flow.operators import find_operator
from fasthep_flow.operators.bash import BashOperator, own_variables

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def command(**kwargs: Any) -> Command:
    return prepared(BashOperator(), Command, kwargs)


def refusal(*args: Any, **kwargs: Any) -> ArgumentError:
    return refused(BashOperator(), args, kwargs)


def test_is_found_by_the_name_of_the_specification() -> None:
    assert isinstance(find_operator("fasthep_flow.operators.BashOperator"), BashOperator)
    assert find_operator("fasthep_flow.operators.NoOperator") is None


def test_a_line_is_for_bash_which_stops_at_the_first_failure() -> None:
    line = "root -bxq 'a b.C' | tee log\necho $X\n"
    assert command(bash_command=line).argv == ("bash", "-e", "-o", "pipefail", "-c", line)


def test_a_program_with_arguments_needs_no_shell() -> None:
    prepared = command(bash_command="./fit", arguments=["a b", 1, 4.9, True, False, "", "$HOME"])
    assert prepared.argv == ("./fit", "a b", "1", "4.9", "true", "false", "", "$HOME")
    assert command(bash_command="a b", arguments=[]).argv == ("a b",)


@given(st.lists(WORDS), WORDS.filter(lambda text: text.strip()))
def test_any_text_arrives_as_it_is(arguments: list[str], program: str) -> None:
    assert command(bash_command=program, arguments=arguments).argv == (program, *arguments)


@pytest.mark.parametrize(
    ("kwargs", "path", "words"),
    [
        ({}, ("kwargs",), "needs 'bash_command'"),
        ({"arguments": ["x"]}, ("kwargs",), "needs 'bash_command'"),
        ({"bash_command": None}, ("kwargs", "bash_command"), "must be text, not empty"),
        ({"bash_command": 3}, ("kwargs", "bash_command"), "must be text, not a number"),
        ({"bash_command": ["ls"]}, ("kwargs", "bash_command"), "must be text, not a list"),
        ({"bash_command": ""}, ("kwargs", "bash_command"), "is empty"),
        ({"bash_command": " \n"}, ("kwargs", "bash_command"), "is empty"),
        ({"bash_command": "a\0b"}, ("kwargs", "bash_command"), "NUL"),
        ({"bash_command": "a", "arguments": "b c"}, ("kwargs", "arguments"), "not text"),
        ({"bash_command": "a", "arguments": None}, ("kwargs", "arguments"), "not empty"),
        ({"bash_command": "a", "arguments": {"b": 1}}, ("kwargs", "arguments"), "a mapping"),
        ({"bash_command": "a", "arguments": ["b", None]}, ("kwargs", "arguments", 1), "not empty"),
        ({"bash_command": "a", "arguments": [["b"]]}, ("kwargs", "arguments", 0), "not a list"),
        ({"bash_command": "a", "arguments": ["b\0"]}, ("kwargs", "arguments", 0), "NUL"),
    ],
)
def test_refuses_what_it_cannot_start(
    kwargs: dict[str, Any], path: tuple[str | int, ...], words: str
) -> None:
    error = refusal(**kwargs)
    assert error.path == path
    assert words in error.message


def test_an_unknown_argument_is_answered_with_the_nearest_name() -> None:
    error = refusal(bash_comand="ls")
    assert error.path == ("kwargs", "bash_comand")
    assert error.hint == "did you mean 'bash_command'?"
    error = refusal(bash_command="ls", xyz=1)
    assert error.path == ("kwargs", "xyz")
    assert error.hint == "known are bash_command, arguments"


def test_all_unknown_arguments_are_named() -> None:
    assert refusal(bash_command="ls", xyz=1, cwd="a").message == (
        "BashOperator has no argument 'xyz'; BashOperator has no argument 'cwd'"
    )


def test_an_argument_that_no_program_can_be_handed_is_refused() -> None:
    longest = "x" * (128 * 1024 - 1)
    assert subprocess.run(["true", longest], check=True).returncode == 0
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["true", f"{longest}x"], check=False)
    assert command(bash_command=longest).argv[-1] == longest
    for kwargs in (
        {"bash_command": f"{longest}x"},
        {"bash_command": "é" * (64 * 1024)},
        {"bash_command": "a", "arguments": [f"{longest}x"]},
    ):
        error = refusal(**kwargs)
        assert error.message.startswith("this is longer than the 128 KiB")
        assert "xx" not in str(error)


def test_takes_no_positional_arguments() -> None:
    error = refusal("ls")
    assert error.path == ("args",)
    assert "bash_command" in str(error)


LINE = command(bash_command="true")
OWN = sorted(own_variables(LINE, in_image=False, as_root=os.geteuid() == 0))


@pytest.mark.parametrize("name", OWN)
def test_what_bash_sets_itself_does_not_arrive(name: str, tmp_path: Path) -> None:
    line = f'printf "%s\\n" "${{{name}-}}"; /usr/bin/env'
    done = subprocess.run(
        command(bash_command=line).argv,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], name: "given 7"},
        capture_output=True,
        text=True,
        check=False,
    )
    seen, *child = done.stdout.splitlines() or [""]
    assert seen != "given 7" or f"{name}=given 7" not in child


@pytest.mark.parametrize("name", ["TOKEN", "PATH_", "BASH_ENV", "LANG", "TERM", "UID", "HOME"])
def test_other_variables_arrive_in_a_line_of_shell(name: str) -> None:
    assert name not in OWN


def test_only_for_root_bash_sets_what_a_trace_shows() -> None:
    root, user = (own_variables(LINE, in_image=False, as_root=one) for one in (True, False))
    assert root - user == {"PS4"}
    program = command(bash_command="a", arguments=[])
    assert not own_variables(program, in_image=False, as_root=True)


def test_the_page_names_the_variables_that_are_a_shells_own() -> None:
    page = Path(__file__).parents[2] / "docs/reference/variables.md"
    line, image = page.read_text().partition("Some names are")[2].split("\n- for ")[1:3]
    image = image.partition("\n\n")[0]
    assert set(re.findall(r"`([A-Z_\d]+)`", line)) == own_variables(
        LINE, in_image=False, as_root=True
    )
    inside = own_variables(command(bash_command="a", arguments=[]), in_image=True, as_root=True)
    assert set(re.findall(r"`([A-Z_\d]+)`", image)) == set(inside)
