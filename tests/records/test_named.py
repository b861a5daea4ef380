"""The files that a command names: words of it, as the program or the shell gets them."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.records.made import ANY_SPEED, line

from fasthep_flow.records.named import module_words, path_words


def words(text: str) -> set[str]:
    return set(path_words(line(text).argv))


@pytest.mark.parametrize(
    "text",
    [
        "./select.sh",
        "bash ./select.sh --seed 1",
        "source setup.sh && ./select.sh",
        "cat x|./select.sh",
        "(cd sub; true); ./select.sh",
        "if ./select.sh; then true; fi",
        "A=1 './select.sh'",
        'x="$(./select.sh)"; echo $x',
        "echo `./select.sh`",
        "ssh node 'cd /tmp && ./select.sh'",
        "run --script=./select.sh",
        "SCRIPT=./select.sh make",
        "true\n./select.sh\n",
        "./select.sh <input >output",
        "\\./select.sh",
    ],
)
def test_a_script_is_found_wherever_it_stands(text: str) -> None:
    assert "./select.sh" in words(text)


@pytest.mark.parametrize(
    "text", ["echo x > log", "echo x >>log", "x 2>log", "x &> log", "x >| log", "x 2>> log 1>&2"]
)
def test_what_output_is_written_to_is_not_read(text: str) -> None:
    assert "log" not in words(text)


def test_input_is_read() -> None:
    assert {"cuts.json", "a", "b"} <= words("fit < cuts.json && diff <(sort a) <(sort b)")


def test_what_a_shell_works_out_is_not_known() -> None:
    assert words("cat *.txt $FILE ~/x data/{a,b}") == {"cat"}


def test_of_a_program_each_argument_is_one() -> None:
    argv = ("./fit.py", "with blank.json", "--config=cuts.json", "-x", "a;b")
    assert set(path_words(argv)) == {"./fit.py", "with blank.json", "cuts.json", "a;b"}


def test_of_a_shell_that_the_author_calls_too() -> None:
    argv = ("/bin/sh", "-ec", "./a.sh $1", "x", "data.txt")
    assert {"./a.sh", "data.txt"} <= set(path_words(argv))
    assert "script.sh" in set(path_words(("bash", "script.sh", "-c", "x")))


@pytest.mark.parametrize("text", ["echo 'no end", 'echo "no end', "echo \\", "'", "", "#", ">"])
def test_what_is_no_shell_is_no_trouble(text: str) -> None:
    assert isinstance(words(text), set)


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("python -m fits.run --x", ["fits.run"]),
        ("source a; python3.12 -u -m fits", ["fits"]),
        (".venv/bin/python3 -m fits", ["fits"]),
        ("mail -m fits", []),
        ("python fit.py", []),
    ],
)
def test_modules_that_python_runs(text: str, modules: list[str]) -> None:
    assert list(module_words(line(text).argv)) == modules
    assert list(module_words(tuple(text.split()))) == modules


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\n$*?[]{}~"), min_size=1)


@ANY_SPEED
@given(NAMES.filter(lambda name: not name.startswith("-") and "=" not in name))
def test_any_name_is_found_as_it_is_quoted(name: str) -> None:
    assert name in words(f"cat {shlex.quote(name)}; true")
    assert name in set(path_words(("cat", name)))


@ANY_SPEED
@given(st.text())
def test_any_text_comes_to_an_end(text: str) -> None:
    assert all(isinstance(word, str) for word in words(text))
