"""What a batch system says of its jobs, in one shape for both, and runs that submit to it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.faults.conftest import Site, shell

from fasthep_flow.model import JobResult, from_json
from fasthep_flow.testing.runners import wait_until

_SLURM_ALIVE = " JobState=(PENDING|CONFIGURING|RUNNING|COMPLETING|SUSPENDED|REQUEUED) "


class Asked(NamedTuple):
    """What a job asked for, by the batch system's own record."""

    cpus: int
    memory_mib: int


class BatchSystem(Protocol):
    """Slurm or HTCondor."""

    name: str

    def alive(self, mark: object) -> set[str]:
        """The jobs that wait, run or are held, of a site: whose record has that path in it."""
        ...

    def asked(self, mark: object) -> dict[str, Asked]:
        """What each job of a site asked for, ended ones too."""
        ...

    def cancel(self, job: str) -> None:
        """As a user or an operator does it."""
        ...

    def submit(self, line: str, memory_mib: int, output: str) -> str:
        """A job that runs a shell line; its id."""
        ...


def say(*argv: str) -> str:
    """What the command writes."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}{done.stdout}"
    return done.stdout


class Slurm:
    name = "slurm"

    def alive(self, mark: object) -> set[str]:
        return {job for job, text in self._records(mark) if re.search(_SLURM_ALIVE, text)}

    def asked(self, mark: object) -> dict[str, Asked]:
        found = {}
        for job, text in self._records(mark):
            request = re.search(r" TRES=cpu=(\d+),mem=([\d.]+)([MG]),", text)
            assert request is not None, text
            cpus, memory, unit = request.groups()
            found[job] = Asked(int(cpus), round(float(memory) * (1024 if unit == "G" else 1)))
        return found

    @staticmethod
    def _records(mark: object) -> list[tuple[str, str]]:
        lines = say("scontrol", "--oneliner", "show", "job").splitlines()
        return [
            (line.split()[0].removeprefix("JobId="), line) for line in lines if str(mark) in line
        ]

    def cancel(self, job: str) -> None:
        say("scancel", job)

    def submit(self, line: str, memory_mib: int, output: str) -> str:
        where = [f"--output={output}", f"--error={output}"]
        return say("sbatch", "--parsable", f"--mem={memory_mib}", *where, f"--wrap={line}").strip()


class HTCondor:
    name = "htcondor"

    def alive(self, mark: object) -> set[str]:
        rows = self._rows(mark, "condor_q")
        # 4 is completed; it leaves the queue at once.
        return {row[0] for row in rows if row[3] != "4"}

    def asked(self, mark: object) -> dict[str, Asked]:
        rows = self._rows(mark, "condor_q") + self._rows(mark, "condor_history")
        return {job: Asked(int(cpus), int(memory)) for job, cpus, memory, *_ in rows}

    @staticmethod
    def _rows(mark: object, program: str) -> list[list[str]]:
        fields = ("ClusterId", "RequestCpus", "RequestMemory", "JobStatus", "Iwd", "Out")
        lines = say(program, "-af:,", *fields).splitlines()
        return [[part.strip() for part in line.split(",")] for line in lines if str(mark) in line]

    def cancel(self, job: str) -> None:
        say("condor_rm", job)

    def submit(self, line: str, memory_mib: int, output: str) -> str:
        quoted = line.replace('"', '""').replace("'", "''")
        text = (
            f"executable = /bin/sh\narguments = \"-c '{quoted}'\"\n"
            f"output = {output}\nerror = {output}.err\nstream_output = True\n"
            f"request_memory = {memory_mib}\nqueue\n"
        )
        done = subprocess.run(
            ["condor_submit", "-terse", "-"],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split(".")[0]


def await_end(batch: BatchSystem, mark: object) -> None:
    """Return once the site has no job that lives."""
    wait_until(lambda: not batch.alive(mark), f"a job of {batch.name} does not end")


class FarmSite(Site):
    """A workflow's folder, whose tasks run on a farm."""

    def write_for(self, batch: BatchSystem, *tasks: Mapping[str, Any], **options: Any) -> None:
        """The workflow of these tasks, on that batch system with these options."""
        # What is asked for is small, and there is nothing to wait for.
        kwargs = {"runner": batch.name, "death_timeout": 10, **options}
        flow = {"transform": "dask", "kwargs": kwargs}
        (self.work / "workflow.yaml").write_text(
            json.dumps({"global": {"workflow": flow}, "tasks": list(tasks)})
        )

    def folder(self, name: str, attempt: int) -> Path:
        """Where an attempt's records are."""
        return self.work / "output" / "latest" / "tasks" / name / str(attempt)

    def attempts(self, name: str) -> list[JobResult]:
        """What became of each attempt."""
        folders = sorted(self.folder(name, 1).parent.iterdir(), key=lambda path: int(path.name))
        return [from_json(JobResult, (path / "result.json").read_bytes()) for path in folders]

    def claim(self, name: str, attempt: int = 1) -> dict[str, Any]:
        """Which worker has an attempt."""
        claim: dict[str, Any] = json.loads((self.folder(name, attempt) / "worker.json").read_text())
        return claim

    def await_start(self, driver: subprocess.Popen[str], name: str, attempt: int = 1) -> None:
        """Return once the attempt's line runs: see :func:`held`."""
        mark = self.work / f"{name}.{attempt}.started"
        wait_until(lambda: mark.exists() or driver.poll() is not None, f"{mark.name} is not there")
        assert mark.exists(), driver.communicate()

    def release(self) -> None:
        """Let the tasks that are held go on."""
        (self.work / "go").touch()


def held(name: str, memory: str = "50Mi", **more: Any) -> dict[str, Any]:
    """A task that runs until the file ``go`` is there, for a minute at most.

    It says so if another attempt of it runs beside it.
    """
    line = (
        "attempt=${FASTHEP_TASK_DIRECTORY##*/}; exec 9>NAME.lock; flock -n 9 || echo twice; "
        "echo $$ > NAME.$attempt.starting; mv NAME.$attempt.starting NAME.$attempt.started; n=0; "
        "while [ ! -e go ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done; echo NAME ends"
    ).replace("NAME", name)
    environment = {"resources": {"memory": memory}, **more.pop("environment", {})}
    return shell(name, line, environment=environment, **{"needs": [], **more})
