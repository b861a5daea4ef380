"""The program that is sent into images, as a text and as a process of its own."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.environments.interpreter import call_argv, read_reply, shim_argv, write_call
from fasthep_flow.model import Call

SHIM = Path(__file__).parents[2] / "src/fasthep_flow/environments/shim.py"
MODULE = """
import os, sys

class Cut:
    @staticmethod
    def apply(x):
        return x > 1

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
        if "environments.shim" in path.read_text() or "import shim" in path.read_text()
    ]
    assert importers == []


def test_arguments_and_value_are_plain_data(tmp_path: Path) -> None:
    data = {"text": "µ\n\"'", "number": 2**70, "float": 1e-300, "list": [None, True, {}], "": 0}
    code, reply, _ = call(tmp_path, "mine:echo", data, 1, key=data)
    assert code == 0
    assert reply["value"] == {"args": [data, 1], "kwargs": {"key": data}}
    assert reply["peak"] > 0
    files = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert files == {"call.json", "mine.py"}


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


class TestWrap:
    """The first process of a container, here one of the host's."""

    def wrap(self, directory: Path, variables: dict[str, str], *argv: str) -> dict[str, str]:
        names = list(variables)
        done = subprocess.run(
            shim_argv(sys.executable, "wrap", str(directory), str(len(names)), *names, *argv),
            env={
                "PATH": os.environ["PATH"],
                "HOME": "/",
                **{f"FASTHEP_V{index}": variables[name] for index, name in enumerate(names)},
            },
            cwd=directory,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        text = (directory / "container.status").read_text()
        (directory / "container.status").unlink()
        assert text.endswith("end 1\n")
        return dict(line.split(" ", 1) for line in text.splitlines())

    def test_tells_how_the_program_ended(self, tmp_path: Path) -> None:
        assert self.wrap(tmp_path, {}, "sh", "-c", "exit 127")["exit"] == "127"
        assert self.wrap(tmp_path, {}, "sh", "-c", "kill -9 $$")["signal"] == "9"
        status = self.wrap(tmp_path, {}, "no-such-program")
        assert status["missing"] == "1"
        (tmp_path / "unfit").touch(mode=0o755)
        assert self.wrap(tmp_path, {}, "./unfit")["exit"] == "126"

    def test_gives_variables_their_names(self, tmp_path: Path) -> None:
        variables = {"A": "a\n b\n", "PATH": "/usr/bin:/bin", "with.dot": "$x"}
        self.wrap(tmp_path, variables, "env", "-0")
        lines = (tmp_path / "stdout.log").read_text().split("\0")
        assert {"A=a\n b\n", "PATH=/usr/bin:/bin", "with.dot=$x"} <= set(lines)
        assert f"HOME={tmp_path}" in lines
        assert not [line for line in lines if line.startswith("FASTHEP_V")]

    def test_keeps_a_home_that_is_the_tasks_own(self, tmp_path: Path) -> None:
        self.wrap(tmp_path, {"HOME": "/nowhere"}, "env")
        assert "HOME=/nowhere\n" in (tmp_path / "stdout.log").read_text()


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
    interpreter = interpreter_of(minor)
    (tmp_path / "mine.py").write_text(
        "import sys\ndef version():\n    return sys.version_info[1]\n"
    )
    write_call(str(tmp_path), Call(target="mine:version"))
    argv = call_argv(interpreter, str(tmp_path))
    wrapped = shim_argv(interpreter, "wrap", str(tmp_path), "0", *argv)
    assert subprocess.run(wrapped, cwd=tmp_path, check=False).returncode == 0
    reply = read_reply(str(tmp_path))
    assert reply is not None
    assert reply.value == minor
    assert "exit 0\n" in (tmp_path / "container.status").read_text()
