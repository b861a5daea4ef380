"""Limits that a runtime can hold, and what becomes of those that it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from fasthep_flow.errors import LimitUnenforceable
from fasthep_flow.model import Resources

__all__ = ["Limit", "held_limits", "not_held"]

Limit: TypeAlias = Literal["memory", "cpus"]
_NOT_HELD: Final = "not enforced: "


def not_held(resources: Resources, limit: Limit, why: str, hint: str | None = None) -> str:
    """What :meth:`~fasthep_flow.environments.Runtime.check` says of a limit that it cannot hold.

    Args:
        resources: Of the task; says whether that is to be refused.
        limit: The one that cannot be held.
        why: As the end of a sentence: ``podman cannot limit memory on this machine (...)``.
        hint: What to do about it, beside not insisting.

    Raises:
        LimitUnenforceable: The task insists.
    """
    if resources.enforce == "best_effort":
        return f"{_NOT_HELD}{why}"
    advice = f"leave {limit} out, or write 'enforce: best_effort' under resources"
    raise LimitUnenforceable(why, hint=advice if hint is None else f"{hint}, or {advice}")


def held_limits(resources: Resources, enforced: Mapping[str, str]) -> Resources:
    """The resources without the limits that are not enforced.

    Args:
        resources: Of the task.
        enforced: What :meth:`~fasthep_flow.environments.Runtime.check` said.
    """
    changes = {
        limit: None for limit in ("memory", "cpus") if enforced.get(limit, "").startswith(_NOT_HELD)
    }
    return msgspec.structs.replace(resources, **changes)
