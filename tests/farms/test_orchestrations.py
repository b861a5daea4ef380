"""A farm by the name that its users know: defined in a settings file, listed, run on."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.farms.batch import Asked, BatchSystem, FarmSite
from tests.faults.conftest import shell

from fasthep_flow.errors import ExitCode

CLASSES = {"slurm": "SLURMCluster", "htcondor": "HTCondorCluster"}


@pytest.fixture
def settings(batch: BatchSystem, site: FarmSite) -> Path:
    """A settings file of a user's, for the batch system."""
    path = site.root / "settings.yaml"
    kwargs = {"runner": CLASSES[batch.name], "cores": 1, "memory": "600Mi", "death_timeout": 10}
    path.write_text(
        json.dumps({"flow": "dask::farm", "orchestrations": {"dask::farm": {"kwargs": kwargs}}})
    )
    site.variables["FASTHEP_FLOW_CONFIG"] = str(path)
    return path


def _listed(site: FarmSite, **environment: str) -> dict[str, Any]:
    said = site.run("list", "orchestrations", "--format", "json", **environment)
    assert said.code == 0, said.both
    return {row["name"]: row for row in json.loads(said.out)["orchestrations"]}


def test_a_workflow_that_names_nothing_runs_on_the_users_farm(
    batch: BatchSystem, site: FarmSite, settings: Path
) -> None:
    task = shell("greet", "echo here", environment={"resources": {"memory": "50Mi"}})
    (site.work / "workflow.yaml").write_text(json.dumps({"tasks": [task]}))
    assert _listed(site)["dask::farm"]["can_run"]
    said = site.run("run")
    assert said.code == 0, said.both
    # As large as the definition says, and by the batch system's own record.
    assert {*batch.asked(site.root).values()} == {Asked(cpus=1, memory_mib=600)}
    plan = json.loads((site.work / "output" / "latest" / "plan.json").read_text())
    assert (plan["flow"]["orchestration"], plan["flow"]["runner"]) == ("dask::farm", batch.name)
    assert plan["flow"]["origin"] == plan["flow_origin"] == f"{settings}:1"
    assert batch.alive(site.root) == set()


def test_on_a_machine_that_cannot_submit_it_is_listed_with_the_reason(
    batch: BatchSystem, site: FarmSite, settings: Path, tmp_path: Path
) -> None:
    del settings
    command = {"slurm": "sbatch", "htcondor": "condor_submit"}[batch.name]
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "env"):
        (programs / name).symlink_to(f"/bin/{name}")
    row = _listed(site, PATH=str(programs))["dask::farm"]
    assert not row["can_run"]
    assert command in row["why_not"]
    (site.work / "workflow.yaml").write_text(json.dumps({"tasks": [shell("greet", "echo here")]}))
    said = site.run("run", PATH=str(programs))
    assert said.code == ExitCode.ORCHESTRATOR, said.both
    assert command in said.err
    assert not site.up("output/latest/tasks/greet")
