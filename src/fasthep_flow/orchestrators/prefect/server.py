"""The Prefect server that a run brings along where none is configured.

It is Prefect's own temporary server, started by us for what Prefect leaves open: it ends with
the driver, however that ends; a signal to the terminal's processes does not reach it; and it
asks for a password of this run, since any user of the machine could talk to it.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO, Final, NamedTuple

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.orchestrators.remote import interrupts_free

__all__ = ["TemporaryServer", "temporary_server"]

_START_S: Final = 120.0
"""A new database takes half a minute on a slow disk."""
_STOP_S: Final = 10.0
_TAIL: Final = 2000
_GUARD: Final = """
exec 3<&0
(read -r _ <&3; kill -TERM $$ 2>/dev/null) >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null
"""
"""A shell that becomes the server, and leaves a watch behind: it ends the server as soon as
nobody holds the other end of its standard input, by intention or because the driver died."""


_SERVICES: Final = "PREFECT_SERVER_SERVICES"
_IN_BULK: Final = {
    # By default each state of each task run is a transaction of its own, behind which a run of
    # a thousand tasks would wait for a minute.
    f"{_SERVICES}_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    f"{_SERVICES}_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    # Seconds, of which Prefect takes the whole ones: of less than one it would never sleep.
    f"{_SERVICES}_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    f"{_SERVICES}_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    f"{_SERVICES}_EVENT_PERSISTER_BATCH_SIZE": "200",
}
"""How the server writes down what it is told, unless the user has settings of these names."""


class TemporaryServer(NamedTuple):
    """Where it is and what it asks for.

    Args:
        api_url: For ``PREFECT_API_URL``.
        auth_string: For ``PREFECT_API_AUTH_STRING``.
    """

    api_url: str
    auth_string: str


@contextmanager
def temporary_server(settings: Mapping[str, str]) -> Iterator[TemporaryServer]:
    """A server on the loopback interface, for as long as the context lasts.

    Args:
        settings: The user's Prefect settings, as environment variables.

    Raises:
        OrchestratorUnavailable: It does not start.
    """
    auth_string = f"fasthep-flow:{secrets.token_urlsafe(16)}"
    environment = {
        **_IN_BULK,
        **os.environ,
        **settings,
        "PREFECT_SERVER_API_AUTH_STRING": auth_string,
        # What Prefect sets for its own temporary server: no pages, no services that schedule.
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    with tempfile.TemporaryFile() as log:
        url, process = _start(environment, log)
        try:
            yield TemporaryServer(f"{url}/api", auth_string)
        finally:
            _stop(process)


def _start(environment: Mapping[str, str], log: IO[bytes]) -> tuple[str, subprocess.Popen[bytes]]:
    deadline_s = time.monotonic() + _START_S
    while True:
        port = _free_port()
        server = [sys.executable, "-m", "uvicorn", "--factory"]
        server += ["prefect.server.api.server:create_app", "--host", "127.0.0.1"]
        server += ["--port", str(port), "--log-level", "error", "--lifespan", "on"]
        with interrupts_free():
            process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "sh", *server],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            if _await_answer(url, process, deadline_s):
                return url, process
        except BaseException:
            _stop(process)
            raise
        _stop(process)
        words = _tail(log)
        # Another process can take the port between our look and the server's.
        if "address already in use" not in words or time.monotonic() > deadline_s:
            raise OrchestratorUnavailable(
                f"Prefect's temporary server ended with code {process.returncode}: {words}"
            )


def _await_answer(url: str, process: subprocess.Popen[bytes], deadline_s: float) -> bool:
    """Whether the server answers; ``False`` if it ended."""
    while process.poll() is None:
        if _answers(url):
            return True
        if time.monotonic() > deadline_s:
            raise OrchestratorUnavailable(
                f"Prefect's temporary server did not answer within {_START_S:g} s",
                hint="set PREFECT_API_URL to a server that runs already",
            )
        time.sleep(0.1)
    return False


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    # The proxy of the user's environment has no business with the loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/api/health", timeout=5) as response:
            return bool(response.status == HTTPStatus.OK)
    except (OSError, urllib.error.URLError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _TAIL))
    return " ".join(log.read().decode(errors="replace").split())
