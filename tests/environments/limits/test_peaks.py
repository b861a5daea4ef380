"""The heights of processes' memory, of real ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from fasthep_flow.environments.limits.peaks import descendants, peak_memory

MEBI = 2**20

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")


def hog(then: str) -> subprocess.Popen[bytes]:
    code = f"x = b'x' * {100 * MEBI}; del x; {then}"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_height_is_remembered() -> None:
    with hog("print(flush=True); input()") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 100 * MEBI < peak_memory(process.pid) < 200 * MEBI
        process.kill()


def test_that_of_a_descendant_counts() -> None:
    inner = f"x = b'x' * {150 * MEBI}; del x; print(flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen(
        ["sh", "-c", '"$0" -c "$1"; true', sys.executable, code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(list(descendants(process.pid))) == 3
        assert 150 * MEBI < peak_memory(process.pid) < 250 * MEBI
        process.stdin.close()  # type: ignore[union-attr]  # it is a pipe


def test_of_one_that_is_gone_nothing_is_known() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert peak_memory(process.pid) == 0


def test_without_the_kernels_list_of_children_there_is_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "status").write_text("Name:\tVmHWM: 1 kB\nVmPeak:\t 99 kB\nVmHWM:\t   12 kB\n")
    assert list(descendants(7, str(tmp_path))) == [7]
    assert peak_memory(7, str(tmp_path)) == 12 * 2**10
