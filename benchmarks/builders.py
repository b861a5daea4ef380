"""``local::concurrent`` beside xargs, GNU make and ninja: the whole command, records included.

Usage: ``python benchmarks/builders.py [--tasks 1000,10000] [--shapes bag,chains,layers]
[--work line,true] [--jobs N] [--runs N] [--folder FOLDER]``

Every one of them runs the very same program for each task, as many at once. Each of our runs
is held against the best of the others in the same round: they take turns, since only
figures of the same minute can be compared. The others keep no record of what they ran.

Ours makes two folders and four files for a task, which on ext4 may cost more than all else; and for
a minute after very many files were removed, it costs several times that. So nothing is removed
between two runs, and ``--folder /dev/shm`` tells what is left where files cost nothing.

Beside seconds, it prints the processor time for a task that ours, its processes and all, takes
and that the best of the others does: on a busy machine it says more.

``line`` is a line of bash, as most tasks are; ``true`` is the shortest program there is, so
what is measured is how a process is started and its end noted, and nothing else.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from harness import Comparison, as_installed, spread

FLOW = Path(sys.executable).with_name("fasthep-flow")
AIM = 1.3
SHAPES = ("bag", "chains", "layers")
WIDTH = 10
"""Chains that run beside each other; layers that follow each other."""
# The program and its arguments, the same for all of them.
WORK = {"line": ("bash", "-c", "test -d / && : done"), "true": ("true",)}


def graph(shape: str, tasks: int) -> list[tuple[int, ...]]:
    """For each task the numbers of those that it needs."""
    if shape == "chains":
        return [() if number < WIDTH else (number - WIDTH,) for number in range(tasks)]
    if shape == "layers":
        layer = tasks // WIDTH
        return [
            ()
            if number < layer
            # Three of the layer before, so that no task starts before most of that is done.
            else tuple(
                (number // layer - 1) * layer + (number * 7 + step * layer // 3) % layer
                for step in range(3)
            )
            for number in range(tasks)
        ]
    return [()] * tasks


def workflow(folder: Path, needs: list[tuple[int, ...]], work: str, jobs: int) -> list[str]:
    """Ours."""
    program, *arguments = WORK[work]
    kwargs = (
        f'{{bash_command: "{arguments[1]}"}}'
        if program == "bash"
        else f'{{bash_command: "{program}", arguments: []}}'
    )
    lines = [
        "global:",
        f"  workflow: {{transform: local, kwargs: {{runner: concurrent, max_workers: {jobs}}}}}",
        "tasks:",
    ]
    for number, wanted in enumerate(needs):
        names = ", ".join(f"task {one}" for one in wanted)
        lines += [
            f"  - name: task {number}",
            "    type: fasthep_flow.operators.BashOperator",
            f"    kwargs: {kwargs}",
            f"    needs: [{names}]",
        ]
    path = folder / "workflow.yaml"
    path.write_text("\n".join(lines) + "\n")
    return [str(FLOW), "run", str(path), "--output", str(folder / "output")]


def makefile(folder: Path, needs: list[tuple[int, ...]], work: str, jobs: int) -> list[str]:
    """GNU make."""
    command = " ".join(quoted(word) for word in WORK[work])
    names = " ".join(f"t{number}" for number in range(len(needs)))
    lines = [f".PHONY: all {names}", f"all: {names}"]
    for number, wanted in enumerate(needs):
        lines += [f"t{number}: {' '.join(f't{one}' for one in wanted)}", f"\t@{command}"]
    (folder / "Makefile").write_text("\n".join(lines) + "\n")
    return ["make", "-s", f"-j{jobs}", "-C", str(folder)]


def ninja(folder: Path, needs: list[tuple[int, ...]], work: str, jobs: int) -> list[str]:
    """Ninja."""
    command = " ".join(quoted(word) for word in WORK[work])
    lines = ["rule work", f"  command = {command}"]
    for number, wanted in enumerate(needs):
        lines.append(f"build t{number}: work {' '.join(f't{one}' for one in wanted)}")
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    return ["ninja", "--quiet", f"-j{jobs}", "-C", str(folder)]


def quoted(word: str) -> str:
    """For a shell."""
    return f"'{word}'" if " " in word else word


def xargs(work: str, tasks: int, jobs: int) -> Callable[[], Taken]:
    """Xargs, which knows no order: a program for each line."""
    text = "\n" * tasks

    def once() -> Taken:
        # Each line is empty, so that nothing is added to the words.
        argv = ["xargs", f"-P{jobs}", "-I{}", "-d\n", *WORK[work]]
        return seconds(argv, text)

    return once


class Taken(NamedTuple):
    """What a command took.

    Args:
        wall_s: From its start to its end.
        cpu_s: Of processors, with all that it started.
    """

    wall_s: float
    cpu_s: float


def seconds(
    argv: list[str], stdin: str | None = None, environment: dict[str, str] | None = None
) -> Taken:
    """How long the command takes; it has to succeed."""
    before_s, started_s = cpu_seconds(), time.perf_counter()
    subprocess.run(
        argv, input=stdin, text=True, stdout=subprocess.DEVNULL, env=environment, check=True
    )
    return Taken(time.perf_counter() - started_s, cpu_seconds() - before_s)


def cpu_seconds() -> float:
    """Of processors, of all that ran so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(shape: str, tasks: int, work: str, *, jobs: int, runs: int, folder: Path) -> str:
    """Lines for the table."""
    needs = graph(shape, tasks)
    with tempfile.TemporaryDirectory(dir=folder, prefix="tmp-") as name:
        folder = Path(name)
        ours = partial(
            seconds, workflow(folder, needs, work, jobs), environment=as_installed(folder)
        )
        others: dict[str, Callable[[], Taken]] = {}
        if shape == "bag":
            others["xargs"] = xargs(work, tasks, jobs)
        for tool, make in (("make", makefile), ("ninja", ninja)):
            if shutil.which(tool):
                others[tool] = partial(seconds, make(folder, needs, work, jobs))
        (folder / "first").mkdir()
        seconds(workflow(folder / "first", [()], work, jobs), environment=as_installed(folder))
        ours_taken: list[Taken] = []
        taken: dict[str, list[Taken]] = {tool: [] for tool in others}
        for _ in range(runs):
            ours_taken.append(ours())
            for tool, once in others.items():
                taken[tool].append(once())
    medians = {tool: statistics.median(one.wall_s for one in all_) for tool, all_ in taken.items()}
    best = min(medians, key=lambda tool: medians[tool])
    comparison = Comparison(
        name=f"{tasks:,} tasks, {shape}, {work}: local::concurrent / {best} -j{jobs}",
        ours_s=tuple(one.wall_s for one in ours_taken),
        reference_s=tuple(one.wall_s for one in taken[best]),
        aim=AIM,
    )
    rest = ", ".join(f"{tool} {median_s:.2f} s" for tool, median_s in medians.items())
    cpu_ms = [
        statistics.median(one.cpu_s for one in all_) / tasks * 1000
        for all_ in (ours_taken, taken[best])
    ]
    processors = f"processors: {cpu_ms[0]:.2f} ms a task / {cpu_ms[1]:.2f} ms"
    return f"{comparison}\n    {spread(comparison)}; {rest}; {processors}"


def main() -> None:
    """Print two lines for each combination."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="1000,10000")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--work", default=",".join(WORK))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    asked = parser.parse_args()
    for tasks in map(int, asked.tasks.split(",")):
        for shape in asked.shapes.split(","):
            for work in asked.work.split(","):
                line = measure(
                    shape, tasks, work, jobs=asked.jobs, runs=asked.runs, folder=asked.folder
                )
                print(line, flush=True)


if __name__ == "__main__":
    main()
