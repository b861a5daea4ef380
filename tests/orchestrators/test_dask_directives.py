"""What options of the user's own say of the size of a batch job: it holds, or a task is refused."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.errors import LimitUnenforceable, OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators.dask import DASK
from fasthep_flow.orchestrators.dask.directives import seconds_of, slurm_options
from fasthep_flow.orchestrators.dask.queues import SLURM, JobState
from fasthep_flow.orchestrators.dask.requests import Sizes

pytestmark = pytest.mark.dask

GIB = 2**30
LARGE: dict[str, Any] = {"cpus": 3, "memory": 4 * GIB}
DEVICES: dict[str, Any] = {"gpus": 2, "process_on": "gpu"}


def _refuse(runner: str, options: dict[str, Any], resources: dict[str, Any]) -> str | None:
    """Why the task is refused; ``None`` if it is not."""
    flow = FlowSpec(transform="dask", runner=runner, options=options)
    try:
        Sizes(flow, flow.options).request(Resources(**resources), "fit")
    except LimitUnenforceable as error:
        return error.message
    return None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("02:30:00", 9000),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("1-00:00:01", 86_401),
        ("soon", None),
        ("1:2:3:4", None),
        ("", None),
    ],
)
def test_times_are_read_as_slurm_reads_them(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


def test_options_of_sbatch_are_read_as_it_reads_them() -> None:
    lines = ["--mem=2G --requeue", "-c4 -t 120", "--qos high # -c 8", "--comment='a -c 9'", "-N"]
    assert [*slurm_options(lines)] == [
        ("--mem", "2G"),
        ("-c", "4"),
        ("-t", "120"),
        ("--qos", "high"),
        ("--comment", "a -c 9"),
    ]
    assert [*slurm_options(["--comment='open --mem=1G"])] == [
        ("--comment", "'open"),
        ("--mem", "1G"),
    ]


@pytest.mark.parametrize(
    ("options", "resources", "said"),
    [
        ({"job_mem": "4G"}, LARGE, "job_mem: 4G"),
        ({"job_mem": "4000"}, LARGE, "job_mem: 4000"),
        ({"job_cpu": 2}, LARGE, "job_cpu: 2"),
        ({"job_extra_directives": ["--mem=2G"]}, LARGE, "--mem=2G of job_extra_directives"),
        # A line of one's own goes before the option.
        (
            {"job_mem": "8G", "job_extra_directives": ["--mem 500M"]},
            LARGE,
            "--mem=500M of job_extra_directives",
        ),
        (
            {"job_extra_directives": ["--mem-per-cpu=1G"]},
            LARGE,
            "--mem-per-cpu=1G of job_extra_directives",
        ),
        ({"job_extra_directives": ["-c 2"]}, LARGE, "-c 2 of job_extra_directives"),
        (
            {"job_extra_directives": ["--cpus-per-task=8 -c2"]},
            LARGE,
            "-c 2 of job_extra_directives",
        ),
        (
            {"job_extra_directives": ["--gres=lscratch:20,gpu:a100:1"]},
            DEVICES,
            "--gres=lscratch:20,gpu:a100:1 of job_extra_directives",
        ),
        ({"job_extra_directives": ["--gres=gpu"]}, DEVICES, "--gres=gpu of job_extra_directives"),
        (
            {"job_extra_directives": ["--gpus=a100:1"]},
            DEVICES,
            "--gpus=a100:1 of job_extra_directives",
        ),
        ({"job_extra_directives": ["-G1"]}, DEVICES, "-G 1 of job_extra_directives"),
        ({"job_directives_skip": ["--mem"]}, LARGE, "job_directives_skip: --mem"),
        (
            {"job_directives_skip": ["cpus-per-task"]},
            LARGE,
            "job_directives_skip: cpus-per-task",
        ),
        # What tasks share is as large as the options say, in one place as in the other.
        ({"cores": 8, "memory": "16Gi", "job_mem": "8G"}, LARGE, "job_mem: 8G"),
        ({"cores": 8, "memory": "16Gi", "job_cpu": 4}, {}, "job_cpu: 4"),
    ],
)
def test_on_slurm_a_task_that_needs_more_than_the_options_say_is_refused(
    options: dict[str, Any], resources: dict[str, Any], said: str
) -> None:
    message = _refuse("slurm", options, resources)
    assert message is not None
    assert message.startswith("task 'fit' needs a worker of ")
    assert message.endswith(f"and what dask::slurm is told asks for less: {said}")


@pytest.mark.parametrize(
    ("options", "resources"),
    [
        ({"job_mem": "4608M", "job_cpu": 3}, LARGE),
        # All that a node has.
        ({"job_mem": 0}, LARGE),
        ({"job_extra_directives": ["--mem=5G", "-c 4"]}, LARGE),
        ({"job_mem": "1G", "job_extra_directives": ["--mem-per-cpu=1536M"]}, LARGE),
        ({"job_extra_directives": ["--mem=1G", "--mem=5G"]}, LARGE),
        ({"job_extra_directives": ["--gres=gpu:a100:1,gpu:v100:1(S:0)"]}, DEVICES),
        ({"job_extra_directives": ["--gres=lscratch:1"]}, DEVICES),
        ({"job_extra_directives": ["--gres=shard:1"]}, DEVICES),
        ({"job_extra_directives": ["--mem-per-gpu=4G", "--gpus=2"]}, {**LARGE, **DEVICES}),
        # A task that asks for nothing takes what it is given.
        ({"job_mem": "100M", "job_directives_skip": ["--mem"]}, {}),
        ({"job_directives_skip": ["--mem", "--cpus-per-task"]}, {"cpus": 1}),
        ({"job_directives_skip": ["--mem"], "job_extra_directives": ["--mem=5G"]}, LARGE),
        ({"job_directives_skip": ["--mem"], "cores": 4, "memory": "8Gi"}, LARGE),
    ],
)
def test_on_slurm_options_that_say_enough_hold(
    options: dict[str, Any], resources: dict[str, Any]
) -> None:
    assert _refuse("slurm", options, resources) is None


@pytest.mark.parametrize(
    ("directives", "resources", "said"),
    [
        ({"request_memory": "2 GB"}, LARGE, "request_memory = 2 GB"),
        ({"RequestMemory": 2000}, LARGE, "RequestMemory = 2000"),
        ({"request_memory": "8G", "+RequestMemory": 100}, LARGE, "+RequestMemory = 100"),
        ({"MY.RequestCpus": 1}, LARGE, "MY.RequestCpus = 1"),
        ({"request_cpus": 2}, LARGE, "request_cpus = 2"),
        ({"request_gpus": 1}, DEVICES, "request_gpus = 1"),
    ],
)
def test_on_htcondor_a_task_that_needs_more_than_the_lines_say_is_refused(
    directives: dict[str, Any], resources: dict[str, Any], said: str
) -> None:
    message = _refuse("htcondor", {"job_extra_directives": directives}, resources)
    assert message is not None
    assert message.endswith(
        f"and what dask::htcondor is told asks for less: {said} of job_extra_directives"
    )


def test_an_amount_that_only_htcondor_can_work_out_is_not_trusted() -> None:
    directives = {"request_memory": "max({2048, MemoryUsage})"}
    message = _refuse("htcondor", {"job_extra_directives": directives}, LARGE)
    assert message is not None
    assert "cannot be compared with that: request_memory = max(" in message
    assert _refuse("htcondor", {"job_extra_directives": directives}, {}) is None


def test_on_htcondor_lines_that_say_enough_hold() -> None:
    directives = {"request_memory": "4.5 GB", "RequestCpus": 4, "request_gpus": 2, "x": "RequestX"}
    options = {"job_extra_directives": directives}
    assert _refuse("htcondor", options, {**LARGE, **DEVICES}) is None
    skipped = {"job_directives_skip": ["RequestMemory"]}
    assert "job_directives_skip: RequestMemory" in (_refuse("htcondor", skipped, LARGE) or "")


def test_what_dasks_configuration_says_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobqueue.yaml").write_text("jobqueue: {slurm: {job-mem: 2G}}")
    monkeypatch.setattr("dask.config.paths", [str(tmp_path)])
    assert "job_mem: 2G" in (_refuse("SLURMCluster", {}, LARGE) or "")
    assert _refuse("slurm", {"job_mem": "8G"}, LARGE) is None


def test_it_is_refused_before_anything_is_opened() -> None:
    flow = FlowSpec(transform="dask", runner="slurm", options={"job_mem": "2G"})
    with pytest.raises(LimitUnenforceable, match=re.escape("4.5Gi memory")):
        DASK.require(flow, Resources(memory=4 * GIB), "fit")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"worker_extra_args": ["--name", "mine"]}, "--name, which is not to be said: by its name"),
        ({"worker_extra_args": ["--lifetime 23h --nworkers=2"]}, "--nworkers=2, which is not"),
        ({"worker_extra_args": ["--resources", "foo=1"]}, "what a worker declares"),
        ({"job_extra_directives": ["-M one,two"]}, r"one of several clusters \(one,two\)"),
        ({"job_extra_directives": ["--clusters=all"]}, "any cluster, where they could not be"),
    ],
)
def test_what_cannot_be_had_is_refused(options: dict[str, Any], said: str) -> None:
    flow = FlowSpec(transform="dask", runner="slurm", options=options)
    with pytest.raises(OrchestratorUnavailable, match=f"^dask::slurm: .*{said}"):
        DASK.require(flow, Resources(), "fit")


def test_jobs_of_another_cluster_are_asked_for_and_cancelled_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As stand-ins have it: more clusters than one take a database, which the testbed has not."""
    from fasthep_flow.orchestrators.dask.batch import Book, find_system, job_options

    for name, said in (("squeue", "CLUSTER: serial\n7|RUNNING|None"), ("scancel", "")):
        (tmp_path / name).write_text(
            f'#!/bin/sh\necho "{name} $@" >> {tmp_path}/log\necho "{said}"'
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    options: dict[str, Any] = {"job_extra_directives": ["--clusters serial"]}
    flow = FlowSpec(transform="dask", runner="slurm", options=options)
    sizes = Sizes(flow, options)
    assert SLURM.states(["7"], sizes.extra) == {"7": JobState("runs")}
    SLURM.cancel(["7"], sizes.extra)
    asked, cancelled = (tmp_path / "log").read_text().splitlines()
    assert asked.startswith("squeue --clusters=serial --me ")
    assert cancelled == "scancel --clusters=serial 7"
    # dask-jobqueue cancels by a command of its own.
    system = find_system("slurm")
    told = job_options(system, options, sizes.request(Resources(), "fit"), tmp_path, "fit")
    told.pop("shared_temp_directory")
    job = system.job("tls://x:1", "worker-0", book=Book(), **told)
    assert job.cancel_command == "scancel --clusters=serial"


@pytest.mark.slurm
def test_a_processors_share_of_memory_is_asked_for_alone(tmp_path: Path) -> None:
    from fasthep_flow.orchestrators.dask.batch import Book, find_system, job_options

    options = {"job_extra_directives": ["--mem-per-cpu=600M"]}
    flow = FlowSpec(transform="dask", runner="slurm", options=options)
    request = Sizes(flow, options).request(Resources(cpus=2, memory=50 * 2**20), "fit")
    system = find_system("slurm")
    told = job_options(system, options, request, tmp_path, "fit")
    told.pop("shared_temp_directory")
    script = system.job("tls://x:1", "worker-0", book=Book(), **told).job_script()
    # sbatch takes no two words about memory.
    done = subprocess.run(
        ["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
