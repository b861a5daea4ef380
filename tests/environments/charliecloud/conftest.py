"""One cache of images for all tests of charliecloud's, and a place with an odd name."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    # One for all of these tests: to unpack python takes a while.
    path = tmp_path_factory.getbasetemp() / "images for charliecloud"
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(path))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "a: b,\n'c' \"d\" µ $HOME"
    path.mkdir()
    return path
