"""The command as its users meet it: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fasthep_flow.errors import ExitCode
from fasthep_flow.records.run import read_run

COMMAND = Path(sys.executable).with_name("fasthep-flow")
HELLO = """\
tasks:
  - name: greet
    type: fasthep_flow.operators.BashOperator
    kwargs:
      bash_command: echo "Hello World!"
"""
ECHO = "{{name: {0}, type: fasthep_flow.operators.BashOperator, needs: [{1}], kwargs: {2}}}"
DIAMOND = "tasks:\n" + "".join(
    f"  - {ECHO.format(name, needs, f'{{bash_command: echo, arguments: [{words}]}}')}\n"
    for name, needs, words in [
        ("a", "", "A"),
        ("b", "a", "B"),
        ("c", "a", "C"),
        ("d", "b, c", "D"),
        ("e", "d", "E, 1, 2.50"),
    ]
)


def write(folder: Path, text: str, name: str = "workflow.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def fasthep_flow(
    *arguments: str | Path, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def latest(folder: Path) -> Path:
    return (folder / "output" / "latest").resolve()


def test_run_shows_what_a_task_printed_behind_its_name(tmp_path: Path) -> None:
    write(tmp_path, HELLO)
    done = fasthep_flow("run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "greet | Hello World!"
    assert re.fullmatch(r"✓ greet  \d\.\d\d s, .+iB", lines[1])
    assert re.fullmatch(rf"1 task succeeded in .* s; records in {latest(tmp_path)}", lines[2])


def test_execute_is_another_name_of_run(tmp_path: Path) -> None:
    done = fasthep_flow("execute", write(tmp_path, HELLO), cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "greet | Hello World!")


def test_five_tasks_with_a_diamond_of_needs_run_unchanged(tmp_path: Path) -> None:
    write(tmp_path, DIAMOND)
    done = fasthep_flow("run", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [task["stdout_tail"] for task in report["tasks"]] == [
        "A\n", "B\n", "C\n", "D\n", "E 1 2.50\n",
    ]  # fmt: skip
    assert report["succeeded"] is True
    assert "✓ e" in done.stderr


def test_a_run_leaves_the_records_of_the_design(tmp_path: Path) -> None:
    write(tmp_path, HELLO)
    fasthep_flow("run", cwd=tmp_path)
    run = latest(tmp_path)
    assert sorted(path.name for path in run.iterdir()) == [
        "drivers", "events.jsonl", "plan.json", "run.json", "tasks", "workflow.yaml",
    ]  # fmt: skip
    attempt = run / "tasks" / "greet" / "1"
    assert sorted(path.name for path in attempt.iterdir()) == [
        "job.json", "result.json", "stderr.log", "stdout.log",
    ]  # fmt: skip
    assert (attempt / "stdout.log").read_bytes() == b"Hello World!\n"
    result = json.loads((attempt / "result.json").read_text())
    assert result["exit_code"] == 0
    assert result["host"] == os.uname().nodename
    assert result["runtime"] == "native"
    assert result["peak_memory"] > 0
    assert result["wall_s"] > 0
    assert result["cpu_s"] >= 0


def test_output_names_the_folder_of_the_records(tmp_path: Path) -> None:
    write(tmp_path, HELLO)
    done = fasthep_flow("run", "--output", "elsewhere", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "elsewhere").status == "succeeded"
    assert not (tmp_path / "output").exists()


def test_tasks_runs_the_named_ones_and_what_they_need(tmp_path: Path) -> None:
    write(tmp_path, DIAMOND)
    done = fasthep_flow("run", "--tasks", "b", "--tasks", "c", "--format", "json", cwd=tmp_path)
    assert [task["task"] for task in json.loads(done.stdout)["tasks"]] == ["a", "b", "c"]


def test_an_unknown_task_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, HELLO)
    done = fasthep_flow("run", "--tasks", "great", cwd=tmp_path)
    assert done.returncode == ExitCode.PLAN
    assert "did you mean 'greet'?" in done.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--flow", "local::sequential"],
        ["--flow", "local"],
        ["--workflow", "{transform: local, kwargs: {runner: sequential}}"],
        [
            "--workflow",
            '{"transform": "local", "kwargs": {"runner": "concurrent", "max_workers": 1}}',
        ],
    ],
)
def test_the_flow_can_be_chosen_on_the_command_line(tmp_path: Path, arguments: list[str]) -> None:
    write(tmp_path, DIAMOND)
    done = fasthep_flow("run", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 tasks succeeded" in done.stdout


def test_an_option_that_the_runner_does_not_know_is_refused_before_the_run(tmp_path: Path) -> None:
    write(tmp_path, HELLO)
    option = "{transform: local, kwargs: {runner: concurrent, max_wrokers: 1}}"
    done = fasthep_flow("run", "--workflow", option, cwd=tmp_path)
    assert done.returncode == ExitCode.PLAN
    assert "max_wrokers" in done.stderr
    assert "did you mean 'max_workers'?" in done.stderr
    assert "Hello" not in done.stdout


def test_a_failing_task_gives_its_cause_its_logs_and_exit_code_1(tmp_path: Path) -> None:
    text = HELLO.replace('echo "Hello World!"', "echo oh >&2; exit 3")
    write(tmp_path, text + HELLO.partition("\n")[2].replace("greet", "after"))
    done = fasthep_flow("run", cwd=tmp_path)
    assert done.returncode == ExitCode.TASK_FAILED
    assert "greet ! oh" in done.stdout
    assert "exit code 3" in done.stdout
    assert f"logs: {latest(tmp_path)}/tasks/greet/1" in done.stdout
    assert "- after  needs 'greet', which failed" in done.stdout
    assert "2 tasks: 1 failed, 1 skipped" in done.stdout


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path, HELLO.replace('echo "Hello World!"', "rooot\n      arguments: []"))
    done = fasthep_flow("run", cwd=tmp_path)
    assert done.returncode == ExitCode.TASK_FAILED
    assert "no such program" in done.stdout
    assert "rooot" in done.stdout


def test_problems_of_the_file_are_all_told_with_their_places(tmp_path: Path) -> None:
    write(tmp_path, HELLO + "    enviroment: {}\n    needs: [great]\n")
    done = fasthep_flow("run", cwd=tmp_path)
    assert done.returncode == ExitCode.WORKFLOW
    assert "workflow.yaml:6:5: tasks[0]" in done.stderr
    assert "did you mean 'environment'?" in done.stderr
    assert "great" in done.stderr
    assert "2 problems" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "output").exists()


def test_lint_tells_that_there_is_no_problem(tmp_path: Path) -> None:
    done = fasthep_flow("lint", write(tmp_path, HELLO), cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.endswith("workflow.yaml: 1 task, no problems\n")


def test_lint_gives_programs_the_place_of_every_problem(tmp_path: Path) -> None:
    write(tmp_path, HELLO + "    retires: 1\n")
    done = fasthep_flow("lint", "--format", "json", cwd=tmp_path)
    assert done.returncode == ExitCode.WORKFLOW
    [problem] = json.loads(done.stdout)["problems"]
    assert problem["location"]["line"] == 6
    assert problem["location"]["column"] == 5
    assert "retries" in problem["hint"]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("missing.yaml", 2, "missing.yaml"), ("folder", 2, "folder"), ("empty.yaml", 2, "empty")],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(
    tmp_path: Path, name: str, code: int, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path, "", "empty.yaml")
    done = fasthep_flow("lint", name, cwd=tmp_path)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_plan_shows_what_would_run_and_runs_nothing(tmp_path: Path) -> None:
    write(tmp_path, DIAMOND.replace("echo", "touch", 1))
    done = fasthep_flow("plan", cwd=tmp_path)
    assert done.returncode == 0
    assert "5 tasks on local::concurrent" in done.stdout
    assert "needs       b, c" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["workflow.yaml"]


def test_plan_as_json_has_no_values_of_variables(tmp_path: Path) -> None:
    write(tmp_path, HELLO + "    environment: {variables: {TOKEN: hunter2}}\n")
    done = fasthep_flow("plan", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["tasks"][0]["environment"]["variables"].keys() == {"TOKEN"}
    assert "hunter2" not in done.stdout


def test_every_exit_code_is_in_the_help() -> None:
    for command in ([], ["lint"], ["plan"], ["run"], ["execute"]):
        done = subprocess.run(
            [COMMAND, *command, "--help"], capture_output=True, text=True, check=True
        )
        epilog = done.stdout.partition("Exit codes:")[2]
        named = {int(number) for number in re.findall(r"\b\d+\b", epilog)}
        assert {code.value for code in ExitCode} <= named


def test_a_wrong_option_is_a_usage_error(tmp_path: Path) -> None:
    done = fasthep_flow("run", "--foo", cwd=tmp_path)
    assert done.returncode == ExitCode.WORKFLOW
    assert "--foo" in done.stderr


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_output_folder_without_a_name_is_a_usage_error(tmp_path: Path, command: str) -> None:
    write(tmp_path, HELLO)
    done = fasthep_flow(command, "--output", "", cwd=tmp_path)
    assert done.returncode == ExitCode.WORKFLOW
    assert "this is not the name of a folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["workflow.yaml"]


@pytest.mark.parametrize("command", [["--help"], ["lint", "workflow.yaml"]])
def test_help_and_lint_import_no_engine(tmp_path: Path, command: list[str]) -> None:
    write(tmp_path, HELLO.replace("tasks:", "global: {flow: 'prefect::DaskTaskRunner'}\ntasks:"))
    script = (
        "import sys\nfrom fasthep_flow.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    code = end.code\n"
        "engines = {'dask', 'distributed', 'prefect', 'psutil'} & set(sys.modules)\n"
        "sys.exit(f'{code} {engines}' if code or engines else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_output_folder_that_cannot_be_made_stops_before_the_first_task(tmp_path: Path) -> None:
    write(tmp_path, HELLO)
    write(tmp_path, "in the way", "output")
    done = fasthep_flow("run", cwd=tmp_path)
    assert done.returncode == ExitCode.RECORD
    assert "cannot make the folder" in done.stderr
    assert "Hello" not in done.stdout


def test_a_reader_that_goes_away_does_not_stop_the_run(tmp_path: Path) -> None:
    write(tmp_path, DIAMOND)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [COMMAND, "run"], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "output").status == "succeeded"
    assert b"Traceback" not in done.stderr


def to_full_disk(
    *arguments: str, cwd: Path, stderr: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The command with a standard output that takes nothing."""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=cwd,
            stdout=full,
            stderr=full if stderr else subprocess.PIPE,
            text=True,
            check=False,
        )


FULL_DISK = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@FULL_DISK
@pytest.mark.parametrize(("command", "code"), [("echo hi", 0), ("exit 3", 1)])
def test_a_run_that_cannot_print_goes_on_to_its_end(
    tmp_path: Path, command: str, code: int
) -> None:
    last = "  - {name: last, type: fasthep_flow.operators.BashOperator, "
    last += f"kwargs: {{bash_command: {command}}}}}\n"
    write(tmp_path, HELLO + last)
    done = to_full_disk("run", cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert "the output cannot be written: No space left on device; the run goes on" in done.stderr
    assert set(read_run(tmp_path / "output").results) == {"greet", "last"}
    assert to_full_disk("run", cwd=tmp_path, stderr="full").returncode == code


@FULL_DISK
@pytest.mark.parametrize(
    "arguments",
    [
        ["lint"],
        ["lint", "--format", "json"],
        ["plan"],
        ["plan", "--format", "json"],
        ["run", "--format", "json"],
        ["--help"],
        ["--version"],
    ],
)
def test_what_was_asked_for_and_cannot_be_printed_is_an_error(
    tmp_path: Path, arguments: list[str]
) -> None:
    write(tmp_path, HELLO)
    done = to_full_disk(*arguments, cwd=tmp_path)
    assert done.returncode == ExitCode.RECORD
    assert "the output cannot be written: No space left on device\n" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["lint"], ["plan"]])
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, arguments: list[str]) -> None:
    write(tmp_path, HELLO)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [COMMAND, *arguments], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("command", "code"), [("run", 0), ("lint", 0), ("lint nothing", 2)])
def test_closed_streams_are_no_trouble(
    tmp_path: Path, closed: str, command: str, code: int
) -> None:
    write(tmp_path, HELLO)
    done = subprocess.run(
        ["bash", "-c", f"'{COMMAND}' {command} {closed}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if command == "run":
        log = latest(tmp_path) / "tasks" / "greet" / "1" / "stdout.log"
        assert log.read_text() == "Hello World!\n"


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_what_an_encoding_lacks_is_written_out(tmp_path: Path, environment: dict[str, str]) -> None:
    # The command itself is ASCII: in the C locale no program can be handed anything else.
    write(tmp_path, HELLO.replace('echo "Hello World!"', r"printf 'Gr\303\274n\n'"))
    done = fasthep_flow("run", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("greet | Gr\\xfcn\n+ greet  ")
    done = fasthep_flow("run", "--format", "json", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"][0]["stdout_tail"] == "Grün\n"
    done = fasthep_flow("lint", "grüße.yaml", cwd=tmp_path, **environment)
    assert done.returncode == ExitCode.WORKFLOW
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_the_command_starts_is_no_mistake(tmp_path: Path) -> None:
    write(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", "typer.py")
    done = fasthep_flow("lint", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, "")


@pytest.mark.parametrize(
    "place",
    [
        "typer.main.get_command",
        "typer.core.TyperGroup.make_context",
        "typer.core.TyperGroup.invoke",
    ],
)
def test_ctrl_c_while_the_command_is_put_together_is_no_mistake(tmp_path: Path, place: str) -> None:
    line = (
        "import os, signal, sys, typer.core, typer.main\n"
        "def late(*_, **__): os.kill(os.getpid(), signal.SIGINT)\n"
        f"{place} = late\n"
        "sys.argv[1:] = ['lint']\n"
        "from fasthep_flow.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.INTERRUPTED, "", "")


LONG = """\
tasks:
  - name: quick
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: echo done}
    needs: []
  - name: long
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: "echo started; touch started; sleep 600 & sleep 600"}
    needs: [quick]
  - name: last
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: echo never}
    needs: [long]
"""


def wait_for(path: Path, process: subprocess.Popen[bytes], *, limit_s: float = 60) -> None:
    deadline_s = time.monotonic() + limit_s
    while not path.exists():
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline_s, f"{path} was not made"
        time.sleep(0.02)


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    write(tmp_path, LONG)
    with subprocess.Popen(
        [COMMAND, "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        wait_for(tmp_path / "started", process)
        yield process
        process.kill()
    for left in processes_in(tmp_path):
        left.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_stops_the_tasks_records_them_and_gives_128_and_its_number(
    tmp_path: Path, long_run: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    long_run.send_signal(number)
    _, told = long_run.communicate(timeout=60)
    assert long_run.returncode == 128 + number
    assert f"stopped by {number.name}" in told.decode()
    assert not processes_in(tmp_path)
    record = read_run(tmp_path / "output")
    assert record.status == "cancelled"
    assert record.results["quick"].status == "succeeded"
    assert record.results["long"].status == "cancelled"
    assert record.unfinished == ("last",)


def test_a_killed_driver_leaves_a_folder_that_says_what_had_finished(
    tmp_path: Path, long_run: subprocess.Popen[bytes]
) -> None:
    long_run.kill()
    long_run.wait(timeout=60)
    record = read_run(tmp_path / "output")
    assert record.status == "interrupted"
    assert list(record.results) == ["quick"]
    assert record.results["quick"].status == "succeeded"
    assert record.unfinished == ("long", "last")
    assert not record.damaged
    log = latest(tmp_path) / "tasks" / "long" / "1" / "stdout.log"
    assert log.read_text() == "started\n"


def test_on_a_terminal_a_live_line_shows_what_runs(tmp_path: Path) -> None:
    write(tmp_path, LONG.replace("sleep 600 & sleep 600", "until [ -e go ]; do sleep 0.05; done"))
    driver, terminal = pty.openpty()
    with subprocess.Popen(
        [COMMAND, "run"],
        cwd=tmp_path,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    ) as process:
        os.close(terminal)
        seen = b""
        deadline_s = time.monotonic() + 60
        while b"1/3 done; running: long" not in seen:
            assert time.monotonic() < deadline_s, seen
            if select.select([driver], [], [], 1)[0]:
                seen += os.read(driver, 65536)
        (tmp_path / "go").touch()
        while True:
            try:
                chunk = os.read(driver, 65536)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
    os.close(driver)
    assert process.returncode == 0
    assert b"last | never" in seen
    assert b"3 tasks succeeded" in seen


def test_a_terminal_that_is_closed_does_not_stop_the_run(tmp_path: Path) -> None:
    waits = "touch started; until [ -e go ]; do sleep 0.05; done"
    write(tmp_path, LONG.replace("echo started; touch started; sleep 600 & sleep 600", waits))
    driver, terminal = pty.openpty()
    told = tmp_path / "told"
    with (
        told.open("wb") as stderr,
        subprocess.Popen(
            [COMMAND, "run"],
            cwd=tmp_path,
            stdout=terminal,
            stderr=stderr,
            env={**os.environ, "TERM": "xterm-256color"},
        ) as process,
    ):
        os.close(terminal)
        wait_for(tmp_path / "started", process)
        os.close(driver)
        (tmp_path / "go").touch()
    assert process.returncode == 0
    assert told.read_text() == (
        "fasthep-flow: the output cannot be written: Input/output error; the run goes on\n"
    )
    assert read_run(tmp_path / "output").status == "succeeded"


ENVIRONMENT = """\
global:
  image: docker.io/library/debian:12
  variables: common.env
  resources: {memory: 4Gi}
tasks:
  - name: Select events
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: env, arguments: ["-0"]}
    environment:
      image: null
      variables:
        LUMI: 5.0
        TOKEN: hunter2
        STEERING: "a\\e[31mb"
        LINES: "one\\ntwo"
        DB: postgres://u:hunter2@host/db
        EDITOR:
      resources: {cpus: 100m, memory: 256Mi}
"""


def environment_folder(folder: Path) -> dict[str, str]:
    """A folder with the workflow, and the environment that the command is given."""
    write(folder, ENVIRONMENT)
    write(folder, "LUMI=4.9\nAPI_KEY=hunter2\n", "common.env")
    kept = ("PATH", "HOME", "LANG", "LC_ALL")
    host = {name: os.environ[name] for name in kept if name in os.environ}
    return {**host, "EDITOR": "vi", "HOST_TOKEN": "hunter2", "LUMI": "1"}


def run_env(folder: Path, host: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [COMMAND, "env", *arguments],
        cwd=folder,
        env=host,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    return done.stdout


def test_env_shows_where_each_part_of_an_environment_came_from(tmp_path: Path) -> None:
    host = environment_folder(tmp_path)
    lines = run_env(tmp_path, host, "Select events").splitlines()
    cells = [re.split(r"  +", line) for line in lines]
    assert lines[0] == "Select events, the task at workflow.yaml:6:5"
    assert ["image", "(none: this machine)", "workflow.yaml:10"] in cells
    assert ["", "instead of", "docker.io/library/debian:12", "workflow.yaml:2"] in cells
    assert ["memory", "256 MiB", "workflow.yaml:18"] in cells
    assert ["", "instead of", "4 GiB", "workflow.yaml:4"] in cells
    at = cells.index(["LUMI", "5.0", "workflow.yaml:12"])
    assert cells[at + 1 : at + 3] == [
        ["", "instead of", "4.9", "common.env:1"],
        ["", "instead of", "1", "the host"],
    ]
    assert ["TOKEN", "*** (hidden)", "workflow.yaml:13"] in cells
    assert ["API_KEY", "*** (hidden)", "common.env:2"] in cells
    assert ["STEERING", r'"a\x1b[31mb"', "workflow.yaml:14"] in cells
    assert ["LINES", r'"one\ntwo"', "workflow.yaml:15"] in cells
    assert ["DB", "postgres://***@host/db", "workflow.yaml:16"] in cells
    assert ["EDITOR", "vi", "the host, workflow.yaml:17"] in cells
    assert lines[-1] == "Under these lies the environment of the command; --all shows it."
    assert "HOST_TOKEN" not in "".join(lines)


def test_env_fits_the_terminal(tmp_path: Path) -> None:
    host = environment_folder(tmp_path) | {"COLUMNS": "70", "EDITOR": "long " * 40}
    lines = run_env(tmp_path, host, "Select events").splitlines()
    assert lines[1] == f"starts in {tmp_path}"
    assert max(map(len, lines[2:])) <= 70


def test_env_tells_all_that_a_task_then_finds(tmp_path: Path) -> None:
    host = environment_folder(tmp_path)
    told = json.loads(run_env(tmp_path, host, "Select events", "--all", "--format", "json"))
    done = subprocess.run(
        [COMMAND, "run", "--format", "json"],
        cwd=tmp_path,
        env=host,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = json.loads(done.stdout)["tasks"][0]["stdout_tail"]
    found = dict(line.split("=", 1) for line in printed.strip("\0").split("\0"))
    entries = [*told["variables"], *told["host"]]
    assert {entry["name"] for entry in entries} == found.keys()
    known = {
        entry["name"]: entry["value"]
        for entry in entries
        if entry["value"] is not None and entry["name"] != "DB"
    }
    assert known.items() <= found.items()
    assert {entry["name"] for entry in entries if entry["hidden"]} == {
        "API_KEY", "HOST_TOKEN", "TOKEN",
    }  # fmt: skip


def test_env_tells_what_a_task_in_a_container_then_finds(
    tmp_path: Path, container_runtime: str, busybox_image: str
) -> None:
    write(
        tmp_path,
        "tasks:\n"
        "  - name: show\n"
        "    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {bash_command: env, arguments: []}\n"
        "    environment:\n"
        f"      image: {{name: '{busybox_image}', runtime: {container_runtime}}}\n"
        "      variables: {LUMI: 4.90, TITLE: a b}\n"
        "      resources: {memory: 64Mi, enforce: best_effort}\n",
    )
    told = json.loads(fasthep_flow("env", "show", "--format", "json", cwd=tmp_path).stdout)
    done = fasthep_flow("run", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (task,) = json.loads(done.stdout)["tasks"]
    found = dict(line.split("=", 1) for line in task["stdout_tail"].splitlines())
    settings = {entry["name"]: entry["value"] for entry in told["settings"]}
    assert (settings["image"], settings["runtime"]) == (task["image"], task["runtime"])
    assert {entry["name"] for entry in told["variables"]} <= found.keys()
    known = {
        entry["name"]: entry["value"] for entry in told["variables"] if entry["value"] is not None
    }
    assert known.items() <= found.items()
    assert {"LUMI", "TITLE", "FASTHEP_TASK_NAME", "FASTHEP_MEMORY_BYTES"} <= known.keys()


def test_env_of_an_unknown_task_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, HELLO)
    done = fasthep_flow("env", "great", cwd=tmp_path)
    assert done.returncode == ExitCode.PLAN
    assert "did you mean 'greet'?" in done.stderr
    done = fasthep_flow("env", "greet", "other.yaml", cwd=tmp_path)
    assert done.returncode == ExitCode.WORKFLOW
    assert "other.yaml cannot be read" in done.stderr
    assert fasthep_flow("env", cwd=tmp_path).returncode == ExitCode.WORKFLOW


def test_plan_shows_what_is_asked_of_a_container(tmp_path: Path) -> None:
    write(
        tmp_path,
        HELLO
        + """\
    environment:
      image:
        name: debian:12
        runtime: podman
        pull: always
        platform: linux/arm64
        options: [--cap-add=X, "--label=a b"]
      network: none
      reuse: false
      resources: {memory: 1Gi, enforce: best_effort}
""",
    )
    lines = fasthep_flow("plan", cwd=tmp_path).stdout.splitlines()
    assert [line.strip() for line in lines[4:9]] == [
        "image       docker.io/library/debian:12 (podman, linux/arm64, always pulled)",
        "options     --cap-add=X '--label=a b'",
        "network     none",
        "reuse       no: a container of its own",
        "resources   1 GiB memory, best effort",
    ]
