"""What every task runner must do, on workers that are batch jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.farms.batch import HTCondor, Slurm

from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators import Orchestrator
from fasthep_flow.orchestrators.dask import DASK
from fasthep_flow.testing.runners import TaskRunnerSuite

OPTIONS = {"cores": 2, "memory": "1Gi", "maximum_jobs": 1, "death_timeout": 10}


class _Farm(TaskRunnerSuite):
    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return DASK

    @classmethod
    def everything(cls) -> Resources:
        return Resources(cpus=2)

    @pytest.fixture(autouse=True)
    def _submitted_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)


@pytest.mark.dask
@pytest.mark.slurm
class TestSlurm(_Farm):
    __test__ = True

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="dask", runner="slurm", options=OPTIONS)

    @pytest.fixture(autouse=True)
    def _no_job_left(self, tmp_path: Path) -> Iterator[None]:
        yield
        assert Slurm().alive(tmp_path) == set()


@pytest.mark.dask
@pytest.mark.htcondor
class TestHTCondor(_Farm):
    __test__ = True
    # What no machine has waits: machines come and go.
    knows_its_room = False

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="dask", runner="htcondor", options=OPTIONS)

    @pytest.fixture(autouse=True)
    def _no_job_left(self, tmp_path: Path) -> Iterator[None]:
        yield
        assert HTCondor().alive(tmp_path) == set()
