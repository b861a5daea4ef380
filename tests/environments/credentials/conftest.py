"""The time at which credentials are made."""

import time

import pytest


@pytest.fixture
def now_s() -> float:
    """Seconds since 1970, whole as credentials have them."""
    return float(int(time.time()))
