"""The pages that a Dask scheduler serves of its own.

They show tasks, workers and their logs to whoever can reach them, so they are served to this
machine alone unless the user says where; without the package bokeh there is nothing to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

__all__ = ["Pages", "dashboard_link", "plan_pages"]

_ADDRESS: Final = "dashboard_address"
_HERE: Final = "127.0.0.1:0"


class Pages(NamedTuple):
    """What the scheduler of a cluster serves.

    Args:
        options: For the scheduler.
        settings: Dask's configuration at its start.
        served: Whether there is a dashboard.
    """

    options: dict[str, Any]
    settings: dict[str, Any]
    served: bool


def plan_pages(options: Mapping[str, Any]) -> Pages:
    """What a scheduler is to serve.

    Args:
        options: With ``dashboard_address`` as Dask takes it; where it is not among them, a
            free port of this machine alone; ``None``, as everywhere in Dask, for no pages.
    """
    wanted = options.get(_ADDRESS) is not None or _ADDRESS not in options
    if wanted and (options.get(_ADDRESS) is not None or find_spec("bokeh") is not None):
        address = options.get(_ADDRESS) or _HERE
        return Pages({"dashboard": True, _ADDRESS: address}, {}, served=True)
    # Dask serves some pages all the same, on a port that a second cluster clashes with.
    routes: dict[str, Any] = {
        f"distributed.{kind}.http.routes": [] for kind in ("scheduler", "worker")
    }
    return Pages({"dashboard": False, _ADDRESS: _HERE}, routes, served=False)


def dashboard_link(pages: Pages, scheduler: Any) -> str | None:  # noqa: ANN401 - untyped
    """Where a browser on this machine finds the pages.

    Args:
        pages: As they were planned.
        scheduler: Of the cluster, in this process.
    """
    if not pages.served or scheduler.http_server is None:
        return None
    host, _, _ = str(pages.options[_ADDRESS]).rpartition(":")
    host = host.removeprefix("http://").removeprefix("https://") or "127.0.0.1"
    if host in {"0.0.0.0", "::", "[::]"}:  # noqa: S104 - nothing is bound here
        host = "127.0.0.1"
    return f"http://{host}:{scheduler.http_server.port}/status"
