"""Waiting for what another process does: no test guesses how long that takes."""

import time
from collections.abc import Callable
from typing import Final

__all__ = ["SOON_S", "wait_until"]

SOON_S: Final = 60.0
"""Long enough for whatever comes at all."""


def wait_until(true: Callable[[], object], complaint: str = "it did not come true") -> None:
    """Fail with the complaint where this does not come true soon."""
    until_s = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until_s, complaint
        time.sleep(0.01)
