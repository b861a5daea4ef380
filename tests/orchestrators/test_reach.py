"""Whether somebody is at an address."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fasthep_flow.orchestrators.reach import why_unreachable


@pytest.fixture
def port() -> Iterator[int]:
    """Where somebody listens who says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize(
    "form", ["127.0.0.1:{}", "localhost:{}", "tcp://127.0.0.1:{}", "tls://127.0.0.1:{}"]
)
def test_who_listens_is_reached(form: str, port: int, dead_port: int) -> None:
    assert why_unreachable(form.format(port)) is None
    assert why_unreachable(form.format(dead_port)) == "Connection refused"


def test_a_path_a_name_and_a_usual_port_are_understood(port: int, dead_port: int) -> None:
    assert why_unreachable(f"http://me:secret@127.0.0.1:{port}/api") is None
    assert why_unreachable("http://127.0.0.1/api", port) is None
    assert why_unreachable("http://127.0.0.1/api", dead_port) == "Connection refused"


@pytest.mark.parametrize("address", ["node01", "tcp://node01", ":8786", ""])
def test_what_names_no_port_is_told(address: str) -> None:
    assert why_unreachable(address) == "it is not host:port"


def test_what_is_no_port_is_told() -> None:
    assert "range" in (why_unreachable("127.0.0.1:99999") or "")
    assert why_unreachable("127.0.0.1:http") is not None


def test_what_is_none_of_tcps_is_not_asked() -> None:
    assert why_unreachable("ucx://127.0.0.1:9") is None
    assert why_unreachable("inproc://127.0.0.1/1/2") is None
