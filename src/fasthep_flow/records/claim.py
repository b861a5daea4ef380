"""Whose a run is: one driver's at a time, on all machines that share its folder.

Drivers are numbered. A file ``<number>.json`` in the folder of claims names the process that holds
it; it is made by a hard link, which one process alone can make, on NFS, AFS and EOS too, and no
number is ever given twice. So who finds that a holder is dead takes the number after its, and of
two that do so at once one fails. No lock of the kernel's is needed.

Whether a holder lives is known

- on the machine that it runs on: from the process's number and the time of its start, and from
  the number of the machine's start. That is proof; a number that is in use again is none.
- from elsewhere: by the time of its file, which it renews every half minute, beside that of a file
  written just now. Both are the file system's, so no machine's clock matters. After five minutes
  of silence it is taken for dead.

A holder that was stopped for so long makes sure that nobody has taken its place before it writes
anything: see :meth:`Claim.require`.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from fasthep_flow.environments.host.reading import open_file
from fasthep_flow.errors import RunClaimed
from fasthep_flow.records.files import record_error
from fasthep_flow.records.holder import (
    Holder,
    State,
    own_holder,
    read_holder,
    replace_holder,
    write_holder,
)
from fasthep_flow.records.journal import now_text

__all__ = ["Claim", "Found", "claim", "found_claim", "refusal"]

HEARTBEAT_S: Final = 30.0
SILENCE_S: Final = 300.0
"""After so long without a sign of life a holder on another machine is taken for dead."""

_SURE_S: Final = 150.0
"""So long after its last sign of life a holder need not look whether it is still the one."""

_PATIENCE_S: Final = 5.0
_NAME: Final = re.compile(r"([1-9][0-9]{0,8})\.json")
_MOST_TRIES: Final = 100
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Found(NamedTuple):
    """A claim, as somebody else finds it.

    Args:
        number: Of the driver.
        path: Of its file.
        holder: Who holds it; ``None`` where the file is damaged.
        state: Of the holder.
        silent_s: For how long it gave no sign of life; ``None`` where that does not matter.
        is_certain: Whether that is proven, and no conclusion from its silence.
    """

    number: int
    path: Path
    holder: Holder | None
    state: State
    silent_s: float | None = None
    is_certain: bool = True

    @property
    def is_held(self) -> bool:
        """Whether nobody else may have it."""
        return self.state in {"alive", "stopped"}


def _since_boot_s() -> float:
    """Seconds that count on while the machine sleeps, and that no setting of a clock changes."""
    return time.clock_gettime(_CLOCK)


def _file_clock_s(path: Path) -> float:
    """The file system's own time, in seconds since the epoch: of a file that is written now."""
    os.utime(path)
    return path.stat().st_mtime


class Claim:
    """A claim that this process holds, and renews until it is released.

    Use :meth:`take`.
    """

    def __init__(
        self,
        path: Path,
        number: int,
        holder: Holder,
        *,
        former: Found | None,
        what: str,
        clock: Callable[[], float],
    ) -> None:
        self.path: Final = path
        self.number: Final = number
        self.holder: Final = holder
        self.former: Final = former
        """The claim before this one."""
        self._what: Final = what
        self._clock: Final = clock
        self._sure_until_s = clock() + _SURE_S
        self._lost: RunClaimed | None = None
        self._lock: Final = threading.Lock()
        self._ended: Final = threading.Event()
        self._on_loss: Callable[[], None] = lambda: None
        self._heart: Final = threading.Thread(target=self._beat, name="claim", daemon=True)
        self._heart.start()

    @classmethod
    def take(
        cls,
        folder: Path,
        *,
        what: str,
        gone: Collection[str] = (),
        clock: Callable[[], float] = _since_boot_s,
        file_clock: Callable[[Path], float] = _file_clock_s,
    ) -> Self:
        """The claim, for this process.

        Args:
            folder: In which those of its kind lie; made if it is not there.
            what: Is claimed, for people: ``the run 20260314T092653Z-1f0c``.
            gone: Names of machines whose processes are known to be gone.
            clock: Seconds that go on while the machine sleeps.
            file_clock: The time of the file system that a file is in, which may be touched.

        Raises:
            RunClaimed: Another driver has it.
            RecordError: The folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            former = _found(folder, gone, None)
            if former is not None and former.is_held and former.is_certain:
                raise refusal(former, what)
            own = own_holder()
            with _written_aside(folder, own) as part:
                number = 0
                for _ in range(_MOST_TRIES):
                    former = _found(folder, gone, lambda: file_clock(part), at_least=number)
                    if former is not None and former.is_held:
                        raise refusal(former, what)
                    number = 1 if former is None else former.number + 1
                    path = folder / f"{number}.json"
                    if not _link(part, path):
                        continue
                    if _newest(folder, at_least=number) == number:
                        return cls(path, number, own, former=former, what=what, clock=clock)
                    # It was given long ago, and removed as one of those that are over.
                    path.unlink()
        except OSError as error:
            raise record_error(error, folder, "write in") from error
        raise RunClaimed(
            f"{what} is claimed by others again and again", hint="see which programs write there"
        )

    def when_lost(self, action: Callable[[], None]) -> None:
        """Have something done, in another thread, when another driver has taken the claim."""
        self._on_loss = action

    @property
    def is_lost(self) -> bool:
        """Whether another driver is known to have it."""
        return self._lost is not None

    def require(self) -> None:
        """Make sure that this process still holds it; to be called before anything is written.

        Raises:
            RunClaimed: Another driver has it.
            RecordError: That cannot be told.
        """
        if self._lost is None and self._clock() > self._sure_until_s:
            try:
                self._renew()
            except OSError as error:
                raise record_error(error, self.path, "read") from error
        if self._lost is not None:
            raise self._lost

    def file_time_s(self) -> float:
        """The time of the file system in which the claim lies, in seconds since the epoch.

        Raises:
            OSError: It does not answer.
        """
        return _file_clock_s(self.path)

    def forget_former(self) -> None:
        """Remove the files of the holders before this one."""
        for number in _numbers(self.path.parent):
            if number < self.number:
                with suppress(OSError):
                    self.path.with_name(f"{number}.json").unlink()

    def release(self) -> None:
        """Let others have it; what cannot be written then, they will find out by themselves."""
        self._ended.set()
        if self.holder.pid != os.getpid():  # a forked process holds nothing
            return
        self._heart.join(_PATIENCE_S)
        if self._heart.is_alive():  # a file server does not answer
            return
        with suppress(OSError):
            if self._is_own():
                released = msgspec.structs.replace(self.holder, released=now_text())
                replace_holder(self.path, released)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            # The file server may answer again in time.
            with suppress(OSError):
                self._renew()
            if self._lost is not None:
                self._on_loss()
                return

    def _renew(self) -> None:
        """Give a sign of life, or find out that another driver has it."""
        with self._lock:
            now_s = self._clock()
            if self._is_own():
                os.utime(self.path)
                self._sure_until_s = now_s + _SURE_S

    def _is_own(self) -> bool:
        newest = _newest(self.path.parent)
        if newest is None or newest < self.number:
            self._lost = RunClaimed(
                f"{self.path} is gone: this driver does not know any more whether it is the only"
                f" one of {self._what}, and has stopped",
                hint="the same command goes on with it",
            )
        elif newest > self.number:
            holder = read_holder(self.path.with_name(f"{newest}.json"))
            who = "another driver" if holder is None else f"{holder} since {holder.since}"
            self._lost = RunClaimed(
                f"{self._what} was taken over by {who}, since this driver had given no sign of"
                " life for minutes: it has stopped, and written nothing more",
                hint="the other one goes on",
            )
        elif (found := read_holder(self.path)) is None or found.token != self.holder.token:
            # Something has damaged it, and nobody took it for dead.
            replace_holder(self.path, self.holder)
        return self._lost is None


@contextmanager
def claim(
    run_folder: Path, *, gone: Collection[str] = (), what: str | None = None
) -> Iterator[Claim]:
    """Hold a run for as long as the block runs; see :meth:`Claim.take`.

    Args:
        run_folder: Of the run.
        gone: Names of machines whose processes are known to be gone.
        what: Is claimed, for people.

    Raises:
        RunClaimed: Another driver has it.
        RecordError: The folder cannot be written.
    """
    held = Claim.take(run_folder / "drivers", what=what or f"the run {run_folder.name}", gone=gone)
    try:
        yield held
    finally:
        held.release()


def found_claim(run_folder: Path, *, file_clock: Callable[[], float] | None = None) -> Found | None:
    """The claim of a run, for somebody who looks; ``None`` if there never was one.

    Args:
        run_folder: Of the run.
        file_clock: The time of its file system, such as :meth:`Claim.file_time_s`. Without it a
            holder on another machine counts as alive for as long as it has not released the run.
    """
    return _found(run_folder / "drivers", (), file_clock)


def _found(
    folder: Path,
    gone: Collection[str],
    file_clock: Callable[[], float] | None,
    *,
    at_least: int = 0,
) -> Found | None:
    number = _newest(folder, at_least=at_least)
    if number is None:
        return None
    path = folder / f"{number}.json"
    holder = read_holder(path)
    certain = None if holder is None else holder.state(gone)
    if certain is not None:
        return Found(number, path, holder, certain)
    if file_clock is None:
        return Found(number, path, holder, "alive", is_certain=False)
    now_s = file_clock()
    try:
        # Opened, so that no file server's client answers from what it remembers.
        with os.fdopen(open_file(path), "rb") as file:
            silent_s = now_s - os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        # Somebody else is about to change it.
        silent_s = 0.0
    except OSError:
        silent_s = now_s - path.lstat().st_mtime
    state: State = "silent" if silent_s > SILENCE_S else "alive"
    return Found(number, path, holder, state, silent_s, is_certain=False)


def refusal(found: Found, what: str, *, is_apart: bool = False) -> RunClaimed:
    """Why a claim is not to be had: who holds it, since when, and what to do.

    Args:
        found: The claim.
        what: Is claimed, for people.
        is_apart: Whether another run could be beside it: they make none of the same files.
    """
    holder, silent_s = found.holder, found.silent_s
    beside = "; --fresh starts another run beside it" if is_apart else ""
    wait_s = 0 if silent_s is None else max(0, round(SILENCE_S - silent_s))
    ago = "" if silent_s is None else f"; it gave a sign of life {max(0, round(silent_s))} s ago"
    if holder is None:
        return RunClaimed(
            f"{what} may have a driver: {found.path} is damaged, and was renewed"
            f" {max(0, round(silent_s or 0))} s ago",
            hint=f"if there is no driver, try again in {wait_s} s, or remove that file{beside}",
        )
    message = f"{what} is driven by {holder} since {holder.since}"
    if found.state == "stopped":
        return RunClaimed(
            f"{message}, which is stopped",
            hint=f"let it go on (kill -CONT {holder.pid}), or end it (kill -9 {holder.pid})"
            f"{beside}",
        )
    if silent_s is None:
        return RunClaimed(message, hint=f"wait for its end{beside}")
    return RunClaimed(
        f"{message}{ago}",
        hint=f"wait for its end; if it is dead, that is known in {wait_s} s, or told by"
        f" 'resume RUN --host-is-gone {holder.host}'{beside}",
    )


def _newest(folder: Path, *, at_least: int = 0) -> int | None:
    """The largest number that was given; ``None`` for none.

    Args:
        folder: Of the claims.
        at_least: One that is known to be given: a file server's client may not know it yet.
    """
    newest = max([at_least, *_numbers(folder)])
    return newest or None


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return []
    matches = (_NAME.fullmatch(name) for name in names)
    return [int(match[1]) for match in matches if match is not None]


@contextmanager
def _written_aside(folder: Path, holder: Holder) -> Iterator[Path]:
    part = folder / f".{holder.token}"
    write_holder(part, holder)
    try:
        yield part
    finally:
        with suppress(OSError):
            part.unlink()


def _link(part: Path, path: Path) -> bool:
    """Have the file under its number, unless there is one; whether there was none."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        # A file server that was asked twice says so of what it has done the first time.
        return path.exists() and path.samefile(part)
    except OSError:
        # Some file systems have no hard links: there it is written in its place.
        holder = read_holder(part)
        if holder is None:
            raise
        try:
            write_holder(path, holder)
        except FileExistsError:
            return False
    return True
