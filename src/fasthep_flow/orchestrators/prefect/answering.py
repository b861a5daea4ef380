"""Whether what a flow of Prefect's stands on answers: its server, a Dask cluster, a Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators.prefect.options import RAY
from fasthep_flow.orchestrators.reach import why_unreachable
from fasthep_flow.redaction import without_credentials

__all__ = ["require_engine", "require_server"]

_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


def require_server() -> None:
    """Refuse a Prefect server of the user's that nobody can connect to.

    Raises:
        OrchestratorUnavailable: With its address.
    """
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    parts = urlsplit(url or "")
    if not url or not parts.hostname or _goes_by_proxy(parts.scheme, parts.hostname):
        return
    reason = why_unreachable(url, _PORTS.get(parts.scheme))
    if reason is not None:
        raise OrchestratorUnavailable(
            f"no Prefect server answers at {without_credentials(url)}: {reason}",
            hint="start it, or set PREFECT_API_URL to one that runs; where neither it nor a "
            "profile names one, a run brings its own",
        )


def require_engine(flow: FlowSpec) -> None:
    """Refuse the address of an engine that nobody can connect to.

    Args:
        flow: Of one of the runners that take an address.

    Raises:
        OrchestratorUnavailable: With the address.
    """
    address = flow.options.get("address")
    # To Ray, words such as `auto` are addresses, too.
    if not address or (flow.runner == RAY and ":" not in address):
        return
    reason = why_unreachable(address)
    if reason is not None:
        what = "Ray" if flow.runner == RAY else "Dask scheduler"
        raise OrchestratorUnavailable(
            f"no {what} answers at {address}, the address of {flow}: {reason}",
            hint="start it, or correct the option address",
        )


def _goes_by_proxy(scheme: str, host: str) -> bool:
    return bool(getproxies().keys() & {scheme, "all"}) and not proxy_bypass(host)
