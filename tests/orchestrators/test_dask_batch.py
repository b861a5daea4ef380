"""What is asked of Slurm and HTCondor for a task, as their job scripts say it; no job is run."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fasthep_flow.errors import EnvironmentRefused, LimitUnenforceable, OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan, Resources
from fasthep_flow.orchestrators.dask import DASK
from fasthep_flow.orchestrators.dask.requests import WORKER_MEMORY, Request, Sizes
from fasthep_flow.testing.runners import Workbench

pytestmark = pytest.mark.dask

GIB = 2**30


def _flow(runner: str, **options: object) -> FlowSpec:
    return FlowSpec(transform="dask", runner=runner, options=options)


def _request(flow: FlowSpec, **resources: Any) -> Request:
    return Sizes(flow, flow.options).request(Resources(**resources), "some task")


def _script(runner: str, folder: Path, options: dict[str, Any], **resources: Any) -> str:
    from fasthep_flow.orchestrators.dask.batch import Book, find_system, job_options

    flow = _flow(runner, **options)
    system = find_system(runner)
    told = job_options(system, options, _request(flow, **resources), folder, "fasthep-fit")
    told.pop("shared_temp_directory")
    job = system.job("tls://node01:8786", "worker-0", book=Book(), **told)
    script: str = job.job_script()
    return script


def _command(script: str) -> list[str]:
    """The words of the line that starts the worker."""
    [line] = [line for line in script.splitlines() if "distributed.cli.dask_worker" in line]
    if line.startswith("Arguments"):
        line = line.partition("'")[2].rpartition("'")[0].replace("''", "'").replace('""', '"')
        line = line.rpartition("; ")[2]
    return shlex.split(line)


def _after(words: list[str], name: str) -> str:
    """The last value of an option, which is the one that counts."""
    return [value for option, value in pairwise(words) if option == name][-1]


class TestSizes:
    """Which tasks share workers, and how large these are."""

    def test_without_a_size_among_the_options_each_request_is_one_of_its_own(self) -> None:
        flow = _flow("slurm")
        small = _request(flow, memory=2 * GIB)
        large = _request(flow, cpus=4, memory=8 * GIB)
        assert (small.cpus, small.memory) == (1, 2 * GIB + WORKER_MEMORY)
        assert (large.cpus, large.memory) == (4, 8 * GIB + WORKER_MEMORY)
        assert small == _request(flow, cpus=1, memory=2 * GIB)
        assert {small.threads, large.threads} == {1}

    def test_what_a_task_does_not_ask_for_is_left_to_the_site(self) -> None:
        request = _request(_flow("slurm"))
        assert (request.cpus, request.memory, request.walltime_s) == (1, None, None)

    def test_a_share_of_a_processor_is_asked_for_as_a_whole_one(self) -> None:
        assert _request(_flow("slurm"), cpus=0.5).cpus == 1
        assert _request(_flow("slurm"), cpus=2.5).cpus == 3

    def test_tasks_that_fit_share_workers_of_the_size_that_was_given(self) -> None:
        flow = _flow("slurm", cores=4, memory="8Gi")
        shared = Sizes(flow, flow.options).shared
        assert shared is not None
        assert (shared.cpus, shared.memory) == (4, 8 * GIB)
        assert _request(flow, memory=2 * GIB) == shared
        assert _request(flow, cpus=4) == shared

    @pytest.mark.parametrize(
        "resources",
        [{"cpus": 5}, {"memory": 8 * GIB}, {"gpus": 1, "process_on": "gpu"}],
    )
    def test_a_task_that_does_not_fit_gets_workers_of_its_own_size(
        self, resources: dict[str, Any]
    ) -> None:
        flow = _flow("slurm", cores=4, memory="8Gi")
        request = _request(flow, **resources)
        assert request != Sizes(flow, flow.options).shared
        assert request.threads == 1
        assert request.room.cpus >= resources.get("cpus", 1)
        assert request.gpus == resources.get("gpus", 0)

    @pytest.mark.parametrize("text", ["8Gi", "8GiB", 8 * GIB, "8589934592"])
    def test_memory_is_read_as_dask_and_as_tasks_write_it(self, text: object) -> None:
        flow = _flow("slurm", memory=text)
        shared = Sizes(flow, flow.options).shared
        assert shared is not None
        assert shared.memory == 8 * GIB

    def test_a_tasks_walltime_is_asked_for_with_some_minutes_more(self) -> None:
        assert _request(_flow("slurm"), walltime_s=3600).walltime_s == 3900
        assert _request(_flow("slurm", walltime="02:00:00"), walltime_s=3600).walltime_s == 7200

    def test_a_task_that_takes_longer_than_any_worker_is_refused_with_both_figures(self) -> None:
        flow = _flow("slurm", walltime="01:00:00")
        with pytest.raises(EnvironmentRefused, match=r"7200 s, and the walltime .* is 3600 s"):
            DASK.require(flow, Resources(walltime_s=7200), "long")

    def test_a_task_shares_what_one_of_several_processes_has(self) -> None:
        flow = _flow("slurm", cores=4, memory="8Gi", processes=2)
        shared = Sizes(flow, flow.options).shared
        assert _request(flow, cpus=2, memory=3 * GIB) == shared
        # No one of the two workers in such a job has so much.
        for resources in ({"cpus": 3}, {"memory": 5 * GIB}):
            request = _request(flow, **resources)
            assert request != shared
            assert request.processes == 1

    def test_without_a_size_among_the_options_a_job_is_not_split(self) -> None:
        assert _request(_flow("slurm", processes=4), cpus=2).processes == 1

    def test_what_dasks_configuration_says_of_the_size_holds_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "jobqueue.yaml").write_text(
            "jobqueue: {slurm: {cores: 4, memory: 8GiB, processes: 2, walltime: '01:00:00'}}"
        )
        monkeypatch.setattr("dask.config.paths", [str(tmp_path)])
        shared = _request(_flow("SLURMCluster"))
        assert (shared.cpus, shared.memory, shared.processes) == (4, 8 * GIB, 2)
        assert shared.walltime_s == 3600
        assert _request(_flow("slurm", cores=2, processes=None)).cpus == 2
        assert _request(_flow("htcondor")).walltime_s is None

    @pytest.mark.parametrize(
        ("runner", "directives", "seconds"),
        [
            ("htcondor", {"+JobFlavour": '"longlunch"'}, 7200),
            ("htcondor", {"MY.JobFlavour": '"ours"'}, None),
            ("htcondor", {"+MaxRuntime": 1800, "+JobFlavour": '"longlunch"'}, 1800),
            ("slurm", ["--qos=high", "--time=02:00:00"], 7200),
            ("slurm", ["-t 120", "--time 30"], 1800),
            ("slurm", ["--time-min=10", "--tmp=5"], None),
        ],
    )
    def test_a_time_that_a_line_of_the_users_own_says_is_the_jobs(
        self, runner: str, directives: object, seconds: float | None
    ) -> None:
        flow = _flow(runner, job_extra_directives=directives)
        assert _request(flow).walltime_s == seconds
        if seconds is not None:
            with pytest.raises(EnvironmentRefused, match=f"the walltime of .* is {seconds} s"):
                _request(flow, walltime_s=seconds)

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("cores", 0),
            ("processes", True),
            ("processes", 0),
            ("cores", "many"),
            ("memory", "lots"),
            ("walltime", "soon"),
        ],
    )
    def test_a_size_that_cannot_be_read_is_named(self, option: str, value: object) -> None:
        with pytest.raises(OrchestratorUnavailable, match=f"{option} of dask::slurm is {value!r}"):
            DASK.require(_flow("slurm", **{option: value}), Resources(), "some")


class TestSlurm:
    """The lines for sbatch."""

    def test_a_tasks_request_is_the_jobs(self, tmp_path: Path) -> None:
        script = _script("slurm", tmp_path, {}, cpus=3, memory=2 * GIB, walltime_s=3600)
        assert "#SBATCH --cpus-per-task=3\n" in script
        assert "#SBATCH --mem=2560M\n" in script
        assert "#SBATCH -t 01:05:00\n" in script
        assert "#SBATCH --no-requeue\n" in script
        assert "#SBATCH -J fasthep-fit\n" in script

    def test_no_line_asks_for_what_nobody_asked_for(self, tmp_path: Path) -> None:
        script = _script("slurm", tmp_path, {})
        assert "--mem" not in script.partition("exec ")[0]
        assert "#SBATCH -t" not in script
        assert "--gres" not in script
        assert "export" not in script

    def test_the_users_own_amount_of_memory_stays_alone(self, tmp_path: Path) -> None:
        for resources in ({}, {"memory": GIB}):
            script = _script("slurm", tmp_path, {"job_mem": "4000M"}, **resources)
            assert re.findall("--mem=.*", script) == ["--mem=4000M"]

    def test_devices_are_asked_for(self, tmp_path: Path) -> None:
        script = _script("slurm", tmp_path, {}, gpus=2, process_on="gpu")
        assert "#SBATCH --gres=gpu:2\n" in script
        assert "gpus=2.0" in _after(_command(script), "--resources")

    def test_the_users_own_line_for_devices_stays_alone(self, tmp_path: Path) -> None:
        options = {"job_extra_directives": ["--gres=gpu:a100:1"]}
        script = _script("slurm", tmp_path, options, gpus=1, process_on="gpu")
        assert re.findall("--gres.*", script) == ["--gres=gpu:a100:1"]

    @pytest.mark.parametrize("line", ["--gres=lscratch:20", "--gres lscratch:20"])
    def test_devices_are_asked_for_beside_what_a_site_wants(
        self, tmp_path: Path, line: str
    ) -> None:
        options = {"job_extra_directives": [line, "--qos=high"]}
        script = _script("slurm", tmp_path, options, gpus=2, process_on="gpu")
        # Of several such lines Slurm takes the last.
        assert re.findall("--gres.*", script) == ["--gres=lscratch:20,gpu:2"]
        assert "#SBATCH --qos=high\n" in script

    def test_options_of_dask_jobqueue_pass_through(self, tmp_path: Path) -> None:
        script = _script(
            "slurm",
            tmp_path,
            {
                "queue": "long",
                "account": "atlas",
                "interface": "ib0",
                "python": "/opt/py/bin/python",
                "death_timeout": 17,
                "local_directory": "/scratch",
                "job_name": "mine",
                "walltime": "1-00:00:00",
                "job_extra_directives": ["--qos=high", "--requeue"],
                "job_script_prologue": ["module load python"],
                "worker_extra_args": ["--lifetime", "23h"],
            },
        )
        for line in ("-p long", "-A atlas", "--qos=high", "-t 1-00:00:00", "-J mine", "--requeue"):
            assert f"#SBATCH {line}\n" in script
        assert "--no-requeue" not in script
        assert "\nmodule load python\n" in script
        words = _command(script)
        assert words[:2] == ["exec", "/opt/py/bin/python"]
        assert _after(words, "--interface") == "ib0"
        assert _after(words, "--death-timeout") == "17"
        assert _after(words, "--local-directory") == "/scratch"
        assert _after(words, "--lifetime") == "23h"

    def test_a_worker_has_a_folder_of_its_own_in_the_runs(self, tmp_path: Path) -> None:
        folder = tmp_path / "a run"
        words = _command(_script("slurm", folder, {}))
        assert _after(words, "--local-directory") == str(folder / "scratch" / "worker-0")
        # HTCondor gives each job one, and removes it.
        assert "--local-directory" not in _command(_script("htcondor", folder, {}))

    def test_where_dask_is_told_to_put_its_files_it_does(self, tmp_path: Path) -> None:
        import dask.config

        with dask.config.set({"temporary-directory": "/scratch"}):
            assert "--local-directory" not in _command(_script("slurm", tmp_path, {}))

    def test_logs_may_lie_in_a_folder_with_a_blank(self, tmp_path: Path) -> None:
        folder = tmp_path / "a run, mine"
        script = _script("slurm", folder, {})
        assert f'#SBATCH -e "{folder}/fasthep-fit-%J.err"\n' in script
        assert f'#SBATCH -o "{folder}/fasthep-fit-%J.out"\n' in script

    def test_what_the_worker_offers_is_what_its_tasks_may_use(self, tmp_path: Path) -> None:
        script = _script("slurm", tmp_path, {"cores": 4, "memory": "8Gi"}, memory=GIB)
        words = _command(script)
        offered = dict(pair.split("=") for pair in _after(words, "--resources").split(","))
        memory = float(8 * GIB - WORKER_MEMORY)
        assert {key: float(value) for key, value in offered.items()} == {
            "cpus": 4.0,
            "memory": memory,
        }
        assert int(_after(words, "--nthreads")) > 4
        assert _after(words, "--memory-limit") == "0"
        assert "--no-nanny" in words
        assert "--no-dashboard" in words

    def test_several_processes_share_what_the_job_has(self, tmp_path: Path) -> None:
        script = _script("slurm", tmp_path, {"cores": 4, "memory": "8Gi", "processes": 2})
        words = _command(script)
        assert _after(words, "--nworkers") == "2"
        assert "--nanny" in words
        assert "cpus=2.0" in _after(words, "--resources")

    def test_the_worker_is_told_how_long_its_job_lasts(self, tmp_path: Path) -> None:
        script = _script("slurm", tmp_path, {"walltime": "01:00:00"})
        assert "\nexport FASTHEP_WORKER_SECONDS=3600\n" in script


class TestHTCondor:
    """The lines for condor_submit."""

    def test_a_tasks_request_is_the_jobs(self, tmp_path: Path) -> None:
        script = _script("htcondor", tmp_path, {}, cpus=3, memory=2 * GIB, walltime_s=3600)
        assert "MY.DaskWorkerCores = 3\n" in script
        assert f"MY.DaskWorkerMemory = {2 * GIB + WORKER_MEMORY}\n" in script
        assert "RequestMemory = " in script
        assert "MY.MaxRuntime = 3900\n" in script
        assert "export FASTHEP_WORKER_SECONDS=3900; exec" in script

    def test_no_line_asks_for_what_nobody_asked_for(self, tmp_path: Path) -> None:
        script = _script("htcondor", tmp_path, {})
        for name in ("RequestMemory", "RequestDisk", "request_gpus", "MaxRuntime", "export"):
            assert name not in script

    def test_devices_are_asked_for(self, tmp_path: Path) -> None:
        script = _script("htcondor", tmp_path, {}, gpus=1, process_on="gpu")
        assert "request_gpus = 1\n" in script

    def test_the_walltime_of_the_options_is_asked_for(self, tmp_path: Path) -> None:
        script = _script("htcondor", tmp_path, {"walltime": "02:00:00"}, walltime_s=3600)
        assert "MY.MaxRuntime = 7200\n" in script

    def test_a_sites_own_word_for_time_stays_alone(self, tmp_path: Path) -> None:
        options = {"job_extra_directives": {"+JobFlavour": '"workday"', "getenv": "true"}}
        script = _script("htcondor", tmp_path, options, walltime_s=3600)
        assert '+JobFlavour = "workday"\n' in script
        assert "getenv = true\n" in script
        assert "MaxRuntime" not in script

    def test_options_of_dask_jobqueue_pass_through(self, tmp_path: Path) -> None:
        options = {
            "disk": "10GB",
            "death_timeout": 17,
            "job_script_prologue": ["source /cvmfs/x/setup.sh"],
        }
        script = _script("htcondor", tmp_path, options)
        assert "MY.DaskWorkerDisk = 10000000000\n" in script
        assert "RequestDisk = " in script
        assert "source /cvmfs/x/setup.sh; exec" in script
        assert _after(_command(script), "--death-timeout") == "17"


@pytest.mark.parametrize("runner", ["slurm", "htcondor", "SLURMCluster", "HTCondorCluster"])
def test_options_of_the_farms_are_known(runner: str) -> None:
    known = DASK.options(runner)
    assert known is not None
    assert known >= {"cores", "memory", "interface", "job_extra_directives", "log_directory"}
    assert known >= {"minimum_jobs", "maximum_jobs", "allowed_failures", "dashboard_address"}
    assert "walltime" in known
    assert not known & {"self", "loop", "asynchronous", "job_cls", "n_workers"}
    # dask-jobqueue passes over these former names beside the new ones, which are always told.
    assert not known & {"env_extra", "extra", "header_skip", "job_extra"}
    assert ("queue" in known) == runner.lower().startswith("slurm")
    assert ("disk" in known) == runner.lower().startswith("htcondor")


def test_no_engine_is_imported_to_know_them() -> None:
    line = "import sys; from fasthep_flow.orchestrators.dask import DASK; "
    line += "[DASK.options(name) for name in DASK.runners]; "
    line += "print(*{'dask', 'distributed', 'dask_jobqueue'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", line], text=True).split() == []


def test_options_of_the_other_runners_are_known_too() -> None:
    local, scheduler = DASK.options("local"), DASK.options("scheduler")
    assert local is not None
    assert local >= {"n_workers", "threads_per_worker", "allowed_failures"}
    assert scheduler is not None
    assert scheduler >= {"address", "scheduler_file", "tls_ca_file", "allowed_failures"}
    assert DASK.options("nowhere") is None


def test_a_machine_without_the_batch_system_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert DASK.why_not(_flow("slurm")) == "there is no command sbatch on this machine"
    assert DASK.why_not(_flow("htcondor")) == "there is no command condor_submit on this machine"
    assert DASK.why_not(_flow("local")) is None
    assert "needs the address" in (DASK.why_not(_flow("scheduler")) or "")
    assert DASK.why_not(_flow("scheduler", address="tcp://x:1")) is None


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm that has no job of more than four processors; what it was handed."""
    folder, script = tmp_path / "bin", tmp_path / "script"
    folder.mkdir()
    (folder / "sbatch").write_text(
        f'#!/bin/sh\necho "$@" > {script}; cat >> {script}\n'
        f"grep -q cpus-per-task=[1-4]$ {script} && exit 0\n"
        "echo 'allocation failure: Requested node configuration is not available' >&2; exit 1\n"
    )
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return script


def test_what_the_batch_system_would_never_start_is_refused_before_anything_is_opened(
    sbatch: Path,
) -> None:
    flow = _flow("slurm", queue="long")
    DASK.require(flow, Resources(cpus=4), "small")
    with pytest.raises(LimitUnenforceable) as caught:
        DASK.require(flow, Resources(cpus=64), "large")
    assert caught.value.message == (
        "task 'large' asks for a worker of 64 cpus, and Slurm refuses such a job: "
        "Requested node configuration is not available"
    )
    said = sbatch.read_text()
    assert said.startswith("--test-only\n")
    assert "#SBATCH -p long\n" in said


@pytest.mark.usefixtures("sbatch")
def test_a_size_that_cannot_be_read_is_known_before_a_run() -> None:
    assert DASK.why_not(_flow("slurm")) is None
    told = DASK.why_not(_flow("slurm", memory="lots"))
    assert told == "memory of dask::slurm is 'lots': it is an amount such as 8Gi or 8GB"


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _sized(plan: Plan, *sizes: Resources) -> Plan:
    """The plan, of as many tasks that ask for that."""
    tasks = [
        msgspec.structs.replace(
            task, environment=msgspec.structs.replace(task.environment, resources=size)
        )
        for task, size in zip(plan.tasks, sizes, strict=False)
    ]
    return msgspec.structs.replace(plan, tasks=tuple(tasks))


@pytest.mark.usefixtures("sbatch")
def test_one_port_does_not_do_for_two_sizes_of_workers(tmp_path: Path) -> None:
    port = _free_port()
    flow = _flow("slurm", scheduler_options={"port": port})
    bench = Workbench(tmp_path)
    plan = _sized(bench.plan(flow), Resources(memory=GIB), Resources(memory=2 * GIB))
    with (
        pytest.raises(OrchestratorUnavailable) as caught,
        DASK.open(flow, plan, bench.workers),
    ):
        pass
    assert "workers of 1 cpus, 2.5Gi memory need a Dask scheduler of their own" in str(caught.value)
    assert f"gives both the port {port}" in str(caught.value)
    # The first one's is closed again, and one size is well.
    with DASK.open(flow, _sized(plan, Resources()), bench.workers) as runner:
        assert runner.dashboard is not None


@pytest.mark.usefixtures("sbatch")
def test_a_port_that_others_have_is_named(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        flow = _flow("slurm", scheduler_options={"port": port})
        plan = _sized(bench.plan(flow), Resources())
        with (
            pytest.raises(OrchestratorUnavailable) as caught,
            DASK.open(flow, plan, bench.workers),
        ):
            pass
    assert str(caught.value).startswith(
        f"dask::slurm: the port {port} of scheduler_options cannot be had: Address already in use"
    )
