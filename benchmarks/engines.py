"""What we add to an engine: ``dask::local`` and ``prefect::`` beside the bare engine.

Usage: ``python benchmarks/engines.py [--tasks 1000] [--runs N] [NAME ...]``; names are ``dask``,
``ThreadPoolTaskRunner`` and ``ConcurrentTaskRunner``.

The reference runs the very same program as a subprocess in the same engine, set up in the same
way, as many at once. It keeps its output in memory and writes no record.

For Dask the time per task counts, from the first submission to the last end: starting a cluster
is the same for both. For Prefect the whole command counts, start of its server included.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from harness import Comparison, as_installed, spread

FLOW = Path(sys.executable).with_name("fasthep-flow")
PROGRAM = ("true",)
SLOTS = len(os.sched_getaffinity(0))

BARE_DASK = """
import subprocess, sys, time
from distributed import Client, LocalCluster, as_completed

def work(number):
    return subprocess.run(["true"], capture_output=True, check=True).returncode

if __name__ == "__main__":
    tasks, slots = int(sys.argv[1]), int(sys.argv[2])
    with LocalCluster(
        n_workers=1, threads_per_worker=slots, processes=True, dashboard_address=None,
        memory_limit=0, protocol="tls", security=True,
    ) as cluster, Client(cluster) as client:
        started = time.perf_counter()
        futures = [client.submit(work, number, pure=False) for number in range(tasks)]
        for future in as_completed(futures):
            future.result()
        print(time.perf_counter() - started)
"""

BARE_PREFECT = """
import subprocess, sys
from prefect import flow, task
from prefect.task_runners import {runner}

@task
def work(number):
    return subprocess.run(["true"], capture_output=True, check=True).returncode

@flow(task_runner={runner}(max_workers=int(sys.argv[2])))
def bare(tasks):
    for future in [work.submit(number) for number in range(tasks)]:
        future.result()

if __name__ == "__main__":
    bare(int(sys.argv[1]))
"""


def workflow(folder: Path, name: str, tasks: int, flow: str, options: str) -> Path:
    """A workflow of so many tasks that need nothing."""
    transform, _, runner = flow.partition("::")
    lines = [
        "global:",
        f"  workflow: {{transform: {transform}, kwargs: {{runner: {runner}, {options}}}}}",
        "tasks:",
    ]
    for number in range(tasks):
        lines += [
            f"  - name: task {number}",
            "    type: fasthep_flow.operators.BashOperator",
            f'    kwargs: {{bash_command: "{PROGRAM[0]}", arguments: []}}',
            "    needs: []",
        ]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def output(argv: list[str | Path], folder: Path, environment: dict[str, str] | None = None) -> str:
    """What the command prints; it has to succeed."""
    done = subprocess.run(
        [str(word) for word in argv],
        check=False,
        capture_output=True,
        text=True,
        env={**as_installed(folder), **(environment or {})},
    )
    if done.returncode:
        sys.exit(f"{argv[0]} {argv[1]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def dask(folder: Path, tasks: int) -> tuple[Callable[[], float], Callable[[], float], float]:
    """Ours, the bare engine, and the aim."""
    options = f"n_workers: 1, threads_per_worker: {SLOTS}"
    file = workflow(folder, "dask", tasks, "dask::local", options)
    script = folder / "bare_dask.py"
    script.write_text(BARE_DASK)

    def ours() -> float:
        argv: list[str | Path] = [FLOW, "run", file, "--output", folder / "output"]
        output(argv, folder)
        return tasks_s(folder / "output" / "latest")

    def bare() -> float:
        return float(output([sys.executable, script, str(tasks), str(SLOTS)], folder))

    return ours, bare, 1.15


def tasks_s(run: Path) -> float:
    """Seconds from the first submission to the last record, by the journal."""
    times = []
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] in {"task_submitted", "task_finished"}:
            hours, minutes, seconds = re.findall(r"T(\d+):(\d+):([\d.]+)Z", event["time"])[0]
            times.append(int(hours) * 3600 + int(minutes) * 60 + float(seconds))
    return max(times) - min(times)


def prefect(
    folder: Path, tasks: int, runner: str
) -> tuple[Callable[[], float], Callable[[], float], float]:
    """Ours, the bare engine, and the aim."""
    file = workflow(folder, runner, tasks, f"prefect::{runner}", f"max_workers: {SLOTS}")
    script = folder / f"bare_{runner}.py"
    script.write_text(BARE_PREFECT.format(runner=runner))
    # Neither is to wait for the other's server, nor to talk about every task.
    quiet = {
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }

    def timed(argv: list[str | Path]) -> float:
        started_s = perf_counter()
        output(argv, folder, quiet)
        return perf_counter() - started_s

    return (
        lambda: timed([FLOW, "run", file, "--output", folder / "output"]),
        lambda: timed([sys.executable, script, str(tasks), str(SLOTS)]),
        1.1,
    )


def measure(name: str, tasks: int, runs: int) -> str:
    """Two lines for the table."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix="tmp-") as path:
        folder = Path(path)
        ours, bare, aim = dask(folder, tasks) if name == "dask" else prefect(folder, tasks, name)
        pairs = [(ours(), bare()) for _ in range(runs)]
    flow = "dask::local" if name == "dask" else f"prefect::{name}"
    comparison = Comparison(
        name=f"{tasks:,} tasks, true: {flow} / bare",
        ours_s=tuple(pair[0] for pair in pairs),
        reference_s=tuple(pair[1] for pair in pairs),
        aim=aim,
    )
    more_s = statistics.median(pair[0] - pair[1] for pair in pairs) / tasks
    return f"{comparison}\n    {spread(comparison)}; {more_s * 1000:.2f} ms more a task"


def main() -> None:
    """Print two lines for each engine."""
    names = ["dask", "ThreadPoolTaskRunner", "ConcurrentTaskRunner"]
    parser = argparse.ArgumentParser(description=__doc__)
    # Of no names argparse asks whether their list is a choice, too.
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*names, []], default=[])
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    for name in asked.names or names:
        print(measure(name, asked.tasks, asked.runs), flush=True)


if __name__ == "__main__":
    main()
