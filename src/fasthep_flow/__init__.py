"""Describe an analysis once, in YAML; run every task in its own environment."""

from __future__ import annotations

# As that of typing, which is not there yet where Ctrl-C is guarded against.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from fasthep_flow.handle import Workflow

__all__ = ["Workflow"]


def __getattr__(name: str) -> object:
    # Every command and every worker imports this package: it stays as light as it is.
    if name == "Workflow":
        from fasthep_flow.handle import Workflow

        return Workflow
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
