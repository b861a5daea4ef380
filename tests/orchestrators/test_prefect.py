from pathlib import Path

import pytest

from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import Orchestrator
from fasthep_flow.orchestrators.prefect import PREFECT
from fasthep_flow.testing.runners import TaskRunnerSuite

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


class TestThreads(TaskRunnerSuite):
    __test__ = True

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return PREFECT

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="prefect", runner="ThreadPoolTaskRunner")

    @pytest.fixture
    def engine_folders(self, prefect_home: Path) -> list[Path]:
        return [prefect_home]


class TestSequential(TestThreads):
    concurrent = False

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="prefect", runner="SequentialTaskRunner")


class TestProcesses(TestThreads):
    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(
            transform="prefect", runner="ProcessPoolTaskRunner", options={"max_workers": 2}
        )


class TestDask(TestThreads):
    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="prefect", runner="DaskTaskRunner")
