"""Whether a container's process still lives, told from labels."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasthep_flow.environments.host.owner import is_gone, owner_labels

SCRIPT = (
    "import json, sys; from fasthep_flow.environments.host.owner import owner_labels;"
    " print(json.dumps(owner_labels()), flush=True); sys.stdin.read()"
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="only Linux tells")


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Another process and its labels."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
        process.kill()


Other = tuple[subprocess.Popen[str], dict[str, str]]


def test_one_that_lives_is_not_gone(other: Other) -> None:
    assert not is_gone(owner_labels())
    assert not is_gone(other[1])


def test_one_that_was_killed_is_gone(other: Other) -> None:
    process, labels = other
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(labels), "it is a zombie"
    process.wait()
    assert is_gone(labels)


def test_a_number_that_is_in_use_again_is_another_process() -> None:
    assert is_gone({**owner_labels(), "fasthep.started": "1"})


@pytest.mark.parametrize("key", ["fasthep.host", "fasthep.space", "fasthep.user"])
def test_what_is_elsewhere_is_not_judged(other: Other, key: str) -> None:
    process, labels = other
    process.kill()
    process.wait()
    assert not is_gone({**labels, key: "another"})


@pytest.mark.parametrize(
    "labels", [{}, {"fasthep.pid": "none"}, {"fasthep.pid": "0"}, {"fasthep.started": ""}]
)
def test_what_is_not_known_is_not_judged(labels: dict[str, str]) -> None:
    assert not is_gone({**owner_labels(), **labels} if labels else {})


def test_a_forked_worker_is_a_process_of_its_own() -> None:
    mine = owner_labels()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, owner_labels()["fasthep.pid"].encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read() == str(pid) != mine["fasthep.pid"]
    os.waitpid(pid, 0)
