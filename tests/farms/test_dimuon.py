"""The dimuon analysis on a farm: the numbers are those of one machine."""

import json
from typing import Any

import pytest
from tests.examples.conftest import EXAMPLES
from tests.examples.test_dimuon import IMAGES, check_numbers, check_picture
from tests.farms.batch import Asked, BatchSystem, FarmSite

# What a worker takes besides its task, in MiB.
WORKER = 512
GIB = 1024

Results = dict[str, dict[str, Any]]


@pytest.fixture
def analysis(site: FarmSite) -> FarmSite:
    """A site with the files of the example."""
    for file in (EXAMPLES / "dimuon").iterdir():
        if file.suffix in {".py", ".yaml", ".env"}:
            (site.work / file.name).write_bytes(file.read_bytes())
    return site


def _results(site: FarmSite, file: str, batch: BatchSystem) -> Results:
    said = site.run("run", file, "--flow", f"dask::{batch.name}", "--format", "json")
    assert said.code == 0, said.both
    return {result["task"]: result for result in json.loads(said.out)["tasks"]}


def _requests(site: FarmSite, batch: BatchSystem, names: Results) -> dict[str, int]:
    asked: dict[str, Asked] = batch.asked(site.root)
    return {name: asked[site.claim(name)["batch_job"].split(".")[0]].memory_mib for name in names}


def test_natively(analysis: FarmSite, batch: BatchSystem) -> None:
    results = _results(analysis, "workflow.yaml", batch)
    check_numbers(results)
    check_picture(analysis.work / "results/dimuon_mass.png")
    requests = _requests(analysis, batch, results)
    assert requests.pop("statistics") == 2 * GIB + WORKER
    assert set(requests.values()) == {GIB + WORKER}
    assert batch.alive(analysis.root) == set()
    assert analysis.left() == {}


@pytest.mark.podman
def test_in_containers(
    analysis: FarmSite, batch: BatchSystem, physics_images: dict[str, str], python_image: str
) -> None:
    ours = {written: physics_images[name] for written, name in IMAGES.items()}
    ours["docker.io/library/debian:12"] = python_image
    file = analysis.work / "workflow-containers.yaml"
    text = file.read_text()
    for written, pushed in ours.items():
        text = text.replace(
            f"image: {written}\n", f"image: {{name: '{pushed}', runtime: podman}}\n"
        )
    file.write_text(text)

    results = _results(analysis, file.name, batch)

    check_numbers(results)
    check_picture(analysis.work / "results-containers/dimuon_mass.png")
    assert results["fetch"]["runtime"] == "native"
    assert {results[name]["runtime"] for name in results if name != "fetch"} == {"podman"}
    assert {results[name]["image"] for name in results if name != "fetch"} == set(ours.values())
    assert _requests(analysis, batch, results)["statistics"] == 2 * GIB + WORKER
    assert batch.alive(analysis.root) == set()
    assert analysis.left("podman") == {}
