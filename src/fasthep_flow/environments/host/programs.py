"""Modules of ours that run as programs of their own, before a task's program does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

__all__ = ["program_argv"]

_BOOT: Final = """\
import sys
folder, name = sys.argv[1:3]
del sys.argv[1:3]
for package in ("fasthep_flow", "fasthep_flow.environments"):
    module = sys.modules[package] = type(sys)(package)
    module.__path__ = [folder]
    folder += "/environments"
__import__(name)
sys.modules[name].main(sys.argv[1:])
"""
"""It stands in for the packages on the way to the module: these import what it does without."""

_PACKAGE: Final = str(Path(__file__).parents[2])


def program_argv(name: str, *arguments: str) -> tuple[str, ...]:
    """The command line that runs ``main`` of a module that needs the standard library alone.

    Args:
        name: Of the module, in a package below ``fasthep_flow.environments``.
        arguments: That ``main`` is handed.
    """
    # What the environment says to Python is meant for the task. UTF-8 keeps all bytes.
    python = (sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT)
    return (*python, _PACKAGE, name, *arguments)
