"""Variables from `.env` files and mappings, and what is said about those that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dotenv
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.language.made import TASK, Bench

from fasthep_flow.errors import ExitCode
from fasthep_flow.language import read_text
from fasthep_flow.language import variables as module
from fasthep_flow.language.findings import MOST_PROBLEMS, Findings


def values(bench: Bench, text: str, **options: Any) -> dict[str, str]:
    """The variables of a task whose `variables` are `text`."""
    task = bench.task(f"environment:\n  variables: {text}", **options)
    return {name: variable.value for name, variable in task.environment.variables.items()}


def refusal(bench: Bench, text: str, **options: Any) -> str:
    return str(bench.problem(f"{TASK}    environment:\n      variables: {text}\n", **options))


def test_a_scalar_is_text_as_it_is_spelt(bench: Bench) -> None:
    text = "{A: yes, B: 1e3, C: 0o17, D: 1.10, E: true, F: 012, G: '', H: .inf, I: 'x y', J: 0x1F}"
    assert values(bench, text) == {
        "A": "yes",
        "B": "1e3",
        "C": "0o17",
        "D": "1.10",
        "E": "true",
        "F": "012",
        "G": "",
        "H": ".inf",
        "I": "x y",
        "J": "0x1F",
    }


def test_a_null_passes_the_value_of_the_host_through(bench: Bench) -> None:
    assert values(bench, "{A: null, B: , C: ~}", host={"A": "1", "B": "", "C": "3"}) == {
        "A": "1",
        "B": "",
        "C": "3",
    }


def test_a_null_that_the_host_knows_nothing_of(bench: Bench) -> None:
    assert refusal(bench, "{A: null}") == (
        "workflow.yaml:6:22: tasks[0].environment.variables.A: "
        "A has no value, and the host has none to pass through\n"
        '      set it before the run, or write A: "" for an empty one'
    )


def test_where_a_value_came_from(bench: Bench) -> None:
    bench.write("common.env", "\n# a comment\nA=1\n\nexport B=2\n")
    task = bench.task(
        "environment:\n  variables:\n  - common.env\n  - C: 3\n    D:\n", host={"D": "4"}
    )
    assert {n: v.origin for n, v in task.environment.variables.items()} == {
        "A": "common.env:3",
        "B": "common.env:5",
        "C": "workflow.yaml:8",
        "D": "the host, workflow.yaml:9",
    }


def test_a_dotenv_file_is_taken_literally(bench: Bench) -> None:
    bench.write(
        "sub/my vars.env",
        "\ufeffPLAIN=a b c\r\nDQ=\"x y\"\r\nSQ='x y'\r\nINLINE=foo # c\r\nX=${PLAIN}_x\r\n"
        'P=pa$$word\r\nC=`echo hi`\r\nD=$(ls)\r\nESC="a\\nb"\r\nTRAIL=a  \r\nEMPTY=\r\nHASH=#x\r\n',
    )
    assert values(bench, "sub/my vars.env") == {
        "PLAIN": "a b c",
        "DQ": "x y",
        "SQ": "x y",
        "INLINE": "foo",
        "X": "${PLAIN}_x",
        "P": "pa$$word",
        "C": "`echo hi`",
        "D": "$(ls)",
        "ESC": "a\nb",
        "TRAIL": "a",
        "EMPTY": "",
        "HASH": "#x",
    }


def test_a_path_is_relative_to_the_workflow_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench.write("common.env", "A=1\n")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert values(bench, "common.env") == {"A": "1"}
    assert values(bench, str(bench.folder / "common.env")) == {"A": "1"}


def test_who_wins(bench: Bench) -> None:
    bench.write("global.env", "A=global file\nB=global file\nC=global file\nD=global file\n")
    bench.write("task.env", "C=task file\nD=task file\n")
    bench.write("late.env", "D=late file\nE=late file\n")
    plan = bench.plan(
        "global:\n"
        "  variables: [{B: global mapping, C: global mapping}, global.env]\n"
        "tasks:\n"
        "  - name: a\n"
        "    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {bash_command: a}\n"
        "    environment:\n"
        "      variables: [{E: task mapping}, task.env, late.env, {F: 1}, {F: 2}]\n"
        "  - name: b\n"
        "    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {bash_command: b}\n"
    )
    first, second = (
        {name: variable.value for name, variable in task.environment.variables.items()}
        for task in plan.tasks
    )
    assert first == {
        "A": "global file",
        "B": "global mapping",
        "C": "task file",
        "D": "late file",
        "E": "task mapping",
        "F": "2",
    }
    assert second == {
        "A": "global file",
        "B": "global mapping",
        "C": "global mapping",
        "D": "global file",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{A: 1, PWD: hunter2}", "6:30: tasks[0].environment.variables.PWD: bash sets PWD itself"),
        ("[{PWD: hunter2}]", "6:25: tasks[0].environment.variables[0].PWD: bash sets PWD itself"),
        ("[own.env]", "6:18: tasks[0].environment.variables: bash sets PWD itself"),
    ],
)
def test_what_bash_replaces_is_refused_with_its_place(
    bench: Bench, text: str, expected: str
) -> None:
    bench.write("own.env", "A=1\nPWD=hunter2\n")
    said = refusal(bench, text)
    assert said.startswith(f"workflow.yaml:{expected}: the value would not reach the command")
    assert "hunter2" not in said
    assert ("in own.env:2" in said) == ("own.env" in text)


def test_what_bash_replaces_is_refused_once_for_all_tasks(bench: Bench) -> None:
    second = TASK.partition("\n")[2].replace("fit", "plot")
    said = str(bench.problem(f"global: {{variables: {{PPID: 1}}}}\n{TASK}{second}"))
    assert said.startswith("workflow.yaml:1:28: global.variables.PPID: bash sets PPID itself")


def test_a_program_without_a_shell_may_have_them(bench: Bench) -> None:
    program = TASK.replace("./fit.sh", "./fit, arguments: []")
    variables = "variables: {PWD: a, UID: 1}"
    plan = bench.plan(f"{program}    environment: {{{variables}}}\n")
    assert set(plan.tasks[0].environment.variables) == {"PWD", "UID"}
    said = str(bench.problem(f"{program}    environment: {{image: 'a:1', {variables}}}\n"))
    assert "variables.UID: bash sets UID itself" in said


def test_a_name_twice_in_a_file_is_told(bench: Bench) -> None:
    bench.write("common.env", "A=hunter1\nB=2\nA=hunter2\n")
    plan = bench.plan(f"global: {{variables: common.env}}\n{TASK}")
    assert plan.warnings == ("common.env:3:1: A is set again; this value wins over line 1",)
    assert plan.tasks[0].environment.variables["A"].value == "hunter2"


def test_a_name_many_times_in_a_file_is_told_once(bench: Bench) -> None:
    bench.write("common.env", "A=1\nB=1\n" + "A=2\n" * 30_000 + "B=2\n")
    plan = bench.plan(f"global: {{variables: common.env}}\n{TASK}")
    assert plan.warnings == (
        "common.env:30002:1: A is set again; this value wins over line 1 and 29999 more",
        "common.env:30003:1: B is set again; this value wins over line 2",
    )


def test_warnings_are_so_many_and_no_more(bench: Bench) -> None:
    names = "".join(f"A{number}=1\n" for number in range(MOST_PROBLEMS + 1))
    bench.write("common.env", names * 2)
    plan = bench.plan(f"global: {{variables: common.env}}\n{TASK}")
    assert len(plan.warnings) == MOST_PROBLEMS


def test_a_file_that_many_name_is_read_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("common.env", "A=1\nA=2\n")
    opened = []
    real = Path.open

    def spy(path: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(path.name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", spy)
    tasks = "".join(
        f"  - name: t{n}\n    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {bash_command: ls}\n    environment: {variables: common.env}\n"
        for n in range(5)
    )
    plan = bench.plan(f"tasks:\n{tasks}")
    assert opened == ["common.env"]
    assert len(plan.warnings) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{1x: hunter2}", "6:19: tasks[0].environment.variables['1x']: '1x' is not the name of"),
        ("{a-b: hunter2}", "6:19: tasks[0].environment.variables.a-b: 'a-b' is not the name of"),
        ("{'': hunter2}", "6:19: tasks[0].environment.variables['']: '' is not the name of"),
        ("{é: hunter2}", "6:19: tasks[0].environment.variables['é']: 'é' is not the name of"),
        ("{'A\\n': hunter2}", "6:19: tasks[0].environment.variables['A\\\\n']: 'A\\\\n' is not"),
        ("{<key>: hunter2}", "6:19: tasks[0].environment.variables['<key>']: '<key>' is a place"),
        ("{CH_RUNNING: hunter2}", "6:19: tasks[0].environment.variables.CH_RUNNING: CH_RUNNING ca"),
        ("{FASTHEP_X: hunter2}", "6:19: tasks[0].environment.variables.FASTHEP_X: FASTHEP_X can"),
        ("{A: [hunter2]}", "6:22: tasks[0].environment.variables.A: the value of A must be text"),
        ("{A: {B: hunter2}}", "6:22: tasks[0].environment.variables.A: the value of A must be"),
        ('{A: "hunter2\\0"}', "6:22: tasks[0].environment.variables.A: the value of A holds a NUL"),
        ("{A: <value>}", "6:22: tasks[0].environment.variables.A: the value of A is a placeholder"),
        ("7", "6:18: tasks[0].environment.variables: variables are the path of a .env file, a"),
        ("[{A: 1}, 7]", "6:27: tasks[0].environment.variables[1]: variables are the path of a"),
        ("<path to .env>", "6:18: tasks[0].environment.variables: '<path to .env>' is a placeh"),
        ("{A: !hunter2 }", "6:22: this tag is not allowed"),
        ("[a, [b]]", "6:22: tasks[0].environment.variables[1]: variables are the path"),
    ],
)
def test_what_is_no_variable(bench: Bench, text: str, expected: str) -> None:
    bench.write("a", "A=1\n")
    said = refusal(bench, text)
    assert said.startswith(f"workflow.yaml:{expected}")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("TOKEN=hunter2", "write 'TOKEN: value'"),
        ("[TOKEN=hunter2]", "write 'TOKEN: value'"),
        ("\n      - TOKEN=hunter2", "write 'TOKEN: value'"),
        ("\n      - A: 1\n      - my token=hunter2", "write 'NAME: value'"),
        ("[TOKEN=<hunter2>]", "write 'TOKEN: value'"),
        ("hunter2==", "write 'NAME: value'"),
        ("{TOKEN=hunter2: }", "write 'TOKEN: value'"),
    ],
)
def test_assignments_are_told_to_be_a_mapping(bench: Bench, text: str, hint: str) -> None:
    said = refusal(bench, text)
    assert "variables are a mapping or the path of a .env file, and no text with '='" in said
    assert hint in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "text",
    [
        "variabels: {A: hunter2}",
        "variabels: hunter2",
        "variable:\n      - hunter2",
        "secrets: {A: hunter2}",
        "secrets: [hunter2!]",
        "secrets: hunter2=a",
        "secrets: hunter2 <x>",
        "credentials: hunter2",
        "vars: {A: hunter2}",
        "TOKEN: hunter2",
        "image: debian:12, variables: TOKEN=hunter2",
    ],
)
def test_what_an_author_may_take_for_variables_is_not_shown(bench: Bench, text: str) -> None:
    braces = f"{{{text}}}" if text.startswith("image") else f"\n      {text}"
    said = str(bench.refuse(f"{TASK}    environment: {braces}\n"))
    assert "hunter2" not in said


def test_variables_that_are_written_as_the_environment_are_not_shown(bench: Bench) -> None:
    said = str(bench.problem(f"{TASK}    environment:\n      - TOKEN=hunter2\n"))
    assert "must be a mapping, not a list" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("A=1\nhunter2 = 'two three\n", "secret.env:2:1: this line is not NAME=VALUE"),
        ("A=1\n\n\nKEY\nB=2\n", "secret.env:4:1: KEY has no value\n      write KEY=VALUE, or"),
        ("A=1\nB='hunter2\n", "secret.env:2:1: this line is not NAME=VALUE"),
        ("1A=hunter2\n", "secret.env:1:1: '1A' is not the name of a variable"),
        ("a.b=hunter2\n", "secret.env:1:1: 'a.b' is not the name of a variable"),
        ("A=hunter\0two\n", "secret.env:1:1: the value of A holds a NUL character"),
        ("CH_RUNNING=y\n", "secret.env:1:1: CH_RUNNING cannot be set: charliecloud tells"),
        ("A=x\nFASTHEP_TASK=y\n", "secret.env:2:1: FASTHEP_TASK cannot be set"),
        (b"A=1\r\nB=\xff\r\n", "secret.env:2:1: the byte 0xff is not UTF-8"),
    ],
)
def test_a_line_that_is_no_variable(bench: Bench, content: str | bytes, expected: str) -> None:
    bench.write("secret.env", content)
    said = refusal(bench, "secret.env")
    assert said.startswith(expected)
    assert "hunter" not in said


def test_every_bad_line_is_told_and_the_file_cannot_be_planned(bench: Bench) -> None:
    bench.write("common.env", "A\nB=1\n1C=2\n")
    error = bench.refuse(f"global: {{variables: common.env}}\n{TASK}")
    assert [str(problem.location) for problem in error.problems] == [
        "common.env:1:1",
        "common.env:3:1",
    ]
    assert error.exit_code == ExitCode.PLAN


def test_a_file_that_is_not_there_is_named_with_its_place(bench: Bench) -> None:
    said = refusal(bench, "comon.env")
    assert said.startswith(
        "workflow.yaml:6:18: tasks[0].environment.variables: "
        "the .env file 'comon.env' does not exist"
    )
    assert f"it was looked for as {bench.folder}/comon.env" in said


def test_what_is_no_file(bench: Bench) -> None:
    (bench.folder / "folder").mkdir()
    assert "the .env file 'folder' is not a file" in refusal(bench, "folder")
    assert "the .env file '/dev/zero' is not a file" in refusal(bench, "/dev/zero")
    assert "the .env file 'a\\x00b' " in refusal(bench, '"a\\0b"')
    assert "the .env file" in refusal(bench, "x" * 300)


def test_a_file_too_large(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 2**20)
    bench.write("common.env", "#" * (2**20 + 1))
    assert "the .env file 'common.env' is larger than 1 MiB" in refusal(bench, "common.env")


def test_a_value_that_no_process_takes(bench: Bench) -> None:
    longest = "x" * (128 * 1024 - 3)
    bench.write("long.env", f"A={longest}\n")
    assert values(bench, "long.env") == {"A": longest}
    bench.write("long.env", f"B=1\nA={longest}x\n")
    said = refusal(bench, "long.env")
    assert said == "long.env:2:1: the value of A is longer than the 128 KiB of a process"
    assert "is longer than" in refusal(bench, f"{{A: {longest}x}}")


@pytest.mark.parametrize("text", ["", "null", "{}", "[]", "[null]"])
def test_no_variables_at_all(bench: Bench, text: str) -> None:
    assert values(bench, text) == {}


def test_variables_show_no_value(bench: Bench) -> None:
    task = bench.task("environment: {variables: {TOKEN: hunter2}}")
    assert "hunter2" not in repr(task)


_names = st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True)
_lines = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=30
)


@given(st.lists(st.tuples(_names, _lines), max_size=6))
def test_files_are_read_as_python_dotenv_reads_them(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("dotenv", numbered=True)
    path = folder / "a.env"
    path.write_bytes("\n".join(f"{name}={value}" for name, value in lines).encode())
    document = read_text("{}", file="w.yaml", directory=folder)
    findings = Findings(document)
    reader = module.VariableReader(document, {}, findings)
    read = {name: variable.value for name, variable in reader.read("a.env", ()).items()}
    if not findings.problems:
        expected = dotenv.dotenv_values(path, interpolate=False)
        assert read == expected
