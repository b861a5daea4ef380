"""The examples as a user has them: copied, and run by the installed command."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = Path(sys.executable).with_name("fasthep-flow")


@pytest.fixture(scope="session")
def copy_example() -> Callable[[str, Path], Path]:
    """Copies the example of that name, without what runs of it left, into the folder."""

    def copy(name: str, parent: Path) -> Path:
        left = shutil.ignore_patterns("__pycache__", "output", "results*")
        return Path(shutil.copytree(EXAMPLES / name, parent / name, ignore=left))

    return copy


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``fasthep-flow run FILE ...`` from another folder, as a user without settings."""

    home = tmp_path_factory.mktemp("home")

    def command(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        foreign = ("FASTHEP", "MPL", "PREFECT", "PYTHON", "PYTEST", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return subprocess.run(
            [COMMAND, "run", file, *arguments],
            capture_output=True,
            text=True,
            cwd=home,
            env={**kept, "HOME": str(home)},
            check=False,
        )

    return command


@pytest.fixture(scope="session")
def succeed(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> Callable[..., dict[str, dict[str, Any]]]:
    """Runs a workflow that must succeed: what became of each task, by its name."""

    def results(file: Path, *arguments: str) -> dict[str, dict[str, Any]]:
        done = run(file, "--format", "json", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        tasks = {result["task"]: result for result in json.loads(done.stdout)["tasks"]}
        assert {result["status"] for result in tasks.values()} == {"succeeded"}, done.stderr
        return tasks

    return results
