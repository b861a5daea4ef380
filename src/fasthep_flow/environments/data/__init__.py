"""Extra data: files and folders that a task needs in its environment.

They are fetched once, checked, and kept by their content; a task sees them read-only, or gets a
copy of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from fasthep_flow.environments import Addition
from fasthep_flow.environments.host.cache import cache_folder
from fasthep_flow.errors import DataUnavailable
from fasthep_flow.model import DataItem

__all__ = ["DATA_FOLDER", "fetch", "placed"]

DATA_FOLDER = "data"
"""Of an attempt's folder: what ``FASTHEP_DATA`` names, and where relative targets lie."""

_LARGE: Final = 2**28
"""Bytes that take a moment to read."""


class _Asked:
    """An item, and what came of it; whoever asks meanwhile waits."""

    def __init__(self) -> None:
        self.lock: Final = threading.Lock()
        self.result: DataItem | DataUnavailable | None = None


_ASKED: Final[dict[tuple[DataItem, bool, bool, Path], _Asked]] = {}
_ASKED_LOCK: Final = threading.Lock()


def fetch(
    item: DataItem,
    *,
    offline: bool = False,
    with_digest: bool = False,
    anew: bool = False,
    progress: Callable[[str], None],
) -> DataItem:
    """Have the item on this machine; the same one with its digest.

    What is in the cache and is still what the source has is not fetched again. Asked once in a
    process for each item.

    Args:
        item: What is to be had.
        offline: Whether nothing may be fetched or asked for.
        with_digest: Whether to read for their digest also files of this machine for which the
            author gives none; they have none else.
        anew: Whether to ask again: for a run that starts.
        progress: Is told of what may take long.

    Raises:
        DataUnavailable: There is no such thing, no permission, no answer, or not what the
            digest says; with both digests then.
    """
    key = (item, offline, with_digest, cache_folder())
    with _ASKED_LOCK:
        asked = _Asked() if anew else _ASKED.get(key, _Asked())
        _ASKED[key] = asked
    with asked.lock:
        if asked.result is None:
            try:
                asked.result = _fetched(
                    item, offline=offline, with_digest=with_digest, progress=progress
                )
            except DataUnavailable as error:
                asked.result = error
        if isinstance(asked.result, DataUnavailable):
            raise DataUnavailable(asked.result.message, hint=asked.result.hint)
        return asked.result


def _fetched(
    item: DataItem, *, offline: bool, with_digest: bool, progress: Callable[[str], None]
) -> DataItem:
    from fasthep_flow.environments.data.fetching import asked_digest, different, remote_record
    from fasthep_flow.environments.data.local import find, local_digest, size_of
    from fasthep_flow.environments.data.sources import source_of

    source = source_of(item)
    if source.kind != "local":
        record = remote_record(item, offline=offline, progress=progress)
        return msgspec.structs.replace(item, digest=record.digest)
    asked = asked_digest(item)
    if asked is None and not with_digest:
        find(source)
        return item
    if (size := size_of(find(source))) is None or size >= _LARGE:
        progress(f"data {source.shown}: its digest is read")
    if asked is not None:
        wanted, found = ":".join(asked), local_digest(source, asked[0])
        if found != wanted:
            raise different(source.shown, wanted, found)
        if not with_digest:
            return item
    return msgspec.structs.replace(item, digest=local_digest(source, "sha256"))


@contextmanager
def placed(
    items: Sequence[DataItem],
    *,
    directory: str,
    contained: bool,
    offline: bool,
    working_directory: str,
) -> Iterator[Addition]:
    """The items as a task is to see them, for as long as the context lasts.

    Args:
        items: With their digests, where these are known.
        directory: Absolute path of the attempt's folder.
        contained: Whether the task runs in a container.
        offline: Whether nothing may be fetched.
        working_directory: Absolute path of the folder where the task works.

    Yields:
        The mounts, the variable ``FASTHEP_DATA``, and the digests by source.

    Raises:
        DataUnavailable: An item cannot be had; or, at the end, the task has changed what it
            may only read.
    """
    if not items:
        yield Addition()
        return
    from fasthep_flow.environments.data.places import arranged
    from fasthep_flow.environments.data.placing import laid_out

    folder = f"{directory}/{DATA_FOLDER}"
    places, facts = arranged(
        items,
        folder=folder,
        contained=contained,
        offline=offline,
        directory=directory,
        working_directory=working_directory,
    )
    with laid_out(places, folder=folder, contained=contained) as mounts:
        yield Addition(mounts=tuple(mounts), variables={"FASTHEP_DATA": folder}, facts=facts)
