"""What a process of the host's own sees at other places than where it is.

``enclosed.py`` does it, before it becomes the process's program.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from fasthep_flow.environments import Mount
from fasthep_flow.environments.host.programs import program_argv
from fasthep_flow.environments.host.reading import read_whole
from fasthep_flow.environments.host.scratch import scratch_folder

__all__ = ["UNMOUNTED", "NotEnclosed", "enclosed_argv", "read_trouble", "why_no_mounts"]

UNMOUNTED: Final = "not-mounted"
"""In an attempt's folder: why its program did not start among its mounts."""

_MODULE: Final = "fasthep_flow.environments.host.enclosed"
_MOST: Final = 8192
_LARGEST_REPORT: Final = 2**20
_TRIAL: Final = 'test -e "$0/there" && ! (: >"$0/made") 2>/dev/null'
_TRIAL_LIMIT_S: Final = 60.0


class NotEnclosed(NamedTuple):
    """Why a program did not start.

    Args:
        words: What could not be mounted, and why; empty where all of it was.
        error: What the kernel said to the start.
    """

    words: str
    error: OSError


def enclosed_argv(argv: Sequence[str], mounts: Sequence[Mount], report: str) -> tuple[str, ...]:
    """The words that start the program where it sees the mounts, and nobody else does.

    The program keeps the number of the process that these words start, its environment, its
    folder and its files. What it takes: about 20 ms.

    Args:
        argv: The program, looked for on the ``PATH``, and its arguments.
        mounts: Their targets are there. Of two, the one that may lie in the other comes later.
        report: Path of a file to be; it is there once the program could not be started
            (then the exit code is 127), and :func:`read_trouble` says why.
    """
    words = [report, str(len(mounts))]
    for mount in sorted(mounts, key=lambda mount: len(Path(mount.target).parts)):
        words += [mount.source, mount.target, "ro" if mount.read_only else "rw"]
    return program_argv(_MODULE, *words, *argv)


def read_trouble(report: str) -> NotEnclosed | None:
    """Why a program did not start among its mounts; ``None`` where it did.

    Args:
        report: The path that was given to :func:`enclosed_argv`; the file is removed.
    """
    try:
        # A task may have put anything there.
        said = read_whole(report, _LARGEST_REPORT).decode("utf-8", "backslashreplace")
        step, _, text = said[:_MOST].partition(" ")
        os.unlink(report)  # noqa: PTH108 - strings throughout
    except OSError:
        return None
    code = int(text) if step == "start" and text.isdecimal() else 0
    return NotEnclosed("" if code else text or "for no reason", OSError(code, os.strerror(code)))


@functools.cache
def why_no_mounts() -> str | None:
    """``None`` where processes of the host's can be given mounts of their own, else why not.

    It is tried, once in a process.
    """
    if sys.platform != "linux":
        return "only Linux has mounts that one process sees alone"
    try:
        with scratch_folder() as folder:
            source, target, report = (f"{folder}/{name}" for name in ("source", "target", "report"))
            Path(source).mkdir()
            Path(target).mkdir()
            Path(source, "there").touch()
            mount = Mount(source=source, target=target, read_only=True)
            done = subprocess.run(
                enclosed_argv(("/bin/sh", "-c", _TRIAL, target), [mount], report),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_TRIAL_LIMIT_S,
                check=False,
            )
            if done.returncode == 0:
                return None
            trouble = read_trouble(report)
    except (OSError, subprocess.SubprocessError) as error:
        return f"mounts cannot be tried: {error}"
    if trouble is not None:
        return trouble.words or f"mounts cannot be tried: {trouble.error.strerror}"
    said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    return said[-1] if said else "a folder that was mounted read-only could be written to"
