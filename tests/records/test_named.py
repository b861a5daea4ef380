"""The files that a command names: words of it, as the program or the shell gets them."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.records.made import ANY_SPEED, line

from fasthep_flow.records.named import path_words
from fasthep_flow.records.python_runs import PythonRun, python_runs, search_path


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
    assert {"./fit.py", "with blank.json", "cuts.json", "a;b"} <= set(path_words(argv))


def test_of_a_shell_that_the_author_calls_too() -> None:
    argv = ("/bin/sh", "-ec", "./a.sh $1", "x", "data.txt")
    assert {"./a.sh", "data.txt"} <= set(path_words(argv))
    assert "script.sh" in set(path_words(("bash", "script.sh", "-c", "x")))


@pytest.mark.parametrize("text", ["echo 'no end", 'echo "no end', "echo \\", "'", "", "#", ">"])
def test_what_is_no_shell_is_no_trouble(text: str) -> None:
    assert isinstance(words(text), set)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("root -l -b -q fit.C+", "fit.C"),
        ("root -l -b -q 'fit.C++g(1, \"a.root\")'", "fit.C"),
        ("root -l -b -q 'fit.C++g(1, \"a.root\")'", "a.root"),
        ("root -l -b -q fit.C\\(1\\)", "fit.C"),
        ("root -e '.x fit.C+'", "fit.C"),
        ("hadd_all a.root,b.root", "b.root"),
        ("fit x.root:tree", "x.root"),
        ("fit x.root#tree", "x.root"),
        ("fit --opt=cuts.json", "cuts.json"),
        ("fit --opt=a=cuts.json", "cuts.json"),
        ("fit -ccuts.json", "cuts.json"),
        ("fit @arguments.txt", "arguments.txt"),
        ("fit name:$X,cuts.json", "cuts.json"),
        ("python3 -c \"exec(open('fit.py').read())\"", "fit.py"),
        ("cd sub && ./fit.sh", "sub/./fit.sh"),
        ("pushd a; cd b; ./fit.sh", "a/b/./fit.sh"),
        ("make -C build cuts.mk", "build/cuts.mk"),
        ("bash -c 'cd sub && ./fit.sh'", "sub/./fit.sh"),
    ],
)
def test_a_file_is_found_in_the_words_of_common_programs(text: str, file: str) -> None:
    assert file in words(text)
    assert file in set(path_words(tuple(shlex.split(text)))) or "cd " in text


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("python -m fits.run --x", {("run", "fits.run")}),
        ("source a; python3.12 -u -m fits", {("run", "fits")}),
        (".venv/bin/python3 -mfits", {("run", "fits")}),
        ("mpirun -n 4 python3 -um fits", {("run", "fits")}),
        ("mail -m fits", set()),
        ("python fit.py", {("script", "fit.py")}),
        ("python -W error -X dev fit -m x", {("script", "fit")}),
        ('python -c "import a.b as x, c"', {("imported", "a.b"), ("imported", "c")}),
        ("python -Ic 'from a import (b, c)'", {("imported", f"a{x}") for x in ("", ".b", ".c")}),
        ("python -c 'x=1\nfrom a import b'", {("imported", "a"), ("imported", "a.b")}),
    ],
)
def test_what_python_runs(text: str, runs: set[PythonRun]) -> None:
    assert set(python_runs(line(text).argv)) == runs
    assert set(python_runs(("bash", "-c", f"cd x; ssh y {shlex.quote(text)}"))) == runs
    assert ";" in text or set(python_runs(tuple(shlex.split(text)))) == runs


def test_what_python_reads_from_the_command_itself() -> None:
    assert PythonRun("imported", "helper") in set(
        python_runs(line("python3 - <<EOF\nimport helper\nEOF").argv)
    )


@pytest.mark.parametrize(
    ("text", "folders", "is_whole"),
    [
        ("export PYTHONPATH=$PWD/lib", ["/w/lib"], True),
        ("export PYTHONPATH=lib:/x:$PYTHONPATH", ["/w/lib", "/x"], True),
        ('PYTHONPATH="${PWD}/my lib${PYTHONPATH:+:$PYTHONPATH}" ./x', ["/w/my lib"], True),
        ("PYTHONPATH+=:$(pwd)/lib; export PYTHONPATH", ["/w/lib"], True),
        ("export PYTHONPATH=$HERE/lib:lib", ["/w/lib"], False),
        ("prepend PYTHONPATH lib", [], False),
        ("export OTHER=1", [], True),
    ],
)
def test_where_python_looks_as_a_shell_says_it(
    text: str, folders: list[str], is_whole: bool
) -> None:
    assert search_path(text, "/w") == (tuple(folders), is_whole)


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
    assert all(one.what for one in python_runs(line(f"python {text}").argv) if one.kind != "run")
    search_path(f"PYTHONPATH={text}", "/w")
