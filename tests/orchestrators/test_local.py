from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import Orchestrator
from fasthep_flow.orchestrators.local import LOCAL
from fasthep_flow.testing.runners import TaskRunnerSuite


class TestConcurrent(TaskRunnerSuite):
    __test__ = True

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return LOCAL

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="local", runner="concurrent", options={"max_workers": 4})


class TestSequential(TestConcurrent):
    concurrent = False

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="local", runner="sequential")
