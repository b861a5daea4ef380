"""What engines take, read from their text."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from fasthep_flow.orchestrators.signatures import (
    is_installed,
    is_module,
    read_names,
    read_parameters,
)

TEXT = '''
raise RuntimeError("nobody may import this")

class Cluster(Base):
    """A cluster."""

    def __init__(self, workers=None, /, host=None, *names, loop: "int | None" = None, **kwargs):
        pass

    @overload
    def adapt(self, nothing): ...

    def adapt(self, minimum: int = 0, *, maximum):
        pass

    class Inner: ...

class Bare(Base):
    pass

async def connect(address, timeout=3):
    pass

Alias = Cluster
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"signed_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    (folder / "deploy").mkdir(parents=True)
    (folder / "__init__.py").write_text(TEXT)
    (folder / "deploy" / "__init__.py").write_text(TEXT)
    (folder / "deploy" / "farm.py").write_text(TEXT)
    (folder / "broken.py").write_text("class Cluster(\n")
    (tmp_path / f"{name}_alone.py").write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("module", ["{}", "{}.deploy", "{}.deploy.farm", "{}_alone"])
def test_parameters_are_read_without_an_import(package: str, module: str) -> None:
    where = module.format(package)
    assert read_parameters(f"{where}:Cluster") == frozenset({"workers", "host", "loop"})
    assert read_parameters(f"{where}:Cluster.adapt") == frozenset({"minimum", "maximum"})
    assert read_parameters(f"{where}:connect") == frozenset({"address", "timeout"})
    assert package not in sys.modules


def test_those_of_several_are_told_together(package: str) -> None:
    assert read_parameters(f"{package}:Cluster", f"{package}.deploy.farm:connect") == frozenset(
        {"workers", "host", "loop", "address", "timeout"}
    )
    assert read_parameters() == frozenset()


@pytest.mark.parametrize(
    "target",
    [
        "no_such_package_at_all:Cluster",
        "no_such_package_at_all.deploy:Cluster",
        "{}.nowhere:Cluster",
        "{}.broken:Cluster",
        "{}:NoSuch",
        "{}:Alias",
        "{}:Bare",
        "{}:Cluster.nothing",
        "{}:Cluster.Inner",
        "{}_alone.inner:Cluster",
        "sys:exit",
        ":Cluster",
        "",
    ],
)
def test_what_nobody_can_say_is_none(package: str, target: str) -> None:
    assert read_parameters(target.format(package)) is None
    assert read_parameters(f"{package}:Cluster", target.format(package)) is None


def test_a_package_is_found_or_not(package: str) -> None:
    assert is_installed(package)
    assert is_installed(f"{package}.deploy")
    assert not is_installed("no_such_package_at_all")
    assert not is_installed("")
    assert package not in sys.modules


def test_a_module_is_found_or_not(package: str) -> None:
    for name in ("{}", "{}.deploy", "{}.deploy.farm", "{}.broken", "{}_alone"):
        assert is_module(name.format(package)), name
    for name in ("{}.nowhere", "{}.deploy.nowhere", "{}_alone.inner", "no_such_package", ""):
        assert not is_module(name.format(package)), name
    # Not all of them are text.
    assert is_module("sys")
    assert package not in sys.modules


def test_names_are_read_without_an_import(package: str, tmp_path: Path) -> None:
    assert read_names(f"{package}.deploy.farm") == frozenset(
        {"Cluster", "Bare", "Alias", "connect", "adapt", "Inner", "__init__"}
    )
    texts = {
        "lists": "from .a import One, Two as Second\nimport os.path\ntry:\n    import three\n"
        "except ImportError:\n    three = None\n",
        "stars": "from .deploy import *\n",
        "asks": "def __getattr__(name): ...\n",
    }
    for name, text in texts.items():
        (tmp_path / package / f"{name}.py").write_text(text)
    assert read_names(f"{package}.lists") == frozenset({"One", "Second", "os", "three"})
    for name in ("stars", "asks", "broken", "nowhere"):
        assert read_names(f"{package}.{name}") is None
    assert package not in sys.modules


def test_what_is_read_is_what_the_installed_engine_takes() -> None:
    distributed = pytest.importorskip("distributed")
    for target, kind in (
        ("distributed.deploy.local:LocalCluster", distributed.LocalCluster),
        ("distributed.nanny:Nanny", distributed.Nanny),
        ("distributed.worker:Worker", distributed.Worker),
    ):
        named = frozenset(
            parameter.name
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
        )
        assert read_parameters(target) == named


def test_reading_imports_no_engine() -> None:
    program = (
        "import sys\n"
        "from fasthep_flow.orchestrators.signatures import read_parameters\n"
        "read_parameters('distributed.worker:Worker', 'prefect.task_runners:PrefectFuture')\n"
        "print(*sorted({'dask', 'distributed', 'prefect'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
