"""What every task runner must do, on workers that are batch jobs."""

from collections.abc import Iterator
from typing import ClassVar

import pytest
from tests.farms.batch import BatchSystem, HTCondor, Slurm, await_end

from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators import Orchestrator
from fasthep_flow.orchestrators.dask import DASK
from fasthep_flow.testing.runners import TaskRunnerSuite

OPTIONS = {"cores": 2, "memory": "1Gi", "maximum_jobs": 1, "death_timeout": 10}


class _Farm(TaskRunnerSuite):
    batch: ClassVar[BatchSystem]
    # What a batch system gives a job is the job's.
    inherits = False

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return DASK

    @classmethod
    def everything(cls) -> Resources:
        return Resources(cpus=2)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _no_job_left(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        # Where a job was submitted is in its record.
        folder = tmp_path_factory.mktemp("farm")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            yield
        await_end(cls.batch, folder)


@pytest.mark.dask
@pytest.mark.slurm
class TestSlurm(_Farm):
    __test__ = True
    batch = Slurm()

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="dask", runner="slurm", options=OPTIONS)


@pytest.mark.dask
@pytest.mark.htcondor
class TestHTCondor(_Farm):
    __test__ = True
    batch = HTCondor()
    # What no machine has waits: machines come and go.
    knows_its_room = False

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="dask", runner="htcondor", options=OPTIONS)
