"""What every runtime must do for somebody who enters a container; part of the suites."""

# ruff: noqa: S101 - pytest's assertions

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest

from fasthep_flow.environments.host.scratch import user_folder
from fasthep_flow.errors import EnvironmentRefused, RunInterrupted
from fasthep_flow.testing.station import Station, Suite, wait_until

__all__ = ["EnteringSuite"]

_DUMP: Final = (
    "import json, os, sys;"
    "json.dump({k: os.fsencode(v).hex() for k, v in os.environ.items()}, sys.stdout)"
)
_VALUES: Final = {
    "BLANKS": "  two  blanks, and\ta tab ",
    "QUOTES": 'it\'s "quoted" and `ticked`',
    "DOLLARS": "$HOME ${HOME} $(echo no) $$ %s \\n \\",
    "LINES": "\nfirst\n\nlast\n\n",
    "UNICODE": "µ→ü√😀 e\u0301",
    "EMPTY": "",
    "LONG": "x" * 100_000,
}
_SECRET: Final = "hunter2-which-nobody-is-to-see"  # noqa: S105 - stands for one


class _Visit(NamedTuple):
    code: int
    stdout: bytes
    stderr: bytes


class EnteringSuite(Suite):
    """Tests of programs that have their caller's own standard streams."""

    __test__ = False

    @pytest.mark.parametrize("code", [0, 1, 125, 127, 255])
    def test_an_entered_program_has_its_own_exit_code(self, station: Station, code: int) -> None:
        """Also one that engines answer with themselves."""
        assert _enter(station, "/bin/sh", "-c", f"exit {code}").code == code

    def test_a_signal_ends_an_entered_program(self, station: Station) -> None:
        """Its number is told as shells do."""
        assert _enter(station, "/bin/sh", "-c", "kill -KILL $$").code == 128 + signal.SIGKILL

    def test_an_entered_program_has_the_callers_streams(self, station: Station) -> None:
        """Byte for byte, and nothing else is on them."""
        data = bytes(range(256)) * 1000
        done = _enter(station, "/bin/sh", "-c", r"cat; printf 'e\377\000r' >&2", stdin=data)
        assert done == (0, data, b"e\xff\x00r")

    def test_an_entered_program_has_the_variables(self, station: Station) -> None:
        """Byte for byte; and one that is to be absent is."""
        absent: dict[str, str | None] = {"PATH_OF_NOBODY": None}
        done = _enter(station, "python3", "-c", _DUMP, environment={**_VALUES, **absent})
        seen = msgspec.json.decode(done.stdout, type=dict[str, str])
        expected = {name: value.encode().hex() for name, value in _VALUES.items()}
        assert {name: seen.get(name) for name in expected} == expected
        assert "PATH_OF_NOBODY" not in seen
        assert not [name for name in seen if name.startswith(("FASTHEP_A", "_fasthep"))]

    def test_an_entered_program_starts_in_the_folder(self, station: Station) -> None:
        """What it writes there is the caller's, and nothing of how it was started is there."""
        done = _enter(station, "/bin/sh", "-c", "pwd; echo x >made; ls -A /tmp")
        folder, *left = done.stdout.decode().splitlines()
        assert folder == str(station.directory)
        assert not [name for name in left if name.startswith(".fasthep-")]
        made = (station.directory / "made").stat()
        assert (made.st_uid, made.st_gid) == (os.getuid(), os.getgid())

    def test_a_program_that_is_not_there_is_told(self, station: Station) -> None:
        """Instead of an exit code that a program could have had as well."""
        for program in ("fasthep-no-such-program", "/no/such/program"):
            with pytest.raises(EnvironmentRefused, match=program):
                _enter(station, program, "argument")

    def test_nothing_of_an_entered_program_is_left(self, station: Station) -> None:
        """Neither what it leaves running, nor a folder."""
        before = _scratch()
        assert _enter(station, "python3", "-c", _holder("")).code == 0
        assert _is_free(station.directory / "lock")
        assert _scratch() == before

    def test_who_enters_can_be_told_to_stop(self, station: Station) -> None:
        """All that was started ends, also what does not want to; and nobody sees a secret."""
        found: list[str] = []

        def stop() -> None:
            wait_until((station.directory / "up").exists, "the program did not start")
            found.extend(_where(_SECRET))
            os.kill(os.getpid(), signal.SIGTERM)

        script = _holder("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
        before = _scratch()
        with pytest.raises(RunInterrupted) as stopped:
            _enter(station, "python3", "-c", script, environment={"TOKEN": _SECRET}, meanwhile=stop)
        assert stopped.value.signal_number == signal.SIGTERM
        assert _is_free(station.directory / "lock")
        assert _scratch() == before
        assert found == []


def _enter(
    station: Station,
    *argv: str,
    stdin: bytes = b"",
    environment: Mapping[str, str | None] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> _Visit:
    """Enter with files as standard streams."""
    station.attempt.mkdir(exist_ok=True)
    paths = [station.attempt / name for name in ("in", "out", "err")]
    paths[0].write_bytes(stdin)
    thread = None if meanwhile is None else threading.Thread(target=meanwhile)
    with _streams(*paths):
        if thread is not None:
            thread.start()
        try:
            code = station.runtime.enter(
                station.spec(),
                argv,
                environment={
                    "FASTHEP_TASK_DIRECTORY": str(station.attempt),
                    **(environment or {}),
                },
                working_directory=str(station.directory),
            )
        finally:
            if thread is not None:
                thread.join()
    return _Visit(code, paths[1].read_bytes(), paths[2].read_bytes())


@contextmanager
def _streams(stdin: Path, stdout: Path, stderr: Path) -> Iterator[None]:
    """The files are this process's standard streams for as long as the context lasts."""
    kept = [os.dup(number) for number in range(3)]
    opened = [
        os.open(stdin, os.O_RDONLY),
        os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    try:
        for number, descriptor in enumerate(opened):
            os.dup2(descriptor, number)
        yield
    finally:
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
        for descriptor in (*kept, *opened):
            os.close(descriptor)


def _holder(then: str) -> str:
    """A program that leaves another one behind, which holds a lock as long as it lives."""
    return (
        "import fcntl, os, signal, subprocess, sys, time;"
        "f = open('lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "os.set_inheritable(f.fileno(), True);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " close_fds=False, start_new_session=True);"
        f"open('up', 'w').close(); {then}"
    )


def _is_free(path: Path) -> bool:
    import fcntl

    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _scratch() -> set[str]:
    """The scratch folders that this process has now."""
    above = user_folder() / "containers"
    own = f'"fasthep.pid": "{os.getpid()}"'
    return {
        owner.parent.name
        for owner in (above.glob("*/owner.json") if above.is_dir() else ())
        if own in owner.read_text()
    }


def _where(secret: str) -> list[str]:
    """The command lines, and the files of container's scratch folders, that show it."""
    found = []
    for path in [*Path("/proc").glob("[0-9]*/cmdline"), *user_folder().rglob("*")]:
        try:
            if (path.is_file() or "proc" in path.parts) and secret.encode() in path.read_bytes():
                found.append(str(path))
        except OSError:
            continue
    return found
