import pytest

from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import Orchestrator
from fasthep_flow.orchestrators.dask import DASK
from fasthep_flow.testing.runners import TaskRunnerSuite

pytestmark = pytest.mark.dask


class TestLocalCluster(TaskRunnerSuite):
    __test__ = True

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return DASK

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="dask", runner="local")
