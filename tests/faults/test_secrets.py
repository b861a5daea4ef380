"""The value of a secret is in its own task's environment, in that task's log, and nowhere else.

One workflow runs on everything that runs tasks. Its secret is in a ``.env`` file. While a task runs
that has it, and after the run, every byte is looked at of what others may come to see.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psutil
import pytest
from tests.faults.conftest import ENGINES, Said, Site, in_image, said_by, shell

# Another one each time: others may run these tests beside.
VALUE = f"hunter2+{random.randrange(10**8, 10**9)}/else=*"  # noqa: S311 - no secret
_CODED = VALUE.encode()
_BASE64 = [base64.b64encode(bytes(before) + _CODED)[4:24] for before in range(3)]
FORMS = (_CODED, quote(VALUE, safe="").encode(), _CODED.hex().encode(), *_BASE64)

# Tasks that have the secret; what they print is in their own logs, which are closed to others.
OWN = ("held", "prints", "fails", "raises")
_LONGEST_START_S = 150.0
"""Ray takes a minute where much else goes on."""

_HOLD = (
    f'test ${{#TOKEN}} = {len(VALUE)} || exit 9; echo "it is $TOKEN"; touch started; n=0; '
    "while [ ! -e go ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done"
)
_MODULE = "import os\n\n\ndef fit():\n    raise ValueError('not ' + os.environ['TOKEN'])\n"


def _workflow(environment: dict[str, Any], *, has_python: bool = True) -> list[dict[str, Any]]:
    mine = {**environment, "variables": ".env"}
    tasks = [
        shell("held", _HOLD, environment=mine),
        shell("prints", 'printf %s "$TOKEN"; printf :%s "$TOKEN" | base64', environment=mine),
        shell("fails", 'echo "cannot log in with $TOKEN" >&2; exit 3', environment=mine),
        shell("bystander", "env; cat /proc/$$/cmdline", environment=environment),
    ]
    if has_python:
        operator = "fasthep_flow.operators.PythonOperator"
        kwargs = {"python_callable": "mine:fit"}
        tasks.append({"name": "raises", "type": operator, "kwargs": kwargs, "environment": mine})
    return [{**task, "needs": []} for task in tasks]


def _holds(data: bytes) -> bool:
    return any(form in data for form in FORMS)


class Seen(NamedTuple):
    """What a run showed.

    Args:
        said: By the command.
        running: What others could see of the task that has the secret, by where.
        left: Files that lie around after the run and hold it, logs of its own tasks apart.
        logs: Those.
        environments: The tasks whose processes had it.
    """

    said: Said
    running: dict[str, bytes]
    left: list[Path]
    logs: set[str]
    environments: set[str]


def _processes() -> Iterator[tuple[bytes, dict[str, str]]]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            yield Path(f"/proc/{process.pid}/cmdline").read_bytes(), process.environ()


def _files(*folders: Path) -> Iterator[Path]:
    # What is gone in the meantime is passed over by `os.walk`.
    for above, _, names in (found for folder in folders for found in os.walk(folder)):
        paths = (Path(above, name) for name in names)
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _run(
    site: Site,
    workflow: dict[str, Any],
    *folders: Path,
    also: Callable[[], dict[str, bytes]] = dict,
) -> Seen:
    """Run it; look while ``held`` runs, and when all is over.

    Args:
        site: Where.
        workflow: What.
        folders: That engines have for their own files, beside the site's.
        also: What else can be seen while it runs.
    """
    site.work.joinpath(".env").write_text(f"TOKEN={VALUE}\n")
    site.work.joinpath("mine.py").write_text(_MODULE)
    site.work.joinpath("workflow.yaml").write_text(json.dumps(workflow))
    site.variables |= {
        "PREFECT_HOME": str(site.root / "prefect"),
        "XDG_DATA_HOME": str(site.root / "data"),
        "DO_NOT_TRACK": "1",
    }
    places = (site.root, site.cache, *folders)

    def open_files() -> list[Path]:
        return [path for path in _files(*places) if path.name != ".env"]

    driver = site.start("run")
    until_s = time.monotonic() + _LONGEST_START_S
    while not site.up("started") and driver.poll() is None and time.monotonic() < until_s:
        time.sleep(0.05)
    assert driver.poll() is None, driver.communicate()
    assert site.up("started"), "the task does not start"
    environments, running = set(), {}
    for number, (command, environment) in enumerate(_processes()):
        running[f"command line {number}"] = command
        if VALUE in environment.values():
            # A runtime that is not the task yet has this one, too.
            folder = environment.get("FASTHEP_TASK_DIRECTORY")
            environments.add(Path(folder).parent.name if folder else command.decode())
    for path in open_files():
        # An engine's own files may be gone again.
        with contextlib.suppress(OSError):
            running[str(path)] = path.read_bytes()
    running |= also()
    site.work.joinpath("go").touch()
    said = said_by(driver)
    logs, left = set(), []
    for path in open_files():
        if _holds(path.read_bytes()):
            task = path.parent.parent.name
            is_log = path.name in {"stdout.log", "stderr.log"} and task in OWN
            (logs.add(task) if is_log else left.append(path))
    return Seen(said, running, left, logs, environments)


def _judge(site: Site, seen: Seen, *, has_python: bool = True) -> None:
    assert seen.said.code == 1, seen.said.both
    assert not _holds(seen.said.both.encode()), seen.said.both
    assert seen.left == []
    shown = [where for where, data in seen.running.items() if _holds(data)]
    logs = tuple(f"/{name}/1/{log}" for name in OWN for log in ("stdout.log", "stderr.log"))
    assert any(where.endswith(logs) for where in shown)
    # What a function answers goes through a file in that same folder, before it is masked.
    assert [where for where in shown if not where.endswith((*logs, "/raises/1/reply.json"))] == []
    assert "held" in seen.environments
    assert seen.environments <= set(OWN)
    own = [name for name in OWN if has_python or name != "raises"]
    assert seen.logs == set(own)
    for name in own:
        assert site.attempt(name).stat().st_mode & 0o077 == 0
    # It was there to be seen, and is shown as what it is not.
    assert site.result("held").stdout_tail == "it is ***\n"
    # In base64 the first and the last sign also hold bits of what stands beside it.
    assert re.fullmatch(r"\*\*\*O.\*\*\*.?=*\n", site.result("prints").stdout_tail)
    assert "| it is ***" in seen.said.both
    assert "! cannot log in with ***" in seen.said.both
    assert site.result("fails").exit_code == 3
    if has_python:
        failure = site.result("raises").failure
        assert failure is not None
        assert failure.message == "ValueError: not ***"
        assert "ValueError: not ***" in (failure.traceback or "")
    assert site.result("bystander").status == "succeeded"


def _local(environment: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"global": {"flow": "local::concurrent"}, "tasks": _workflow(environment, **more)}


def _on(transform: str, runner: str, **options: Any) -> dict[str, Any]:
    flow = {"transform": transform, "kwargs": {"runner": runner, **options}}
    environment = {"resources": {"memory": "50Mi"}} if runner in {"slurm", "htcondor"} else {}
    return {"global": {"workflow": flow}, "tasks": _workflow(environment)}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """With a cache of its own, which is looked through."""
    made = Site(tmp_path / "site", tmp_path / "cache")
    yield made
    made.end()


@pytest.mark.fault(
    32,
    "tasks have a secret, print it, fail with it; all bytes that others may see are looked at",
    "its value is in its own task's environment and in that task's log, closed to others, and"
    " nowhere else",
)
def test_on_the_host(site: Site) -> None:
    _judge(site, _run(site, _local({})))


def test_in_containers(site: Site, container_runtime: str, python_of: Callable[[str], str]) -> None:
    def inspected() -> dict[str, bytes]:
        """All that the engine tells of the containers of this site."""
        if container_runtime not in ENGINES:
            return {}
        engine = shutil.which(container_runtime) or container_runtime
        rows = site.containers(container_runtime)
        assert rows
        told = {}
        for row in rows:
            identity = row.split()[0]
            for words in (("inspect",), ("logs",), ("top",)):
                done = subprocess.run(
                    [engine, *words, identity], capture_output=True, timeout=60, check=False
                )
                told[f"{words} {row}"] = done.stdout + done.stderr
            assert b'"fasthep.run"' in told[f"{('inspect',)} {row}"]
        return told

    environment = in_image(container_runtime, python_of(container_runtime))
    seen = _run(site, _local(environment), also=inspected)
    _judge(site, seen)


@pytest.mark.dask
def test_on_a_local_dask_cluster(site: Site) -> None:
    workflow = _on("dask", "local", n_workers=2, threads_per_worker=1)
    seen = _run(site, workflow)
    _judge(site, seen)


def _slurm(site: Site) -> dict[str, bytes]:
    record = subprocess.check_output(["scontrol", "--oneliner", "show", "job"])
    told = {}
    for line in record.splitlines():
        if str(site.root).encode() in line:
            job = line.split()[0].partition(b"=")[2].decode()
            script = ["scontrol", "write", "batch_script", job, "-"]
            told[f"script of job {job}"] = subprocess.check_output(script)
            told[f"record of job {job}"] = line
            told[f"details of job {job}"] = subprocess.check_output(
                ["scontrol", "--details", "--details", "show", "job", job]
            )
    assert told
    return told


def _htcondor(site: Site) -> dict[str, bytes]:
    told = {"queue": subprocess.check_output(["condor_q", "-long"])}
    assert str(site.root).encode() in told["queue"]
    return told


@pytest.mark.dask
@pytest.mark.parametrize(
    ("runner", "records"),
    [
        pytest.param("slurm", _slurm, marks=pytest.mark.slurm),
        pytest.param("htcondor", _htcondor, marks=pytest.mark.htcondor),
    ],
)
def test_on_a_farm(
    site: Site,
    runner: str,
    records: Callable[[Site], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Where a job was submitted is in its record.
    monkeypatch.chdir(site.work)
    workflow = _on("dask", runner, death_timeout=10)
    seen = _run(site, workflow, also=lambda: records(site))
    _judge(site, seen)
    history = {"htcondor": ["condor_history", "-long", "-limit", "20"]}.get(
        runner, ["scontrol", "show", "job"]
    )
    assert not _holds(subprocess.check_output(history))


@pytest.mark.prefect
@pytest.mark.parametrize(
    "runner", ["ThreadPoolTaskRunner", "ProcessPoolTaskRunner", "DaskTaskRunner", "RayTaskRunner"]
)
def test_with_prefect(site: Site, runner: str) -> None:
    with contextlib.ExitStack() as stack:
        folders: list[Path] = []
        options: dict[str, Any] = {}
        if runner == "RayTaskRunner":
            # The paths of its sockets must be short.
            folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ff-")))]
            options = {"init_kwargs": {"num_cpus": 2, "_temp_dir": str(folders[0])}}
        seen = _run(site, _on("prefect", runner, **options), *folders)
        _judge(site, seen)
    # The database, and its journal. They tell of the tasks: had the value been told, it were there.
    records = [*site.root.joinpath("prefect").glob("prefect.db*")]
    assert any(b"bystander" in path.read_bytes() for path in records), records
