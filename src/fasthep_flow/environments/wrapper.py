"""The first process of a container: it names the variables, runs the task, and tells.

An engine's exit code says too little: 125 to 127 are the engine's own as much as a task's,
and that a child was killed for want of memory is in none. So the wrapper writes what it saw
into the attempt's folder. Where that record is missing, engine or image failed, not the task.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from fasthep_flow.environments.interpreter import call_argv, shim_argv, write_call
from fasthep_flow.model import Call, Invocation

__all__ = ["Status", "Wrapped", "alias", "read_status", "unsettable", "wrap"]

_SHELL_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_STATUS_FILE: Final = "container.status"

_SCRIPT: Final = r"""
_fasthep_folder=$1 _fasthep_count=$2 _fasthep_index=0 _fasthep_names=
shift 2
_fasthep_note() {
  echo "$1 $2" >>"$_fasthep_folder/container.status"
}
_fasthep_counter() {
  [ -r "/sys/fs/cgroup/$2" ] || return 0
  while read -r _fasthep_key _fasthep_value; do
    case $3 in
      '') _fasthep_note "$1" "$_fasthep_key" ;;
      "$_fasthep_key") _fasthep_note "$1" "$_fasthep_value" ;;
    esac
  done <"/sys/fs/cgroup/$2"
}
_fasthep_missing() {
  _fasthep_note missing 1
  exit 127
}
while [ "$_fasthep_index" -lt "$_fasthep_count" ]; do
  _fasthep_names="$_fasthep_names
command export $1=\"\$FASTHEP_V$_fasthep_index\" || { _fasthep_note refused $1; exit 125; }
unset FASTHEP_V$_fasthep_index"
  _fasthep_index=$((_fasthep_index + 1))
  shift
done
(
  { echo 100 >/proc/self/oom_score_adj; } 2>/dev/null
  export HOME="$_fasthep_folder"
  eval "$_fasthep_names"
  case $1 in
    */*) [ -e "$1" ] || _fasthep_missing ;;
    *) command -v "$1" >/dev/null 2>&1 || _fasthep_missing ;;
  esac
  exec "$@"
) >>"$_fasthep_folder/stdout.log" 2>>"$_fasthep_folder/stderr.log"
_fasthep_note exit $?
_fasthep_counter peak memory.peak
_fasthep_counter peak memory/memory.max_usage_in_bytes
_fasthep_counter oom_kill memory.events oom_kill
_fasthep_counter oom_kill memory/memory.oom_control oom_kill
_fasthep_counter cpu_us cpu.stat usage_usec
_fasthep_counter cpu_ns cpuacct/cpuacct.usage
_fasthep_note end 1
exit 0
"""
"""For any POSIX shell, with builtins alone: an image may have nothing else.

The program runs in the foreground: one that a shell starts in the background ignores
SIGINT. ``HOME`` is the attempt's folder, since the caller has none in the image. Should
memory run out, a process of the task's is to be killed, not this one: it must tell.
"""

_TERMINATE_ALL: Final = "kill -TERM -1"
_TERMINATE_ALL_PYTHON: Final = "import os; os.kill(-1, 15)"


class Wrapped(Struct, frozen=True, kw_only=True):
    """What the engine is to start for an invocation.

    Args:
        entrypoint: The program that the image must have.
        arguments: Its arguments.
        terminate: A command that, in the container, asks all of its processes to end but
            the first.
    """

    entrypoint: str
    arguments: tuple[str, ...]
    terminate: tuple[str, ...]


class Status(Struct, frozen=True, kw_only=True):
    """What the wrapper saw.

    Args:
        exit_code: Of the program.
        signal: The signal that ended it, where that can be told from an exit code.
        missing: The image has no such program.
        refused: The variable that the image's shell does not let anyone set.
        old_python: The version of an interpreter that is too old for a callable.
        oom_kills: How many processes the kernel killed for want of memory.
        peak_memory: Bytes of the container, files that it read included.
        cpu_s: Processor time of all its processes.
    """

    exit_code: int | None = None
    signal: int | None = None
    missing: bool = False
    refused: str | None = None
    old_python: str | None = None
    oom_kills: int = 0
    peak_memory: int | None = None
    cpu_s: float | None = None


def alias(index: int) -> str:
    """The name under which a variable's value enters the container."""
    # Under its own name PATH, HOME or DOCKER_HOST would change the engine's client.
    return f"FASTHEP_V{index}"


def unsettable(invocation: Invocation, names: Sequence[str]) -> str | None:
    """The first of the names that the wrapper of the invocation cannot give a variable."""
    if isinstance(invocation, Call):
        return None
    return next((name for name in names if not _SHELL_NAME.fullmatch(name)), None)


def wrap(invocation: Invocation, directory: str, names: Sequence[str]) -> Wrapped:
    """What the engine is to start.

    Args:
        invocation: What the task runs; the request of a callable is written.
        directory: The attempt's folder.
        names: Of the variables; the value of each is that of :func:`alias`.
    """
    _status_path(directory).unlink(missing_ok=True)
    if isinstance(invocation, Call):
        write_call(directory, invocation)
        entrypoint, *arguments = shim_argv(
            "python3", "wrap", directory, str(len(names)), *names, *call_argv("python3", directory)
        )
        terminate = ("python3", "-c", _TERMINATE_ALL_PYTHON)
    else:
        entrypoint = "/bin/sh"
        arguments = ["-c", _SCRIPT, "fasthep-flow", directory, str(len(names)), *names]
        arguments += invocation.argv
        terminate = ("/bin/sh", "-c", _TERMINATE_ALL)
    return Wrapped(entrypoint=entrypoint, arguments=tuple(arguments), terminate=terminate)


def read_status(directory: str) -> Status | None:
    """What the wrapper wrote, taken out of the folder; ``None`` where it did not come to an end."""
    path = _status_path(directory)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    path.unlink()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        fields[key] = value
    return _status(fields) if "end" in fields else None


def _status(fields: Mapping[str, str]) -> Status:
    nanoseconds = _number(fields, "cpu_ns")
    microseconds = _number(fields, "cpu_us")
    cpu_s = None
    if nanoseconds is not None:
        cpu_s = nanoseconds / 1e9
    elif microseconds is not None:
        cpu_s = microseconds / 1e6
    return Status(
        exit_code=_number(fields, "exit"),
        signal=_number(fields, "signal"),
        missing="missing" in fields,
        refused=fields.get("refused"),
        old_python=fields.get("old_python"),
        oom_kills=_number(fields, "oom_kill") or 0,
        peak_memory=_number(fields, "peak"),
        cpu_s=cpu_s,
    )


def _number(fields: Mapping[str, str], key: str) -> int | None:
    with contextlib.suppress(KeyError, ValueError):
        return int(fields[key])
    return None


def _status_path(directory: str) -> Path:
    return Path(directory, _STATUS_FILE)
