"""Processors and devices that one task at a time has, among all processes of the user's."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from fasthep_flow.environments.host.locks import lock_file, machine_lock

__all__ = ["lease"]


@contextmanager
def lease(kind: str, ids: Sequence[str], count: int) -> Iterator[tuple[str, ...]]:
    """Some of the ids, for as long as the context lasts; none where fewer are free.

    Each is a kernel lock on a file, which dies with its holder.

    Args:
        kind: What they are ids of.
        ids: To choose from, the best first.
        count: How many.
    """
    with ExitStack() as held:
        taken: list[str] = []
        with machine_lock(f"lease {kind}"):
            for identity in ids:
                if len(taken) == count:
                    break
                descriptor = _take(f"{kind} {identity}")
                if descriptor is not None:
                    held.callback(os.close, descriptor)
                    taken.append(identity)
            if len(taken) < count:
                taken.clear()
                held.pop_all().close()
        yield tuple(taken)


def _take(name: str) -> int | None:
    with contextlib.suppress(OSError):
        descriptor = lock_file(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            return descriptor
    return None
