"""What killed drivers left behind on this machine, found and ended; and nothing else.

Whose a thing is, it says itself: a container by its labels, a control group by its name, a folder
by a file in it, a process by the task's folder in its environment, and a run by its claim. Only
what is this user's, and whose owner has ended for certain, is touched. What a run has recorded
stays, be it finished or not: results, logs, outputs, and what was set aside.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fasthep_flow.environments.host.scratch import is_orphaned, orphaned_scratch
from fasthep_flow.environments.host.spawn import end_these, folder_of, processes_of
from fasthep_flow.environments.host.strays import groups_of
from fasthep_flow.environments.limits.cgroups import GROUPS
from fasthep_flow.environments.survivors import ENGINES
from fasthep_flow.errors import EngineUnavailable, RecordError
from fasthep_flow.orchestrators.dask.ends import NOTES, await_former, left_jobs
from fasthep_flow.orchestrators.dask.queues import QueueSilent
from fasthep_flow.records.claim import Found, found_claim
from fasthep_flow.records.history import run_ids
from fasthep_flow.records.holder import read_holder
from fasthep_flow.records.record import planned_tasks

if TYPE_CHECKING:
    import psutil

__all__ = ["Cleaned", "Leftover", "clean"]

_PART: Final = re.compile(r"\.[0-9a-f]{16}")
"""What a driver writes before it has a claim."""

_LATEST: Final = ".latest-"
_VISITS: Final = ".visit-*"
_COMMAND: Final = "fasthep-flow"
_MODULE: Final = "fasthep_flow"


class Leftover(NamedTuple):
    """A thing that nobody is there for any more.

    Args:
        what: ``container``, ``process``, ``batch job``, ``control group``, ``folder`` or ``file``.
        name: Which one.
        of: What it was for, such as ``task 'fit' of the run 20260314T092653Z-1f0c``; may be empty.
        is_left: Whether it is still there: it was only looked for, or cannot be ended.
    """

    what: str
    name: str
    of: str
    is_left: bool


class Cleaned(NamedTuple):
    """What was found.

    Args:
        leftovers: In the order in which they were found.
        notes: What was left alone, or could not be looked at, in sentences.
    """

    leftovers: tuple[Leftover, ...]
    notes: tuple[str, ...]


class _Run(NamedTuple):
    path: Path
    claimed: Found

    @property
    def is_dead(self) -> bool:
        """Whether no driver has had it since it was found so."""
        found = found_claim(self.path)
        return found is not None and not found.is_held and found.number == self.claimed.number


def clean(
    output: Path, *, dry_run: bool = False, tell: Callable[[Leftover], None] = lambda _: None
) -> Cleaned:
    """End and remove what killed drivers left behind on this machine.

    Args:
        output: The folder under which runs lie, or a run's folder; it need not be there.
        dry_run: Whether only to look.
        tell: Is told of each thing, once it is gone.

    Raises:
        RecordError: The folder cannot be read.
    """
    notes: list[str] = []
    dead = _dead_runs(output.absolute(), notes)
    found: list[Leftover] = []
    # Their processes are the host's as well, and are not to count twice.
    contained: set[str] = set()
    for leftovers in (
        _containers(contained, notes, dry_run=dry_run),
        _processes(dead, contained, notes, dry_run=dry_run),
        _jobs(dead, notes, dry_run=dry_run),
        _groups(dry_run=dry_run),
        # Once what used them is gone.
        _folders(output.absolute(), dead, dry_run=dry_run),
        _files(output.absolute(), dead, dry_run=dry_run),
    ):
        for one in leftovers:
            found.append(one)
            tell(one)
    return Cleaned(tuple(found), tuple(notes))


def _dead_runs(output: Path, notes: list[str]) -> list[_Run]:
    """The runs that no driver has any more, which is certain."""
    if (output / "run.json").is_file():
        paths = [output]
    else:
        try:
            paths = [output / run_id for run_id in run_ids(output)]
        except OSError as error:
            raise RecordError(f"cannot read {output}: {error.strerror or error}") from error
    dead = []
    for path in paths:
        # A run is no link: what lies behind one may be anybody's.
        if path.is_symlink() or (claimed := found_claim(path)) is None:
            continue
        if claimed.is_held:
            who = claimed.holder or "a process that is not known"
            notes.append(f"the run {path.name} is driven by {who}: left alone")
        else:
            dead.append(_Run(path, claimed))
    return dead


def _containers(contained: set[str], notes: list[str], *, dry_run: bool) -> Iterator[Leftover]:
    for name, engine in ENGINES.items():
        if shutil.which(name) is None:
            continue
        try:
            orphans = engine.orphans()
            contained.update(orphans)
            if not dry_run:
                engine.remove(list(orphans))
            left = engine.orphans().keys() if orphans else frozenset()
        except EngineUnavailable as error:
            notes.append(f"what containers {name} has cannot be told: {error.message}")
            continue
        for identity, labels in orphans.items():
            what = f"{identity[:12]} of {name}"
            yield Leftover("container", what, _labelled(labels), identity in left)


def _labelled(labels: Mapping[str, str]) -> str:
    run = labels.get("fasthep.run", "")
    task = labels.get("fasthep.task", "")
    if run in {"", "look", "software"}:
        return ""
    return f"task {task!r} of the run {run}" if task else f"the run {run}"


def _processes(
    runs: Iterable[_Run], contained: Collection[str], notes: list[str], *, dry_run: bool
) -> Iterator[Leftover]:
    import psutil

    dead = {str(run.path): run for run in runs}
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    found: list[tuple[psutil.Process, str, str]] = []
    for process in processes_of(*dead) if dead else ():
        with suppress(psutil.Error):
            if process.pid in spared or process.uids().real != os.getuid():
                continue
            if any(identity in groups_of(process.pid) for identity in contained):
                continue
            if (keeper := _keeper(process)) is not None:
                notes.append(
                    f"process {process.pid} ({process.name()}) belongs to process {keeper.pid}"
                    f" ({_COMMAND}), which lives: left alone"
                )
                continue
            found.append((process, process.name(), folder_of(process)))
    if not dry_run:
        still = {path for path, run in dead.items() if run.is_dead}
        end_these([one for one, _, folder in found if _run_of(folder, still)])
    names: dict[str, dict[str, str]] = {}
    for process, name, folder in found:
        run = _run_of(folder, dead)
        if run not in names:
            names[run] = {task.slug: task.name for task in planned_tasks(Path(run))}
        yield Leftover(
            "process",
            f"{process.pid} ({name})",
            _attempt(run, folder, names[run]),
            _lives(process),
        )


def _run_of(folder: str, runs: Iterable[str]) -> str:
    return next((run for run in runs if folder.startswith(f"{run}/")), "")


def _attempt(run: str, folder: str, names: Mapping[str, str]) -> str:
    """Which attempt it is whose folder this is, for people."""
    parts = folder.removeprefix(f"{run}/").split("/")
    of = f"of the run {run.rpartition('/')[2]}"
    if len(parts) < 3:  # noqa: PLR2004 - tasks, the task, its attempt
        return of.removeprefix("of ")
    return f"task {names.get(parts[1], parts[1])!r}, attempt {parts[2]}, {of}"


def _keeper(process: psutil.Process) -> psutil.Process | None:
    """The command of ours that lives and has it: somebody visits a task's folder."""
    for parent in process.parents():
        if folder_of(parent):
            continue
        words = parent.cmdline()[:3]
        if any(Path(word).name == _COMMAND or word == _MODULE for word in words):
            return parent
    return None


def _lives(process: psutil.Process) -> bool:
    import psutil

    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _jobs(runs: Iterable[_Run], notes: list[str], *, dry_run: bool) -> Iterator[Leftover]:
    for run in runs:
        workers = run.path / "workers"
        if workers.is_symlink():
            continue
        for file in sorted(workers.glob(f"*/{NOTES}")):
            # What lies behind a link may be another run's.
            if file.is_symlink() or file.parent.is_symlink():
                continue
            try:
                jobs = left_jobs(file)
            except QueueSilent as silence:
                notes.append(f"the batch jobs of the run {run.path.name} are not known: {silence}")
                continue
            if not dry_run and run.is_dead:
                await_former(file, notes.append)
            for queue, job in jobs:
                is_left = dry_run or file.exists()
                yield Leftover(
                    "batch job", f"{job} of {queue}", f"the run {run.path.name}", is_left
                )


def _groups(*, dry_run: bool) -> Iterator[Leftover]:
    for folder, group in GROUPS.leftovers().items():
        if not dry_run:
            group.remove()
        yield Leftover("control group", folder, "", Path(folder).exists())


def _folders(output: Path, runs: Iterable[_Run], *, dry_run: bool) -> Iterator[Leftover]:
    visits = [
        folder
        for above in (output, *(run.path for run in runs))
        for folder in sorted(above.glob(_VISITS))
        if is_orphaned(folder)
    ]
    for folder in [*orphaned_scratch(), *visits]:
        if not dry_run:
            shutil.rmtree(folder, ignore_errors=True)
        yield Leftover("folder", str(folder), "", folder.exists())


def _files(output: Path, runs: Iterable[_Run], *, dry_run: bool) -> Iterator[Leftover]:
    dead = list(runs)
    claims = [run.path / "drivers" for run in dead]
    if not (output / ".claims").is_symlink():
        claims += (output / ".claims").glob("*")
    for file in (file for above in claims for file in _parts(above)):
        yield _removed(file, "a claim that nobody has", dry_run=dry_run)
    for run in dead:
        link = run.path.with_name(f"{_LATEST}{run.path.name}")
        if link.is_symlink():
            yield _removed(link, f"the run {run.path.name}", dry_run=dry_run)


def _parts(claims: Path) -> Iterator[Path]:
    """Claims that were begun, and that nobody will ever take."""
    if claims.is_symlink() or not claims.is_dir():
        return
    for file in sorted(claims.iterdir()):
        with suppress(OSError):
            found = file.lstat()
            if not _PART.fullmatch(file.name) or not stat.S_ISREG(found.st_mode):
                continue
            holder = read_holder(file)
            if holder is not None and found.st_uid == os.getuid() and holder.state() == "gone":
                yield file


def _removed(file: Path, of: str, *, dry_run: bool) -> Leftover:
    if not dry_run:
        with suppress(OSError):
            file.unlink()
    return Leftover("file", str(file), of, file.is_symlink() or file.exists())
