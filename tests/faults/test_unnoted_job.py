"""A driver that is killed when its batch system has a job, and before it knows the job's number."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.farms.batch import FarmSite, Slurm
from tests.faults.conftest import said_by, shell, wait_until

# The command that submits is a child of the driver's.
_SUBMIT = """\
#!/bin/sh
{real} "$@" > {root}/submitted || exit 1
case " $* " in *" --test-only "*) cat {root}/submitted; exit 0;; esac
kill -9 $(cat {root}/driver)
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FarmSite]:
    """A folder for runs on a batch farm."""
    made = FarmSite(tmp_path / "site", tmp_path / "cache")
    yield made
    made.end()
    for job in Slurm().alive(tmp_path):
        Slurm().cancel(job)


@pytest.mark.slurm
@pytest.mark.dask
@pytest.mark.fault(
    25,
    "the driver is killed when Slurm has taken a job, and has not yet answered with its number",
    "that job finds nobody to work for, and ends; no task runs twice; the same command goes on",
)
def test_a_job_whose_number_nobody_noted(site: FarmSite) -> None:
    commands = site.root / "commands"
    commands.mkdir()
    submit = commands / "sbatch"
    submit.write_text(_SUBMIT.format(real=shutil.which("sbatch"), root=site.root))
    submit.chmod(0o755)
    mark = f"echo fit >> {site.root}/ended"
    small = {"resources": {"memory": "50Mi"}}
    site.write_for(Slurm(), shell("fit", mark, environment=small, needs=[]))
    driver = site.start(PATH=f"{commands}:{os.environ['PATH']}")
    (site.root / "driver").write_text(str(driver.pid))
    assert said_by(driver).code == -9
    assert "Submitted" in (site.root / "submitted").read_text()
    assert not (site.root / "ended").exists()
    said = site.run()
    assert said.code == 0, said.both
    assert (site.root / "ended").read_text() == "fit\n"
    wait_until(lambda: not Slurm().alive(site.root), "no job is left in the queue")
    assert site.processes() == {}
