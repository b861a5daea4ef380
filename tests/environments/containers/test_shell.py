"""What is said to the shell that serves in a container, to the shells that images have."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.environments.containers.serving import Served

from fasthep_flow.environments.containers.shell import (
    Report,
    prelude,
    quoted,
    read_report,
    server_argv,
    terminate_argv,
    unsettable,
)
from fasthep_flow.model import Call
from fasthep_flow.testing.runtimes import NASTY_VARIABLES

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}
DUMP = (
    "import os, sys;"
    "sys.stdout.buffer.write(b'\\0'.join(k + b'=' + v for k, v in os.environb.items()))"
)
ALL_BYTES = os.fsdecode(bytes(range(1, 256)))


class Server(Served):
    """A shell that serves on this machine.

    Args:
        argv: The shell.
        folder: For the logs, and the jobs' working directory.
        variables: Of the image.
    """

    def __init__(
        self, argv: list[str], folder: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        said = prelude("sh")
        # Here it sees everybody's processes. It would not touch them, having a high number;
        # no test is to depend on that.
        assert said.count(b'[ "$$" -le 32 ]') == 1
        said = said.replace(b'"$$" -le 32', b'"$$" -le 0')
        assert b"-le 32" not in said
        super().__init__(argv, folder, "sh", variables=variables or {}, said=said)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    argv = SHELLS[request.param]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"there is no {argv[0]}")
    return argv


@pytest.fixture
def server(shell: list[str], tmp_path: Path) -> Iterator[Server]:
    """One that has said nothing but its answers in the end."""
    server = Server(shell, tmp_path)
    yield server
    said = server.close()
    assert said == "" or "Killed" in said


@pytest.fixture
def silent_server(shell: list[str], tmp_path: Path) -> Iterator[Server]:
    """One that may complain."""
    server = Server(shell, tmp_path)
    yield server
    server.close()


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Server]:
    server = Server(["bash", "--posix"], tmp_path)
    yield server
    server.close()


def environment_of(dump: bytes) -> dict[bytes, bytes]:
    return {name: value for name, _, value in (item.partition(b"=") for item in dump.split(b"\0"))}


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 128, 137, 255])
def test_tells_the_exit_code(server: Server, code: int) -> None:
    report = server.run("sh", "-c", f"exit {code}")
    assert report.exit_code == code
    assert (report.begun, report.started, report.ended) == (True, True, True)
    assert (report.missing, report.lost, report.refused) == (False, False, None)


def test_hands_everything_over_as_it_is(server: Server) -> None:
    arguments = ["", " a ", "$x", "`x`", "\\", "a\n", "-n", "µ", "*", "'", "'\\''", ALL_BYTES]
    variables = {**NASTY_VARIABLES, "BYTES": ALL_BYTES, "BACKWARDS": ALL_BYTES[::-1]}
    script = f'printf "%s\\0" "$@"; exec {quoted(sys.executable)} -c {quoted(DUMP)}'
    report = server.run("sh", "-c", script, "sh", *arguments, variables=variables)
    assert report.exit_code == 0
    seen = server.output().split(b"\0")
    assert seen[: len(arguments)] == [os.fsencode(word) for word in arguments]
    environment = environment_of(b"\0".join(seen[len(arguments) :]))
    expected = {name.encode(): os.fsencode(value) for name, value in variables.items()}
    assert {name: environment.get(name) for name in expected} == expected
    assert not [name for name in environment if b"fasthep" in name.lower()]


def test_variables_as_long_as_the_system_takes(server: Server) -> None:
    # The kernel takes 128 KiB for one, and a pipe 64 KiB at once.
    values = {f"LONG{number}": f"{number}µ'\n" * 20_000 for number in range(8)}
    report = server.run(sys.executable, "-c", DUMP, variables=values)
    assert report.exit_code == 0
    environment = environment_of(server.output())
    assert {name: environment[name.encode()].decode() for name in values} == values


def test_more_than_the_system_takes_is_the_programs_end_alone(silent_server: Server) -> None:
    report = silent_server.run(sys.executable, variables={"LONG": "x" * 300_000})
    assert report.started
    assert report.exit_code in {2, 126, 127}
    assert b"too long" in (silent_server.folder / "stderr.log").read_bytes()
    assert silent_server.run("true").exit_code == 0


def test_the_tasks_path_decides(server: Server, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    server.run("tool", variables={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert server.output() == b"mine\n"
    assert server.run("tool", variables={"PATH": "/usr/bin:/bin"}).missing
    assert server.run("tool").missing


def test_a_program_that_is_not_there_is_told_apart(server: Server, tmp_path: Path) -> None:
    for program in ("no-such-program", "./no-such-program", "/no/such", ""):
        report = server.run(program)
        assert (report.missing, report.started) == (True, False)
    (tmp_path / "unfit").touch()
    report = server.run("./unfit")
    assert (report.missing, report.exit_code) == (False, 126)


def test_a_working_directory_that_is_not_there_is_told_apart(server: Server) -> None:
    report = server.run("true", working_directory="/no/such folder")
    assert (report.lost, report.missing, report.started) == (True, False, False)


def test_a_working_directory_may_have_any_name(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "-a b'c\n$(d)*µ"
    folder.mkdir()
    server.run(sys.executable, "-c", "import os; print(os.getcwd(), end='')")
    assert server.output() == os.fsencode(tmp_path)
    script = "import os; print(os.getcwd(), end='')"
    server.run(sys.executable, "-c", script, working_directory=str(folder), directory=folder)
    assert (folder / "stdout.log").read_bytes() == os.fsencode(folder)


@pytest.mark.parametrize("name", ["UID", "EUID", "PPID", "SHELLOPTS", "BASH_VERSINFO"])
def test_a_variable_that_the_shell_keeps_for_itself_is_named(bash: Server, name: str) -> None:
    report = bash.run("true", variables={"A": "1", name: "7", "B": "2"})
    assert (report.refused, report.started) == (name, False)


@pytest.mark.parametrize("name", ["RANDOM", "GROUPS", "LINENO", "FUNCNAME", "BASHPID", "DIRSTACK"])
def test_a_variable_that_the_shell_counts_is_named(bash: Server, name: str) -> None:
    report = bash.run("true", variables={name: "abc"})
    assert (report.refused, report.started) == (name, False)


@pytest.mark.parametrize(
    "name", ["OPTIND", "LINENO", "PPID", "RANDOM", "IFS", "PS4", "ENV", "CDPATH", "HISTFILE", "_"]
)
def test_a_variable_is_honoured_or_refused(
    silent_server: Server, name: str, tmp_path: Path
) -> None:
    report = silent_server.run(sys.executable, "-c", DUMP, variables={name: "abc"})
    if report.refused is None:
        environment = environment_of((tmp_path / "stdout.log").read_bytes())
        assert environment[name.encode()] == b"abc"
    else:
        assert (report.refused, report.started) == (name, False)
    assert silent_server.run("true").exit_code == 0


def test_home_is_the_attempts_folder_or_what_the_task_says(server: Server, tmp_path: Path) -> None:
    script = 'printf %s "$HOME"'
    server.run("sh", "-c", script)
    assert server.output() == os.fsencode(tmp_path)
    server.run("sh", "-c", script, variables={"HOME": "/mine"})
    assert server.output() == b"/mine"


def test_what_the_image_says_lies_below(shell: list[str], tmp_path: Path) -> None:
    server = Server(shell, tmp_path, {"KEPT": "image's", "OVER": "image's", "HOME": "/root"})
    server.run("sh", "-c", 'printf %s "$KEPT $OVER"', variables={"OVER": "task's"})
    assert server.output() == b"image's task's"
    assert server.close() == ""


def test_no_signal_is_ignored_or_blocked(server: Server) -> None:
    server.run("grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status")
    for line in server.output().decode().splitlines():
        assert not int(line.split()[1], 16), line


def test_nothing_is_open_but_the_standard_streams(server: Server) -> None:
    script = "import os, sys; print(sorted(map(int, os.listdir('/proc/self/fd')))[3:])"
    server.run(sys.executable, "-c", script)
    # The one that lists them is there itself.
    assert server.output() == b"[3]\n"


def test_logs_are_appended_to(server: Server, tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_text("before\n")
    server.run("sh", "-c", "echo out; echo err >&2")
    assert (tmp_path / "stdout.log").read_text() == "before\nout\n"
    assert (tmp_path / "stderr.log").read_text() == "err\n"


def test_without_a_folder_nothing_starts(silent_server: Server, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    report = silent_server.run("touch", str(trace), directory=tmp_path / "gone")
    assert (report.begun, report.started, report.ended) == (True, False, True)
    assert report.exit_code != 0
    assert not trace.exists()
    assert silent_server.run("true").started


def test_standard_input_is_the_file_or_nothing(server: Server, tmp_path: Path) -> None:
    text = "a 'b' $c\n" * 100_000
    (tmp_path / "std in").write_text(text)
    server.run("cat", stdin=str(tmp_path / "std in"))
    assert server.output().decode() == text
    server.run("cat")
    assert server.output() == b""
    # What a job leaves unread is not read as an order.
    server.run("true", stdin=str(tmp_path / "std in"))
    server.run("sh", "-c", "exec 0<&-; exec 1>&- 2>&-")
    assert server.run("true").exit_code == 0


SPOILERS = [
    "cd /; exit 3",
    "export LEFT=1; LEFT_TOO=1; PATH=/nowhere; IFS=x; exit 3",
    "umask 077; exit 3",
    "ulimit -f 0 -n 10; exit 3",
    "trap '' INT TERM HUP; trap : EXIT; exit 3",
    "set -x -e -u; exit 3",
    "alias true=false; true() { false; }; exit 3",
    "exec 0<&- 1>&- 2>&- 3>&- 4>&-; exit 3",
    "echo 'end 1'; echo 'fasthep 1 end 1'; echo exit 0; echo end 1 >&2; exit 3",
    "kill -9 $$",
    "set -m; sleep 0 & wait; exit 3",
    "cat; exit 3",
]


@pytest.mark.parametrize("script", SPOILERS)
def test_jobs_share_nothing(server: Server, script: str) -> None:
    def facts() -> list[bytes]:
        lines = (
            "pwd; umask; ulimit -a; set -o; alias; trap; env | grep -v '^_=' | sort;"
            "grep -E '^Sig(Ign|Blk|Cgt)' /proc/self/status; command -v true"
        )
        assert server.run("sh", "-c", lines).exit_code == 0
        return server.output().splitlines()

    before = facts()
    report = server.run("sh", "-c", script)
    assert report.exit_code == (137 if "kill" in script else 3)
    server.output()
    assert facts() == before


def test_variables_of_a_job_are_gone_with_it(server: Server) -> None:
    server.run("true", variables={"TOKEN": "hunter2", "PATH": "/usr/bin:/bin", "IFS": "x"})
    server.run("env")
    written = server.output()
    assert b"hunter2" not in written
    assert b"IFS=" not in written
    assert f"PATH={os.environ['PATH']}\n".encode() in written


@pytest.mark.parametrize("signal", ["KILL", "TERM", "SEGV"])
def test_a_killed_jobs_variables_are_in_no_message(
    shell: list[str], tmp_path: Path, signal: str
) -> None:
    # Bash writes the text of a command that a signal ended.
    server = Server(shell, tmp_path)
    report = server.run(
        "sh", "-c", f"ulimit -c 0; kill -{signal} $$", variables={"TOKEN": "hunter2"}
    )
    assert report.exit_code is not None
    assert report.exit_code > 128
    said = server.close()
    assert "hunter2" not in said
    assert "TOKEN" not in said


def test_what_is_written_to_the_servers_output_counts_for_nothing(server: Server) -> None:
    # So do images whose entry point is a service.
    out = f"/proc/{server.popen.pid}/fd/1"
    lines = "echo exit 5; echo end of it; echo end 1; echo missing: 2; echo; printf half"
    for code in (3, 4):
        report = server.run("sh", "-c", f"{{ {lines}; }} >{out}; exit {code}")
        assert (report.exit_code, report.missing, report.ended) == (code, False, True)
    server.run("sh", "-c", f"(sleep 0.1; printf 'end 4\\nexit 5\\nhalf') >{out} & exit 0")
    assert server.run("sh", "-c", "sleep 0.3; exit 6").exit_code == 6


def test_a_callable_is_called(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(x):\n    print('called')\n    return x\n")
    call = Call(target="mine:f", args=("a 'b'\n",))
    report = server.run(invocation=call)
    assert report.exit_code == 0
    assert server.output() == b"called\n"
    assert (tmp_path / "reply.json").exists()


@pytest.mark.parametrize("name", ["b.c", "1a", "a-b", "a b", "ä", "a\n", "$(touch x)", ""])
def test_a_shell_cannot_set_every_name(name: str) -> None:
    assert unsettable(["OK_1", "_", name]) == name
    assert unsettable(["OK_1", "_", "lower"]) is None


def test_a_server_is_a_program_of_the_images() -> None:
    assert server_argv("sh") == ("/bin/sh",)
    assert server_argv("python")[0] == "python3"
    assert "/bin/sh" not in server_argv("python")
    assert terminate_argv("sh")[0] == "/bin/sh"
    assert terminate_argv("python")[0] == "python3"


# What a file name, a shell or a terminal may take for something else, often; anything, too.
texts = st.text(
    st.one_of(
        st.sampled_from("'\"\\$`!~*?[]{}()<>|&;# \t\n\r\x01\x7f-=%µ\ud800"),
        st.characters(min_codepoint=1, max_codepoint=0x2FF),
        st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    ).filter(lambda c: not 0xD800 <= ord(c) < 0xDC80),
    max_size=60,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(texts, min_size=1, max_size=20))
@example(words=["'", "''", "\\'", "'\\''", "\n", "\r\n", "$", "\x01\x81\x88", "\udcff"])
def test_a_quoted_word_means_itself(shell: list[str], words: list[str]) -> None:
    text = "printf '%s\\0' " + " ".join(map(quoted, words)) + "\n"
    done = subprocess.run(shell, input=os.fsencode(text), capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]
    assert done.stderr == b""


WHOLE = (
    "ready 1\n\nfasthep 7 begun 1\nfasthep 7 started 1\nnoise\n\nfasthep 7 exit 3\n"
    "fasthep 7 peak 1048576\nfasthep 7 oom_kill 2\nfasthep 7 cpu_us 2500000\nfasthep 7 end 1\n"
)


def lines_of(text: str) -> list[bytes]:
    return text.encode().splitlines(keepends=True)


class TestReport:
    def test_counts_what_the_control_group_counted(self) -> None:
        report = read_report(lines_of(WHOLE), 7)
        assert report == Report(
            begun=True,
            started=True,
            ended=True,
            exit_code=3,
            oom_kills=2,
            peak_memory=1048576,
            cpu_s=2.5,
        )
        nanoseconds = WHOLE.replace("cpu_us 2500000", "cpu_ns 1500000000")
        assert read_report(lines_of(nanoseconds), 7).cpu_s == 1.5

    def test_is_of_the_job_that_is_asked_for(self) -> None:
        assert read_report(lines_of(WHOLE), 8) == Report()
        after = WHOLE.replace("fasthep 7", "fasthep 8").replace("exit 3", "exit 0")
        assert read_report(lines_of(WHOLE + after), 8).exit_code == 0

    def test_ends_where_it_says_so(self) -> None:
        lines = iter(lines_of(WHOLE * 2))
        assert read_report(lines, 7).ended
        assert len(list(lines)) == len(lines_of(WHOLE))

    @pytest.mark.parametrize("length", range(len(WHOLE) - 2))
    def test_one_that_was_cut_has_not_ended(self, length: int) -> None:
        assert not read_report(lines_of(WHOLE[:length]), 7).ended

    @pytest.mark.parametrize("exit_code", ["", "x", "-1", "1_0", "9" * 5000, "٣" * 30])
    def test_without_an_exit_code_it_has_not_ended(self, exit_code: str) -> None:
        assert not read_report(lines_of(WHOLE.replace("exit 3", f"exit {exit_code}")), 7).ended

    @given(lines=st.lists(st.binary(max_size=60)))
    def test_whatever_is_said_is_read(self, lines: list[bytes]) -> None:
        assert not read_report(lines, 7).ended
        named = [b"fasthep 7 " + line for line in lines]
        report = read_report([*named, b"\n", b"fasthep 7 exit 4\n", b"fasthep 7 end 1\n"], 7)
        assert report.oom_kills >= 0
        assert report.ended
