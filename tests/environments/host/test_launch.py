"""Programs are started as the module subprocess starts them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from fasthep_flow.environments.host.launch import launch
from fasthep_flow.environments.host.spawn import Spawned

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def run(
    folder: Path,
    *argv: str,
    environment: dict[str, str] | None = None,
    stdin: bytes | None = None,
) -> tuple[int, str]:
    """The exit code and the output of a program that has to be started."""
    source = None
    if stdin is not None:
        (folder / "stdin").write_bytes(stdin)
        source = os.open(folder / "stdin", os.O_RDONLY)
    with (folder / "stdout.log").open("wb") as stdout:
        pid = launch(
            argv,
            environment=ENVIRONMENT if environment is None else environment,
            working_directory=str(folder),
            stdin=source,
            stdout=stdout.fileno(),
            stderr=stdout.fileno(),
        )
    if source is not None:
        os.close(source)
    assert pid is not None
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), os.fsdecode((folder / "stdout.log").read_bytes())


def test_a_program_is_found_and_ends_as_it_says(tmp_path: Path) -> None:
    assert run(tmp_path, "sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\nerr\n")


def test_it_works_in_its_folder_and_leads_its_session(tmp_path: Path) -> None:
    code, text = run(tmp_path, "sh", "-c", "pwd; ps -o sid= -p $$; echo $$")
    folder, session, pid = text.split()
    assert (code, folder, session) == (0, str(tmp_path), pid)


def test_arguments_and_variables_arrive_to_the_byte(tmp_path: Path) -> None:
    odd = "a b'\"\n$(touch pwned)\udcff ü"
    argv = ("sh", "-c", 'printf "%s|%s" "$1" "$A"', "sh", odd)
    assert run(tmp_path, *argv, environment={**ENVIRONMENT, "A": odd}) == (0, f"{odd}|{odd}")
    assert not (tmp_path / "pwned").exists()


def test_it_has_its_own_environment_alone(tmp_path: Path) -> None:
    _, text = run(tmp_path, "env", environment={**ENVIRONMENT, "ONLY": "this"})
    names = {line.partition("=")[0] for line in text.splitlines()}
    assert {"PATH", "ONLY"} <= names
    assert "HOME" not in names


def test_without_anything_to_read_it_reads_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "cat") == (0, "")
    assert run(tmp_path, "cat", stdin=b"text") == (0, "text")


def test_signals_that_python_ignores_end_it(tmp_path: Path) -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    code, _ = run(tmp_path, "sh", "-c", "kill -PIPE $$")
    assert code == -signal.SIGPIPE


def test_no_descriptor_of_this_process_is_handed_on(tmp_path: Path) -> None:
    with (tmp_path / "open").open("wb") as other:
        _, text = run(tmp_path, "sh", "-c", f"test -e /proc/$$/fd/{other.fileno()} && echo leaked")
    assert text == ""


@pytest.mark.parametrize("is_ours", [False, True], ids=["another PATH", "our own PATH"])
def test_a_program_is_looked_for_where_it_will_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools" / "own"
    tool.write_text("#!/bin/sh\necho own\n")
    tool.chmod(0o755)
    # A folder of that name is no program.
    (tmp_path / "first" / "own").mkdir(parents=True)
    environment = {"PATH": "first:tools:" + os.environ["PATH"]}
    if is_ours:
        monkeypatch.setenv("PATH", environment["PATH"])
    assert run(tmp_path, "own", environment=environment) == (0, "own\n")
    assert run(tmp_path, "tools/own", environment=environment) == (0, "own\n")


@pytest.mark.parametrize(
    ("argv", "environment", "folder"),
    [
        (("no-such-program",), {}, "."),
        (("/no/such/program",), {}, "."),
        (("./data",), {}, "."),
        (("./text",), {}, "."),
        (("true",), {}, "gone"),
        (("tr\0ue",), {}, "."),
        (("true",), {"A": "a\0b"}, "."),
        (("true",), {"A=B": "a"}, "."),
    ],
)
def test_what_cannot_be_started_is_told_by_the_other_way(
    tmp_path: Path, argv: tuple[str, ...], environment: dict[str, str], folder: str
) -> None:
    (tmp_path / "data").write_text("no program")
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    with (tmp_path / "log").open("wb") as log:
        given = {
            "environment": {**ENVIRONMENT, **environment},
            "working_directory": str(tmp_path / folder),
            "stdin": None,
            "stdout": log.fileno(),
            "stderr": log.fileno(),
        }
        assert launch(argv, **given) is None  # type: ignore[arg-type]
        with pytest.raises((OSError, ValueError)):
            Spawned(argv, **given)  # type: ignore[arg-type]
