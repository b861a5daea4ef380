"""What a batch system says of the jobs, and when."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.farms.batch import FarmSite, Slurm, held
from tests.faults.conftest import shell

from fasthep_flow.orchestrators.dask.queues import HTCONDOR, JobState
from fasthep_flow.testing.runners import wait_until

pytestmark = pytest.mark.dask

_SBATCH = '{real} "$@" && echo job >> {folder}/submitted'
# What it says is from before the last of the jobs was submitted.
_SQUEUE = """said=$({real} "$@") || exit
if [ -e {folder}/late ]; then touch {folder}/answered; fi
if [ -e {folder}/slow ] && [ ! -e {folder}/late ]; then
  touch {folder}/asked
  n=0
  while [ $(wc -l < {folder}/submitted) -lt 4 ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done
  sleep 1
  touch {folder}/late
fi
echo "$said"
"""

_LISTED = """{real} "$@" || exit
if [ -e {folder}/lost ] && [ ! -e {folder}/gone ]; then
  echo "$(cat {folder}/lost)|RUNNING|None"
  echo again >> {folder}/asked
fi
"""


def _commands(folder: Path, **scripts: str) -> str:
    """A search path on which these come first, each in front of the real one."""
    folder.mkdir()
    for name, text in scripts.items():
        path = folder / name
        path.write_text("#!/bin/sh\n" + text.format(real=shutil.which(name), folder=folder))
        path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.slurm
def test_jobs_that_are_submitted_while_it_thinks_are_not_missed(site: FarmSite) -> None:
    folder = site.root / "commands"
    path = _commands(folder, sbatch=_SBATCH, squeue=_SQUEUE)
    site.write_for(
        Slurm(),
        shell(
            "first",
            f"touch {folder}/slow; while [ ! -e {folder}/asked ]; do sleep 0.05; done",
            needs=[],
            environment={"resources": {"memory": "50Mi"}},
        ),
        *(held(f"next{number}", needs=["first"]) for number in range(4)),
        # No worker calls before it was asked for.
        job_script_prologue=[
            f"while [ -e {folder}/slow ] && [ ! -e {folder}/answered ]; do sleep 0.05; done"
        ],
    )
    driver = site.start(PATH=path)
    wait_until(
        lambda: (folder / "answered").exists() or driver.poll() is not None, "it is never asked"
    )
    site.release()
    out, err = driver.communicate(timeout=100)
    assert driver.returncode == 0, out + err
    assert "ended before its worker had called" not in out + err
    assert Slurm().alive(site.root) == set()
    assert site.left() == {}


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _lose(site: FarmSite, folder: Path, driver: subprocess.Popen[str]) -> None:
    """End the job of ``fit``, of which Slurm from now on says that it runs."""
    site.await_start(driver, "fit")
    job = site.claim("fit")["batch_job"]
    (folder / "lost").write_text(job)
    Slurm().cancel(job)
    _await_questions(folder, driver)


def _await_questions(folder: Path, driver: subprocess.Popen[str]) -> None:
    """Return once Slurm has been asked a few times more."""
    enough = _lines(folder / "asked") + 3
    wait_until(
        lambda: _lines(folder / "asked") >= enough or driver.poll() is not None, "it is not asked"
    )
    assert driver.poll() is None, driver.communicate()


@pytest.mark.slurm
def test_no_task_starts_again_while_its_lost_job_is_listed(site: FarmSite) -> None:
    folder = site.root / "commands"
    path = _commands(folder, squeue=_LISTED)
    site.write_for(Slurm(), held("fit"))
    driver = site.start(PATH=path)
    _lose(site, folder, driver)
    assert not (site.work / "fit.2.started").exists()
    (folder / "gone").touch()
    site.await_start(driver, "fit", 2)
    site.release()
    out, err = driver.communicate(timeout=100)
    assert driver.returncode == 0, out + err
    assert Slurm().alive(site.root) == set()
    assert site.left() == {}


@pytest.mark.slurm
def test_ctrl_c_ends_the_wait_and_the_next_run_takes_it_up(site: FarmSite) -> None:
    folder = site.root / "commands"
    path = _commands(folder, squeue=_LISTED)
    site.write_for(Slurm(), held("fit"))
    driver = site.start(PATH=path)
    _lose(site, folder, driver)
    os.kill(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=100)
    assert driver.returncode == 130, out + err
    job = (folder / "lost").read_text()
    assert f"Slurm still lists batch job {job}, which was cancelled" in out + err
    notes = site.work / "output" / "latest" / "workers" / "1-dask-slurm" / "jobs.jsonl"
    assert f'"{job}"' in notes.read_text()
    site.release()
    driver = site.start(PATH=path)
    _await_questions(folder, driver)
    assert not (site.work / "fit.2.started").exists()
    (folder / "gone").touch()
    out, err = driver.communicate(timeout=100)
    assert driver.returncode == 0, out + err
    assert [result.status for result in site.attempts("fit")][-1] == "succeeded"
    assert not notes.exists()
    assert Slurm().alive(site.root) == set()
    assert site.left() == {}


@pytest.mark.htcondor
@pytest.mark.parametrize(
    ("since", "reason"), [("+QDate = 1", "no match found"), ("", "")], ids=["long", "just now"]
)
def test_htcondor_tells_that_no_machine_was_found(tmp_path: Path, since: str, reason: str) -> None:
    # As it notes it in a job that no machine takes: in the first minute that says nothing yet.
    text = f"executable = /bin/true\ninitialdir = {tmp_path}\nrequirements = False\n{since}\n"
    text += '+LastRejMatchReason = "no match found"\nqueue\n'
    done = subprocess.run(
        ["condor_submit", "-terse", "-"], input=text, capture_output=True, text=True, check=True
    )
    job = done.stdout.split()[0]
    try:
        assert HTCONDOR.states([job]) == {job: JobState("waits", reason)}
    finally:
        HTCONDOR.cancel([job])
