"""Which runs there are under an output folder, and which one of a workflow is to go on.

The ids of runs sort by their starts. So the latest run of a workflow is found from the end, by
the ``run.json`` of each, and nothing else of it is read. Which runs have begun and not come to an
orderly end is noted in a folder beside them: so nobody has to go through all others to find those.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from fasthep_flow.errors import RunClaimed
from fasthep_flow.records.claim import Claim, Found, found_claim
from fasthep_flow.records.files import as_record_error
from fasthep_flow.records.record import FORMAT

__all__ = [
    "Former",
    "History",
    "choosing",
    "forget_begun",
    "latest_run",
    "new_run_folder",
    "note_begun",
    "run_ids",
]

_RUN_ID: Final = re.compile(r"([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{4})")
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_LAST_SUFFIX: Final = 0xFFFF
_USUAL: Final = 4096
_LARGEST: Final = 2**20
_CLAIMS: Final = ".claims"
_OPENING: Final = "opening"
_BEGUN: Final = "begun"
_PATIENCE_S: Final = 30.0
"""To choose takes milliseconds; so long is waited for another one that does so."""

_MOST_NAMED: Final = 5

State: TypeAlias = Literal[
    "succeeded",
    "unfinished",  # its driver has ended, and not all of its tasks have succeeded
    "claimed",  # a driver has it
]


class Former(NamedTuple):
    """A run, such as the latest one of a workflow.

    Args:
        path: Its folder.
        run_id: Its id.
        state: Of the run.
        claimed: Who drives it, or did; ``None`` where that is not known.
    """

    path: Path
    run_id: str
    state: State
    claimed: Found | None


class History(NamedTuple):
    """What was found of a workflow's runs.

    Args:
        latest: The latest one that can be gone on with, or succeeded; ``None`` if there is none.
        damaged: Later runs whose ``run.json`` cannot be read, in sentences: nobody can tell whose
            they are.
        begun: Runs of any workflow under that folder which have begun, and not come to an orderly
            end: drivers have them, or were killed; those that were started last first.
    """

    latest: Former | None
    damaged: tuple[str, ...]
    begun: tuple[Former, ...]


class _Head(Struct, frozen=True):
    format: int
    status: str
    source: str = ""
    selection: tuple[str, ...] = ()


_DECODE: Final = msgspec.json.Decoder(_Head).decode


@contextmanager
def choosing(
    output: Path,
    source: str,
    selection: tuple[str, ...] = (),
    *,
    patience_s: float = _PATIENCE_S,
) -> Iterator[History]:
    """What there is of a workflow's runs, for one driver at a time to choose one or make one.

    Of two that do so at once the second one finds what the first one has chosen or made. That goes
    for all workflows whose runs lie under one folder: what one makes may be what another one does.

    Args:
        output: The folder under which runs lie; made if it is not there.
        source: The absolute path of the workflow file.
        selection: The tasks that were asked for; empty for all. A run of some tasks is not the
            one that goes on when all are asked for.
        patience_s: How long another one is waited for that chooses.

    Raises:
        RunClaimed: Another one has been choosing for longer.
        RecordError: The folder cannot be written.
    """
    with as_record_error(output, "make the folder"):
        output.mkdir(parents=True, exist_ok=True)
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            held = Claim.take(output / _CLAIMS / _OPENING, what=f"the next run under {output}")
            break
        except RunClaimed:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)
    try:
        held.forget_former()
        with as_record_error(output, "read"):
            history = latest_run(output, source, selection, file_clock=held.file_time_s)
        yield history
    finally:
        held.release()


def latest_run(
    output: Path,
    source: str,
    selection: tuple[str, ...] = (),
    *,
    file_clock: Callable[[], float] | None = None,
) -> History:
    """The latest run of a workflow, of this format.

    Args:
        output: The folder under which runs lie.
        source: The absolute path of the workflow file.
        selection: As for :func:`choosing`.
        file_clock: As for :func:`~fasthep_flow.records.claim.found_claim`.

    Raises:
        OSError: The folder cannot be read.
    """
    damaged: list[str] = []
    latest: Former | None = None
    for run_id in run_ids(output):
        path = f"{output}/{run_id}/run.json"
        try:
            head = _DECODE(_read(path))
        except (FileNotFoundError, NotADirectoryError):
            # Its driver did not come to begin it.
            continue
        except (OSError, ValueError) as error:
            damaged.append(f"{path} cannot be read, and the run is passed over: {error}")
            continue
        if (head.format, head.source, head.selection) == (FORMAT, source, selection):
            claimed = found_claim(output / run_id, file_clock=file_clock)
            latest = Former(output / run_id, run_id, _state(head.status, claimed), claimed)
            break
    if more := damaged[_MOST_NAMED:]:
        damaged[_MOST_NAMED:] = [f"{len(more)} more runs cannot be read, and are passed over"]
    return History(latest, tuple(damaged), _begun(output, file_clock))


def _begun(output: Path, file_clock: Callable[[], float] | None) -> tuple[Former, ...]:
    begun = []
    for run_id in run_ids(output / _CLAIMS / _BEGUN):
        claimed = found_claim(output / run_id, file_clock=file_clock)
        begun.append(Former(output / run_id, run_id, _state("running", claimed), claimed))
    return tuple(begun)


def note_begun(run: Path) -> None:
    """Have all who choose among runs know of this one, until it is forgotten again.

    Args:
        run: Its folder.

    Raises:
        RecordError: The folder beside it cannot be written.
    """
    folder = run.parent / _CLAIMS / _BEGUN
    with as_record_error(folder, "write in"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / run.name).touch()


def forget_begun(run: Path) -> None:
    """Say that nothing of the run is under way, and nothing half-made left of it.

    Args:
        run: Its folder.
    """
    # Where that cannot be said, the next driver finds it out by itself.
    with suppress(OSError):
        (run.parent / _CLAIMS / _BEGUN / run.name).unlink()


def _state(status: str, claimed: Found | None) -> State:
    if status == "succeeded":
        return "succeeded"
    return "claimed" if claimed is not None and claimed.is_held else "unfinished"


def _read(path: str) -> bytes:
    """The bytes of a file; there may be thousands to be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, _USUAL)
        return text if len(text) < _USUAL else text + os.read(descriptor, _LARGEST)
    finally:
        os.close(descriptor)


def run_ids(output: Path) -> list[str]:
    """The ids of the runs under an output folder, those that were started last first.

    Raises:
        OSError: The folder cannot be read.
    """
    try:
        names = os.listdir(output)  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return []
    return sorted(filter(_RUN_ID.fullmatch, names), reverse=True)


def new_run_folder(output: Path) -> Path:
    """A folder whose name comes behind those of all earlier runs, however the clock was set."""
    while True:
        stamp = datetime.now(UTC).strftime(_STAMP)
        # The first one of a second leaves room for others.
        least, most = 0, _LAST_SUFFIX // 2
        if (ids := run_ids(output)) and (last := _RUN_ID.fullmatch(ids[0])) and last[1] >= stamp:
            stamp, least = last[1], int(last[2], 16) + 1
            most = min(_LAST_SUFFIX, least + 0xFF)
            if least > _LAST_SUFFIX:
                second = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
                stamp, least = (second + timedelta(seconds=1)).strftime(_STAMP), 0
        path = output / f"{stamp}-{least + secrets.randbelow(most - least + 1):04x}"
        with suppress(FileExistsError):
            path.mkdir()
            return path
