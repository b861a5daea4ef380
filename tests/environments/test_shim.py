"""The program that is sent into images, as a text and as a process of its own."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.environments.containers.serving import Served

from fasthep_flow.environments.interpreter import call_argv, read_reply, shim_argv, write_call
from fasthep_flow.model import Call
from fasthep_flow.testing.runtimes import NASTY_VARIABLES

SHIM = Path(__file__).parents[2] / "src/fasthep_flow/environments/shim.py"
MODULE = """
import os, sys

class Cut:
    @staticmethod
    def apply(x):
        return x > 1

class Fit:
    def __init__(self, start, *, step=1):
        self.start, self.step = start, step

    def __call__(self):
        return self.start + self.step

number = 3

def echo(*args, **kwargs):
    return {"args": args, "kwargs": kwargs}

def returns(code):
    import math
    return eval(code)

def leave(code):
    sys.exit(code)

def leave_at_once(code):
    os._exit(code)

def die(number):
    os.kill(os.getpid(), number)

def outer():
    try:
        inner()
    except ZeroDivisionError as error:
        raise RuntimeError("wrapped") from error

def inner():
    return 1 / 0

def needs_helper():
    import no_such_helper

def endless():
    return endless()

def name_of_main():
    return __import__("__main__").__name__

def in_children():
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(abs, [-1, -2])
"""


def call(directory: Path, target: str, *args: Any, **kwargs: Any) -> tuple[int, Any, str]:
    """Exit code, reply and standard error of a call in this interpreter."""
    (directory / "mine.py").write_text(MODULE)
    write_call(str(directory), Call(target=target, args=args, kwargs=kwargs))
    done = subprocess.run(
        call_argv(sys.executable, str(directory)),
        cwd=directory,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    path = directory / "reply.json"
    reply = json.loads(path.read_text()) if path.exists() else None
    path.unlink(missing_ok=True)
    return done.returncode, reply, done.stderr


def test_its_text_is_for_any_python_3() -> None:
    text = SHIM.read_text(encoding="ascii")
    tree = ast.parse(text, feature_version=(3, 4))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= sys.stdlib_module_names
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]


def test_nothing_of_the_package_imports_it() -> None:
    importers = [
        path.name
        for path in SHIM.parents[1].rglob("*.py")
        if re.search(r"(environments\.|import )shim\b", path.read_text())
    ]
    assert importers == []


def test_arguments_and_value_are_plain_data(tmp_path: Path) -> None:
    data = {
        "text": "µ\n\"'",
        "number": 1 - 10**4000,
        "float": 1e-300,
        "list": [None, True, {}],
        "": 0,
    }
    code, reply, _ = call(tmp_path, "mine:echo", data, 1, key=data)
    assert code == 0
    assert reply["value"] == {"args": [data, 1], "kwargs": {"key": data}}
    assert reply["peak"] > 0
    files = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert files == {"call.json", "mine.py"}


def test_what_a_class_makes_is_called(tmp_path: Path) -> None:
    assert call(tmp_path, "mine:Fit", 3, step=4)[1]["value"] == 7


def test_what_a_class_makes_is_the_value_where_it_is_plain_data(tmp_path: Path) -> None:
    assert call(tmp_path, "builtins:dict", a=1)[1]["value"] == {"a": 1}
    assert "is of type mine.Cut" in call(tmp_path, "mine:Cut")[1]["failure"]["message"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("math.nan", "the returned value is nan"),
        ("{'fit': [0.0, math.inf]}", "the returned value['fit'][1] is inf"),
        ("{1: 2}", "the returned value has the key 1, which is not text"),
        ("[{'a': {2.5: 1}}]", "the returned value[0]['a'] has the key 2.5"),
        ("{1, 2}", "the returned value is of type set"),
        ("(object(),)", "the returned value[0] is of type object"),
        ("b'bytes'", "the returned value is of type bytes"),
        ("__import__('decimal').Decimal(1)", "the returned value is of type decimal.Decimal"),
        ("-(10**4000)", "the returned value is a number of more than 4000 digits, not plain data"),
        ("{'n': [10**5000]}", "the returned value['n'][0] is a number of more than 4000 digits"),
        ("{10**5000: 1}", "the returned value has the key of type int, which is not text"),
        ("chr(0xd800)", "the returned value is text that is not Unicode"),
        ("(lambda a: (a.append(a), a)[1])([])", "the returned value is nested without end"),
    ],
)
def test_a_value_that_is_not_plain_data_is_named(tmp_path: Path, code: str, words: str) -> None:
    exit_code, reply, stderr = call(tmp_path, "mine:returns", code)
    assert exit_code == 1
    assert reply["failure"]["kind"] == "result"
    assert words in reply["failure"]["message"]
    assert words in stderr
    assert "Traceback" not in stderr
    assert "value" not in reply


@pytest.mark.parametrize("target", ["mine:Cut.apply", "mine.Cut:apply"])
def test_a_name_may_be_nested(tmp_path: Path, target: str) -> None:
    _, reply, _ = call(tmp_path, target, 2)
    assert reply["value"] is True


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:f", "there is no module 'nowhere'"),
        ("nowhere.deeper:f", "there is no module 'nowhere'"),
        ("mine.deeper:f", "there is no module 'mine.deeper'"),
        ("os.path.deeper:f", "there is no module 'os.path.deeper'"),
        ("mine:nothing", "module 'mine' has no 'nothing'"),
        ("mine:Cut.nothing", "'Cut' has no 'nothing'"),
        ("mine:number", "'mine:number' is not callable"),
    ],
)
def test_a_callable_that_is_not_there_is_named(tmp_path: Path, target: str, words: str) -> None:
    exit_code, reply, stderr = call(tmp_path, target)
    assert exit_code == 1
    assert reply["failure"]["kind"] == "not_started"
    assert words in reply["failure"]["message"]
    assert words in stderr


def test_a_traceback_has_the_authors_frames_alone(tmp_path: Path) -> None:
    exit_code, reply, stderr = call(tmp_path, "mine:outer")
    failure = reply["failure"]
    assert exit_code == 1
    assert failure["kind"] == "exception"
    assert failure["message"] == "RuntimeError: wrapped"
    assert failure["traceback"] == stderr
    assert stderr.count("File ") == stderr.count("mine.py") == 3
    assert "ZeroDivisionError: division by zero" in stderr


def test_an_import_that_fails_in_the_authors_module_is_the_authors(tmp_path: Path) -> None:
    _, reply, _ = call(tmp_path, "mine:needs_helper")
    assert reply["failure"]["kind"] == "exception"
    assert "no_such_helper" in reply["failure"]["message"]
    (tmp_path / "broken.py").write_text("import no_such_helper\n")
    _, reply, _ = call(tmp_path, "broken:f")
    assert reply["failure"]["kind"] == "exception"
    assert reply["failure"]["traceback"].count("File ") == 1
    (tmp_path / "mistyped.py").write_text("def f(:\n")
    _, reply, _ = call(tmp_path, "mistyped:f")
    assert reply["failure"]["message"].startswith("SyntaxError: ")


def test_a_long_traceback_is_cut(tmp_path: Path) -> None:
    _, reply, _ = call(tmp_path, "mine:endless")
    assert reply["failure"]["message"].startswith("RecursionError: ")
    assert len(reply["failure"]["traceback"]) <= 65536


@pytest.mark.parametrize(
    ("code", "exit_code", "reply"),
    [(None, 0, {"exit": 0}), (0, 0, {"exit": 0}), (3, 3, None), ("words", 1, None), ("", 1, None)],
)
def test_sys_exit_is_the_callables_own(
    tmp_path: Path, code: Any, exit_code: int, reply: Any
) -> None:
    found_code, found, stderr = call(tmp_path, "mine:leave", code)
    assert found_code == exit_code
    assert (found and {"exit": found["exit"]}) == reply
    assert "Traceback" not in stderr


def test_an_end_without_an_answer_leaves_none(tmp_path: Path) -> None:
    assert call(tmp_path, "mine:leave_at_once", 0)[:2] == (0, None)
    assert call(tmp_path, "mine:die", signal.SIGSEGV)[:2] == (-signal.SIGSEGV, None)


def test_a_callable_may_start_processes(tmp_path: Path) -> None:
    assert call(tmp_path, "mine:in_children")[1]["value"] == [1, 2]


def test_the_working_directory_comes_first(tmp_path: Path) -> None:
    for name in ("statistics", "signal", "json", "traceback"):
        (tmp_path / f"{name}.py").write_text("def mean():\n    return __file__\n")
        own = str(tmp_path / f"{name}.py")
        assert call(tmp_path, f"{name}:mean")[1]["value"] == own
    (tmp_path / "resource").mkdir()
    (tmp_path / "resource" / "__init__.py").write_text("raise ImportError")
    assert call(tmp_path, "mine:echo")[0] == 0


class TestReply:
    def test_is_taken_out_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "call.json").write_text("{}")
        (tmp_path / "reply.json").write_text('{"value": null, "peak": 5}')
        reply = read_reply(str(tmp_path))
        assert reply is not None
        assert (reply.value, reply.peak) == (None, 5)
        assert list(tmp_path.iterdir()) == []
        assert read_reply(str(tmp_path)) is None

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", '{"failure": 3}', '{"value": "\\ud800"}', "\udcff", "x" * 17_000_000],
    )
    def test_is_not_trusted(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "reply.json").write_text(text, errors="surrogateescape")
        reply = read_reply(str(tmp_path))
        assert reply is not None
        assert reply.failure is not None
        assert reply.failure.kind == "result"

    @pytest.mark.parametrize("depth", [257, 2000, 10**6])
    @pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
    def test_is_not_gone_into_without_end(
        self, tmp_path: Path, depth: int, opening: str, closing: str
    ) -> None:
        inner = f"{opening * depth}1{closing * depth}"
        (tmp_path / "reply.json").write_text(f'{{"value": {inner}}}')
        reply = read_reply(str(tmp_path))
        assert reply is not None
        assert reply.value is msgspec.UNSET
        assert reply.failure is not None
        assert reply.failure.message == "the returned value is nested more than 256 deep"
        assert list(tmp_path.iterdir()) == []

    def test_may_be_nested_as_deep_as_people_write(self, tmp_path: Path) -> None:
        (tmp_path / "reply.json").write_text(f'{{"value": {"[" * 255}{"]" * 255}}}')
        reply = read_reply(str(tmp_path))
        assert reply is not None
        assert reply.failure is None

    def test_of_many_gigabytes_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "reply.json").open("wb") as file:
            file.truncate(10 * 2**30)
        reply = read_reply(str(tmp_path))
        assert reply is not None
        assert reply.failure is not None
        assert reply.failure.message == "the returned value is larger than 16Mi"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("kind", ["pipe", "link", "device", "folder"])
    def test_is_a_file_of_its_own(self, tmp_path: Path, kind: str) -> None:
        folder, path = tmp_path / "attempt", tmp_path / "attempt" / "reply.json"
        folder.mkdir()
        other = tmp_path / "other.json"
        other.write_text('{"value": "of somebody else"}')
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "link":
                path.symlink_to(other)
            case "device":
                path.symlink_to("/dev/zero")
            case _:
                path.mkdir()
        said = "is a link, and is not followed" if path.is_symlink() else "is no file"
        reply = read_reply(str(folder))
        assert reply is not None
        assert reply.value is msgspec.UNSET
        assert reply.failure is not None
        assert reply.failure.message == f"the answer cannot be read: {path} {said}"
        assert other.read_text() == '{"value": "of somebody else"}'


class Server(Served):
    """What serves in a container, here with an interpreter of this machine's.

    Args:
        interpreter: The interpreter.
        folder: For the logs, and the jobs' working directory.
    """

    def __init__(self, interpreter: str, folder: Path) -> None:
        program, *arguments = shim_argv(interpreter, "serve", "/")
        # Here it sees everybody's processes. It would not touch them, having a high number;
        # no test is to depend on that.
        text = arguments[2]
        assert text.count("\nFIRST_PROCESSES = 32\n") == 1
        arguments[2] = text.replace("FIRST_PROCESSES = 32", "FIRST_PROCESSES = 0")
        variables = {"HOME": "/image", "KEPT": "image's"}
        super().__init__([program, *arguments], folder, "python", variables=variables)

    def close(self) -> str:
        """End it, which it does without a word."""
        said = super().close()
        assert said == ""
        return said


class TestServe:
    """What serves in a container that has no shell."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[Server]:
        server = Server(sys.executable, tmp_path)
        yield server
        server.close()

    def test_tells_how_the_program_ended(self, server: Server, tmp_path: Path) -> None:
        for code in (0, 1, 125, 126, 127, 137, 255):
            report = server.run("sh", "-c", f"exit {code}")
            assert (report.exit_code, report.signal) == (code, None)
            assert (report.begun, report.started, report.ended) == (True, True, True)
        report = server.run("sh", "-c", "kill -9 $$")
        assert (report.exit_code, report.signal) == (None, 9)
        for program in ("no-such-program", "./none", "/no/such"):
            assert server.run(program).missing
        (tmp_path / "unfit").touch(mode=0o755)
        (tmp_path / "unmarked").touch(mode=0o644)
        for program in ("./unfit", "./unmarked"):
            report = server.run(program)
            assert (report.exit_code, report.missing) == (126, False)
            assert program in (tmp_path / "stderr.log").read_text()
        report = server.run("true", working_directory="/no/such folder")
        assert (report.lost, report.started, report.missing) == (True, False, False)

    def test_without_a_folder_nothing_starts(self, server: Server, tmp_path: Path) -> None:
        report = server.run("touch", str(tmp_path / "trace"), directory=tmp_path / "gone")
        assert (report.begun, report.started, report.ended) == (True, False, True)
        assert not (tmp_path / "trace").exists()
        assert server.run("true").exit_code == 0

    def test_hands_everything_over_as_it_is(self, server: Server) -> None:
        all_bytes = os.fsdecode(bytes(range(1, 256)))
        words = ["", " a ", "$x", "\\", "a\n", "-n", "µ", "*", "'", all_bytes]
        variables = {**NASTY_VARIABLES, "BYTES": all_bytes, "with.dot": "$x", "ä b": "c"}
        variables |= {f"LONG{number}": "µ'\n" * 30_000 for number in range(8)}
        script = (
            "import os, sys;"
            "words = [os.fsencode(word) for word in sys.argv[1:]];"
            "words += [k + b'=' + v for k, v in os.environb.items()];"
            "sys.stdout.buffer.write(b'\\0'.join(words))"
        )
        report = server.run(sys.executable, "-c", script, *words, variables=variables)
        assert report.exit_code == 0
        seen = server.output().split(b"\0")
        assert seen[: len(words)] == list(map(os.fsencode, words))
        environment = dict(item.split(b"=", 1) for item in seen[len(words) :])
        expected = {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}
        assert {name: environment.get(name) for name in expected} == expected
        assert environment[b"KEPT"] == b"image's"
        assert not [name for name in environment if b"fasthep" in name.lower()]

    def test_the_tasks_path_decides(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "tool").write_text("#!/bin/sh\necho mine\n")
        (tmp_path / "tool").chmod(0o755)
        server.run("tool", variables={"PATH": f"{tmp_path}:/usr/bin:/bin"})
        assert server.output() == b"mine\n"
        assert server.run("tool", variables={"PATH": "/usr/bin:/bin"}).missing

    def test_home_is_the_attempts_folder_or_what_the_task_says(
        self, server: Server, tmp_path: Path
    ) -> None:
        server.run("sh", "-c", 'printf %s "$HOME"')
        assert server.output() == os.fsencode(tmp_path)
        server.run("sh", "-c", 'printf %s "$HOME"', variables={"HOME": "/mine"})
        assert server.output() == b"/mine"

    def test_no_signal_is_ignored_and_nothing_open(self, server: Server) -> None:
        server.run("grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status")
        ignored = [int(line.split()[1], 16) for line in server.output().splitlines()]
        assert ignored == [0, 0]
        server.run(sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))")
        assert ast.literal_eval(server.output().decode()) == ["0", "1", "2", "3"]

    def test_standard_input_is_the_file_or_nothing(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "std in").write_text("a 'b'\n" * 100_000)
        server.run("cat", stdin=str(tmp_path / "std in"))
        assert server.output() == b"a 'b'\n" * 100_000
        server.run("cat")
        assert server.output() == b""
        server.run("true", stdin=str(tmp_path / "std in"))
        assert server.run("true").exit_code == 0

    @pytest.mark.parametrize(
        "script",
        [
            "cd /; umask 077; ulimit -n 10; export LEFT=1; exit 3",
            "trap '' INT TERM; exit 3",
            "exec 0<&- 1>&- 2>&- 3>&-; exit 3",
            "echo 'fasthep 1 end 1'; echo end 1 >&2; exit 3",
            "echo exit 0 >/proc/$PPID/fd/1; echo end 1 >/proc/$PPID/fd/1; exit 3",
            "printf half >/proc/$PPID/fd/1; exit 3",
            "kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID; exit 3",
        ],
    )
    def test_jobs_share_nothing(self, server: Server, script: str) -> None:
        def facts() -> list[bytes]:
            lines = "pwd; umask; ulimit -a; env | sort; grep -E '^Sig[^Q]' /proc/self/status"
            assert server.run("sh", "-c", lines).exit_code == 0
            return server.output().splitlines()

        before = facts()
        assert server.run("sh", "-c", script).exit_code == 3
        server.output()
        assert facts() == before

    def test_counts_what_the_control_group_counted(self, server: Server) -> None:
        report = server.run("true")
        if not Path("/sys/fs/cgroup/memory/memory.max_usage_in_bytes").exists():
            pytest.skip("the kernel does not show its counters there")
        assert (report.peak_memory or 0) > 0
        assert (report.cpu_s or 0) > 0

    def test_a_callable_is_called(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(MODULE)
        report = server.run(invocation=Call(target="mine:echo", args=(1,)))
        assert report.exit_code == 0
        reply = read_reply(str(tmp_path))
        assert reply is not None
        assert reply.value == {"args": [1], "kwargs": {}}
        assert server.run(invocation=Call(target="mine:die", args=(11,))).signal == 11


def interpreter_of(minor: int) -> str:
    """A python3 of that minor version, on the PATH or kept by pyenv."""
    name = f"python3.{minor}"
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [*map(str, kept.glob(f"3.{minor}.*/bin/{name}")), shutil.which(name) or ""]
    check = f"import sys; sys.exit(sys.version_info[:2] != (3, {minor}))"
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "-c", check], capture_output=True, check=False)
        if done.returncode == 0:
            return candidate
    pytest.skip(f"there is no {name}")


@pytest.mark.parametrize("minor", range(6, 15))
def test_any_interpreter_will_do(tmp_path: Path, minor: int) -> None:
    server = Server(interpreter_of(minor), tmp_path)
    (tmp_path / "mine.py").write_text(
        "import sys\ndef version():\n    return sys.version_info[1]\n"
    )
    for _ in range(2):
        report = server.run(invocation=Call(target="mine:version"), variables={"b.c": "ä\udcff"})
        assert report.exit_code == 0
        reply = read_reply(str(tmp_path))
        assert reply is not None
        assert reply.value == minor
    assert server.run("/no/such").missing
    server.close()
