"""Ctrl-C stays the driver's own, whatever the engines' packages do when they are imported."""

import subprocess
import sys

import pytest

_LINES = """
import signal, threading
def mine(*_): raise SystemExit(3)
signal.signal(signal.SIGINT, mine)
def load():
    import fasthep_flow.orchestrators.dask.batch
    print("imported")
{load}
assert signal.getsignal(signal.SIGINT) is mine
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize(
    "load",
    ["load()", "one = threading.Thread(target=load); one.start(); one.join()"],
    ids=["main", "thread"],
)
def test_dask_jobqueue_takes_no_signal(load: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LINES.format(load=load)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (3, "imported\n")
