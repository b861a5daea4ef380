"""A run that is stopped before its first task, and while its runner starts."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fasthep_flow.errors import RunInterrupted
from fasthep_flow.records.run import read_run
from fasthep_flow.workflow import load_plan, run_plan

COMMAND = Path(sys.executable).with_name("fasthep-flow")
IN_AN_IMAGE = """\
tasks:
  - name: greet
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: echo never}
    environment: {image: "localhost/slow:1"}
"""
STUB = """\
#!/bin/sh
touch "$STUB_ASKED"
sleep 611
"""
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


def wait_until(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline_s, f"{path} was not made"
        time.sleep(0.02)


def sleepers() -> list[psutil.Process]:
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if process.info["cmdline"] == ["sleep", "611"]]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_while_an_engine_is_asked_ends_the_run_and_the_engines_client(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "workflow.yaml").write_text(IN_AN_IMAGE)
    stub = tmp_path / "bin" / "podman"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    asked = tmp_path / "asked"
    environment = {
        **os.environ,
        "PATH": f"{stub.parent}:/usr/bin:/bin",
        "STUB_ASKED": str(asked),
    }
    with subprocess.Popen(
        [COMMAND, "run"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        wait_until(asked, process)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert told.decode().splitlines()[-1].endswith(f"stopped by {number.name}")
    assert "Traceback" not in told.decode()
    assert not sleepers()
    assert not (tmp_path / "output").exists()


NATIVE = IN_AN_IMAGE.replace('{image: "localhost/slow:1"}', "{flow: 'local::sequential'}")


@pytest.mark.parametrize(
    "step",
    [
        "fasthep_flow.environments.preflight.gate.preflight",
        "fasthep_flow.environments.preflight.gate.pinned",
        "fasthep_flow.orchestrators.opened.open_runners",
    ],
)
def test_a_signal_that_a_library_keeps_to_itself_ends_the_run_all_the_same(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workflow.yaml").write_text(NATIVE.replace("echo never", "touch made"))
    module, name = step.rsplit(".", 1)
    original = getattr(importlib.import_module(module), name)

    def keeping(*given: object, **named: object) -> object:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
        return original(*given, **named)

    monkeypatch.setattr(step, keeping)
    with pytest.raises(RunInterrupted, match="stopped by SIGINT"):
        run_plan(load_plan(tmp_path / "workflow.yaml"))
    assert not (tmp_path / "made").exists()


@pytest.mark.dask
@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_while_dask_starts_is_recorded(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "workflow.yaml").write_text(
        IN_AN_IMAGE.replace('{image: "localhost/slow:1"}', "{flow: 'dask::local'}")
    )
    with subprocess.Popen(
        [COMMAND, "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        wait_until(tmp_path / "output" / "latest", process)
        process.send_signal(number)
        said, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number, told.decode()
    assert read_run(tmp_path / "output").status == "cancelled"
    assert b"never" not in said
