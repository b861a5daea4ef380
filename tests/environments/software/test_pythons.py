"""Python environments on the host: made once of what they are to hold, and kept."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.environments.software.conftest import forget
from tests.environments.software.made import PASSWORD, made_wheel, serving

from fasthep_flow.environments import Addition, ContainerSpec
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.environments.software import look, resolve, software
from fasthep_flow.errors import SoftwareUnavailable
from fasthep_flow.model import PythonSpec, Setup

LOCAL = ("--no-index", "--find-links ./wheels")


class Desk:
    """Environments of a folder.

    Args:
        work: The folder.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.told: list[str] = []

    def spec(self, *requirements: str, **more: Any) -> PythonSpec:
        return PythonSpec(requirements=(*LOCAL, *requirements), directory=str(self.work), **more)

    def __call__(
        self,
        python: PythonSpec,
        *,
        setup: Setup | None = None,
        offline: bool = False,
        **environment: str | None,
    ) -> Addition:
        forget()
        return software(
            setup,
            python,
            runtime=NATIVE,
            spec=ContainerSpec(name="test"),
            environment=environment,
            working_directory=str(self.work),
            offline=offline,
            progress=self.told.append,
        )

    def python(self, addition: Addition, code: str) -> str:
        """What a program says in the environment, as a task is handed it."""
        variables = {**os.environ, **addition.variables}
        present = {name: value for name, value in variables.items() if value is not None}
        done = subprocess.run(
            ["python3", "-c", code], env=present, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


@pytest.fixture
def desk(work: Path, wheels: Path) -> Desk:
    assert wheels.parent == work
    return Desk(work)


def folder(addition: Addition) -> Path:
    return Path(addition.variables["VIRTUAL_ENV"] or "")


def test_a_task_gets_its_packages_and_no_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(desk.work))
    made = desk(desk.spec("other"))
    code = "import other, tiny; print(tiny.version)"
    assert desk.python(made, code) == "1.0"
    missing = "import importlib.util as u; print(u.find_spec('msgspec'), u.find_spec('pip'))"
    assert desk.python(made, missing) == "None None"
    assert made.variables["PYTHONNOUSERSITE"] == "1"
    assert made.variables["PYTHONPATH"] is None
    assert made.variables["PYTHONHOME"] is None
    assert made.variables["FASTHEP_PYTHON"] == f"{folder(made)}/bin/python3"
    assert (made.variables["PATH"] or "").split(":")[0] == f"{folder(made)}/bin"
    assert made.facts == {
        "python": desk.python(made, "import platform as p; print(p.python_version())")
    }


def test_programs_of_packages_are_on_the_path(desk: Desk) -> None:
    made = desk(desk.spec("tiny==2.0"))
    told = "import subprocess; print(subprocess.check_output(['tiny-tell'], text=True))"
    assert desk.python(made, told) == "2.0"


def test_it_is_made_once(desk: Desk) -> None:
    spec = desk.spec("tiny==1.0")
    assert look(spec) is None
    first = desk(spec)
    assert look(spec) == folder(first)
    assert desk(spec) == first
    assert desk.told == ["making a Python environment (tiny)"]


def test_several_at_once_make_it_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(desk.work / "wheels") as index:
        # Without uv's own cache each making fetches.
        monkeypatch.setenv("UV_NO_CACHE", "1")
        desk(PythonSpec(requirements=(f"--index-url {index.url}", "tiny==2.0")))
        for_one = len(index.fetched)
        spec = PythonSpec(requirements=(f"--index-url {index.url}", "tiny==1.0"))
        threads = [threading.Thread(target=desk, args=(spec,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert index.fetched[for_one:] == ["tiny-1.0-py3-none-any.whl"] * for_one
    assert desk.told == ["making a Python environment (tiny)"] * 2


def _other_lines(desk: Desk) -> PythonSpec:
    return desk.spec("tiny==2.0")


def _file_changed(desk: Desk) -> PythonSpec:
    (desk.work / "own.txt").write_text("tiny==2.0\n")
    return desk.spec("-r own.txt")


@pytest.mark.parametrize("other", [_other_lines, _file_changed])
def test_what_is_asked_for_otherwise_is_another(
    desk: Desk, other: Callable[[Desk], PythonSpec]
) -> None:
    (desk.work / "own.txt").write_text("tiny==1.0\n")
    first = desk(desk.spec("-r own.txt"))
    second = desk(other(desk))
    assert folder(first) != folder(second)
    code = "import tiny; print(tiny.version)"
    assert [desk.python(one, code) for one in (first, second)] == ["1.0", "2.0"]


def test_uv_s_settings_of_where_from_make_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = PythonSpec(requirements=("tiny",), directory=str(desk.work))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(desk.work / "wheels"))
    first = desk(spec)
    assert desk.python(first, "import tiny; print(tiny.version)") == "2.0"
    made_wheel(desk.work / "older", "tiny", "0.5")
    monkeypatch.setenv("UV_FIND_LINKS", str(desk.work / "older"))
    assert desk.python(desk(spec), "import tiny; print(tiny.version)") == "0.5"


def test_nobody_changes_it_by_mistake(desk: Desk) -> None:
    made = folder(desk(desk.spec("tiny")))
    modes = [
        stat.S_IMODE(path.stat().st_mode) for path in (made, *made.rglob("*")) if path.is_dir()
    ]
    assert modes
    assert all(not mode & 0o222 for mode in modes)


def test_one_that_was_damaged_is_made_anew(desk: Desk) -> None:
    spec = desk.spec("tiny==1.0")
    made = folder(desk(spec))
    (made / "bin").chmod(0o755)
    (made / "bin" / "python").unlink()
    assert look(spec) is None
    again = desk(spec)
    assert folder(again) == made
    assert desk.python(again, "import tiny; print(tiny.version)") == "1.0"
    assert len(desk.told) == 2


def test_one_that_lost_a_file_is_made_anew(desk: Desk) -> None:
    spec = desk.spec("tiny==1.0")
    made = folder(desk(spec))
    forget()
    assert look(spec) == made
    (module,) = made.glob("lib/python3*/site-packages/tiny*.py")
    for above in module.parents[:4]:
        above.chmod(0o755)
    # What Python compiles for itself is none.
    for compiled in module.parent.glob("__pycache__/*"):
        compiled.parent.chmod(0o755)
        compiled.unlink()
    forget()
    assert look(spec) == made
    module.unlink()
    forget()
    assert look(spec) is None
    assert desk.python(desk(spec), "import tiny; print(tiny.version)") == "1.0"
    assert len(desk.told) == 2


def test_one_that_was_not_finished_is_not_trusted(desk: Desk) -> None:
    spec = desk.spec("tiny==1.0")
    made = folder(desk(spec))
    part = made.with_name(f".{made.name}.0123.part")
    made.chmod(0o755)
    made.rename(part)
    assert look(spec) is None
    desk(spec)
    assert not part.exists()
    assert made.is_dir()


def test_resolved_requirements_have_digests_and_these_are_held_to(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = desk.spec("other")
    lines = resolve(spec)
    assert [line.partition(" ")[0] for line in lines] == ["other==1.0", "tiny==1.0"]
    assert all("--hash=sha256:" in line for line in lines)
    locked = msgspec.structs.replace(spec, resolved=lines)
    assert desk.python(desk(locked), "import tiny; print(tiny.version)") == "1.0"
    # Another file by the same name, and nothing kept of the first.
    made_wheel(desk.work / "wheels", "tiny", "1.0", needs=["other"])
    for name in ("UV_CACHE_DIR", "FASTHEP_FLOW_CACHE"):
        monkeypatch.setenv(name, str(desk.work / name))
    with pytest.raises(SoftwareUnavailable, match=r"Hash mismatch for `tiny==1\.0`"):
        desk(locked)


def test_with_resolved_requirements_uv_s_settings_do_not_count(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = desk.spec("tiny==1.0")
    locked = msgspec.structs.replace(spec, resolved=resolve(spec))
    made = desk(locked)
    monkeypatch.setenv("UV_INDEX_URL", "https://elsewhere.invalid/simple")
    assert desk(locked) == made


def test_nothing_to_resolve_is_nothing(desk: Desk) -> None:
    assert resolve(PythonSpec(version="3.11", directory=str(desk.work))) == ()


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        (("other", "tiny==2.0"), "no Python environment with other, tiny can be made: Because all"),
        (("nowhere-at-all",), "Because nowhere-at-all was not found in the provided package loc"),
        (("-r nowhere.txt",), "nowhere.txt`: No such file"),
        (("not a requirement",), "in the requirements at position"),
    ],
)
def test_what_cannot_be_resolved_is_refused_in_uv_s_words(
    desk: Desk, requirements: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SoftwareUnavailable) as caught:
        desk(desk.spec(*requirements))
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert not list((desk.work.parent / "cache" / "software" / "python").glob("*"))


def test_a_version_that_nobody_has_is_refused(desk: Desk) -> None:
    with pytest.raises(SoftwareUnavailable) as caught:
        desk(PythonSpec(version="3.99"))
    assert caught.value.message.startswith("Python 3.99 is not on this machine, and cannot be had")
    assert caught.value.hint == "'uv python list' shows the versions that can be had"


def test_the_version_that_is_asked_for_is_what_it_has(desk: Desk) -> None:
    own = ".".join(map(str, sys.version_info[:2]))
    made = desk(desk.spec("tiny", version=f"=={own}.*"))
    assert made.facts["python"].startswith(f"{own}.")


def test_offline_it_says_what_to_do_before(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_INDEX_URL", "https://elsewhere.invalid/simple")
    with pytest.raises(SoftwareUnavailable) as caught:
        desk(PythonSpec(requirements=("nowhere-at-all",)), offline=True)
    assert "'fasthep-flow pull'" in (caught.value.hint or "")


def test_offline_what_is_there_is_used(desk: Desk) -> None:
    spec = desk.spec("tiny")
    assert desk(spec) == desk(spec, offline=True)


def test_the_password_of_an_index_is_not_told(desk: Desk) -> None:
    with serving(desk.work / "wheels") as index:
        spec = PythonSpec(requirements=(f"--index-url {index.url}", "nowhere-at-all"))
        with pytest.raises(SoftwareUnavailable) as caught:
            desk(spec)
        assert PASSWORD not in str(caught.value)
        made = folder(desk(PythonSpec(requirements=(f"--index-url {index.url}", "tiny"))))
    written = [path for path in made.parent.parent.rglob("*") if path.is_file()]
    assert all(PASSWORD.encode() not in path.read_bytes() for path in written)


def test_a_setup_script_lies_below(desk: Desk) -> None:
    setup = Setup(lines="export PATH=/of/the/script:$PATH LIBRARY=/lib/of/it")
    made = desk(desk.spec("tiny"), setup=setup)
    assert (made.variables["PATH"] or "").split(":")[:2] == [
        f"{folder(made)}/bin",
        "/of/the/script",
    ]
    assert made.variables["LIBRARY"] == "/lib/of/it"
    assert look(desk.spec("tiny"), setup=setup, working_directory=str(desk.work)) == folder(made)


@pytest.mark.parametrize("name", ["PYTHONPATH", "PYTHONHOME"])
def test_a_setup_script_that_comes_before_the_packages_is_refused(desk: Desk, name: str) -> None:
    setup = Setup(lines=f"export {name}=/cvmfs/lib", origin="workflow.yaml:3")
    with pytest.raises(SoftwareUnavailable) as caught:
        desk(desk.spec("tiny"), setup=setup)
    assert caught.value.message.startswith(f"the setup script (workflow.yaml:3) sets {name}, which")
    assert f"unset {name}" in (caught.value.hint or "")


def test_the_author_s_own_python_path_stays(desk: Desk) -> None:
    made = desk(desk.spec("tiny"), PYTHONPATH=str(desk.work))
    assert "PYTHONPATH" not in made.variables
