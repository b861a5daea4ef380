"""What runners there are, ours and those of others, as the planner asks for it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint

import pytest

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import (
    ALIASES,
    RUNNERS,
    Orchestrator,
    find_orchestrator,
    plug_ins,
)
from fasthep_flow.orchestrators.catalogue import Catalogue
from fasthep_flow.testing.scripted import ScriptedRunner


class Farm(Orchestrator):
    runners: Sequence[str] = ("large", "small")

    def options(self, runner: str) -> frozenset[str] | None:
        if runner == "small":
            raise RuntimeError("no idea")
        return frozenset({"cores"})

    def open(self, *_: object) -> None:  # type: ignore[override]
        """Nothing here opens it."""


class Odd(Farm):
    @property
    def runners(self) -> Sequence[str]:  # type: ignore[override]
        raise RuntimeError("which ones?")


class Duck:
    """No orchestrator of ours, with some of what one has."""

    runners = ("large",)

    def options(self, runner: str) -> None: ...

    def why_not(self, flow: FlowSpec) -> None: ...

    def is_elsewhere(self, flow: FlowSpec) -> None: ...

    def require(self, *_: object) -> None: ...

    def require_answer(self, flow: FlowSpec) -> None: ...

    def open(self, *_: object) -> None: ...


DUCK = Duck()
FARM = Farm()
ODD = Odd()
HERE = sys.modules[__name__]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Packages that bring a few orchestrators; how often somebody looked for them."""
    seen: list[str] = []
    monkeypatch.setitem(sys.modules, "a_farm", HERE)

    def entry_points(group: str) -> list[EntryPoint]:
        seen.append(group)
        return [
            EntryPoint(name, f"a_farm:{value}", group)
            for name, value in (
                ("farm", "FARM"),
                ("odd", "ODD"),
                ("dask.large", "FARM"),
                ("duck", "DUCK"),
                ("local", "FARM"),
                ("gone", "NOTHING"),
                ("twice", "FARM"),
                ("twice", "ODD"),
            )
        ]

    monkeypatch.setattr(plug_ins, "entry_points", entry_points)
    return seen


def flow(name: str, **options: object) -> FlowSpec:
    transform, _, runner = name.partition("::")
    return FlowSpec(transform=transform, runner=runner, options=options)


def test_ours_are_known_without_a_look_at_other_packages(scans: list[str]) -> None:
    catalogue = Catalogue()
    for transform, runners in RUNNERS.items():
        assert catalogue.runners(transform) == runners
        assert all(catalogue.has(transform, runner) for runner in runners)
        assert [*find_orchestrator(transform).runners] == [*runners]
    assert catalogue.options(flow("local::concurrent")) == {"max_workers"}
    assert catalogue.options(flow("local::sequential")) == frozenset()
    assert not scans


def test_another_package_adds_a_transform_or_a_runner(scans: list[str]) -> None:
    catalogue = Catalogue()
    assert catalogue.transforms() == [*RUNNERS]
    assert catalogue.runners("farm") == ("large", "small")
    assert catalogue.transforms() == [*RUNNERS, "duck", "farm", "gone", "odd", "twice"]
    assert catalogue.has("farm", "small")
    assert not catalogue.has("farm", "middle")
    assert catalogue.options(flow("farm::large")) == {"cores"}
    assert find_orchestrator("farm") is FARM
    assert catalogue.has("dask", "large")
    assert not catalogue.has("dask", "small")
    assert find_orchestrator("dask", "large") is FARM
    # One look is enough for all tasks of a workflow.
    assert len(scans) < 20
    for number in range(100):
        assert not catalogue.has("dask", f"runner{number}")
        assert not catalogue.runners(f"transform{number}")
    assert len(scans) < 20
    # Ours are not to be replaced.
    assert not catalogue.has("local", "large")
    assert find_orchestrator("local", "large") is find_orchestrator("local")
    assert catalogue.runners("nothing") == ()
    with pytest.raises(OrchestratorUnavailable, match="there is no orchestrator 'nothing'"):
        find_orchestrator("nothing")


@pytest.mark.usefixtures("scans")
def test_mistakes_of_others_are_told_as_theirs() -> None:
    catalogue = Catalogue()
    with pytest.raises(OrchestratorUnavailable, match=r"farm::small cannot say what .*no idea"):
        catalogue.options(flow("farm::small"))
    for _ in range(2):
        with pytest.raises(OrchestratorUnavailable, match=r"'gone' of a package cannot be import"):
            catalogue.runners("gone")
    with pytest.raises(OrchestratorUnavailable, match=r"'odd' of .* cannot be (used|imported)"):
        find_orchestrator("odd")
    with pytest.raises(OrchestratorUnavailable, match=r"'twice' is brought by a package"):
        catalogue.runners("twice")


@pytest.mark.usefixtures("scans")
def test_what_is_not_derived_is_told_all_that_it_lacks() -> None:
    with pytest.raises(OrchestratorUnavailable) as caught:
        find_orchestrator("duck")
    assert caught.value.message == (
        "the orchestrator 'duck' of a package is no orchestrator: a_farm:DUCK is without "
        "'inner_options' and 'misfits'"
    )
    assert caught.value.hint == (
        "its author derives it from fasthep_flow.orchestrators.Orchestrator"
    )


def test_what_is_opened_is_a_task_runner() -> None:
    runner = ScriptedRunner()
    plug_ins.require_task_runner(runner, flow("farm::large"))
    with pytest.raises(OrchestratorUnavailable) as caught:
        plug_ins.require_task_runner(DUCK, flow("farm::large"))
    assert caught.value.message == (
        "what farm::large opened is no task runner: Duck is without "
        "'allowed_failures' and 'dashboard' and 'size' and 'submit' and 'on_stop' and 'cancel'"
    )


@pytest.mark.usefixtures("scans")
def test_values_are_judged_of_our_runners_alone() -> None:
    catalogue = Catalogue(plug_ins=False)
    assert catalogue.misfits(flow("dask::slurm", cores="four", n_workers=-1, queue=3)) == {
        "cores": "must be a whole number, 1 or more",
        "n_workers": "must be a whole number, 0 or more",
    }
    assert catalogue.misfits(flow("local::concurrent", max_workers=None)) == {}
    assert catalogue.misfits(flow("farm::large", cores="four")) == {}


def test_aliases_are_names_of_runners() -> None:
    for transform, names in ALIASES.items():
        assert set(names.values()) <= set(RUNNERS[transform])
        assert not set(names) & set(RUNNERS[transform])
    assert Catalogue().called("dask", "SLURMCluster") == "slurm"
    assert Catalogue().called("dask", "slurm") == "slurm"
    assert Catalogue().called("prefect", "SLURMCluster") == "SLURMCluster"


@pytest.mark.parametrize("transform", [*RUNNERS])
def test_options_of_ours_are_known_without_an_engine(transform: str) -> None:
    program = (
        "import sys\n"
        "from fasthep_flow.model import FlowSpec\n"
        "from fasthep_flow.orchestrators import RUNNERS\n"
        "from fasthep_flow.orchestrators.catalogue import Catalogue\n"
        f"for runner in RUNNERS[{transform!r}]:\n"
        "    inner = {'cluster_kwargs': {}, 'init_kwargs': {}, 'client_kwargs': {}}\n"
        f"    flow = FlowSpec(transform={transform!r}, runner=runner, options=inner)\n"
        "    assert Catalogue().options(flow) is not None, runner\n"
        "    Catalogue().inner_options(flow)\n"
        "    inner['cluster_class'] = 'dask_jobqueue.SLURMCluster'\n"
        "    Catalogue().misfits(flow)\n"
        "slow = {'dask', 'distributed', 'prefect', 'ray', 'fasthep_flow.orchestrators.remote'}\n"
        "print(*sorted(slow & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_options_of_prefect_hold_those_of_the_engines_that_it_starts() -> None:
    written: dict[str, object] = {"cluster_kwargs": {"nworkers": 2}}
    known = Catalogue().inner_options(flow("prefect::DaskTaskRunner", **written))["cluster_kwargs"]
    assert {"n_workers", "threads_per_worker", "dashboard_address"} <= {*known}
    assert not {"allowed_failures", "processes", "nworkers"} & {*known}
    # What another kind of cluster takes is not known.
    for options in ({"address": "tcp://host:8786"}, {"cluster_class": "a.Cluster"}):
        assert (
            Catalogue().inner_options(flow("prefect::DaskTaskRunner", **options, **written)) == {}
        )


def _held(option: str, **options: object) -> set[str] | None:
    named = flow("prefect::DaskTaskRunner", **{option: {}}, **options)
    known = Catalogue().inner_options(named).get(option)
    return None if known is None else {*known}


def test_what_a_cluster_is_adapted_by_and_a_client_takes_is_known() -> None:
    pytest.importorskip("dask_jobqueue")
    local = _held("adapt_kwargs")
    assert local is not None
    assert {"minimum", "maximum", "interval", "wait_count", "maximum_cores"} <= local
    assert not {"cluster", "Adaptive", "kwargs", "maximum_jobs"} & local
    assert _held("adapt_kwargs", cluster_class="dask.distributed.LocalCluster") == local
    jobs = _held("adapt_kwargs", cluster_class="dask_jobqueue.SLURMCluster")
    assert jobs == local | {"minimum_jobs", "maximum_jobs"}
    # Another kind may take what it likes.
    assert _held("adapt_kwargs", cluster_class="dask_cloudprovider.aws.FargateCluster") is None
    client = _held("client_kwargs", address="tls://node01:8786")
    assert client is not None
    assert {"security", "timeout", "name"} <= client
    assert not {"address", "asynchronous"} & client


def test_what_engines_take_is_what_is_said_of_them() -> None:
    distributed = pytest.importorskip("distributed")
    client = {*inspect.signature(distributed.Client).parameters}
    assert _held("client_kwargs") == client - {"address", "asynchronous", "loop", "kwargs"}
    assert Catalogue().inner_options(flow("prefect::ThreadPoolTaskRunner")) == {}


@pytest.mark.parametrize(
    ("runner", "options", "words"),
    [
        ("DaskTaskRunner", {"cluster_class": "dask_jobqueue.SLURMCluster"}, None),
        ("DaskTaskRunner", {"cluster_class": "dask_jobqueue.slurm.SLURMCluster"}, None),
        ("DaskTaskRunner", {"cluster_class": "dask.distributed.LocalCluster"}, None),
        ("DaskTaskRunner", {"cluster_class": "no_such_package.Cluster"}, None),
        ("DaskTaskRunner", {"cluster_class": None, "address": "tcp://a:1"}, None),
        (
            "DaskTaskRunner",
            {"cluster_class": "dask_jobqueue.SLRUMCluster"},
            "there is no class 'SLRUMCluster' in 'dask_jobqueue': did you mean 'dask_job",
        ),
        (
            "DaskTaskRunner",
            {"cluster_class": "dask_jobqueue.slrum.SLURMCluster"},
            "there is no module 'dask_jobqueue.slrum'",
        ),
        ("DaskTaskRunner", {"cluster_class": "SLURMCluster"}, "must be the full name of a class"),
        ("DaskTaskRunner", {"cluster_class": 3}, "must be the full name of a class"),
        (
            "DaskTaskRunner",
            {"cluster_class": "distributed.LocalCluster", "address": "tcp://a:1"},
            "is for a cluster to start, and 'address' names one that is there",
        ),
        ("DaskTaskRunner", {"address": 8786}, "must be the address of what runs already"),
        ("RayTaskRunner", {"address": "head:6379"}, None),
        ("RayTaskRunner", {"address": "auto"}, None),
        ("RayTaskRunner", {"address": "ray://head:10001"}, "'ray://' is Ray Client's"),
    ],
)
def test_values_of_options_of_prefects_are_judged_without_an_engine(
    runner: str, options: dict[str, object], words: str | None
) -> None:
    pytest.importorskip("dask_jobqueue")
    found = Catalogue().misfits(flow(f"prefect::{runner}", **options))
    if words is None:
        assert found == {}
    else:
        option = next(iter(options))
        assert found[option].startswith(words)


def test_options_of_prefects_ray_hold_those_of_ray() -> None:
    written = {"num_cpu": 2, "_temp_dir": "/tmp/x"}  # noqa: S108 - nothing is written there
    known = Catalogue().inner_options(flow("prefect::RayTaskRunner", init_kwargs=written))
    assert {"num_cpus", "include_dashboard", "_temp_dir"} <= {*known["init_kwargs"]}
    assert not {"num_cpu", "address"} & {*known["init_kwargs"]}
