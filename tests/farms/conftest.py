"""The batch systems of the testbed, and runs of the command that submit to them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("fasthep_flow.testing.runners")

from tests.farms.batch import BatchSystem, FarmSite, HTCondor, Slurm  # noqa: E402 - as said above

SYSTEMS = [
    pytest.param(Slurm(), marks=[pytest.mark.slurm, pytest.mark.dask], id="slurm"),
    pytest.param(HTCondor(), marks=[pytest.mark.htcondor, pytest.mark.dask], id="htcondor"),
]


@pytest.fixture(params=SYSTEMS)
def batch(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BatchSystem]:
    """Slurm and HTCondor in turn. Jobs that a test leaves are cancelled, and are its failure."""
    # Where a job was submitted is in its record.
    monkeypatch.chdir(tmp_path)
    system: BatchSystem = request.param
    yield system
    left = system.alive(tmp_path)
    for job in left:
        system.cancel(job)
    assert not left, f"left in the queue: {sorted(left)}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FarmSite]:
    """A folder for runs."""
    made = FarmSite(tmp_path / "site", tmp_path / "cache")
    yield made
    made.end()
