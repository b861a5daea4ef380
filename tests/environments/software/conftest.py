"""A folder where software is made, and a cache of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.environments.software.made import made_wheel

from fasthep_flow.environments.software import keys, pythons, setups


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workflow's folder; what is made for it is kept for the test alone."""
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _another_process(work: Path) -> Iterator[None]:
    """Nothing is known from the test before."""
    assert work.is_dir()
    forget()
    yield
    forget()


def forget() -> None:
    """Be another process: know only what is on the disk."""
    setups._MEMORY.clear()
    pythons._FOUND.clear()
    pythons._WHOLE.clear()
    keys._key.cache_clear()


@pytest.fixture
def wheels(work: Path) -> Path:
    """Two versions of ``tiny``, and ``other``, which needs the first one."""
    folder = work / "wheels"
    made_wheel(folder, "tiny", "1.0")
    made_wheel(folder, "tiny", "2.0")
    made_wheel(folder, "other", "1.0", needs=["tiny<2"])
    return folder
