"""What is told of a run before it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).with_name("fasthep-flow")
TRIES = """\
tasks:
  - name: try
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: "echo half > half.txt; exit 3"}
    outputs: half.txt
    allow_failure: true
  - name: fit
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: echo fit > fit.txt}
    outputs: fit.txt
    needs: []
"""


def test_what_was_tried_and_failed_is_not_said_to_be_new(tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_text(TRIES)

    def ask(*words: str) -> str:
        return subprocess.run(
            [COMMAND, *words],
            cwd=tmp_path,
            env={**os.environ, "FASTHEP_FLOW_KEY": str(tmp_path / "key")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert ask("why", "try").startswith("'try' runs: no earlier run has done it\n")
    ask("run")
    run = (tmp_path / "output" / "latest").resolve().name
    assert ask("why", "try").startswith(f"'try' runs: it failed in the run {run}\n")
    assert f"try  runs: it failed in the run {run}\n" in ask("plan")
    assert ask("why", "fit").startswith(f"'fit' need not run: the run {run} did the same")
