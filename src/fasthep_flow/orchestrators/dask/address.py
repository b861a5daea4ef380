"""Where a Dask scheduler is that runs already."""

from __future__ import annotations

import json
from pathlib import Path

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators.reach import why_unreachable

__all__ = ["require_scheduler", "scheduler_address"]


def scheduler_address(flow: FlowSpec) -> str:
    """What the option ``address`` says, or the file that a scheduler writes.

    Args:
        flow: ``dask::scheduler``, with its options.

    Raises:
        OrchestratorUnavailable: Neither of both says it, or both do.
    """
    options = flow.options
    if options.get("address") and options.get("scheduler_file"):
        raise OrchestratorUnavailable(
            f"address and scheduler_file of {flow} say the same thing twice",
            hint="keep one of them",
        )
    if (file := options.get("scheduler_file")) is not None:
        try:
            found = json.loads(Path(str(file)).read_text())["address"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            words = f"{type(error).__name__}: {error}"
            raise OrchestratorUnavailable(
                f"scheduler_file of {flow} cannot be read: {words}",
                hint="the scheduler writes it when it starts",
            ) from error
        return str(found)
    address = options.get("address")
    if not isinstance(address, str) or not address:
        raise OrchestratorUnavailable(
            f"{flow} needs the address of a Dask scheduler",
            hint="give it the option address, such as tcp://node01:8786",
        )
    return address


def require_scheduler(flow: FlowSpec) -> None:
    """Refuse the address of a scheduler that nobody can connect to.

    Args:
        flow: ``dask::scheduler``, with its options.

    Raises:
        OrchestratorUnavailable: With the address.
    """
    address = scheduler_address(flow)
    if (reason := why_unreachable(address)) is not None:
        raise OrchestratorUnavailable(
            f"no Dask scheduler answers at {address}, the address of {flow}: {reason}",
            hint="start it, or correct the option that names it",
        )
