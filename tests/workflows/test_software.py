"""Software beside the image, as tasks see it: on the host, and in containers of every runtime."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.environments.software.made import made_wheel
from tests.faults.conftest import Said, Site, kept_image, shell

EVERYWHERE = [
    "native",
    *(
        pytest.param(name, marks=getattr(pytest.mark, name))
        for name in ("podman", "docker", "apptainer", "charliecloud")
    ),
]
SEE = 'OUT="$FASTHEP_TASK_NAME"; mkdir -p "$OUT"; env -0 >"$OUT/env"; pwd >"$OUT/pwd"'
LOOK = """\
import importlib.util
import os
import subprocess
import sys


def look():
    found = {name: importlib.util.find_spec(name) is not None for name in ("tiny", "msgspec")}
    import tiny

    found["version"] = tiny.version
    found["prefix"] = sys.prefix
    found["program"] = subprocess.check_output(["tiny-tell"]).decode().strip()
    try:
        with open(os.path.join(sys.prefix, "written"), "w") as file:
            file.write("x")
        found["written"] = True
    except OSError:
        found["written"] = False
    return found


def where():
    return {"python": sys.executable, "view": os.environ.get("VIEW")}
"""


class Desk(Site):
    """A workflow's folder with a view of software, and packages of its own."""

    def __init__(self, root: Path, cache: Path, runtime: str, image: str | None) -> None:
        super().__init__(root, cache)
        self.variables |= {"UV_CACHE_DIR": str(root / "uv"), "HOST_ONLY": "seen"}
        self.runtime = runtime
        self.place: dict[str, Any] = {}
        if image is not None:
            self.place = {"image": {"name": image, "runtime": runtime}}
        view = self.work / "view of LCG"
        (view / "bin").mkdir(parents=True)
        (view / "setup.sh").write_text(
            'here=${BASH_SOURCE[0]%/*}\n[ -f "$here/none" ] && false\nfalse\n'
            'source "$here/nested.sh"\n'
            'export PATH="$here/bin:$PATH" VIEW="$here" \n'
        )
        (view / "nested.sh").write_text("export NESTED=1 MULTI=$'a\\nb'\n")
        (self.work / "look.py").write_text(LOOK)
        made_wheel(self.work / "wheels", "tiny", "1.0")
        made_wheel(self.work / "wheels", "tiny", "2.0")
        made_wheel(self.work / "wheels", "other", "1.0", needs=["tiny<2"])
        self.requirements = ["--no-index", "--find-links ./wheels"]

    def task(self, name: str, line: str = SEE, **environment: Any) -> dict[str, Any]:
        return shell(name, line, environment={**self.place, **environment})

    def call(self, name: str, function: str, **environment: Any) -> dict[str, Any]:
        return {
            "name": name,
            "type": "fasthep_flow.operators.PythonOperator",
            "kwargs": {"python_callable": f"look.{function}"},
            "environment": {**self.place, **environment},
        }

    def seen(self, name: str) -> dict[str, str]:
        """The environment of the task, by its own account."""
        text = (self.work / name / "env").read_text(encoding="utf-8")
        return dict(one.partition("=")[::2] for one in text.split("\0") if one)

    def value(self, name: str) -> Any:
        return self.result(name).value

    def fine(self, *words: str) -> Said:
        said = self.run(*(words or ("run",)))
        assert said.code == 0, said.both
        return said

    def lines(self, name: str) -> int:
        path = self.work / name
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(params=EVERYWHERE)
def desk(
    request: pytest.FixtureRequest, tmp_path: Path, python_sif: Path, tmp_path_factory: Any
) -> Iterator[Desk]:
    """On the host, and in the image with bash and python3 of each runtime."""
    runtime = request.param
    image = None if runtime == "native" else kept_image(runtime, "python", python_sif.parent)
    # Images are shared, what is made in them is not.
    cache = tmp_path / "cache"
    shared = tmp_path_factory.getbasetemp() / "software-images"
    shared.mkdir(exist_ok=True)
    cache.mkdir()
    (cache / "images").symlink_to(shared)
    made = Desk(tmp_path / "site", cache, runtime, image)
    yield made
    made.end()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Desk]:
    """On the host alone."""
    made = Desk(tmp_path / "site", tmp_path / "cache", "native", None)
    yield made
    made.end()


def test_a_task_sees_what_the_script_sets(desk: Desk) -> None:
    setup = ["view of LCG/setup.sh", "export MINE=$MINE-more ADDED=$NESTED\nunset DROPPED\ncd /"]
    setup[0] = {"script": setup[0]}  # type: ignore[call-overload]
    variables = {"MINE": "task", "DROPPED": "1"}
    desk.write(desk.task("see", setup=setup, variables=variables))
    desk.fine()
    seen = desk.seen("see")
    view = desk.work / "view of LCG"
    assert {name: seen.get(name) for name in ("VIEW", "NESTED", "MULTI", "MINE", "ADDED")} == {
        "VIEW": str(view),
        "NESTED": "1",
        "MULTI": "a\nb",
        "MINE": "task-more",
        "ADDED": "1",
    }
    assert "DROPPED" not in seen
    assert seen["PATH"].split(":")[0] == f"{view}/bin"
    assert len(seen["PATH"].split(":")) > 2
    assert ("HOST_ONLY" in seen) == (desk.runtime == "native")
    assert seen["FASTHEP_TASK_NAME"] == "see"
    assert (desk.work / "see" / "pwd").read_text().strip() == str(desk.work)
    assert not any(name.startswith(("_fasthep", "BASH_")) for name in seen)


def test_it_is_sourced_once_for_all_tasks_and_runs(desk: Desk) -> None:
    setup = "echo x >>count\nexport COUNTED=1\nsource './view of LCG/nested.sh'"
    desk.write(*(desk.task(f"t{number}", setup=setup) for number in range(5)))
    said = desk.fine()
    assert said.out.count("sourcing the setup script") + said.err.count("sourcing") == 1
    desk.write(*(desk.task(f"t{number}", setup=setup, reuse=False) for number in range(5)))
    desk.fine()
    assert desk.lines("count") == 1
    assert all(desk.seen(f"t{number}")["COUNTED"] == "1" for number in range(5))
    # An edit of what is sourced in there is seen.
    (desk.work / "view of LCG" / "nested.sh").write_text("export NESTED=edited\n")
    desk.write(desk.task("edited", setup=setup))
    desk.fine()
    assert desk.seen("edited")["NESTED"] == "edited"
    assert desk.lines("count") == 2


def test_a_script_that_fails_is_told_before_the_first_task(desk: Desk) -> None:
    setup = "export A=1\n\nls /nowhere/at-all\nexport B=1"
    desk.write(desk.task("before"), desk.task("see", setup=setup))
    said = desk.run("run")
    assert said.code == 4, said.both
    assert "task 'see': the setup script (workflow.yaml:1) fails on line 3: ls /nowhere" in said.err
    assert said.err.count("fails on line") == 1
    assert not (desk.work / "before").exists()
    assert not (desk.work / "see").exists()


def test_a_script_takes_neither_credentials_nor_devices_away(desk: Desk) -> None:
    (desk.work / "token").write_text("abc.def.ghi\n")
    (desk.work / "token").chmod(0o600)
    asked = [{"kind": "file", "file": "token", "variable": "MY_FILE"}]
    site = "export MY_FILE=/nowhere CUDA_VISIBLE_DEVICES=0,1 SITE=1"
    desk.write(desk.task("before"), desk.task("see", setup=site, credentials=asked))
    said = desk.run("run")
    assert said.code == 4, said.both
    assert "task 'see': the setup script (workflow.yaml:1) sets MY_FILE, and so the" in said.err
    assert not (desk.work / "before").exists()
    kept = f"mine=$MY_FILE\n{site}\nexport MY_FILE=$mine"
    desk.write(desk.task("see", f'cat "$MY_FILE" >there; {SEE}', setup=kept, credentials=asked))
    desk.fine()
    assert (desk.work / "there").read_text() == "abc.def.ghi\n"
    seen = desk.seen("see")
    assert seen["SITE"] == "1"
    assert seen.get("CUDA_VISIBLE_DEVICES", "") == ""


def test_what_is_listed_as_secret_is_kept_nowhere(desk: Desk) -> None:
    setup = 'export OFFSET="$(cat hidden)"'
    (desk.work / "hidden").write_text("hunter2-XYZ")
    desk.write(desk.task("see", 'test "$OFFSET" = "$(cat hidden)"', setup=setup, secrets="OFFSET"))
    desk.fine()
    (desk.work / "hidden").unlink()
    folders = (desk.cache / "software", desk.work / "output")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "job.json" for path in files)
    assert not [path for path in files if b"hunter2-XYZ" in path.read_bytes()]


def test_a_callable_has_its_packages_and_not_ours(desk: Desk) -> None:
    desk.write(
        desk.call("look", "look", python={"requirements": [*desk.requirements, "other"]}),
        desk.task("see", python={"requirements": [*desk.requirements, "other"]}),
        desk.task("without"),
    )
    said = desk.fine()
    assert said.both.count("making a Python environment (other)") == 1
    found, seen = desk.value("look"), desk.seen("see")
    folder = seen["VIRTUAL_ENV"]
    assert found == {
        "tiny": True,
        "msgspec": False,
        "version": "1.0",
        "prefix": folder,
        "program": "1.0",
        "written": desk.runtime == "native" and found["written"],
    }
    assert folder.startswith(str(desk.cache))
    assert seen["PATH"].split(":")[0] == f"{folder}/bin"
    assert "/usr/bin" in seen["PATH"].split(":")
    assert seen["PYTHONNOUSERSITE"] == "1"
    assert "PYTHONPATH" not in seen
    assert "PYTHONHOME" not in seen
    assert desk.seen("without").get("VIRTUAL_ENV") != folder
    version = desk.result("look").software["python"]
    assert version.startswith("3.")
    assert desk.result("see").software == {"python": version}
    # A second run finds it.
    desk.write(desk.call("again", "look", python={"requirements": [*desk.requirements, "other"]}))
    assert "making" not in desk.fine().both
    assert desk.value("again")["prefix"] == folder


def test_both_together_and_the_environment_first(desk: Desk) -> None:
    environment: dict[str, Any] = {
        "setup": "source './view of LCG/setup.sh'",
        "python": {"requirements": [*desk.requirements, "tiny==2.0"]},
    }
    desk.write(desk.task("see", **environment), desk.call("look", "look", **environment))
    desk.fine()
    seen = desk.seen("see")
    assert seen["PATH"].split(":")[:2] == [
        f"{seen['VIRTUAL_ENV']}/bin",
        "./view of LCG/bin",
    ]
    assert seen["NESTED"] == "1"
    assert desk.value("look")["version"] == "2.0"


def test_what_cannot_be_resolved_is_told_before_the_first_task(desk: Desk) -> None:
    python = {"requirements": [*desk.requirements, "other", "tiny==2.0"]}
    desk.write(desk.task("before"), desk.task("see", python=python))
    said = desk.run("run")
    assert said.code == 4, said.both
    assert "task 'see': no Python environment with other, tiny can be made" in said.err
    assert "Because all versions of other depend on tiny<2" in said.err
    assert not (desk.work / "before").exists()


def test_a_callable_has_the_python_that_the_script_puts_first(host: Desk) -> None:
    python = host.work / "view of LCG" / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nVIEW=by-the-wrapper exec {real_python()} "$@"\n')
    python.chmod(0o755)
    host.write(host.call("where", "where", setup="source './view of LCG/setup.sh'"))
    host.fine()
    assert host.value("where")["view"] == "by-the-wrapper"


def real_python() -> str:
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def test_check_runs_nothing_and_says_what_is_kept(host: Desk) -> None:
    host.write(
        host.task(
            "see",
            setup="echo x >>count\nexport A=1",
            python={"requirements": [*host.requirements, "tiny"]},
        )
    )
    before = host.fine("check").out
    assert host.lines("count") == 0
    assert "sourced when the run starts: 2 lines of bash (workflow.yaml:1)" in before
    assert "made when the run starts" in before
    host.fine("run")
    after = host.fine("check").out
    assert "kept, 1 variable: 2 lines of bash" in after
    assert "an environment with tiny is kept" in after
    assert host.lines("count") == 1


def test_lint_and_plan_run_nothing(host: Desk) -> None:
    host.write(host.task("see", setup="echo x >>count", python={"requirements": ["tiny"]}))
    host.fine("lint")
    host.fine("plan")
    assert host.lines("count") == 0
    assert not (host.cache / "software").exists()


def test_records_hold_no_value(host: Desk) -> None:
    setup = "export VALUE=4711-of-the-script"
    host.write(host.task("see", setup=["./s.sh"]))
    (host.work / "s.sh").write_text(setup)
    host.fine()
    assert host.seen("see")["VALUE"] == "4711-of-the-script"
    records = [path for path in (host.work / "output").rglob("*") if path.is_file()]
    assert all(b"4711-of-the-script" not in path.read_bytes() for path in records)
    json.loads((host.attempt("see") / "job.json").read_text())


@pytest.mark.podman
@pytest.mark.apptainer
@pytest.mark.parametrize("runtime", ["podman", "apptainer"])
def test_an_image_without_bash_or_glibc_is_refused(
    tmp_path: Path, warm_images: Path, sif_file: Path, runtime: str
) -> None:
    image = kept_image(runtime, "busybox", sif_file.parent)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "images").symlink_to(warm_images)
    desk = Desk(tmp_path / "site", cache, runtime, image)
    desk.write(desk.task("see", setup="export A=1"))
    said = desk.run("run")
    assert said.code == 4, said.both
    assert "has no bash" in said.err
    desk.write(desk.task("see", python={"requirements": [*desk.requirements, "tiny"]}))
    said = desk.run("run")
    assert said.code == 4, said.both
    assert "uv does not run in the image" in said.err
    desk.end()


@pytest.fixture
def warm_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = tmp_path_factory.getbasetemp() / "software-images"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.mark.podman
def test_the_image_s_own_python_is_used_and_its_own_path(tmp_path: Path, python_image: str) -> None:
    desk = Desk(tmp_path / "site", tmp_path / "cache", "podman", python_image)
    desk.write(
        desk.call("look", "where", python={"requirements": [*desk.requirements, "tiny"]}),
        desk.call("own", "where"),
    )
    desk.fine()
    assert desk.result("look").software == {"python": "3.11.2"}
    assert desk.value("look")["python"].startswith(str(desk.cache))
    assert not desk.value("own")["python"].startswith(str(desk.cache))
    desk.end()
