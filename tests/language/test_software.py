"""What is sourced before a task, and its Python environment, as authors write them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.language.made import TASK, Bench

from fasthep_flow.errors import ExitCode
from fasthep_flow.model import Environment, PythonSpec, Setup

VIEW = "/cvmfs/sft.cern.ch/lcg/views/LCG_105/x86_64-el9-gcc12-opt/setup.sh"


def merged(bench: Bench, general: str, own: str | None = None) -> Environment:
    """The environment of a task with ``own`` under ``general``; both are lines of YAML."""
    text = ""
    if general:
        text += "global:\n" + "".join(f"  {line}\n" for line in general.splitlines())
    text += TASK
    if own is not None:
        text += "    environment:\n" + "".join(f"      {line}\n" for line in own.splitlines())
    (task,) = bench.plan(text).tasks
    environment: Environment = task.environment
    return environment


def told(bench: Bench, own: str) -> list[str]:
    """The problems of a task's environment, with their places below it, and hints."""
    text = TASK + "    environment:\n" + "".join(f"      {line}\n" for line in own.splitlines())
    return [
        f"{problem.location.line - 5}:{problem.location.column - 6} "
        f"{problem.location.path.removeprefix('tasks[0].environment.')}: "
        f"{problem.message} | {problem.hint}"
        for problem in bench.refuse(text).problems
    ]


def warnings(bench: Bench, own: str) -> str:
    text = TASK + "    environment:\n" + "".join(f"      {line}\n" for line in own.splitlines())
    return "\n".join(bench.plan(text).warnings)


class TestSetup:
    @pytest.mark.parametrize(
        ("written", "path"),
        [
            (VIEW, VIEW),
            ("setup.sh", "{folder}/setup.sh"),
            ("./enter", "{folder}/enter"),
            ("../site/enter", "{folder}/../site/enter"),
            ("/opt/enter", "/opt/enter"),
            ("sub/no-such.sh", "{folder}/sub/no-such.sh"),
            ("beside", "{folder}/beside"),
            ("~/enter", "{home}/enter"),
        ],
    )
    def test_one_path_is_a_script(self, bench: Bench, written: str, path: str) -> None:
        bench.write("beside", "export A=1\n")
        path = path.format(folder=bench.folder.resolve(), home=Path.home())
        assert merged(bench, "", f"setup: {written}").setup == Setup(
            lines=f"source {path}", scripts=(path,), origin="workflow.yaml:6"
        )

    @pytest.mark.parametrize(
        "line",
        [
            "module load root",
            "cmsenv",
            "export A=1",
            "A=1",
            "source setup.sh",
            ". ./setup.sh",
            "eval `scram runtime -sh`",
            "./setup.sh;true",
            "sort <in >out",
        ],
    )
    def test_what_is_no_path_is_a_line_of_bash(self, bench: Bench, line: str) -> None:
        setup = merged(bench, "", f"setup: {line}").setup
        assert setup == Setup(lines=line, origin="workflow.yaml:6")

    def test_lines_stand_as_they_are(self, bench: Bench) -> None:
        text = f"setup: |\n  # the view\n  source {VIEW}\n\n  if true; then\n    export X=1\n  fi\n"
        setup = merged(bench, "", text).setup
        assert setup is not None
        assert setup.lines == (f"# the view\nsource {VIEW}\n\nif true; then\n  export X=1\nfi")
        assert setup.scripts == ()

    def test_a_list_is_scripts_and_lines_in_their_order(self, bench: Bench) -> None:
        setup = merged(
            bench,
            "",
            "setup:\n  - export A=1\n  - /opt/a.sh\n"
            "  - {script: /opt/b c.sh, arguments: [x y, $Z]}",
        ).setup
        assert setup == Setup(
            lines="export A=1\nsource /opt/a.sh\nsource '/opt/b c.sh' 'x y' '$Z'",
            scripts=("/opt/a.sh", "/opt/b c.sh"),
            origin="workflow.yaml:7",
        )

    def test_arguments_reach_the_script_as_they_are_written(self, bench: Bench) -> None:
        script = bench.write("a b.sh", 'printf "%s\\n" "$@"\n')
        text = 'setup: {script: a b.sh, arguments: ["$HOME", "it\'s", "*"]}'
        setup = merged(bench, "", text).setup
        assert setup is not None
        done = subprocess.run(
            ["bash", "-c", setup.lines], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == ["$HOME", "it's", "*"]
        assert setup.scripts == (str(script.parent.resolve() / "a b.sh"),)

    def test_one_argument_may_stand_alone(self, bench: Bench) -> None:
        setup = merged(bench, "", "setup: {script: /a.sh, arguments: one}").setup
        assert setup is not None
        assert shlex.split(setup.lines) == ["source", "/a.sh", "one"]

    @pytest.mark.parametrize("own", ["setup: null", "setup:", "setup: []"])
    def test_a_task_takes_the_global_one_away(self, bench: Bench, own: str) -> None:
        assert merged(bench, "setup: /a.sh", own).setup is None

    def test_a_task_replaces_the_global_one(self, bench: Bench) -> None:
        setup = merged(bench, "setup: /a.sh", "setup: /b.sh").setup
        assert setup is not None
        assert setup.lines == "source /b.sh"

    @pytest.mark.parametrize("own", [None, "variables: {A: 1}"])
    def test_a_task_that_says_nothing_has_the_global_one(
        self, bench: Bench, own: str | None
    ) -> None:
        setup = merged(bench, "setup: /a.sh", own).setup
        assert setup is not None
        assert setup.origin == "workflow.yaml:2"

    @pytest.mark.parametrize(
        ("own", "expected"),
        [
            (
                "setup: <path to setup.sh>",
                (
                    "1:8 setup: '<path to setup.sh>' is a placeholder | "
                    "write your own value, or put it in quotes if it is meant so"
                ),
            ),
            ("setup: TBC", "1:8 setup: 'TBC' is a placeholder | write your own value, or put it "),
            ("setup: 3", "1:8 setup: must be text, a mapping, or a list of these, not a number"),
            ("setup: [3]", "1:9 setup[0]: must be text or a mapping, not a number"),
            ("setup: ''", "1:8 setup: this is empty, and nothing to source | 'setup: null' for"),
            ("setup: {}", "1:8 setup: this names no script | add 'script: PATH'"),
            ("setup: {script: ''}", "1:8 setup: this is empty, and no script"),
            ("setup: {scrpt: a.sh}", "1:9 setup.scrpt: there is no key 'scrpt' here | did you "),
            ("setup: [{script: a.sh, args: [b]}]", "1:24 setup[0].args: there is no key 'args'"),
            ("setup: {script: 3}", "1:17 setup.script: must be text, not a number | put it in "),
            ("setup: $VIEW/setup.sh", "would be run, not sourced | write 'source $VIEW/setup.sh'"),
            ('setup: "a\\0b c"', "1:8 setup: this holds a NUL character"),
            ('setup: {script: a, arguments: "b\\0"}', "an argument holds a NUL character"),
            ('setup: {script: "a\\nb"}', "'a\\nb' holds control characters"),
            ("setup: {script: ~nobody-here/a.sh}", "there is no such home | write the whole path"),
            ("setup: {script: $HOME/a.sh}", "no shell reads this | write the path itself"),
            ("script: a.sh", "1:1 script: there is no key 'script' here | "),
        ],
    )
    def test_what_is_refused(self, bench: Bench, own: str, expected: str) -> None:
        (problem,) = told(bench, own)
        assert expected in problem

    def test_every_item_is_told_with_its_place(self, bench: Bench) -> None:
        problems = told(bench, "setup:\n  - <a>\n  - /fine.sh\n  - ''")
        assert [problem.partition(":")[0] for problem in problems] == ["2", "4"]
        assert ["setup[0]" in problems[0], "setup[2]" in problems[1]] == [True, True]

    def test_more_than_a_program_can_be_handed_belongs_into_a_script(self, bench: Bench) -> None:
        (problem,) = told(bench, f"setup: ': {'x' * 2**17}'")
        assert "this is longer than 128 KiB | put it into a script" in problem

    def test_a_script_that_is_not_there_is_told_once(self, bench: Bench) -> None:
        said = warnings(bench, "setup: [no-such.sh, no-such.sh]")
        where = bench.folder.resolve() / "no-such.sh"
        assert said.count("there is no such script on this machine") == 1
        assert f"it was looked for as {where}" in said

    def test_nothing_is_looked_for_below_cvmfs(self, bench: Bench) -> None:
        assert warnings(bench, f"setup: {VIEW}") == ""

    @pytest.mark.parametrize(
        ("line", "is_told"),
        [
            ("export EOS_TOKEN=hunter2", True),
            ("export EOS_TOKEN='hunter2'", True),
            ("export EOS_TOKEN=$(cat token)", False),
            ('export EOS_TOKEN="$(cat token)"', False),
            ("export TOKENIZER=bert", False),
            ("curl https://ada:hunter2@host/env.sh >env.sh", True),
            ("curl https://host/env.sh >env.sh", False),
        ],
    )
    def test_a_secret_in_a_line_is_warned_of(self, bench: Bench, line: str, is_told: bool) -> None:
        said = warnings(bench, f"setup: |\n  {line}")
        assert ("the value of a secret would stand in the records" in said) is is_told
        assert "hunter2" not in said

    @pytest.mark.parametrize("line", ["sort <in >out", "x='<a b>'", "diff <(a) <(b)"])
    def test_redirections_are_no_placeholders(self, bench: Bench, line: str) -> None:
        assert merged(bench, "", f'setup: "{line}"').setup is not None


class TestPython:
    @pytest.mark.parametrize(
        "version", ["3", "3.12", "3.12.4", ">=3.11", ">=3.9,<3.13", "~=3.11", "==3.12.*", "3.13rc1"]
    )
    @pytest.mark.parametrize("form", ['python: "{}"', 'python: {{version: "{}"}}'])
    def test_a_version(self, bench: Bench, version: str, form: str) -> None:
        python = merged(bench, "", form.format(version)).python
        assert python == PythonSpec(version=version, directory=str(bench.folder.resolve()))

    @pytest.mark.parametrize(
        ("own", "expected"),
        [
            (
                "python: 3.12",
                (
                    "1:9 python: the version must be text: as a number 3.10 would be 3.1 | "
                    'put it in quotes, such as "3.12"'
                ),
            ),
            ("python: {version: 3.12}", "1:19 python.version: the version must be text: as a num"),
            ("python: 3", "1:9 python: the version must be text"),
            ("python: true", "1:9 python: must be text or a mapping, not true or false"),
            ("python: [a]", "1:9 python: must be text or a mapping, not a list"),
            ("python: {}", "1:9 python: this asks for no Python | such as 'python: \"3.12\"', or "),
            ("python: {requirements: []}", "1:9 python: this asks for no Python"),
            ("python: python3.12", 'is no version of Python 3 | did you mean "3.12"?'),
            ("python: 3.12.x", "'3.12.x' is no version of Python 3 | did you mean \"3.12\"?"),
            ('python: "2.7"', '\'2.7\' is no version of Python 3 | such as "3.12" or ">=3.12"'),
            ("python: latest", "'latest' is no version of Python 3"),
            ("python: <version>", "'<version>' is a placeholder | write your own version"),
            ("python: {versio: '3.12'}", "there is no key 'versio' here | did you mean 'version'?"),
            (
                "python: {requirements: 3}",
                "must be a list, or the path of a requirements file, not",
            ),
            ("python: {requirements: {a: b}}", "not a mapping | start each requirement with '- '"),
            (
                "python: {requirements: [3]}",
                "1:25 python.requirements[0]: must be text, not a numb",
            ),
            ("requirements: [numpy]", "put it under 'python': requirements is part of that"),
        ],
    )
    def test_what_is_refused(self, bench: Bench, own: str, expected: str) -> None:
        (problem,) = told(bench, own)
        assert expected in problem

    def test_a_list_of_requirements(self, bench: Bench) -> None:
        python = merged(
            bench, "", 'python: {version: ">=3.11", requirements: [numpy, "uproot==5.3.7"]}'
        ).python
        assert python == PythonSpec(
            version=">=3.11",
            requirements=("numpy", "uproot==5.3.7"),
            directory=str(bench.folder.resolve()),
        )

    def test_it_is_replaced_as_a_whole(self, bench: Bench) -> None:
        python = merged(bench, 'python: "3.12"', "python: {requirements: [numpy]}").python
        assert python is not None
        assert (python.version, python.requirements) == (None, ("numpy",))

    @pytest.mark.parametrize("own", ["python: null", "python:"])
    def test_a_task_takes_the_global_one_away(self, bench: Bench, own: str) -> None:
        assert merged(bench, 'python: "3.12"', own).python is None

    def test_setup_and_python_go_together(self, bench: Bench) -> None:
        environment = merged(bench, "setup: /a.sh", 'python: "3.12"')
        assert environment.setup is not None
        assert environment.python is not None

    def test_each_requirement_is_told_with_its_place(self, bench: Bench) -> None:
        problems = told(bench, "python:\n  requirements:\n    - numpy=2\n    - scipy\n    - -e .")
        assert [problem.partition(" | ")[0].partition(" ")[0] for problem in problems] == [
            "3:7",
            "5:7",
        ]
        assert "did you mean 'numpy==2'?" in problems[0]


class TestRequirementsFile:
    def read(self, bench: Bench, name: str = "requirements.txt") -> tuple[str, ...]:
        python = merged(bench, "", f"python: {{requirements: {name}}}").python
        assert python is not None
        assert python.directory == str(bench.folder.resolve())
        return python.requirements

    def test_comments_and_blank_lines_are_dropped(self, bench: Bench) -> None:
        bench.write("requirements.txt", "\ufeff# all\r\n\nnumpy>=2 # fast\n  uproot==5.3.7  \n")
        assert self.read(bench) == ("numpy>=2", "uproot==5.3.7")

    def test_what_pip_compile_writes(self, bench: Bench) -> None:
        digests = [f"sha256:{digit * 64}" for digit in "ab"]
        bench.write(
            "requirements.txt",
            f"numpy==2.1.0 \\\n    --hash={digests[0]} \\\n    --hash={digests[1]}\n"
            "    # via -r requirements.in\nscipy==1.14.0\n",
        )
        assert self.read(bench) == (
            f"numpy==2.1.0 --hash={digests[0]} --hash={digests[1]}",
            "scipy==1.14.0",
        )

    def test_files_that_it_names_stand_in_their_place(self, bench: Bench) -> None:
        bench.write("requirements.txt", "a\n-r more/first.txt\nd\n")
        bench.write("more/first.txt", "b\n--requirement=second.txt\n./x-1-py3-none-any.whl\n")
        bench.write("more/second.txt", "c\n-f wheels\n")
        folder = bench.folder.resolve()
        assert self.read(bench) == (
            *("a", "b", "c", f"--find-links {folder}/more/wheels"),
            f"{folder}/more/x-1-py3-none-any.whl",
            "d",
        )

    def test_a_file_that_many_tasks_name_is_read_once(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench.write("requirements.txt", "numpy\n")
        opened = []
        plain_open = Path.open

        def counted(self: Path, *args: Any, **options: Any) -> Any:
            opened.append(self.name)
            return plain_open(self, *args, **options)

        monkeypatch.setattr(Path, "open", counted)
        own = "    environment: {python: {requirements: requirements.txt}}\n"
        text = TASK + own + TASK.replace("tasks:\n", "").replace("fit\n", "plot\n") + own
        assert len(bench.plan(text).tasks) == 2
        assert opened == ["requirements.txt"]

    def refuse(self, bench: Bench, name: str = "requirements.txt") -> tuple[int, str]:
        text = f"{TASK}    environment: {{python: {{requirements: {name}}}}}\n"
        error = bench.refuse(text)
        return error.exit_code, str(error)

    def test_a_file_that_is_not_there(self, bench: Bench) -> None:
        code, said = self.refuse(bench)
        assert code == ExitCode.PLAN
        assert "workflow.yaml:5:42: tasks[0].environment.python.requirements: " in said
        assert "the file 'requirements.txt' does not exist" in said
        assert f"it was looked for as {bench.folder.resolve()}/requirements.txt" in said

    def test_a_requirement_that_is_taken_for_a_file(self, bench: Bench) -> None:
        assert "for a requirement write it in a list: [numpy]" in self.refuse(bench, "numpy")[1]

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("pyproject.toml", "list what it needs"),
            ("environment.yml", "conda's packages are not Python's"),
            ("uv.lock", "export it as a requirements file"),
        ],
    )
    def test_files_of_other_kinds(self, bench: Bench, name: str, hint: str) -> None:
        bench.write(name, "")
        assert f"{name!r} is no requirements file" in self.refuse(bench, name)[1]
        assert hint in self.refuse(bench, name)[1]

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("numpy\n\nscipy=1\n", "requirements.txt:3:1: 'scipy=1' is no requirement"),
            ("-r other.txt\n", "requirements.txt:1:1: 'other.txt' does not exist"),
            ("a\n-r requirements.txt\n", "requirements.txt:2:1: 'requirements.txt' would contain"),
            ("-r\n", "requirements.txt:1:1: -r names no file"),
            ("-r https://host/r.txt\n", "'https://host/r.txt' is not on this machine"),
            ("-c limits.txt\n", "requirements.txt:1:1: -c is not honoured"),
            ("--require-hashes\n", "--require-hashes is not honoured"),
            ("a \\\n-e .\n", "requirements.txt:1:1: "),
        ],
    )
    def test_a_line_that_is_refused(self, bench: Bench, content: str, expected: str) -> None:
        bench.write("requirements.txt", content)
        code, said = self.refuse(bench)
        assert code == ExitCode.PLAN
        assert expected in said

    def test_the_place_is_in_the_file_that_says_it(self, bench: Bench) -> None:
        bench.write("requirements.txt", "-r more/other.txt\n")
        bench.write("more/other.txt", "a\nb=1\n")
        assert "more/other.txt:2:1: 'b=1' is no requirement" in self.refuse(bench)[1]

    def test_files_may_not_go_on_for_ever(self, bench: Bench) -> None:
        for number in range(40):
            bench.write(f"r{number}.txt", f"-r r{number + 1}.txt\n")
        assert "is one of more than 32 files" in self.refuse(bench, "r0.txt")[1]

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"numpy\n\xff\n", "is not UTF-8: there is a byte 0xff"),
            (b"#" * (2**20 + 1), "is larger than 1 MiB"),
        ],
    )
    def test_what_is_no_text(self, bench: Bench, content: bytes, expected: str) -> None:
        bench.write("requirements.txt", content)
        assert expected in self.refuse(bench)[1]

    def test_a_folder_is_no_file(self, bench: Bench) -> None:
        (bench.folder / "folder").mkdir()
        assert "the file './folder' is not a file" in self.refuse(bench, "./folder")[1]

    @pytest.mark.parametrize("name", ["'a\\0b'", '"a\\0b"', "''"])
    def test_what_names_no_file(self, bench: Bench, name: str) -> None:
        assert self.refuse(bench, name)[0] in {ExitCode.WORKFLOW, ExitCode.PLAN}


def test_a_script_may_set_what_is_listed_as_secret(bench: Bench) -> None:
    text = """\
global:
  secrets: [OFFSET]
tasks:
  - name: a
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: "true"}
    environment: {setup: "export OFFSET=$(cat x) B=1", secrets: [B]}
"""
    assert bench.plan(text).warnings == ()
    without = text.replace('setup: "export OFFSET=$(cat x) B=1", ', "")
    other, one = bench.plan(without).warnings
    assert "no task has a variable of this name" in one
    assert "this task has no variable of this name" in other


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("source ./a.sh; ulimit -s unlimited", "'ulimit'"),
        ("export A=1\\n  umask 002", "'umask'"),
        ("f() { true; }; export -f f", "'export -f'"),
        ("shopt -s expand_aliases; alias c='export B=1'; c", ""),
        ("echo the ulimit is fine; export ulimit=1", ""),
    ],
)
def test_what_is_no_variable_stays_behind_and_that_is_told(
    bench: Bench, lines: str, told: str
) -> None:
    said = warnings(bench, f'setup: "{lines}"')
    words = f"what {told} does ends with the setup: the task gets its variables alone"
    assert (words in said) == bool(told)
    assert bool(said) == bool(told)
