"""Which run goes on, and that no two drivers are at the same files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from fasthep_flow.beside import Outputs
from fasthep_flow.model import Plan
from fasthep_flow.records.claim import Found, refusal
from fasthep_flow.records.history import (
    Former,
    History,
    choosing,
    forget_begun,
    latest_run,
    note_begun,
)
from fasthep_flow.records.run import RunFolder
from fasthep_flow.settling import settle_other

__all__ = ["open_run", "require_no_driver"]


def require_no_driver(plan: Plan, *, fresh: bool = False, resume: Path | None = None) -> None:
    """Refuse at once to go on with a run that another driver has, or to make what another one does.

    Only a look: who goes on with the run claims it, see :func:`open_run`.

    Args:
        plan: What is to be run.
        fresh: As for :func:`open_run`.
        resume: As for :func:`open_run`.

    Raises:
        RunClaimed: Another driver has it, or is at what it makes.
    """
    try:
        history = latest_run(Path(plan.output_directory), plan.source, plan.selection)
    except OSError:
        # Who is to write there finds out.
        return
    _require_free(history, Outputs.of(plan.tasks), _chosen(history, fresh, resume), is_certain=True)


@contextmanager
def open_run(
    plan: Plan,
    *,
    version: str,
    argv: tuple[str, ...] = (),
    fresh: bool = False,
    resume: Path | None = None,
    gone: Collection[str] = (),
    noticed: Callable[[str], None] = lambda _: None,
) -> Iterator[RunFolder]:
    """The folder of the run that goes on, or of a new one; it is claimed.

    The latest run of the workflow goes on if not all of its tasks have succeeded. Of two drivers
    that ask for it at once, one gets it, and the other one is told so. Nor do two of them have
    runs whose tasks make the same files; and of other runs whose drivers are dead nothing makes
    them any more, or has left half of them there.

    Args:
        plan: What is to be run.
        version: Of this package.
        argv: The command, for people who look at the record.
        fresh: Whether to start anew in any case.
        resume: The folder of the run that is to go on in any case.
        gone: Names of machines whose processes are known to be gone.
        noticed: Is told of runs whose records cannot be read, and of what others left.

    Raises:
        RunClaimed: Another driver has the run, or one whose tasks make the same.
        RecordError: The folder cannot be read or written, or what another run left cannot be set
            aside.
    """
    create = partial(RunFolder.create, plan, version=version, argv=argv)
    reopen = partial(RunFolder.reopen, plan=plan, version=version, argv=argv, gone=gone)
    # A signal may come at any moment: whatever is open by then is told how the run ended.
    with ExitStack() as stack:
        with choosing(Path(plan.output_directory), plan.source, plan.selection) as history:
            for line in () if fresh or resume is not None else history.damaged:
                noticed(line)
            chosen = _chosen(history, fresh, resume)
            outputs = Outputs.of(plan.tasks)
            _require_free(history, outputs, chosen, gone=gone)
            for run in _others(history, chosen):
                if outputs and not _is_held(run, gone):
                    settle_other(run.path, outputs, gone=gone, noticed=noticed)
            folder = stack.enter_context(create() if chosen is None else reopen(chosen))
            if outputs:
                note_begun(folder.path)
        yield folder
        # Still claimed: nobody else can have noted it meanwhile.
        forget_begun(folder.path)


def _chosen(history: History, fresh: bool, resume: Path | None) -> Path | None:
    """The run that goes on; ``None`` for a new one."""
    if resume is not None or fresh:
        return resume
    latest = history.latest
    return None if latest is None or latest.state == "succeeded" else latest.path


def _require_free(
    history: History,
    outputs: Outputs,
    chosen: Path | None,
    *,
    gone: Collection[str] = (),
    is_certain: bool = False,
) -> None:
    """Refuse where a driver has the run that is to go on, or one whose tasks make the same.

    Args:
        history: What there is of runs.
        outputs: Of the plan.
        chosen: The folder of the run that is to go on; ``None`` for a new one.
        gone: Names of machines whose processes are known to be gone.
        is_certain: Whether only what is proven counts.
    """
    latest = history.latest
    if latest is not None and latest.path == chosen:
        found = _holding(latest, gone, is_certain)
        if found is not None:
            is_apart = outputs.shared_with(latest.path) is None
            raise refusal(found, f"the run {latest.run_id}", is_apart=is_apart)
    for run in _others(history, chosen):
        found = _holding(run, gone, is_certain)
        if found is not None and (shared := outputs.shared_with(run.path)) is not None:
            raise refusal(found, f"the run {run.run_id}, {shared},")


def _others(history: History, chosen: Path | None) -> Iterator[Former]:
    own = None if chosen is None else chosen.resolve()
    return (run for run in history.begun if run.path.resolve() != own)


def _holding(run: Former, gone: Collection[str], is_certain: bool) -> Found | None:
    """The claim of a run that a driver has, or may have."""
    found = run.claimed if _is_held(run, gone) else None
    return None if found is None or (is_certain and not found.is_certain) else found


def _is_held(run: Former, gone: Collection[str]) -> bool:
    """Whether a driver has the run, or may have it."""
    holder = None if run.claimed is None else run.claimed.holder
    is_gone = holder is not None and holder.state(gone) == "gone"
    return run.state == "claimed" and not is_gone
