from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import Orchestrator, TaskRunner
from fasthep_flow.orchestrators.prefect import PREFECT
from fasthep_flow.testing.runners import TaskRunnerSuite, Workbench

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


class TestRay(TaskRunnerSuite):
    __test__ = True

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return PREFECT

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(
            transform="prefect",
            runner="RayTaskRunner",
            options={"init_kwargs": {"num_cpus": 2}},
        )

    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls) -> Iterator[ExitStack]:
        """What holds the shared runner, as long as no test wants one of its own."""
        with ExitStack() as stack:
            yield stack

    @pytest.fixture(scope="class")
    @classmethod
    def shared(
        cls, kept: ExitStack, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[TaskRunner]:
        bench = Workbench(tmp_path_factory.mktemp("shared"))
        yield kept.enter_context(
            cls.orchestrator().open(cls.flow(), bench.plan(cls.flow()), bench.directory / "engine")
        )

    @pytest.fixture
    def fresh(self, kept: ExitStack, bench: Workbench) -> AbstractContextManager[TaskRunner]:
        # A process has one Ray. The suite's tests of the shared runner come first.
        kept.close()
        return self.orchestrator().open(
            self.flow(), bench.plan(self.flow()), bench.directory / "engine"
        )

    @pytest.fixture
    def engine_folders(self, prefect_home: Path) -> list[Path]:
        return [prefect_home]
