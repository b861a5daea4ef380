"""What a container task costs: kept containers, a new one each, the bare engine, natively.

Usage: ``python benchmarks/containers.py IMAGE [RUNTIME ...]``; the image must be there
already and have ``true``. All of them take turns in one run, since only figures of the same
minute can be compared. The last column is what one task more costs beyond a native one, when
its container is there: a workflow of 200 tasks against one of 100.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FLOW = Path(sys.executable).with_name("fasthep-flow")
TASKS = 100
ROUNDS = 3
BARE = {
    "podman": ("podman", "run", "--rm", "--network=host", "--log-driver=none"),
    "docker": ("docker", "run", "--rm", "--network=host", "--log-driver=none"),
    "apptainer": ("apptainer", "--silent", "exec", "--userns", "--cleanenv"),
}


def workflow(folder: Path, image: str | None, runtime: str, *, reuse: bool, tasks: int) -> Path:
    """A workflow of so many tasks that do nothing, one after the other."""
    lines = ["global:", "  flow: local::sequential"]
    if image is not None:
        lines += [f"  image: {{name: '{image}', runtime: {runtime}}}"]
        lines += [f"  reuse: {str(reuse).lower()}"]
    lines += ["tasks:"]
    for number in range(tasks):
        lines += [
            f"  - name: task {number}",
            "    type: fasthep_flow.operators.BashOperator",
            "    kwargs: {bash_command: 'true', arguments: []}",
            "    needs: []",
        ]
    path = folder / f"{runtime}-{reuse}-{tasks}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(file: Path) -> Callable[[], None]:
    """Runs the workflow."""

    def once() -> None:
        argv = (FLOW, "run", file, "--output", file.with_suffix(""))
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

    return once


def loop(argv: tuple[str, ...]) -> Callable[[], None]:
    """Runs the command as often as there are tasks."""

    def once() -> None:
        for _ in range(TASKS):
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)

    return once


def seconds(work: Callable[[], None]) -> float:
    """How long it takes."""
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def main() -> None:
    """Print a line for each way."""
    if len(sys.argv) < 2:  # noqa: PLR2004 - the image
        sys.exit(__doc__)
    image, *names = sys.argv[1:]
    runtimes = names or [name for name in BARE if shutil.which(name)]
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix="tmp-") as name:
        folder = Path(name)
        ways: dict[str, Callable[[], None]] = {
            "native": run(workflow(folder, None, "native", reuse=True, tasks=TASKS)),
            "native x2": run(workflow(folder, None, "native", reuse=True, tasks=2 * TASKS)),
        }
        for runtime in runtimes:
            for reuse, words in ((True, "kept"), (False, "new each")):
                file = workflow(folder, image, runtime, reuse=reuse, tasks=TASKS)
                ways[f"{runtime}, {words}"] = run(file)
            twice = workflow(folder, image, runtime, reuse=True, tasks=2 * TASKS)
            ways[f"{runtime}, kept x2"] = run(twice)
            if runtime in BARE:
                source = image if runtime != "apptainer" else f"docker://{image}"
                ways[f"{runtime}, bare loop"] = loop((*BARE[runtime], source, "true"))
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, work in ways.items():
                taken[way].append(seconds(work))
    medians = {way: statistics.median(all_s) for way, all_s in taken.items()}
    native_s = medians["native"]
    one_more_s = (medians["native x2"] - native_s) / TASKS
    print(f"{TASKS} tasks, medians of {ROUNDS}; beside {TASKS} native ones: {native_s:.2f} s")
    for way, median_s in medians.items():
        if way.endswith("x2"):
            continue
        text = f"{way:24} {median_s:7.2f} s {median_s / native_s:7.2f}"
        if f"{way} x2" in medians:
            more_s = (medians[f"{way} x2"] - median_s) / TASKS
            text += f"   one more: {(more_s - one_more_s) * 1000:6.2f} ms"
        print(text)


if __name__ == "__main__":
    main()
