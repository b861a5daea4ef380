"""Extra data, examined: whether it is there, and what it is."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from fasthep_flow.environments.preflight.verdicts import Check, passed, refused, unknown
from fasthep_flow.errors import DataUnavailable, EnvironmentRefused
from fasthep_flow.model import DataItem

__all__ = ["check_data"]

LIMIT_S: Final = 10.0
"""How long all sources together may take to answer who only looks."""

_AT_ONCE: Final = 16
_DIGEST_SHOWN: Final = len("sha256:") + 12


def check_data(
    items: Sequence[DataItem],
    *,
    contained: bool,
    may_fetch: bool,
    offline: bool,
    directories: Sequence[str],
    progress: Callable[[str], None],
    known: dict[DataItem, Check] | None = None,
) -> list[Check]:
    """A row for each item: where it is, how large, and its digest.

    Args:
        items: That a task needs.
        contained: Whether the task runs in a container.
        may_fetch: Whether to have them on this machine, or to look only.
        offline: Whether nothing may be asked for.
        directories: Absolute paths of the folder where the task works, and of the one where its
            run is recorded.
        progress: Is told of what may take long.
        known: Rows of items that others asked for before, in the same examination.
    """
    known = {} if known is None else known
    items = list(dict.fromkeys(items))
    new = [item for item in items if item not in known]
    if may_fetch:
        for item in new:
            known[item] = _had(item, offline=offline, progress=progress)
    else:
        known.update(_looked_at(new, offline=offline))
    checks = [known[item] for item in items]
    if not any(check.verdict == "refused" for check in checks):
        checks += _placing(
            items,
            contained=contained,
            may_fetch=may_fetch,
            offline=offline,
            directories=directories,
        )
    return checks


def _had(item: DataItem, *, offline: bool, progress: Callable[[str], None]) -> Check:
    from fasthep_flow.environments.data import fetch
    from fasthep_flow.environments.data.sources import source_of

    try:
        source = source_of(item)
        digest = fetch(item, offline=offline, anew=True, progress=progress).digest
        if source.kind == "local":
            return _local(item, is_compared=True)
    except DataUnavailable as error:
        return refused("data", error)
    return passed("data", f"{source.shown}: in the cache, {_short(digest)}")


def _looked_at(items: Sequence[DataItem], *, offline: bool) -> dict[DataItem, Check]:
    """What can be seen from here, all of it within the limit."""
    waiting: queue.SimpleQueue[DataItem] = queue.SimpleQueue()
    found: dict[DataItem, Check] = {}
    for item in items:
        waiting.put(item)

    def look() -> None:
        while True:
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                found[item] = _look(item, offline=offline)
            except EnvironmentRefused as error:
                found[item] = refused("data", error)

    threads = [threading.Thread(target=look, daemon=True) for _ in range(min(_AT_ONCE, len(items)))]
    until_s = time.monotonic() + LIMIT_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    return {item: found.get(item) or _silent(item) for item in items}


def _silent(item: DataItem) -> Check:
    from fasthep_flow.environments.data.sources import source_of

    shown = source_of(item).shown
    error = DataUnavailable(
        f"{shown}: no answer within {LIMIT_S:g} s", hint="try again later, or look at the address"
    )
    return refused("data", error)


def _look(item: DataItem, *, offline: bool) -> Check:
    from fasthep_flow.environments.data.fetching import (
        asked_digest,
        different,
        kept_content,
        lookup,
        remote_record,
        size_text,
    )
    from fasthep_flow.environments.data.sources import source_of

    source = source_of(item)
    asked = asked_digest(item)
    if source.kind == "local":
        return _local(item, is_compared=False)
    if offline:
        here = remote_record(item, offline=True, progress=lambda _: None)
        return passed("data", f"{source.shown}: in the cache, {_short(here.digest)}")
    facts, record = lookup(item, limit_s=LIMIT_S)
    size = "" if facts.size is None else f"{size_text(facts.size)}, "
    if (
        record is not None
        and record.facts is not None
        and facts.validators
        and record.facts.validators == facts.validators
    ):
        if asked is not None and asked[0] == "sha256" and asked[1] != record.sha256:
            raise different(source.shown, ":".join(asked), record.digest)
        return passed("data", f"{source.shown}: {size}in the cache, {_short(record.digest)}")
    if kept_content(item) is not None:
        return passed("data", f"{source.shown}: {size}in the cache, {_short(item.digest)}")
    if facts.is_folder:
        return unknown("data", f"{source.shown}: several files; listed when the run starts")
    later = "" if asked is None else ", and its digest looked at then"
    return passed("data", f"{source.shown}: {size}to be fetched{later}")


def _local(item: DataItem, *, is_compared: bool) -> Check:
    from fasthep_flow.environments.data.fetching import asked_digest, size_text
    from fasthep_flow.environments.data.local import find, is_pattern, size_of
    from fasthep_flow.environments.data.sources import source_of

    source = source_of(item)
    asked_digest(item)
    found = find(source)
    words = []
    if is_pattern(source):
        words.append("1 match" if len(found) == 1 else f"{len(found)} matches")
    elif found[0].is_folder:
        words.append("a folder")
    if (size := size_of(found)) is not None:
        words.append(size_text(size))
    if item.digest is not None and is_compared:
        words.append(_short(item.digest))
    elif item.digest is not None:
        words.append("its digest is looked at when the run starts")
    return passed("data", f"{source.shown}: {', '.join(words)}")


def _placing(
    items: Sequence[DataItem],
    *,
    contained: bool,
    may_fetch: bool,
    offline: bool,
    directories: Sequence[str],
) -> list[Check]:
    from fasthep_flow.environments.data import DATA_FOLDER
    from fasthep_flow.environments.data.places import arranged, require_target
    from fasthep_flow.environments.data.sources import source_of

    working_directory = next(iter(directories), "/")
    directory = f"{[*directories, working_directory][1]}/attempt"
    # What is not here yet has names that nobody knows.
    known = [item for item in items if may_fetch or source_of(item).kind == "local"]
    try:
        for item in items:
            require_target(item, contained=contained)
        arranged(
            known,
            folder=f"{directory}/{DATA_FOLDER}",
            contained=contained,
            offline=offline,
            directory=directory,
            working_directory=working_directory,
            may_read=may_fetch,
        )
    except DataUnavailable as error:
        return [refused("data", error)]
    return []


def _short(digest: str | None) -> str:
    return (digest or "")[:_DIGEST_SHOWN]
