"""The analysis of two muons, against numbers that are worked out here by other means."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import skhep_testdata  # type: ignore[import-untyped]
import uproot  # type: ignore[import-untyped]

Copy = Callable[[str, Path], Path]
Results = dict[str, dict[str, Any]]
Run = Callable[..., subprocess.CompletedProcess[str]]
Succeed = Callable[..., Results]

# What the images of the example are called here.
IMAGES = {
    "localhost/fasthep/dimuon-select:1": "physics-select",
    "localhost/fasthep/dimuon-statistics:1": "physics-stats",
    "localhost/fasthep/dimuon-plot:1": "physics-plot",
}


def dimuon_masses(min_pt: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The masses of the pairs that the example selects, one event after the other."""
    masses = []
    columns = ("Px", "Py", "Pz", "E", "Charge", "Iso")
    with uproot.open(skhep_testdata.data_path("uproot-HZZ.root")) as file:
        events = file["events"].arrays([f"Muon_{column}" for column in columns], library="np")
        fired = file["events/triggerIsoMu24"].array(library="np")
    for trigger, *event in zip(fired, *events.values(), strict=True):
        px, py, pz, energy, charge, isolation = np.array(event, dtype=float)
        pt = np.hypot(px, py)
        good = (pt > min_pt) & (isolation < 0.10 * pt)
        if trigger and good.sum() == 2 and charge[good].sum() == 0:
            momentum = sum(p[good].sum() ** 2 for p in (px, py, pz))
            masses.append(np.sqrt(energy[good].sum() ** 2 - momentum))
    return np.array(masses)


def between(masses: np.ndarray[Any, np.dtype[np.float64]], low: float, high: float) -> int:
    return int(((masses >= low) & (masses < high)).sum())


def check_numbers(results: Results) -> None:
    masses = dimuon_masses(min_pt=15)
    selected = results["select"]["value"]
    assert selected["events"] == 2421
    assert selected["opposite_charge"] == len(masses) == 1154
    assert selected["mean_mass_gev"] == pytest.approx(masses.mean(), abs=1e-3)
    histogram = results["histogram"]["value"]
    assert histogram["entries"] == len(masses)
    assert histogram["in_range"] == between(masses, 10, 150)
    assert histogram["z_peak_60_120_gev"] == between(masses, 60, 120)
    assert histogram["window"] == between(masses, 40, 50)
    assert histogram["sidebands"] == between(masses, 30, 40) + between(masses, 50, 60)
    statistics = results["statistics"]["value"]
    assert statistics["background_in_window"] == histogram["sidebands"] / 2
    # The best fit of a counting experiment is the difference.
    assert statistics["best_fit_signal_events"] == pytest.approx(
        histogram["window"] - histogram["sidebands"] / 2, abs=0.01
    )


def check_picture(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = matplotlib.image.imread(path)
    height, width = picture.shape[:2]
    assert width > 1000
    assert 1.5 < width / height < 3
    inked = (picture[..., :3].min(axis=2) < 0.95).mean()
    assert 0.02 < inked < 0.5


@pytest.fixture(scope="module")
def native(
    copy_example: Copy, succeed: Succeed, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Results]:
    """The folder of the analysis after a run without containers, and the run's results."""
    folder = copy_example("dimuon", tmp_path_factory.mktemp("native"))
    return folder, succeed(folder / "workflow.yaml")


def test_events_are_selected_and_counted(native: tuple[Path, Results]) -> None:
    check_numbers(native[1])


def test_the_limit_is_where_cls_is_five_percent(native: tuple[Path, Results]) -> None:
    folder, results = native
    observed = results["statistics"]["value"]["observed_limit_events"]
    expected = results["statistics"]["value"]["expected_limit_events"][2]

    def cls(signal_events: float) -> Any:
        pyhf = str(Path(sys.executable).with_name("pyhf"))
        argv = [pyhf, "cls", "results/workspace.json", "--test-poi", str(signal_events)]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    assert cls(observed)["CLs_obs"] == pytest.approx(0.05, abs=2e-4)
    assert cls(expected)["CLs_exp"][2] == pytest.approx(0.05, abs=2e-4)
    # More was seen than expected, so less can be excluded.
    assert observed > expected


def test_the_picture_can_be_looked_at(native: tuple[Path, Results]) -> None:
    folder, _ = native
    check_picture(folder / "results/dimuon_mass.png")
    assert (folder / "results/dimuon_mass.pdf").read_bytes().startswith(b"%PDF-")


def test_the_readme_tells_what_comes_out(native: tuple[Path, Results]) -> None:
    folder, results = native
    statistics = results["statistics"]["value"]
    text = (folder / "README.md").read_text()
    for number in (
        f"{results['select']['value']['opposite_charge']} of 2421 events",
        f"{results['select']['value']['mean_mass_gev']:.1f} GeV",
        f"{results['histogram']['value']['z_peak_60_120_gev']} of them between 60 and 120 GeV",
        f"at most {statistics['observed_limit_events']:.1f} signal events",
        f"{statistics['expected_limit_events'][2]:.1f} expected",
    ):
        assert number in text


def test_checksums_are_those_of_the_files(native: tuple[Path, Results]) -> None:
    folder = native[0] / "results"
    lines = (folder / "checksums.txt").read_text().splitlines()
    names = [line.split()[2] for line in lines]
    assert {"uproot-HZZ.root", "limit.json", "dimuon_mass.png"} <= set(names)
    done = subprocess.run(["cksum", *names], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == lines
    assert [int(line.split()[1]) for line in lines] == [
        (folder / name).stat().st_size for name in names
    ]


def statuses(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return {result["task"]: result["status"] for result in json.loads(done.stdout)["tasks"]}


def test_once_more_there_is_nothing_to_do(native: tuple[Path, Results], run: Run) -> None:
    folder, results = native
    again = statuses(run(folder / "workflow.yaml", "--format", "json"))
    assert again == dict.fromkeys(results, "reused")


def test_the_cuts_come_from_the_env_file(
    copy_example: Copy, succeed: Succeed, run: Run, tmp_path: Path
) -> None:
    folder = copy_example("dimuon", tmp_path)
    select = (folder / "workflow.yaml", "--tasks", "select")
    assert succeed(*select)["select"]["value"]["opposite_charge"] == 1154
    settings = folder / "selection.env"
    settings.write_text(settings.read_text().replace("MIN_MUON_PT=15", "MIN_MUON_PT=20"))
    done = run(*select, "--format", "json")
    assert statuses(done) == {"fetch": "reused", "select": "succeeded"}
    (selected,) = (task for task in json.loads(done.stdout)["tasks"] if task["task"] == "select")
    assert selected["value"]["opposite_charge"] == len(dimuon_masses(min_pt=20)) == 1089


def test_a_method_that_is_unknown_ends_the_analysis_there(
    copy_example: Copy, run: Run, tmp_path: Path
) -> None:
    folder = copy_example("dimuon", tmp_path)
    file = folder / "workflow.yaml"
    file.write_text(file.read_text().replace("STATS_METHOD: CLS", "STATS_METHOD: BAYES"))
    done = run(file, "--format", "json")
    assert done.returncode == 1
    results = {result["task"]: result for result in json.loads(done.stdout)["tasks"]}
    assert results["histogram"]["status"] == "succeeded"
    assert results["statistics"]["status"] == "failed"
    assert "STATS_METHOD is 'BAYES'" in results["statistics"]["failure"]["message"]
    assert results["plot"]["status"] == results["checksums"]["status"] == "skipped"
    assert not (folder / "results/dimuon_mass.png").exists()


@pytest.fixture
def images(physics_images: dict[str, str], python_image: str) -> dict[str, str]:
    """What the images that the example names are called in the registry here."""
    ours = {written: physics_images[name] for written, name in IMAGES.items()}
    return ours | {"docker.io/library/debian:12": python_image}


def test_containers_give_the_same_numbers(
    copy_example: Copy,
    succeed: Succeed,
    tmp_path: Path,
    engine: str,
    images: dict[str, str],
) -> None:
    folder = copy_example("dimuon", tmp_path)
    file = folder / "workflow-containers.yaml"
    text = file.read_text()
    for written, pushed in images.items():
        assert f"image: {written}\n" in text
        long_form = f"image: {{name: '{pushed}', runtime: {engine}}}\n"
        text = text.replace(f"image: {written}\n", long_form)
    file.write_text(text)

    results = succeed(file)

    check_numbers(results)
    check_picture(folder / "results-containers/dimuon_mass.png")
    assert results.pop("fetch")["runtime"] == "native"
    assert {result["runtime"] for result in results.values()} == {engine}
    assert {result["image"] for result in results.values()} == set(images.values())
    assert len({result["image_digest"] for result in results.values()}) == len(images)
    owners = {path.stat().st_uid for path in (folder / "results-containers").iterdir()}
    assert owners == {folder.stat().st_uid}
