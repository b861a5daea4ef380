"""The smallest workflow."""

import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_world_is_greeted(
    copy_example: Callable[[str, Path], Path], run: Run, tmp_path: Path
) -> None:
    folder = copy_example("hello_world", tmp_path)
    done = run(folder / "workflow.yaml")
    assert done.returncode == 0, done.stderr
    (log,) = folder.glob("output/latest/tasks/greet/1/stdout.log")
    assert log.read_text() == "Hello World!\n"
