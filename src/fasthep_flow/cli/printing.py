"""What commands print: warnings, and JSON for programs."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

from fasthep_flow.terminal import say, show

if TYPE_CHECKING:
    from fasthep_flow.model import Plan

__all__ = ["print_json", "print_utf8", "print_warnings"]


def print_warnings(plan: Plan) -> None:
    """Say what the author should know."""
    for warning in plan.warnings:
        say(f"warning: {warning}")


def print_json(data: object) -> None:
    """Print it as JSON."""
    import msgspec

    print_utf8(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


def print_utf8(text: str) -> None:
    """Print JSON, which is UTF-8 whatever the terminal is."""
    if isinstance(sys.stdout, TextIOWrapper):
        # Escapes for what another encoding lacks would be no JSON.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    show(text)
