"""Which files a plan makes, and whether another run makes some of the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

import msgspec
from msgspec import Struct

from fasthep_flow.execution.aside import place_of
from fasthep_flow.model import TaskSpec
from fasthep_flow.records.sealed import read_whole

__all__ = ["Outputs"]

_LARGEST_PLAN: Final = 2**30


class _Task(Struct, frozen=True):
    outputs: tuple[str, ...] = ()


class _Plan(Struct, frozen=True):
    """What is wanted of a ``plan.json``."""

    tasks: tuple[_Task, ...]


_DECODE: Final = msgspec.json.Decoder(_Plan).decode


class Outputs:
    """The files and folders that tasks make.

    Two of them are the same where one is the other, or lies in it, whatever links lead there.

    Args:
        paths: Absolute.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._real: Final[dict[str, str]] = {}
        self._named: Final = {self._key(path): path for path in paths}
        self._above: Final = frozenset(one for key in self._named for one in _above(key))

    @classmethod
    def of(cls, tasks: Iterable[TaskSpec]) -> Self:
        """Those of some tasks.

        Args:
            tasks: Of a plan.
        """
        return cls(path for task in tasks for path in task.outputs)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._named)

    def shared(self, paths: Iterable[str]) -> str | None:
        """The first of some paths that is one of these, holds one, or lies in one.

        Args:
            paths: Absolute.
        """
        return next((path for path in paths if self._holds(self._key(path))), None)

    def shared_with(self, run: Path) -> str | None:
        """What another run has in common with these, as words that follow its name.

        A run of which that cannot be told has all of them.

        Args:
            run: Its folder.

        Returns:
            ``None`` where it has nothing in common with them.
        """
        if not self:
            return None
        file = run / "plan.json"
        try:
            planned = _DECODE(read_whole(file, _LARGEST_PLAN))
        except (OSError, ValueError):
            return f"of which {file} cannot say what it makes"
        path = self.shared(path for task in planned.tasks for path in task.outputs)
        return None if path is None else f"which makes {path} too"

    def _holds(self, key: str) -> bool:
        named = self._named
        return key in named or key in self._above or any(one in named for one in _above(key))

    def _key(self, path: str) -> str:
        parent, name = place_of(path)
        if parent not in self._real:
            self._real[parent] = os.path.realpath(parent)
        return f"{self._real[parent].rstrip('/')}/{name}"


def _above(key: str) -> Iterator[str]:
    """The folders that a path lies in."""
    while key := key.rpartition("/")[0]:
        yield key
