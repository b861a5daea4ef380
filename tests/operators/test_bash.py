from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.errors import ArgumentError
from fasthep_flow.model import Command
from fasthep_flow.operators import find_operator
from fasthep_flow.operators.bash import BashOperator

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def command(**kwargs: Any) -> Command:
    invocations = BashOperator().prepare([], kwargs)
    assert set(invocations) == {"cpu", "gpu"}
    assert invocations["cpu"] == invocations["gpu"]
    prepared = invocations["cpu"]
    assert isinstance(prepared, Command)
    return prepared


def refusal(*args: Any, **kwargs: Any) -> ArgumentError:
    with pytest.raises(ArgumentError) as caught:
        BashOperator().prepare(args, kwargs)
    return caught.value


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


def test_takes_no_positional_arguments() -> None:
    error = refusal("ls")
    assert error.path == ("args",)
    assert "bash_command" in str(error)
