"""What befalls setup scripts and Python environments, and what is left of it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.environments.software.made import PASSWORD, Index, made_wheel, serving
from tests.faults.conftest import Site, kept_image, said_by, shell, wait_until

EVERYWHERE = [
    "native",
    pytest.param("podman", marks=pytest.mark.podman),
    pytest.param("apptainer", marks=pytest.mark.apptainer),
]


@pytest.fixture(params=EVERYWHERE)
def place(
    request: pytest.FixtureRequest, python_sif: Path, tmp_path_factory: Any, site: Site
) -> Iterator[dict[str, Any]]:
    """Of a task's environment; the site has a cache of its own, but for images."""
    shared = tmp_path_factory.getbasetemp() / "software-images"
    shared.mkdir(exist_ok=True)
    own_cache(site)
    (site.cache / "images").symlink_to(shared)
    if request.param == "native":
        yield {}
        return
    image = kept_image(request.param, "python", python_sif.parent)
    yield {"image": {"name": image, "runtime": request.param}}
    assert site.processes() == {}
    if request.param == "podman":
        assert site.containers(request.param) == []


def own_cache(site: Site) -> None:
    site.cache = site.root / "cache"
    site.cache.mkdir(exist_ok=True)
    site.variables["UV_CACHE_DIR"] = str(site.root / "uv")


@pytest.fixture
def index(site: Site) -> Iterator[Index]:
    own_cache(site)
    made_wheel(site.root / "wheels", "tiny", "1.0")
    with serving(site.root / "wheels") as served:
        yield served


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ("true\nexit 0\ntrue", "ends the shell on line 2: exit 0 (code 0)"),
        ("true\nexec true", "ends the shell on line 2: exec true"),
        ("head -c 1000000000 /dev/zero | tr '\\0' x\nfalse", "fails on line 2: false"),
        ("head -c 100000 /dev/urandom >&2\nfalse", "fails on line 2: false"),
        ("true\nif true", "syntax error"),
        ("kill -KILL $$", "is ended by the signal 9"),
    ],
)
def test_a_hostile_script_is_one_refusal(
    site: Site, place: dict[str, Any], setup: str, words: str
) -> None:
    task = shell("see", "touch ran", environment={**place, "setup": setup})
    site.write(shell("other", "touch ran"), task)
    said = site.run()
    assert said.code == 4, said.both
    assert words in said.err
    assert all(line.isprintable() for line in said.err.splitlines())
    assert len(said.err) < 2000
    assert not site.up("ran")


@pytest.mark.parametrize(
    "setup",
    [
        "printf 'done\\0yes\\0A=fake\\0'; export A=1",
        "cd /; umask 777; set -eu -C -f; readonly A=1; export A; IFS=A",
        "export A=1; exec >/dev/null 2>&1 <&-",
        "export A=1; export B=$(printf 'x\\0y'); unset HOME",
    ],
)
def test_what_a_script_does_to_its_shell_is_no_matter_of_the_task_s(
    site: Site, place: dict[str, Any], setup: str
) -> None:
    line = 'echo "$A" >seen; pwd >>seen; umask >>seen; command -v ls >>seen'
    site.write(shell("see", line, environment={**place, "setup": setup}))
    assert site.run().code == 0
    value, folder, mask, _ = (site.work / "seen").read_text().splitlines()
    assert (value, folder) == ("1", str(site.work))
    assert mask != "0777"


def test_two_runs_at_once_source_and_make_once(site: Site, index: Index, tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = tmp_path / "setup.sh"
    script.write_text(f"echo x >>{count}\nexport A=1\n")
    # Without uv's own cache each making fetches.
    site.variables |= {"UV_NO_CACHE": "1", "UV_INDEX_URL": index.url}
    site.write(
        *(
            shell(
                f"t{number}",
                "tiny-tell >told",
                environment={"setup": str(script), "python": {"requirements": ["tiny"]}},
            )
            for number in range(5)
        )
    )
    index.held.clear()
    drivers = [site.start("run", "--output", name) for name in ("one", "two")]
    wait_until(lambda: bool(index.fetched), "the index was asked")
    index.held.set()
    said = [said_by(driver) for driver in drivers]
    assert [one.code for one in said] == [0, 0], said
    assert count.read_text() == "x\n"
    assert sum(one.both.count("making a Python environment") for one in said) == 1
    assert (site.work / "told").read_text() == "1.0\n"
    assert len(list((site.cache / "software" / "python").glob("[!.]*"))) == 1


def test_killed_while_one_is_made_the_next_makes_it(site: Site, index: Index) -> None:
    site.variables["UV_INDEX_URL"] = index.url
    site.write(shell("see", "tiny-tell >told", environment={"python": {"requirements": ["tiny"]}}))
    index.held.clear()
    driver = site.start()
    wait_until(lambda: bool(index.fetched), "the index was asked")
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    folder = site.cache / "software" / "python"
    assert not list(folder.glob("[!.]*"))
    index.held.set()
    wait_until(lambda: not site.processes(), "uv ended")
    assert site.run().code == 0
    assert (site.work / "told").read_text() == "1.0\n"
    assert not list(folder.glob(".*.part"))


def test_stopped_while_a_script_is_sourced_nothing_is_left(
    site: Site, place: dict[str, Any]
) -> None:
    setup = f"touch begun\nsleep {site.nap}"
    site.write(shell("see", "touch ran", environment={**place, "setup": setup}))
    driver = site.start()
    wait_until(lambda: site.up("begun"))
    os.kill(driver.pid, signal.SIGINT)
    # Sooner than the client of a container that nobody ended would be given up.
    driver.wait(timeout=20)
    assert said_by(driver).code == 130
    wait_until(lambda: not site.processes(), "all ended")
    assert not site.up("ran")


def test_the_password_of_an_index_is_nowhere(site: Site, index: Index) -> None:
    site.variables["UV_INDEX_URL"] = index.url
    index.held.clear()
    site.write(
        shell("see", "tiny-tell >told", environment={"python": {"requirements": ["tiny"]}}),
    )
    driver = site.start()
    wait_until(lambda: bool(index.fetched), "the index was asked")
    shown = [line for line in map(_command_line, psutil.pids()) if PASSWORD in line]
    index.held.set()
    said = said_by(driver)
    assert said.code == 0, said.both
    assert shown == []
    assert PASSWORD not in said.both
    assert _holding(site.work, PASSWORD) == []
    assert _holding(site.cache, PASSWORD) == []
    site.write(shell("see", "true", environment={"python": {"requirements": ["nowhere-at-all"]}}))
    said = site.run()
    assert said.code == 4
    assert "nowhere-at-all" in said.err
    assert PASSWORD not in said.both


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _holding(folder: Path, text: str) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if text.encode() in path.read_bytes()]


def test_secrets_of_a_script_are_nowhere(site: Site, place: dict[str, Any]) -> None:
    (site.work / "login.sh").write_text("export API_TOKEN=hunter2-of-script\n")
    site.write(
        shell(
            "see",
            'test "${API_TOKEN#hunter2}" = -of-script && touch ran',
            environment={**place, "setup": "./login.sh"},
        )
    )
    assert site.run().code == 0
    assert site.up("ran")
    assert _holding(site.work / "output", "hunter2-of-script") == []
    assert _holding(site.cache / "software", "hunter2-of-script") == []
    (site.work / "login.sh").write_text("export API_TOKEN=hunter2-of-script; false\n")
    said = site.run()
    assert said.code == 4
    assert "hunter2-of-script" not in said.both


def test_a_full_cache_folder_is_told(site: Site) -> None:
    (site.root / "file").write_text("")
    site.cache = site.root / "file"
    site.write(shell("see", "true", environment={"setup": "export A=1"}))
    said = site.run()
    assert said.code == 4, said.both
    assert "no software can be kept in" in said.err


def test_a_python_that_nobody_has_is_told_before_the_first_task(site: Site) -> None:
    own_cache(site)
    site.write(shell("other", "touch ran"), shell("see", "true", environment={"python": "3.99"}))
    said = site.run()
    assert said.code == 4, said.both
    assert "task 'see': Python 3.99 is not on this machine, and cannot be had" in said.err
    assert not site.up("ran")


def test_what_fails_in_a_run_that_goes_on_leaves_no_folders(site: Site) -> None:
    own_cache(site)
    site.write(shell("see", "true", environment={"setup": "export A=1\nfalse"}))
    assert site.run().code == 4
    scratch = site.temporary / f"fasthep-flow-{os.getuid()}" / "containers"
    assert not scratch.exists() or not list(scratch.iterdir())
