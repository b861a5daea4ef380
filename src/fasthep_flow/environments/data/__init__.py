"""Extra data: files and folders that a task needs in its environment.

They are fetched once, checked, and kept by their content; a task sees them read-only, or gets a
copy of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fasthep_flow.environments import Addition
from fasthep_flow.model import DataItem

__all__ = ["DATA_FOLDER", "fetch", "placed"]

DATA_FOLDER = "data"
"""Of an attempt's folder: what ``FASTHEP_DATA`` names, and where relative targets lie."""


def fetch(item: DataItem, *, offline: bool = False, progress: Callable[[str], None]) -> DataItem:
    """Have the item on this machine; the same one with its digest.

    What is in the cache and is still what the source has is not fetched again. Asked once in a
    process for each item.

    Args:
        item: What is to be had.
        offline: Whether nothing may be fetched or asked for.
        progress: Is told of what may take long.

    Raises:
        DataUnavailable: There is no such thing, no permission, no answer, or not what the
            digest says; with both digests then.
    """
    raise NotImplementedError


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
    if items:
        raise NotImplementedError
    yield Addition()
