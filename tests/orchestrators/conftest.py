"""One Prefect server for all tests here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasthep_flow.orchestrators.prefect.server import temporary_server

pytest.register_assert_rewrite("fasthep_flow.testing.runners")


@pytest.fixture(scope="package")
def prefect_server(prefect_home: Path) -> Iterator[str]:
    """The URL of a server that answers."""
    assert os.environ["PREFECT_HOME"] == str(prefect_home)
    with temporary_server({}) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", server.api_url)
        patch.setenv("PREFECT_API_AUTH_STRING", server.auth_string)
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
        yield server.api_url
    refresh_global_settings_context()
