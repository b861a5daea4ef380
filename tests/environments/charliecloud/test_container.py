"""How a container of charliecloud's starts a program, and with which variables."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.environments.charliecloud.made import run

from fasthep_flow.environments.interpreter import read_reply
from fasthep_flow.model import Call

pytestmark = [pytest.mark.charliecloud, pytest.mark.registry]


def test_the_environment_is_the_image_s_and_the_task_s_alone(
    python_image: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_HOST", "leaks")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/of/the/host")
    script = "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"
    variables = {"USER": "somebody", "A": "$B", "B": "'quoted'", "C": "", "FASTHEP_ALIASED": "x"}
    tried = run(python_image, place, "python3", "-c", script, variables=variables)
    found = json.loads(tried.stdout)
    # Python sets this one where the environment names no locale.
    found.pop("LC_CTYPE", None)
    assert found == {
        **variables,
        "CH_RUNNING": found["CH_RUNNING"],
        "CUDA_VISIBLE_DEVICES": "",
        "FASTHEP_TASK_DIRECTORY": str(place / "an attempt"),
        "HIP_VISIBLE_DEVICES": "",
        "HOME": str(place / "an attempt"),
        "NVIDIA_VISIBLE_DEVICES": "void",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ROCR_VISIBLE_DEVICES": "",
    }


def test_values_are_in_no_command_line_and_in_no_file(
    python_image: str, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = (
        "import os, pathlib;"
        "lines = [path.read_bytes() for path in pathlib.Path('/proc').glob('[0-9]*/cmdline')];"
        "print(len(lines) > 1, any(os.environb[b'TOKEN'] in line for line in lines))"
    )
    # What becomes of a container's own files at its end: here they stay.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("fasthep_flow.environments.charliecloud.remove_folder", lambda _: None)
    tried = run(python_image, place, "python3", "-c", script, variables={"TOKEN": "a-s3cret"})
    assert tried.stdout == "True False\n"
    (plan,) = tmp_path.rglob("plan.json")
    assert "TOKEN=" in plan.read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"a-s3cret" in path.read_bytes()]


def test_what_is_shared_in_memory_by_name_is_the_container_s_own(
    python_image: str, place: Path
) -> None:
    # One of each kind, as msgget(2), semget(2) and shmget(2) make them.
    code = (
        "import ctypes, os\n"
        "libc, key = ctypes.CDLL(None), 0x66617374\n"
        "assert libc.msgget(key, 0o1600) >= 0\n"
        "assert libc.semget(key, 1, 0o1600) >= 0\n"
        "assert libc.shmget(key, 4096, 0o1600) >= 0\n"
        "for kind in ('msg', 'sem', 'shm'):\n"
        "    print(len(open('/proc/sysvipc/' + kind).readlines()))\n"
        "print(os.readlink('/proc/self/ns/ipc'))\n"
    )

    def on_host() -> list[str]:
        return [Path("/proc/sysvipc", kind).read_text("ascii") for kind in ("msg", "sem", "shm")]

    mark = f" {0x66617374} "
    assert not any(mark in table for table in on_host())
    tried = run(python_image, place, "python3", "-c", code)
    assert tried.outcome.exit_code == 0, tried.stderr
    # A line of titles and what was made, and nothing of the host's.
    assert tried.stdout.split()[:3] == ["2", "2", "2"]
    assert tried.stdout.split()[3] != os.readlink("/proc/self/ns/ipc")  # noqa: PTH115
    assert not any(mark in table for table in on_host())


def test_images_without_a_shell(noshell_image: str, pythononly_image: str, place: Path) -> None:
    assert run(noshell_image, place, "echo", "hello").stdout == "hello\n"
    assert run(noshell_image, place, "/bin/sh", "-c", "true").failed[0] == "not_started"
    (place / "mine.py").write_text("def f(a):\n    return a + 1\n")
    call = Call(target="mine:f", args=(1,), kwargs={})
    assert run(pythononly_image, place, invocation=call).outcome.exit_code == 0
    reply = read_reply(str(place / "an attempt"))
    assert reply is not None
    assert reply.value == 2


def test_a_callable_where_python3_is_too_old(busybox_root: Path, tmp_path: Path) -> None:
    root, place = tmp_path / "image", tmp_path / "place"
    subprocess.run(["cp", "-r", str(busybox_root), str(root)], check=True)
    place.mkdir()
    # As far as the shim comes in Python 3.4.
    python = root / "usr/bin/python3"
    python.write_text(
        "#!/bin/sh\n"
        """printf '{"failure": {"kind": "not_started", "message": "python3 is 3.4 there"}}' """
        '>"$5/reply.json"\nexit 1\n'
    )
    python.chmod(0o755)
    call = Call(target="mine:f", args=(), kwargs={})
    tried = run(str(root), place, invocation=call, form="folder")
    assert (tried.outcome.exit_code, tried.outcome.failure) == (1, None)
    reply = read_reply(str(place / "an attempt"))
    assert reply is not None
    assert reply.failure is not None
    assert reply.failure.message == "python3 is 3.4 there"


def test_further_words_for_ch_run(busybox_image: str, place: Path) -> None:
    options = ("--set-env=FROM_OPTION=1",)
    tried = run(busybox_image, place, "sh", "-c", "echo $FROM_OPTION", options=options)
    assert tried.stdout == "1\n"
    kind, message = run(busybox_image, place, "true", options=("--no-such-option",)).failed
    assert kind == "environment"
    assert "no-such-option" in message


def test_signals_are_as_they_should_be(python_image: str, place: Path) -> None:
    # Python ignores this one, and what it starts would, too.
    tried = run(python_image, place, "sh", "-c", "kill -PIPE $$; echo alive")
    assert (tried.outcome.signal, tried.stdout) == (13, "")
