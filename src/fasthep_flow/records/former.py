"""What the drivers before left in a run folder, before another one goes on there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from fasthep_flow.environments.host.below import DAMAGED, restore_below
from fasthep_flow.environments.host.reading import read_whole
from fasthep_flow.model import Plan, to_json
from fasthep_flow.records.claim import Found
from fasthep_flow.records.files import keep, write_whole
from fasthep_flow.records.journal import mend
from fasthep_flow.records.record import Ended, attempt_numbers
from fasthep_flow.records.sealed import set_aside
from fasthep_flow.redaction import secret_values, without_values

__all__ = ["clear_damage", "keep_former", "mode_of", "plan_texts"]

_MOST_NOTES: Final = 20
_WORKFLOW: Final = "workflow.yaml"


def plan_texts(plan: Plan) -> dict[str, bytes]:
    """The files that tell what is run, by name."""
    return {
        _WORKFLOW: Path(plan.source).read_bytes(),
        "plan.json": to_json(plan).encode(),
    }


def mode_of(name: str, text: bytes, plan: Plan) -> int:
    """What others may do with such a file: with the workflow's, no more than with the author's own.

    Where it holds the value of a secret they may not read it.

    Args:
        name: Of the file.
        text: In it.
        plan: Of which it tells.

    Raises:
        OSError: The author's own cannot be looked at.
    """
    if name != _WORKFLOW:
        return 0o666
    secrets = frozenset(
        value
        for environment in (task.environment for task in plan.tasks)
        if environment.variables
        for value in secret_values(
            {name: variable.value for name, variable in environment.variables.items()},
            environment.secrets,
        )
    )
    shown = text.decode("utf-8", "backslashreplace")
    if without_values(shown, secrets) != shown:
        return 0o600
    return Path(plan.source).stat().st_mode & 0o666 | 0o600


def keep_former(path: Path, plan: Plan) -> int | None:
    """Have the new plan where it belongs, and the one before in a folder of its own.

    Args:
        path: The run folder.
        plan: The new one.

    Returns:
        The number of that folder; ``None`` where the plan is the same.

    Raises:
        OSError: It cannot be written.
    """
    texts = plan_texts(plan)
    if all(_read(path / name, len(text)) == text for name, text in texts.items()):
        return None
    _have_folder(path, "former")
    former = path / "former"
    number = 1 + max(attempt_numbers(former), default=0)
    (former / str(number)).mkdir()
    for name, text in texts.items():
        with suppress(FileNotFoundError):
            keep(path / name, former / str(number) / name)
        write_whole(path / name, text, mode=mode_of(name, text, plan))
    return number


def clear_damage(path: Path, before: Ended, claimed: Found | None) -> list[str]:
    """Set aside what is damaged; what to tell of it.

    Args:
        path: The run folder.
        before: What was found there.
        claimed: The claim of the driver before.

    Raises:
        OSError: It cannot be written.
    """
    aside = path / DAMAGED
    if not before.is_whole:
        if os.path.lexists(aside):
            _have_folder(path, DAMAGED)
        mend(path / "events.jsonl", aside)
    for file in before.damaged_results:
        folder = file.parent.relative_to(path)
        _have_folder(path, DAMAGED, *folder.parts)
        set_aside(file, aside / folder)
    notes = list(before.damaged[:_MOST_NOTES])
    if more := before.damaged[_MOST_NOTES:]:
        notes.append(f"{len(more)} more files are damaged")
    if claimed is not None and claimed.holder is None:
        _have_folder(path, DAMAGED)
        set_aside(claimed.path, aside)
        notes.append(f"{claimed.path}: names no driver")
    return [f"damaged, not believed, and kept in {aside}: {note}" for note in notes]


def _have_folder(path: Path, *names: str) -> None:
    """A folder of the run's, and no link that somebody put in its place."""
    folder, _ = restore_below(str(path), names, mode=0o700 if names == (DAMAGED,) else 0o777)
    os.close(folder)


def _read(path: Path, most: int) -> bytes | None:
    """What a file holds; ``None`` where it holds more, or there is none that can be read."""
    try:
        return read_whole(path, most)
    except OSError:
        return None
