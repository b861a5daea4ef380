"""Extra data, examined: whether it is there, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fasthep_flow.environments.preflight.verdicts import Check
from fasthep_flow.model import DataItem

__all__ = ["check_data"]


def check_data(
    items: Sequence[DataItem],
    *,
    may_fetch: bool,
    offline: bool,
    progress: Callable[[str], None],
) -> list[Check]:
    """A row for each item: where it is, how large, and its digest.

    Args:
        items: That a task needs.
        may_fetch: Whether to have them on this machine, or to look only.
        offline: Whether nothing may be asked for.
        progress: Is told of what may take long.
    """
    if items:
        raise NotImplementedError
    return []
