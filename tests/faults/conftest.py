"""Whole runs that something befalls, and what they may have left behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from tests.conftest import RUNTIMES, _why_not

from fasthep_flow.model import JobResult, from_json

COMMAND = Path(sys.executable).with_name("fasthep-flow")
SOON_S = 60.0
ENGINES = ("podman", "docker")


TRIED: dict[str, list[pytest.Mark]] = {}
"""The marks ``fault`` of what was collected, also of what was left out then, by the file."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            marks = TRIED.setdefault(item.path.name, [])
            marks += (mark for mark in item.iter_markers("fault") if mark not in marks)


def wait_until(true: Callable[[], bool], what: str = "it") -> None:
    until_s = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until_s, f"{what} did not come true"
        time.sleep(0.02)


def standing() -> list[str]:
    """The runtimes that work here; the others' tests are skipped, or fail, by their markers."""
    return [name for name in RUNTIMES if not _why_not(name)]


def shell(name: str, line: str, **more: Any) -> dict[str, Any]:
    """A task that is a line of `sh`, which also an image without bash has."""
    return {
        "name": name,
        "type": "fasthep_flow.operators.BashOperator",
        "kwargs": {"bash_command": "sh", "arguments": ["-c", line]},
        **more,
    }


class Said(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def both(self) -> str:
        return self.out + self.err

    @property
    def words(self) -> str:
        """All of it, wherever lines were broken."""
        return " ".join(self.both.split())


class Site:
    """A workflow's folder with temporary folder and cache of its own.

    Args:
        root: All of it lies below; in everything's environment, folder or command line.
        cache: For fetched things.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.cache = cache
        self.temporary = root / "tmp"
        self.variables: dict[str, str] = {}
        # Whatever sleeps for so long is of this site, though nothing else tells.
        self.nap = str(random.randrange(10**8, 10**9))  # noqa: S311 - no secret
        self.own_mounts: list[Path] = []
        self.drivers: list[int] = []
        self.work.mkdir(parents=True)
        self.temporary.mkdir()

    def write(self, *tasks: Mapping[str, Any], **settings: Any) -> None:
        """The workflow; its tasks need nothing of each other unless they say so."""
        flow = {"global": {"flow": "local::concurrent", **settings}, "tasks": list(tasks)}
        if not any("needs" in task for task in tasks):
            flow["tasks"] = [{**task, "needs": []} for task in tasks]
        # JSON is YAML.
        (self.work / "workflow.yaml").write_text(json.dumps(flow))

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "FASTHEP_FLOW_CACHE": str(self.cache),
            **self.variables,
            **more,
        }

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """The command, as from a terminal: in a session of its own, to which Ctrl-C goes."""
        driver = subprocess.Popen(
            [COMMAND, *(words or ("run",))],
            cwd=self.work,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )
        self.drivers.append(driver.pid)
        return driver

    def run(self, *words: str, **more: str) -> Said:
        return said_by(self.start(*words, **more))

    def result(self, name: str) -> JobResult:
        return from_json(JobResult, (self.attempt(name) / "result.json").read_bytes())

    def attempt(self, name: str) -> Path:
        """The folder of the task's last attempt, or where that of the first one would be."""
        task = self.work / "output" / "latest" / "tasks" / name
        numbers = [int(path.name) for path in task.glob("[0-9]*")]
        return task / str(max(numbers, default=1))

    def cause(self, name: str) -> tuple[str, str, str]:
        """Status, kind of the failure and its words."""
        result = self.result(name)
        if result.failure is None:
            return result.status, "", ""
        return result.status, result.failure.kind, result.failure.message

    def up(self, name: str) -> bool:
        """Whether the task has made the file by that name."""
        return (self.work / name).exists()

    def processes(self) -> dict[int, str]:
        """All that runs for this site: by folder, environment, or command line."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                told = [*process.cmdline(), *map("=".join, process.environ().items())]
                told += [process.cwd(), *_open_files(process.pid)]
                if any(str(self.root) in text or self.nap in text for text in told):
                    found[process.pid] = " ".join(process.cmdline())
        return found

    def containers(self, engine: str, **options: str) -> list[str]:
        """Those that see something of this site, running or not; podman's or docker's."""
        words = "{{.ID}} {{.Names}} {{.Mounts}}"
        done = subprocess.run(
            [shutil.which(engine) or engine, "ps", "--all", "--no-trunc", "--format", words],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **self.variables, **options},
        )
        return [line for line in done.stdout.splitlines() if str(self.root) in line]

    def groups(self) -> list[Path]:
        """The control groups of the site's drivers."""
        marks = [f"-{pid}-" for pid in self.drivers]
        # Others' groups come and go meanwhile: what vanishes is passed over by `os.walk`.
        return [
            Path(parent, name)
            for parent, names, _ in os.walk("/sys/fs/cgroup")
            for name in names
            if name.startswith("fasthep-") and any(mark in name for mark in marks)
        ]

    def files(self) -> list[Path]:
        """What lies in temporary folder and cache that is neither whole nor wanted."""
        scratch = self.temporary / f"fasthep-flow-{os.getuid()}"
        kept = {scratch, scratch / "containers"}
        half = list(self.cache.glob("*/*/.*"))
        there = [*self.temporary.iterdir(), *scratch.glob("**/*")]
        return half + [path for path in there if path not in kept and path.suffix != ".lock"]

    def mounts(self) -> list[str]:
        own = {str(path) for path in self.own_mounts}
        lines = Path("/proc/mounts").read_text().splitlines()
        return [line for line in lines if str(self.root) in line and line.split()[1] not in own]

    def left(self, runtime: str = "") -> dict[str, Any]:
        """All that is left of the site's runs; what is empty is not told."""
        found: dict[str, Any] = {
            "processes": self.processes(),
            "mounts": self.mounts(),
            "groups": self.groups(),
            "files": self.files(),
        }
        if runtime in ENGINES:
            found["containers"] = self.containers(runtime)
        return {what: those for what, those in found.items() if those}

    def end(self) -> None:
        """For a test that failed: leave nothing to the next one."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _open_files(pid: int) -> list[str]:
    """The only thing that tells whose image a `squashfuse_ll` has mounted."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(descriptor.readlink()))
    return found


def said_by(driver: subprocess.Popen[str]) -> Said:
    """What a command says to its end."""
    try:
        out, err = driver.communicate(timeout=2 * SOON_S)
    except subprocess.TimeoutExpired:
        driver.kill()
        out, err = driver.communicate()
        pytest.fail(f"the command does not end: {out}{err}")
    return Said(driver.returncode, out, err)


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that tests share, which have no business with it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def site(tmp_path: Path, warm_cache: Path) -> Iterator[Site]:
    """A folder for a run."""
    made = Site(tmp_path / "site", warm_cache)
    yield made
    made.end()


def kept_image(runtime: str, name: str, files: Path) -> str:
    """The image `busybox` or `python` in the form that costs the runtime least."""
    if runtime == "apptainer":
        return str(files / f"{name}.sif")
    if runtime == "charliecloud":
        return str(files / f"{name}-root") + "/"
    return f"127.0.0.1:5000/testbed/{name}:{'1' if name == 'busybox' else '3.11'}"


@pytest.fixture(scope="session")
def busybox_of(sif_file: Path, busybox_root: Path) -> Callable[[str], str]:
    """The image with `sh` alone, for a runtime."""
    assert sif_file.parent == busybox_root.parent
    return lambda runtime: kept_image(runtime, "busybox", sif_file.parent)


@pytest.fixture(scope="session")
def python_of(python_sif: Path, python_root: Path) -> Callable[[str], str]:
    """The image with bash and python3, for a runtime."""
    assert python_sif.parent == python_root.parent
    return lambda runtime: kept_image(runtime, "python", python_sif.parent)


def in_image(runtime: str, image: str) -> dict[str, Any]:
    """The environment of a task."""
    return {"image": {"name": image, "runtime": runtime}}
