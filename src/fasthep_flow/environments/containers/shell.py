"""What is said to the shell that serves in a container, and what it says.

A container is started with a shell in it, which reads its orders from standard input and
answers on standard output. So one container can serve several jobs, one after the other, a
variable's value is in no command line and in no record of the engine's, and a job costs a
fork instead of a container. An image that has python3 and no shell is served by ``shim.py``.

An engine's exit code says too little: 125 to 127 are the engine's own as much as a task's,
and that a child was killed for want of memory is in none. The shell's answers tell these
apart: where they end too early engine or image failed, not the task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from fasthep_flow.environments.interpreter import call_argv, shim_argv, write_call
from fasthep_flow.model import Call, Invocation

__all__ = [
    "FIRST_PROCESSES",
    "Dialect",
    "Order",
    "Report",
    "entry_text",
    "job_text",
    "prelude",
    "read_report",
    "server_argv",
    "terminate_argv",
    "unsettable",
]

Dialect: TypeAlias = Literal["sh", "python"]
"""What serves in the container."""

FIRST_PROCESSES: Final = 32
"""What serves in a process namespace of the container's own has no higher number than this."""

_SHELL_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

_MOST_DIGITS: Final = 20

_TELLING: Final = r"""
trap : TERM INT HUP QUIT
_fasthep_say() {
  echo "fasthep $_fasthep_number $1 $2"
}
_fasthep_missing() {
  _fasthep_say missing 1 >&3
  exit 127
}
_fasthep_refused() {
  _fasthep_say refused "$1" >&3
  exit 125
}
_fasthep_set() {
  command export "$1=$2" || _fasthep_refused "$1"
  eval "[ \"\$$1\" = \"\$2\" ]" || _fasthep_refused "$1"
}
_fasthep_unset() {
  unset "$1" || _fasthep_refused "$1"
}
_fasthep_lacks() {
  _fasthep_say lacks "$1" >&3
  exit 125
}
_fasthep_device() {
  [ -c "$1" ] || _fasthep_lacks "$1"
}
_fasthep_listed() {
  command -v nvidia-smi >/dev/null 2>&1 || return 0
  _fasthep_list=$(nvidia-smi -L 2>&1 </dev/null 3>&-)
  for _fasthep_gpu; do
    case $_fasthep_list in
      *"$_fasthep_gpu"*) ;;
      *) _fasthep_lacks "$_fasthep_gpu" ;;
    esac
  done
}
"""

_SERVING: Final = r"""
_fasthep_counter() {
  [ -r "/sys/fs/cgroup/$2" ] || return 0
  while read -r _fasthep_key _fasthep_value; do
    case $3 in
      '') _fasthep_say "$1" "$_fasthep_key" ;;
      "$_fasthep_key") _fasthep_say "$1" "$_fasthep_value" ;;
    esac
  done <"/sys/fs/cgroup/$2"
}
_fasthep_counters() {
  _fasthep_counter peak memory.peak
  _fasthep_counter peak memory/memory.max_usage_in_bytes
  _fasthep_counter oom_kill memory.events oom_kill
  _fasthep_counter oom_kill memory/memory.oom_control oom_kill
  _fasthep_counter cpu_us cpu.stat usage_usec
  _fasthep_counter cpu_ns cpuacct/cpuacct.usage
}
_fasthep_alone() {
  [ "$$" -le 32 ] || return 0
  _fasthep_turns=0
  while [ "$_fasthep_turns" -lt 400 ] && kill -0 -1; do
    (:)
    _fasthep_turns=$((_fasthep_turns + 1))
  done
  while [ "$_fasthep_turns" -lt 10000 ] && kill -KILL -1; do
    (:)
    _fasthep_turns=$((_fasthep_turns + 1))
  done
  ! kill -0 -1 || _fasthep_say left processes
}
_fasthep_left() {
  for _fasthep_file in /dev/shm/* /dev/shm/.[!.]* /dev/shm/..?* /dev/mqueue/*; do
    if [ -e "$_fasthep_file" ] || [ -L "$_fasthep_file" ]; then
      _fasthep_say left files
      break
    fi
  done
  for _fasthep_kind in shm msg sem; do
    _fasthep_turns=0
    while read -r _fasthep_key; do
      _fasthep_turns=$((_fasthep_turns + 1))
    done <"/proc/sysvipc/$_fasthep_kind"
    [ "$_fasthep_turns" -le 1 ] || _fasthep_say left "$_fasthep_kind"
  done
}
_fasthep_end() {
  echo
  { _fasthep_alone; } 2>/dev/null
  echo
  _fasthep_say exit "$1"
  { _fasthep_left; } 2>/dev/null
  { _fasthep_counters; } 2>/dev/null
  _fasthep_say end 1
}
echo "ready $$"
"""
_PRELUDE: Final = _TELLING + _SERVING
"""For any POSIX shell, with builtins alone: an image may have nothing else.

A shell may set a variable and yet hand on another value: bash counts ``SECONDS``.

What a job leaves running ends with it, once it had the time to end by itself (``> >(tee
log)`` does): the shell kills every process that it can see, which is safe only where it is
one of the first in a process namespace of its own. Each of the shells it forks meanwhile lets
it wait for processes that became its children when their parents ended.
"""

_START: Final = r"""
{{ echo 100 >/proc/self/oom_score_adj; }} 2>/dev/null
{devices}
export HOME={directory}
cd {working_directory} || {{ _fasthep_say lost 1 >&3; exit 125; }}
{variables}
set -- {argv}
case $1 in
  */*) [ -e "$1" ] || _fasthep_missing ;;
  *) command -v "$1" >/dev/null 2>&1 || _fasthep_missing ;;
esac
_fasthep_say started 1 >&3
exec 3>&-
exec "$@"
"""

_JOB: Final = r"""
_fasthep_job() {{
exec 3>&1 {stdin} >>{stdout} 2>>{stderr} || exit
{start}
}}
_fasthep_number={number}
echo
_fasthep_say begun 1
( _fasthep_job )
_fasthep_end $?
"""
"""The program runs in the foreground: one that a shell starts in the background ignores SIGINT.

``HOME`` is the attempt's folder, since the caller has none in the image. Should memory run
out, a process of the task's is to be killed, not the shell: it must tell.

In a function, since bash writes the text of a command that was killed to its standard error,
variables and all.

A job may write to the server's output, too: what was made for services has ``/proc/1/fd/1``
as its log. So each line tells of which job it is, and an empty one comes before the first.
"""

_ENTRY: Final = r"""
_fasthep_number={number}
_fasthep_job() {{
{start}
}}
( _fasthep_job )
_fasthep_code=$?
{{ _fasthep_say exit "$_fasthep_code"; _fasthep_say end 1; }} >&3
exit "$_fasthep_code"
"""
"""As in a run the program is not the first process of its container, to which no signal of the
terminal's would come through.
"""

_TERMINATE_ALL: Final = "kill -TERM -1"
_TERMINATE_ALL_PYTHON: Final = "import os; os.kill(-1, 15)"


class Order(Struct, frozen=True, kw_only=True):
    """What is to run next in a container.

    Args:
        number: Of the job among those of its container.
        invocation: What to run.
        environment: Variables, laid over the image's own; ``None`` for one that is to be absent.
        working_directory: Absolute path in the container.
        directory: Absolute path of the attempt's folder, in the container.
        nodes: Device files that must be there.
        listed: Ids of the devices that ``nvidia-smi`` must list, where there is one.
    """

    number: int
    invocation: Invocation
    environment: Mapping[str, str | None]
    working_directory: str
    directory: str
    nodes: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()


class Report(Struct, frozen=True, kw_only=True):
    """What was said of a job.

    Args:
        begun: The order was read.
        started: The program is about to be one; where not, its logs cannot be written.
        ended: All was said.
        exit_code: Of the program.
        signal: The signal that ended it, where that can be told from an exit code.
        missing: The image has no such program.
        lost: The working directory is not there.
        lacks: The device file that is not there, or the id of the device that is not listed.
        refused: The variable that the image's shell does not let anyone set.
        left: What the job left in the container's memory.
        oom_kills: How many processes the kernel has killed for want of memory; of all jobs.
        peak_memory: Bytes of the container, files that it read included; of all jobs.
        cpu_s: Processor time of all its processes; of all jobs.
    """

    begun: bool = False
    started: bool = False
    ended: bool = False
    exit_code: int | None = None
    signal: int | None = None
    missing: bool = False
    lost: bool = False
    lacks: str | None = None
    refused: str | None = None
    left: str | None = None
    oom_kills: int = 0
    peak_memory: int | None = None
    cpu_s: float | None = None


def server_argv(dialect: Dialect) -> tuple[str, ...]:
    """The program that is to be started in the container, and its arguments."""
    return ("/bin/sh",) if dialect == "sh" else shim_argv("python3", "serve", "/")


def terminate_argv(dialect: Dialect) -> tuple[str, ...]:
    """A command that, in the container, asks all processes of the job to end."""
    if dialect == "sh":
        return ("/bin/sh", "-c", _TERMINATE_ALL)
    return ("python3", "-c", _TERMINATE_ALL_PYTHON)


def prelude(dialect: Dialect) -> bytes:
    """What is said first; the answer is the line ``ready`` and a process number."""
    return _PRELUDE.encode() if dialect == "sh" else b""


def unsettable(names: Iterable[str]) -> str | None:
    """The first of the names that no shell can give to a variable.

    It is refused where Python serves, too: what serves is no matter of the author's.
    """
    return next((name for name in names if not _SHELL_NAME.fullmatch(name)), None)


def job_text(order: Order, dialect: Dialect, *, stdin: str | None) -> bytes:
    """What is said to have a job run.

    The request of a callable is written into the attempt's folder.

    Args:
        order: What is to run.
        dialect: What reads it.
        stdin: Absolute path, in the container, of what the program reads.
    """
    if isinstance(order.invocation, Call):
        write_call(order.directory, order.invocation)
        argv = call_argv("python3", order.directory)
    else:
        argv = order.invocation.argv
    if dialect == "python":
        return _job_line(order, argv, stdin)
    text = _JOB.format(
        number=order.number,
        stdin=f"<{quoted(stdin or '/dev/null')}",
        stdout=quoted(f"{order.directory}/stdout.log"),
        stderr=quoted(f"{order.directory}/stderr.log"),
        start=_start(order, argv),
    )
    return text.encode("utf-8", "surrogateescape")


def entry_text(order: Order, argv: Sequence[str], dialect: Dialect) -> bytes:
    """What is said to have a program run on the streams of what reads this, which then ends.

    Its answers go to descriptor 3.

    Args:
        order: What is to run.
        argv: The program and its arguments.
        dialect: What reads it.
    """
    if dialect == "python":
        return _job_line(order, argv, None)
    text = _TELLING + _ENTRY.format(number=order.number, start=_start(order, argv))
    return text.encode("utf-8", "surrogateescape")


def _start(order: Order, argv: Sequence[str]) -> str:
    """The lines that make a shell become the program, with what it is to find."""
    variables = "\n".join(
        f"_fasthep_unset {name}" if value is None else f"_fasthep_set {name} {quoted(value)}"
        for name, value in order.environment.items()
    )
    devices = [f"_fasthep_device {quoted(node)}" for node in order.nodes]
    if order.listed:
        devices.append(f"_fasthep_listed {' '.join(map(quoted, order.listed))}")
    return _START.format(
        devices="\n".join(devices),
        directory=quoted(order.directory),
        working_directory=quoted(order.working_directory),
        variables=variables,
        argv=" ".join(map(quoted, argv)),
    )


def quoted(text: str) -> str:
    """One word of a POSIX shell's that means this very text."""
    return "'" + text.replace("'", "'\\''") + "'"


def _job_line(order: Order, argv: Sequence[str], stdin: str | None) -> bytes:
    def coded(text: str) -> str:
        return text.encode("utf-8", "surrogateescape").hex()

    line = {
        "number": order.number,
        "variables": {
            coded(name): None if value is None else coded(value)
            for name, value in order.environment.items()
        },
        "argv": [coded(word) for word in argv],
        "nodes": coded("\0".join(order.nodes)),
        "listed": coded("\0".join(order.listed)),
        "directory": coded(order.directory),
        "working_directory": coded(order.working_directory),
        "stdin": coded(stdin or "/dev/null"),
    }
    return msgspec.json.encode(line) + b"\n"


def read_report(lines: Iterable[bytes], number: int) -> Report:
    """What the lines say of a job, up to the one that says that it is all.

    Args:
        lines: What was said since the last job; more than a job's report, where a job wrote
            to the output of what serves.
        number: Of the job.
    """
    fields: dict[str, str] = {}
    before = f"fasthep {number} "
    for line in lines:
        text = line.decode("utf-8", "replace").rstrip("\n")
        if not text.startswith(before):
            continue
        key, _, value = text.removeprefix(before).partition(" ")
        if value:
            fields[key] = value
        if "end" in fields:
            break
    nanoseconds, microseconds = _number(fields, "cpu_ns"), _number(fields, "cpu_us")
    cpu_s = None
    if nanoseconds is not None:
        cpu_s = nanoseconds / 1e9
    elif microseconds is not None:
        cpu_s = microseconds / 1e6
    exit_code, signal = _number(fields, "exit"), _number(fields, "signal")
    return Report(
        begun="begun" in fields,
        started="started" in fields,
        ended="end" in fields and (exit_code, signal) != (None, None),
        exit_code=exit_code,
        signal=signal,
        missing="missing" in fields,
        lost="lost" in fields,
        lacks=fields.get("lacks"),
        refused=fields.get("refused"),
        left=fields.get("left"),
        oom_kills=_number(fields, "oom_kill") or 0,
        peak_memory=_number(fields, "peak"),
        cpu_s=cpu_s,
    )


def _number(fields: Mapping[str, str], key: str) -> int | None:
    value = fields.get(key, "")
    return int(value) if value.isdecimal() and len(value) <= _MOST_DIGITS else None
