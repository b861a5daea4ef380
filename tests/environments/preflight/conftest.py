"""A cache of the test's own, and made-up engines."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fasthep_flow.environments import RUNTIMES
from fasthep_flow.testing.runtimes import FakeRuntime, installed


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is kept of images is kept for the test alone."""
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts made-up engines in the place of the real ones."""
    with ExitStack() as stack:

        def put(*runtimes: FakeRuntime) -> None:
            for name in set(RUNTIMES) - {"native"}:
                monkeypatch.delitem(RUNTIMES, name)
            for runtime in runtimes:
                stack.enter_context(installed(runtime))

        yield put
