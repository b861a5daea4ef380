"""What is different between two locks, and how much is in one: lines for people."""

from __future__ import annotations

from fasthep_flow.locking.lock import Lock

__all__ = ["changes", "counted", "unlockable"]


def changes(before: Lock | None, after: Lock) -> tuple[str, ...]:
    """What is different in a new lock, a line for each thing.

    Args:
        before: The lock that was there.
        after: The new one.
    """
    old = before or Lock()
    was, now = _digests(old), _digests(after)
    lines = []
    for name in sorted(was.keys() | now.keys()):
        lines += _change(name, was.get(name), now.get(name))
    old_pythons = {one.key: one for one in old.python}
    new_pythons = {one.key: one for one in after.python}
    for key in sorted(old_pythons.keys() | new_pythons.keys()):
        asked = (", ".join(key[1]) or f"Python {key[0]}") + (f" in {key[3]}" if key[3] else "")
        old_one, new_one = old_pythons.get(key), new_pythons.get(key)
        if old_one is None:
            lines.append(f"added    Python environment of {asked}")
        elif new_one is None:
            lines.append(f"removed  Python environment of {asked}")
        else:
            lines += _distributions(old_one.resolved, new_one.resolved)
    return tuple(lines)


def _digests(lock: Lock) -> dict[str, str]:
    """The digest of each image and data item, by what people call it."""
    images = {f"image {' for '.join(filter(None, one.key))}": one.digest for one in lock.images}
    return {**images, **{f"data {one.source}": one.digest for one in lock.data}}


def _change(name: str, was: str | None, now: str | None) -> list[str]:
    if was == now:
        return []
    if was is None:
        return [f"added    {name}" + (f" {now}" if now else ", which cannot be locked")]
    if now is None:
        return [f"removed  {name}"]
    return [f"changed  {name} {was or 'nothing'} -> {now or 'nothing, it cannot be locked'}"]


def _distributions(was: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    """What became of each distribution, by its name."""
    before, after = _by_name(was), _by_name(now)
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if old is None or new is None:
            word, one = ("added", new) if old is None else ("removed", old)
            lines.append(f"{word:<7}  Python distribution {_version(one or '')}")
        elif _version(old) == _version(new):
            lines.append(f"changed  Python distribution {_version(new)}: other files")
        else:
            lines.append(f"changed  Python distribution {_version(old)} -> {_version(new)}")
    return lines


def _by_name(lines: tuple[str, ...]) -> dict[str, str]:
    return {_version(line).partition("==")[0].partition("@")[0].strip(): line for line in lines}


def _version(line: str) -> str:
    return line.partition(" --hash")[0].partition(";")[0].strip()


def counted(lock: Lock) -> str:
    """How much is in a lock, in words."""
    counts = (
        (len(lock.images), "image"),
        (len(lock.data), "data item"),
        (len(lock.python), "Python environment"),
    )
    words = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count]
    return ", ".join(words) or "nothing to be locked"


def unlockable(lock: Lock) -> tuple[str, ...]:
    """What has no digest in a lock, a line for each."""
    return tuple(
        f"the image {one.name} cannot be locked: {one.unlockable}; 'run --locked' refuses it"
        for one in lock.images
        if one.unlockable
    )
