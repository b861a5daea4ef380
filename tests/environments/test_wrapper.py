"""The shell script that is the first process of a container, in the shells that images have."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.environments.wrapper import alias, read_status, unsettable, wrap
from fasthep_flow.model import Call, Command
from fasthep_flow.testing.runtimes import NASTY_VARIABLES

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    argv = SHELLS[request.param]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"there is no {argv[0]}")
    return argv


def run(
    shell: list[str], directory: Path, command: Command, variables: dict[str, str] | None = None
) -> str:
    """Run the script as an engine would; what it wrote to its own standard error."""
    variables = variables or {}
    names = list(variables)
    wrapped = wrap(command, str(directory), names)
    assert wrapped.entrypoint == "/bin/sh"
    done = subprocess.run(
        [*shell, *wrapped.arguments],
        env={
            "PATH": os.environ["PATH"],
            **{alias(index): variables[name] for index, name in enumerate(names)},
        },
        stdin=subprocess.DEVNULL,
        cwd=directory,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    return done.stderr.decode()


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 255])
def test_tells_the_exit_code(shell: list[str], tmp_path: Path, code: int) -> None:
    run(shell, tmp_path, Command(argv=("sh", "-c", f"exit {code}")))
    status = read_status(str(tmp_path))
    assert status is not None
    assert (status.exit_code, status.missing, status.refused) == (code, False, None)
    assert read_status(str(tmp_path)) is None


def test_hands_everything_over_as_it_is(shell: list[str], tmp_path: Path) -> None:
    arguments = ["", " a ", "$x", "`x`", "\\", "a\n", "-n", "µ", "*"]
    script = 'for a; do printf "%s\\0" "$a"; done; env -0'
    run(
        shell, tmp_path, Command(argv=("sh", "-c", script, "sh", *arguments)), dict(NASTY_VARIABLES)
    )
    seen = (tmp_path / "stdout.log").read_text().split("\0")
    assert seen[: len(arguments)] == arguments
    environment = dict(entry.split("=", 1) for entry in seen[len(arguments) :] if entry)
    assert {name: environment.get(name) for name in NASTY_VARIABLES} == NASTY_VARIABLES
    assert not [name for name in environment if "FASTHEP" in name or "fasthep" in name]


def test_the_tasks_path_decides(shell: list[str], tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    run(shell, tmp_path, Command(argv=("tool",)), {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert (tmp_path / "stdout.log").read_text() == "mine\n"
    run(shell, tmp_path, Command(argv=("tool",)), {"PATH": "/usr/bin:/bin"})
    status = read_status(str(tmp_path))
    assert status is not None
    assert status.missing


def test_a_program_that_is_not_there_is_told_apart(shell: list[str], tmp_path: Path) -> None:
    for program in ("no-such-program", "./no-such-program", "/no/such"):
        run(shell, tmp_path, Command(argv=(program,)))
        status = read_status(str(tmp_path))
        assert status is not None
        assert status.missing
    (tmp_path / "unfit").touch()
    run(shell, tmp_path, Command(argv=("./unfit",)))
    status = read_status(str(tmp_path))
    assert status is not None
    assert (status.missing, status.exit_code) == (False, 126)


def test_a_variable_that_the_shell_keeps_for_itself_is_named(tmp_path: Path) -> None:
    run(["bash", "--posix"], tmp_path, Command(argv=("true",)), {"A": "1", "UID": "7"})
    status = read_status(str(tmp_path))
    assert status is not None
    assert status.refused == "UID"


def test_an_ignored_interrupt_is_not_handed_on(shell: list[str], tmp_path: Path) -> None:
    run(shell, tmp_path, Command(argv=("grep", "SigIgn", "/proc/self/status")))
    ignored = int((tmp_path / "stdout.log").read_text().split()[1], 16)
    assert not ignored & 0b110


def test_logs_are_appended_to(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_text("before\n")
    run(shell, tmp_path, Command(argv=("sh", "-c", "echo out; echo err >&2")))
    assert (tmp_path / "stdout.log").read_text() == "before\nout\n"
    assert (tmp_path / "stderr.log").read_text() == "err\n"


def test_without_a_folder_there_is_no_status(shell: list[str], tmp_path: Path) -> None:
    wrapped = wrap(Command(argv=("true",)), str(tmp_path / "gone"), ())
    done = subprocess.run([*shell, *wrapped.arguments], capture_output=True, check=False)
    assert done.stderr
    assert read_status(str(tmp_path / "gone")) is None


def test_a_callable_needs_python_alone(tmp_path: Path) -> None:
    wrapped = wrap(Call(target="m:f"), str(tmp_path), ["A", "b.c"])
    assert wrapped.entrypoint == "python3"
    assert wrapped.terminate[0] == "python3"
    assert "/bin/sh" not in wrapped.arguments
    assert (tmp_path / "call.json").exists()
    assert unsettable(Call(target="m:f"), ["b.c"]) is None


@pytest.mark.parametrize("name", ["b.c", "1a", "a-b", "a b", "ä", "a\n", "$(touch x)"])
def test_a_shell_cannot_set_every_name(name: str) -> None:
    assert unsettable(Command(argv=("true",)), ["OK_1", "_", name]) == name
    assert unsettable(Command(argv=("true",)), ["OK_1", "_", "lower"]) is None


class TestStatus:
    def test_counts_what_the_control_group_counted(self, tmp_path: Path) -> None:
        lines = "exit 0\npeak 1048576\noom_kill 2\ncpu_us 2500000\nend 1\n"
        (tmp_path / "container.status").write_text(lines)
        status = read_status(str(tmp_path))
        assert status is not None
        assert (status.peak_memory, status.oom_kills, status.cpu_s) == (1048576, 2, 2.5)
        (tmp_path / "container.status").write_text("exit 0\ncpu_ns 1500000000\nend 1\n")
        status = read_status(str(tmp_path))
        assert status is not None
        assert (status.peak_memory, status.oom_kills, status.cpu_s) == (None, 0, 1.5)

    def test_one_that_was_cut_is_none(self, tmp_path: Path) -> None:
        whole = "exit 0\npeak 1048576\nend 1\n"
        for length in range(len(whole) - 3):
            (tmp_path / "container.status").write_text(whole[:length])
            assert read_status(str(tmp_path)) is None

    @given(text=st.binary(max_size=200))
    def test_whatever_is_in_it_is_read(
        self, tmp_path_factory: pytest.TempPathFactory, text: bytes
    ) -> None:
        directory = tmp_path_factory.mktemp("status")
        (directory / "container.status").write_bytes(text + b"\nend 1\n")
        status = read_status(str(directory))
        assert status is not None
        assert status.oom_kills >= 0 or b"oom_kill" in text
