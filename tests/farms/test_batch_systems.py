"""The testbed's Slurm and HTCondor themselves: what the other tests here stand on."""

from pathlib import Path

import pytest
from tests.conftest import TESTBED
from tests.farms.batch import Asked, BatchSystem, HTCondor, Slurm, await_end, say

from fasthep_flow.testing.runners import wait_until


def test_a_job_is_a_process_of_this_machine(batch: BatchSystem, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("id -u; tr ' ' _ </proc/$$/cmdline | tr '\\0' ' '; cat /etc/debian_version\n")
    output = tmp_path / "output"
    job = batch.submit(f"sh {script}", 70, str(output))
    await_end(batch, tmp_path)
    lines = output.read_text().splitlines()
    assert lines == ["0", f"sh {script} " + Path("/etc/debian_version").read_text().strip()]
    assert batch.asked(tmp_path) == {job: Asked(cpus=1, memory_mib=70)}


@pytest.mark.podman
@pytest.mark.apptainer
def test_a_job_starts_containers(
    batch: BatchSystem, busybox_image: str, sif_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    line = f"podman run --rm --network=none {busybox_image} echo podman"
    line += f"; apptainer -q exec --userns {sif_file} echo apptainer"
    batch.submit(line, 200, str(output))
    await_end(batch, tmp_path)
    lines = output.read_text().splitlines()
    assert [line for line in lines if line in {"podman", "apptainer"}] == ["podman", "apptainer"]


def test_a_cancelled_job_is_told_and_ends(batch: BatchSystem, tmp_path: Path) -> None:
    output = tmp_path / "output"
    line = "trap 'echo asked; exit 1' TERM; echo runs; n=0; "
    line += "while [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done"
    job = batch.submit(line, 50, str(output))
    wait_until(lambda: output.exists() and "runs" in output.read_text(), "it does not run")
    batch.cancel(job)
    await_end(batch, tmp_path)
    wait_until(lambda: "asked" in output.read_text(), "it was not told")


_HUNGRY = "exec python3 -c 'import time; block = bytearray(300_000_000); time.sleep(50)'"


@pytest.mark.slurm
def test_slurm_kills_what_takes_more_memory_than_it_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "output"
    Slurm().submit(_HUNGRY, 60, str(output))
    await_end(Slurm(), tmp_path)
    wait_until(lambda: "exceeded memory limit" in output.read_text(), "it does not say why")


@pytest.mark.htcondor
def test_htcondor_holds_what_takes_more_memory_than_it_asked_for(tmp_path: Path) -> None:
    job = HTCondor().submit(_HUNGRY, 60, str(tmp_path / "output"))
    try:
        reason = ["condor_q", job, "-af", "HoldReason"]
        wait_until(lambda: "memory usage exceeded" in say(*reason), "it is not held")
    finally:
        HTCondor().cancel(job)


def test_both_are_started_once(batch: BatchSystem) -> None:
    daemons = "slurmctld|slurmd|munged|condor_[a-z]+"
    before = say("pgrep", "-x", daemons)
    assert say(str(TESTBED / f"{batch.name}.sh")) == ""
    assert say("pgrep", "-x", daemons) == before
