"""What the options of Prefect's runners hold, judged without an engine: ``lint`` asks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators.signatures import (
    is_installed,
    is_module,
    read_names,
    read_parameters,
)

__all__ = ["DASK", "RAY", "inner_options", "misfits"]

DASK: Final = "DaskTaskRunner"
RAY: Final = "RayTaskRunner"

_RAY_INIT: Final = "ray._private.worker:init"
_CLIENT: Final = "distributed.client:Client"
_OF_CLIENT: Final = frozenset({"address", "asynchronous", "loop"})
"""What a Dask client takes and Prefect decides."""
_ADAPT: Final = (
    "distributed.deploy.spec:SpecCluster.adapt",
    "distributed.deploy.adaptive:Adaptive",
)
_ADAPT_JOBS: Final = "dask_jobqueue.core:JobQueueCluster.adapt"
_ADAPT_MORE: Final = frozenset({"attribute", "memory_ratio", "target"})
"""What it hands on to ``Scheduler.workers_to_close``."""
_OF_ADAPT: Final = frozenset({"Adaptive", "cluster", "worker_key"})
"""No text in a file stands for one of these."""
_JOBQUEUE: Final = "dask_jobqueue."
_LOCAL: Final = frozenset({"dask.distributed.LocalCluster", "distributed.LocalCluster"})
_STARTS: Final = ("adapt_kwargs", "cluster_class", "cluster_kwargs")
_RAY_CLIENT: Final = "ray://"


def inner_options(flow: FlowSpec) -> dict[str, frozenset[str]]:
    """The names that options take which hold options themselves, by the option.

    Args:
        flow: Which runner, with its options; those alone are told of that it has.
    """
    if flow.runner == RAY:
        known = {"init_kwargs": _of_ray(flow.options.get("init_kwargs"))}
    elif flow.runner == DASK:
        known = {
            "cluster_kwargs": _of_cluster(flow.options),
            "adapt_kwargs": _of_adapt(flow.options),
            "client_kwargs": _of_client(),
        }
    else:
        known = {}
    return {
        option: names
        for option, names in known.items()
        if names is not None and option in flow.options
    }


def _of_ray(init: object) -> frozenset[str] | None:
    known = read_parameters(_RAY_INIT)
    # It has more than it says, which it does not promise to keep.
    names = init if isinstance(init, Mapping) else ()
    hidden = {str(name) for name in names if str(name).startswith("_")}
    return None if known is None else (known | hidden) - {"address"}


def _of_cluster(options: Mapping[str, Any]) -> frozenset[str] | None:
    if options.get("address") or options.get("cluster_class"):
        return None
    from fasthep_flow.orchestrators.dask import DASK as ENGINE

    known = ENGINE.options("local")
    return None if known is None else known - {"allowed_failures"}


def _of_adapt(options: Mapping[str, Any]) -> frozenset[str] | None:
    kind = str(options.get("cluster_class") or min(_LOCAL))
    if kind not in _LOCAL and not kind.startswith(_JOBQUEUE):
        return None
    jobs = (_ADAPT_JOBS,) if kind.startswith(_JOBQUEUE) else ()
    known = read_parameters(*_ADAPT, *jobs)
    return None if known is None else (known | _ADAPT_MORE) - _OF_ADAPT


def _of_client() -> frozenset[str] | None:
    known = read_parameters(_CLIENT)
    return None if known is None else known - _OF_CLIENT


def misfits(flow: FlowSpec) -> dict[str, str]:
    """What is wrong with the values of options, by the option.

    Args:
        flow: Which runner, with its options.
    """
    options = flow.options
    address = options.get("address")
    found = {}
    if address is not None and not isinstance(address, str):
        found["address"] = "must be the address of what runs already, such as 'node01:8786'"
    if flow.runner == RAY and str(address or "").startswith(_RAY_CLIENT):
        found["address"] = (
            "'ray://' is Ray Client's, which is no machine of the Ray: name its head as "
            "'host:6379', and have this machine join it with 'ray start --address=host:6379'"
        )
    if flow.runner != DASK:
        return found
    if address:
        of_start = [option for option in _STARTS if options.get(option)]
        found |= dict.fromkeys(
            of_start, "is for a cluster to start, and 'address' names one that is there"
        )
    wrong = _wrong_class(options.get("cluster_class"))
    return found | ({} if wrong is None else {"cluster_class": wrong})


def _wrong_class(name: object) -> str | None:
    """Why it names no class; ``None`` where nobody can say without importing it."""
    if name is None:
        return None
    if not isinstance(name, str) or not name.rpartition(".")[0]:
        return "must be the full name of a class, such as 'dask_jobqueue.SLURMCluster'"
    module, _, own = name.rpartition(".")
    if not is_installed(module):
        # Elsewhere it may be: `check` tells.
        return None
    if not is_module(module):
        return f"there is no module {module!r}"
    known = read_names(module)
    if known is None or own in known or is_module(name):
        return None
    close = difflib.get_close_matches(own, sorted(known), n=1)
    hint = f": did you mean '{module}.{close[0]}'?" if close else ""
    return f"there is no class {own!r} in {module!r}{hint}"
