"""What the drivers before left in a run folder, before another one goes on there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from fasthep_flow.model import Plan, to_json
from fasthep_flow.records.claim import Found
from fasthep_flow.records.files import keep, write_whole
from fasthep_flow.records.journal import mend
from fasthep_flow.records.record import Ended, attempt_numbers
from fasthep_flow.records.sealed import set_aside

__all__ = ["clear_damage", "keep_former", "plan_texts"]

_MOST_NOTES: Final = 20


def plan_texts(plan: Plan) -> dict[str, bytes]:
    """The files that tell what is run, by name."""
    return {
        "workflow.yaml": Path(plan.source).read_bytes(),
        "plan.json": to_json(plan).encode(),
    }


def keep_former(path: Path, texts: Mapping[str, bytes]) -> int | None:
    """Have the new plan where it belongs, and the one before in a folder of its own.

    Args:
        path: The run folder.
        texts: Of the new plan.

    Returns:
        The number of that folder; ``None`` where the plan is the same.

    Raises:
        OSError: It cannot be written.
    """
    if all(_read(path / name) == text for name, text in texts.items()):
        return None
    former = path / "former"
    former.mkdir(exist_ok=True)
    number = 1 + max(attempt_numbers(former), default=0)
    (former / str(number)).mkdir()
    for name, text in texts.items():
        with suppress(FileNotFoundError):
            keep(path / name, former / str(number) / name)
        write_whole(path / name, text)
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
    aside = path / "damaged"
    if not before.is_whole:
        mend(path / "events.jsonl", aside)
    for file in before.damaged_results:
        folder = aside / file.parent.relative_to(path)
        folder.mkdir(parents=True, exist_ok=True)
        set_aside(file, folder)
    notes = list(before.damaged[:_MOST_NOTES])
    if more := before.damaged[_MOST_NOTES:]:
        notes.append(f"{len(more)} more files are damaged")
    if claimed is not None and claimed.holder is None:
        aside.mkdir(mode=0o700, exist_ok=True)
        set_aside(claimed.path, aside)
        notes.append(f"{claimed.path}: names no driver")
    return [f"damaged, not believed, and kept in {aside}: {note}" for note in notes]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
