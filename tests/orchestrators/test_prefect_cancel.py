"""A flow run that is cancelled in Prefect, on its pages or by its API, ends the run."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from fasthep_flow.testing.runners import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]

_WORKFLOW = """\
name: to be cancelled {runner}
tasks:
  - name: held
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: . ./held.sh}}
  - name: later
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: touch later}}
"""
# It ends by itself after a minute, so that a test that fails leaves nothing behind.
_HELD = """\
trap 'echo asked > asked; exit 1' TERM
echo $$ > starting; mv starting started
n=0; while [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done
"""


def _cancel(name: str) -> UUID:
    """Cancel the flow run of that name, as Prefect's pages do; its id."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        )
        client.set_flow_run_state(run.id, Cancelling())
        return run.id


def _state_of(flow_run_id: UUID) -> str | None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
        return None if state is None else state.name


# How each of the others stops its jobs is in their own tests.
@pytest.mark.parametrize("runner", ["ThreadPoolTaskRunner", "DaskTaskRunner"])
def test_a_flow_run_that_is_cancelled_in_prefect_ends_the_run(tmp_path: Path, runner: str) -> None:
    name = f"to be cancelled {runner}"
    (tmp_path / "workflow.yaml").write_text(_WORKFLOW.format(runner=runner))
    (tmp_path / "held.sh").write_text(_HELD)
    process = subprocess.Popen(
        [sys.executable, "-m", "fasthep_flow", "run", "--flow", f"prefect::{runner}"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            started = tmp_path / "started"
            wait_until(lambda: started.exists() or process.poll() is not None, "no task started")
            assert started.exists(), process.communicate()[0]
            family = psutil.Process(process.pid).children(recursive=True)
            flow_run_id = _cancel(name)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "the flow run was cancelled in Prefect" in output
    assert "Traceback" not in output
    assert (tmp_path / "asked").exists()
    assert not (tmp_path / "later").exists()
    assert _state_of(flow_run_id) == "Cancelled"
    _, left = psutil.wait_procs(family, timeout=30)
    assert left == []
    assert not os.path.lexists(f"/proc/{(tmp_path / 'started').read_text().strip()}")
