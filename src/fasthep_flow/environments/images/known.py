"""Images that this process has had on the machine already: asked for once each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fasthep_flow.environments import ResolvedImage
from fasthep_flow.environments.host.cache import cache_folder
from fasthep_flow.model import Image

__all__ = ["KnownImages"]


class KnownImages:
    """What images were resolved to; safe in all threads.

    Args:
        is_there: Whether one is still on the machine; all of them, if not given.
    """

    def __init__(self, is_there: Callable[[ResolvedImage], bool] | None = None) -> None:
        self._is_there: Final = is_there
        self._lock: Final = threading.Lock()
        self._images: Final[dict[tuple[Image, Path], ResolvedImage]] = {}
        self._locks: Final[dict[Image, threading.Lock]] = {}

    def have(self, image: Image, resolve: Callable[[Image], ResolvedImage]) -> ResolvedImage:
        """The image, resolved now if it was not before; by one thread at a time.

        What ``resolve`` raises is raised, and asked again the next time.
        """
        key = image, cache_folder()
        with self._lock:
            own_lock = self._locks.setdefault(image, threading.Lock())
        with own_lock:
            known = self._images.get(key)
            if known is None or (self._is_there is not None and not self._is_there(known)):
                known = resolve(image)
                with self._lock:
                    self._images[key] = known
            return known

    def forget(self) -> None:
        """Resolve all of them anew."""
        with self._lock:
            self._images.clear()
