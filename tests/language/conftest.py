"""A folder for the workflows of a test."""

from pathlib import Path

import pytest
from tests.language.made import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
