"""Speed as ratios beside a reference in the same run.

Usage: ``python benchmarks/run.py [NAME ...]``; without a name, all of them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import Comparison, command, compare

FLOW = Path(sys.executable).with_name("fasthep-flow")
# As much of them as any command with an argument needs: typer builds a pydantic adapter for it.
BARE = "import typer, rich.console; from pydantic import BaseModel, TypeAdapter; TypeAdapter(str)"
TASK = """\
  - name: task {number}
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "{program}", arguments: []}}
    needs: []
"""


def _workflow(folder: Path, *, tasks: int, program: str) -> Path:
    path = folder / f"{program}-{tasks}.yaml"
    lines = [TASK.format(number=number, program=program) for number in range(tasks)]
    path.write_text(
        "global: {workflow: {transform: local, kwargs: {runner: concurrent, max_workers: 2}}}\n"
        "tasks:\n" + "".join(lines)
    )
    return path


def local_tasks(folder: Path) -> Comparison:
    """1,000 empty tasks beside xargs: the whole command, records included."""
    file = _workflow(folder, tasks=1000, program="true")
    numbers = "".join(f"{number}\n" for number in range(1000)).encode()
    return compare(
        "1,000 `true` tasks on local::concurrent / xargs -P2",
        command([FLOW, "run", file, "--output", folder / "output"], folder=folder),
        command(["xargs", "-P2", "-n1", "true"], stdin=numbers),
        aim=2,
    )


def plan(folder: Path) -> Comparison:
    """Planning 20,000 literal tasks beside reading the same YAML."""
    import yaml

    from fasthep_flow.workflow import load_plan

    file = _workflow(folder, tasks=20_000, program="true")
    text = file.read_text()
    return compare(
        "plan of 20,000 literal tasks / PyYAML's C composer",
        lambda: load_plan(file),
        lambda: yaml.compose(text, Loader=yaml.CSafeLoader),
        aim=3,
        runs=3,
    )


def _startup(folder: Path, arguments: list[str], name: str) -> Comparison:
    _workflow(folder, tasks=5, program="true")
    return compare(
        f"{name} / a Python that imports typer, rich, pydantic",
        command([FLOW, *arguments], folder=folder),
        command([sys.executable, "-c", BARE], folder=folder),
        aim=1.3,
        runs=15,
    )


def start_help(folder: Path) -> Comparison:
    """``--help`` beside a bare Python with the same libraries."""
    return _startup(folder, ["--help"], "--help")


def start_lint(folder: Path) -> Comparison:
    """``lint`` of five tasks beside a bare Python with the same libraries."""
    return _startup(folder, ["lint", str(folder / "true-5.yaml")], "lint")


BENCHMARKS: dict[str, Callable[[Path], Comparison]] = {
    "local_tasks": local_tasks,
    "plan": plan,
    "start_help": start_help,
    "start_lint": start_lint,
}


def main() -> None:
    """Run the benchmarks that are named and print a line for each."""
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        sys.exit(f"unknown: {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}")
    # Beside the project, as a user's output lies: a full /tmp is slower than the rest of a disk.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix="tmp-") as folder:
        for name in names:
            print(BENCHMARKS[name](Path(folder)), flush=True)


if __name__ == "__main__":
    main()
