"""Times two commands or two functions in turn and prints the ratio of their medians.

A machine's speed drifts, so a figure alone says little: what is ours and its reference run
A B A B ..., and the ratio is what counts.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


def as_installed(folder: Path) -> dict[str, str]:
    """The environment in which Python compiles a module once, as where it was installed.

    Where it is told to write no bytecode, every start compiles all of ours anew.

    Args:
        folder: Where the bytecode goes.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Seconds of every run, ours and the reference's.

    Args:
        name: What is compared.
        ours_s: Seconds of each of our runs.
        reference_s: Seconds of each of the reference's.
        aim: The ratio that we want to stay under.
    """

    name: str
    ours_s: tuple[float, ...]
    reference_s: tuple[float, ...]
    aim: float

    @property
    def ratio(self) -> float:
        """The median of the ratios, pair by pair."""
        pairs = zip(self.ours_s, self.reference_s, strict=True)
        return statistics.median(ours / reference for ours, reference in pairs)

    def __str__(self) -> str:
        ours = statistics.median(self.ours_s)
        reference = statistics.median(self.reference_s)
        verdict = "within" if self.ratio <= self.aim else "OVER"
        return (
            f"{self.name:<52} {ours:8.3f} s  reference {reference:8.3f} s"
            f"  ratio {self.ratio:5.2f}  ({verdict} the aim of {self.aim:g})"
        )


def spread(comparison: Comparison) -> str:
    """The smallest and the largest ratio of a pair, and how many there are."""
    pairs = zip(comparison.ours_s, comparison.reference_s, strict=True)
    ratios = sorted(ours / reference for ours, reference in pairs)
    return f"ratios {ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} pairs"


def compare(
    name: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    aim: float,
    runs: int = 5,
) -> Comparison:
    """Run both once to warm up, then ``runs`` times in turn."""
    ours()
    reference()
    ours_s = []
    reference_s = []
    for _ in range(runs):
        ours_s.append(_seconds(ours))
        reference_s.append(_seconds(reference))
    return Comparison(name=name, ours_s=tuple(ours_s), reference_s=tuple(reference_s), aim=aim)


def command(
    argv: Sequence[str | Path], *, stdin: bytes = b"", folder: Path | None = None
) -> Callable[[], object]:
    """A function that runs a command to its end and fails where it does.

    Args:
        argv: The command.
        stdin: What it reads.
        folder: See :func:`as_installed`; ``None`` for what is no Python.
    """
    environment = None if folder is None else as_installed(folder)

    def run() -> None:
        subprocess.run(
            [str(word) for word in argv],
            input=stdin,
            stdout=subprocess.DEVNULL,
            env=environment,
            check=True,
        )

    return run


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
