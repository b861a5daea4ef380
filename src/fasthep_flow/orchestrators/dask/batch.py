"""Clusters of dask-jobqueue whose workers are batch jobs of Slurm or HTCondor.

dask-jobqueue writes the job scripts and submits them. What is added here: paths with blanks in
them, workers that answer the batch system's signals, and a book of which worker is which job.

Imports Dask, so it is imported when a runner is opened.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import dask.config
from distributed.deploy.spec import ProcessInterface

from fasthep_flow.orchestrators.dask import worker
from fasthep_flow.orchestrators.dask.directives import command_extra, slurm_options
from fasthep_flow.orchestrators.dask.engine import TEMPORARY, abstract_resources
from fasthep_flow.orchestrators.dask.jobqueue import (
    HTCondorCluster,
    HTCondorJob,
    Job,
    SLURMCluster,
    SLURMJob,
)
from fasthep_flow.orchestrators.dask.queues import HTCONDOR, SLURM, Queue
from fasthep_flow.orchestrators.dask.requests import Request

__all__ = ["SCRATCH", "Book", "System", "find_system", "job_options"]

SCRATCH: Final = "scratch"
"""What workers need for themselves while they run, in the folder of the runner."""


class System(NamedTuple):
    """A batch system as dask-jobqueue knows it.

    Args:
        queue: What answers for it.
        cluster: The class of its clusters.
        job: The class of its jobs.
        section: Of dask-jobqueue's configuration.
    """

    queue: Queue
    cluster: type[Any]
    job: type[Any]
    section: str


class Book:
    """Which worker of a pool is which batch job, and what became of those that were asked for.

    Args:
        note: Is told the id of each job that was submitted, to write it down.
    """

    def __init__(self, note: Callable[[str], None] = lambda _: None) -> None:
        self._note: Final = note
        self._lock: Final = threading.Lock()
        self._jobs: Final[dict[str, str]] = {}
        self._logs: Final[dict[str, Path]] = {}
        self.refusals: Final[list[str]] = []

    def submitted(self, worker_name: str, job: str, log: Path | None) -> None:
        """The batch system has taken it."""
        self._note(job)
        with self._lock:
            self._jobs[worker_name] = job
            if log is not None:
                self._logs[job] = log
            self.refusals.clear()

    def refused(self, words: str) -> None:
        """The batch system has not taken it."""
        with self._lock:
            self.refusals.append(words)

    def job_of(self, worker_name: str) -> str | None:
        """The job that a worker is; several workers may share one."""
        with self._lock:
            found = self._jobs.get(worker_name)
            return found or self._jobs.get(worker_name.rpartition("-")[0])

    def jobs(self) -> list[str]:
        """All jobs that were ever submitted."""
        with self._lock:
            return list(self._jobs.values())

    def log_of(self, job: str) -> Path | None:
        """Where the job's standard error goes."""
        with self._lock:
            return self._logs.get(job)


class _KeptJob(Job):
    """Adds to a job of dask-jobqueue; stands before the batch system's own class."""

    def __init__(
        self,
        scheduler: Any = None,  # noqa: ANN401 - dask-jobqueue's
        name: Any = None,  # noqa: ANN401
        *,
        book: Book,
        security: Any = None,  # noqa: ANN401
        worker_extra_args: Any = None,  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> None:
        self._book: Final = book
        files = {} if security is None else security.get_tls_config_for_role("worker")
        arguments = [
            part
            for key, path in files.items()
            if key != "ciphers" and path is not None
            for part in (f"--tls-{key.replace('_', '-')}", shlex.quote(path))
        ]
        super().__init__(  # type: ignore[no-untyped-call]
            scheduler=scheduler,
            name=name,
            worker_extra_args=[*(worker_extra_args or []), *arguments],
            **options,
        )

    @property
    def stderr_log(self) -> Path | None:
        """Where the job's standard error goes."""
        raise NotImplementedError

    async def start(self) -> None:
        """Submit the job; a refusal is written down, and tried again later."""
        try:
            await super().start()  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001 - whoever watches the pool acts on it
            self._book.refused(_submit_words(error))
            await ProcessInterface.start(self)  # type: ignore[no-untyped-call]
        else:
            self._book.submitted(str(self.name), str(self.job_id), self.stderr_log)

    async def close(self) -> None:
        """Cancel the job."""
        await super().close()  # type: ignore[no-untyped-call]
        await ProcessInterface.close(self)  # type: ignore[no-untyped-call]


class _SlurmJob(_KeptJob, SLURMJob):
    def __init__(
        self,
        scheduler: Any = None,  # noqa: ANN401 - dask-jobqueue's
        name: Any = None,  # noqa: ANN401
        *,
        scratch: Path | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if scratch is not None:
            # Of each worker alone: not every file system's locks reach other machines, and where
            # they do not, Dask takes another worker's folder for one that was left.
            options["local_directory"] = shlex.quote(str(scratch / str(name)))
        super().__init__(scheduler, name, **options)
        # A blank would end the path.
        self.job_header = "\n".join(map(_quote_path, str(self.job_header).splitlines()))
        extra = command_extra({"job_extra_directives": self.job_extra_directives})
        self.cancel_command = shlex.join([SLURMJob.cancel_command, *extra])

    @property
    def stderr_log(self) -> Path | None:
        if self.log_directory is None:
            return None
        return Path(self.log_directory, f"{self.job_name or 'worker'}-{self.job_id}.err")


class _HTCondorJob(_KeptJob, HTCondorJob):
    @property
    def stderr_log(self) -> Path | None:
        if self.log_directory is None:
            return None
        return Path(self.log_directory, f"worker-{self.job_id}.err")


class _NewNames:
    """Gives no worker the name of one that is gone: its name says which job it was."""

    _i: int

    def new_worker_spec(self) -> dict[str, Any]:
        """See :class:`distributed.SpecCluster`."""
        self._i += 1
        spec: dict[str, Any] = super().new_worker_spec()  # type: ignore[misc]
        return spec


class _SlurmCluster(_NewNames, SLURMCluster):
    pass


class _HTCondorCluster(_NewNames, HTCondorCluster):
    pass


def _quote_path(line: str) -> str:
    for start in ("#SBATCH -e ", "#SBATCH -o "):
        if line.startswith(start) and " " in line.removeprefix(start):
            return f'{start}"{line.removeprefix(start)}"'
    return line


def _submit_words(error: Exception) -> str:
    """What the batch system said, out of what dask-jobqueue says of it."""
    text = str(error)
    _, found, stderr = text.partition("stderr:\n")
    return " ".join((stderr if found and stderr.strip() else text).split())


_SYSTEMS: Final[Mapping[str, System]] = {
    "slurm": System(SLURM, _SlurmCluster, _SlurmJob, "slurm"),
    "htcondor": System(HTCONDOR, _HTCondorCluster, _HTCondorJob, "htcondor"),
}


def find_system(runner: str) -> System:
    """The batch system of a runner."""
    return _SYSTEMS[runner]


def job_options(
    system: System, options: Mapping[str, Any], request: Request, directory: Path, name: str
) -> dict[str, Any]:
    """What dask-jobqueue is told for workers of one size.

    Args:
        system: The batch system.
        options: The user's, which stay as they are.
        request: The size.
        directory: For keys and logs.
        name: Of the jobs, unless the user says.
    """
    configured = partial(_configured, system, options)
    told: dict[str, Any] = {
        "nanny": request.processes > 1,
        "death_timeout": 60,
        "log_directory": str(directory),
        "shared_temp_directory": str(directory),
        "job_name": name,
        **options,
        "cores": request.cpus,
        "processes": request.processes,
        # dask-jobqueue must be told some; the line goes where none is asked for.
        "memory": request.memory or 2**30,
        # The worker itself is to hear the batch system's signals, not a shell around it.
        "python": f"exec {configured('python') or shlex.quote(sys.executable)}",
        "job_script_prologue": list(configured("job_script_prologue") or ()),
        "job_directives_skip": list(configured("job_directives_skip") or ()),
        "job_extra_directives": configured("job_extra_directives") or (),
        "worker_extra_args": [
            *(configured("worker_extra_args") or ()),
            *_worker_arguments(request),
        ],
    }
    if request.walltime_s is not None:
        told["job_script_prologue"].append(
            f"export {worker.SECONDS_VARIABLE}={int(request.walltime_s)}"
        )
    if system.section == "slurm":
        _tell_slurm(told, request)
        # HTCondor gives each job a temporary folder of its own, and removes it.
        if not (configured("local_directory") or dask.config.get(TEMPORARY, None)):
            told["scratch"] = directory / SCRATCH
    else:
        _tell_htcondor(told, request, has_disk=configured("disk") is not None)
    return told


def _configured(system: System, options: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    """An option of dask-jobqueue: the user's, else what its configuration says."""
    if options.get(name) is not None:
        return options[name]
    section = options.get("config_name") or system.section
    return dask.config.get(f"jobqueue.{section}.{name.replace('_', '-')}", None)


def _worker_arguments(request: Request) -> list[str]:
    offered = abstract_resources(request.share)
    resources = [f"{key}={value!r}" for key, value in offered.items()]
    return [
        "--nthreads",
        str(max(1, request.threads // request.processes)),
        # A task's memory is its own process's: its runtime, and the batch system, limit it.
        "--memory-limit",
        "0",
        "--resources",
        ",".join(resources),
        "--preload",
        worker.__name__,
        "--no-dashboard",
        "--dashboard-address",
        "127.0.0.1:0",
    ]


def _tell_slurm(told: dict[str, Any], request: Request) -> None:
    directives = list(told["job_extra_directives"])
    said = {name for name, _ in slurm_options(directives)}
    if _configured(find_system("slurm"), told, "job_mem") is None:
        # Slurm takes no two of these.
        if request.memory is None or said & {"--mem-per-cpu", "--mem-per-gpu"}:
            told["job_directives_skip"].append("#SBATCH --mem=")
        else:
            # dask-jobqueue asks for whole GB from the first one on: for 2G in place of 1.5G.
            told["job_mem"] = f"{math.ceil(request.memory / 2**20)}M"
    if request.walltime_s is None:
        told["job_directives_skip"].append("#SBATCH -t ")
    else:
        told["walltime"] = told.get("walltime") or _slurm_time(request.walltime_s)
    if request.gpus and not any(map(_asks_for_devices, directives)):
        # Slurm takes the last of several such lines, so what a site wants besides stays in it.
        others = [line for line in directives if _mentions([line], "--gres")]
        directives = [line for line in directives if line not in others]
        wanted = [re.sub(r"^--gres[=\s]\s*", "", str(line).strip()) for line in others]
        directives.append(f"--gres={','.join([*wanted, f'gpu:{request.gpus}'])}")
    if not _mentions(directives, "--requeue", "--no-requeue"):
        # What was evicted is asked for anew, under another number.
        directives.append("--no-requeue")
    told["job_extra_directives"] = directives


def _tell_htcondor(told: dict[str, Any], request: Request, *, has_disk: bool) -> None:
    directives = dict(told["job_extra_directives"])
    told.pop("walltime", None)
    if request.memory is None:
        told["job_directives_skip"].append("RequestMemory")
    if not has_disk:
        told["job_directives_skip"].append("RequestDisk")
        told["disk"] = "1GB"
    known = {str(key).lower().removeprefix("my.").removeprefix("+") for key in directives}
    if request.gpus and "request_gpus" not in known:
        directives["request_gpus"] = request.gpus
    if request.walltime_s is not None and not known & {"maxruntime", "jobflavour"}:
        # Where a pool limits the time of jobs, this is what it reads: CERN's, for one.
        directives["MY.MaxRuntime"] = int(request.walltime_s)
    told["job_extra_directives"] = directives


def _asks_for_devices(line: Any) -> bool:  # noqa: ANN401 - what a file says
    # Shares of a device have names of their own: `man gres.conf`.
    is_device = re.search(r"[=\s,:](gpu|mps|shard)\b", str(line)) is not None
    return _mentions([line], "--gpus", "-G") or (_mentions([line], "--gres") and is_device)


def _mentions(directives: list[Any], *names: str) -> bool:
    return any(str(line).strip().startswith(names) for line in directives)


def _slurm_time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest:02}"
