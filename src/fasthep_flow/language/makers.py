"""Which task makes what: no two of them the same, and none reads what may not be there yet."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from fasthep_flow.language.files import NamedFile, TaskFiles, is_within
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.graph import reached
from fasthep_flow.language.refusals import nearest, shown
from fasthep_flow.language.sources import AUTOMOUNTED
from fasthep_flow.language.tasks import Task

__all__ = ["check_files"]

_COMPARED: Final = 1_000_000
"""Patterns and outputs that are held against each other: a second of work."""

_COMPARED_NAMES: Final = 100_000
_SIGNS: Final = re.compile(r"[*?\[]")
_NO_FILES: Final = TaskFiles()


class _Made(NamedTuple):
    maker: int
    file: NamedFile


def check_files(
    tasks: Sequence[Task],
    needs: Sequence[Sequence[int]],
    ordered: Sequence[int],
    findings: Findings,
) -> None:
    """Refuse what tasks make twice, and what one reads of another that it does not need.

    Args:
        tasks: In the order of the file.
        needs: For every task the numbers of those that it needs.
        ordered: The numbers of the tasks, each behind those that it needs.
        findings: What is found.
    """
    if all(task.files == _NO_FILES for task in tasks):
        return
    makers = _Makers(tasks, findings)
    makers.check_outputs()
    makers.check_inputs(needs, ordered)


@dataclass(slots=True)
class _Makers:
    tasks: Sequence[Task]
    findings: Findings
    made: dict[str, _Made] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    compared: int = 0
    compared_names: int = 0
    looked_at: set[str] = field(default_factory=set)

    def check_outputs(self) -> None:
        """Refuse an output that two tasks make, or that lies in another one."""
        for number, task in enumerate(self.tasks):
            for file in task.files.outputs:
                earlier = self.made.setdefault(file.key, _Made(number, file))
                if earlier.file is not file:
                    self._refuse_twice(file, earlier)
        self.keys = sorted(self.made)
        for key in self.keys:
            maker, file = self.made[key]
            around = next((self.made[one] for one in _above(key) if one in self.made), None)
            if around is not None:
                self._refuse_inside(maker, file, around)

    def _named(self, number: int, file: NamedFile) -> str:
        line = self.findings.document.place(file.steps).line
        return f"task {shown(self.tasks[number].name)} (line {line})"

    def _refuse_twice(self, file: NamedFile, earlier: _Made) -> None:
        line = self.findings.document.place(file.steps).line
        self.findings.refuse(
            file.steps,
            f"{shown(file.text)} is made here (line {line}), and by"
            f" {self._named(earlier.maker, earlier.file)}: one would take away what the other made",
            "have each task make files of its own",
        )

    def _refuse_inside(self, number: int, file: NamedFile, around: _Made) -> None:
        line = self.findings.document.place(file.steps).line
        if around.maker == number:
            self.findings.refuse(
                file.steps,
                f"{shown(file.text)} lies in {shown(around.file.text)}, which is an output of this"
                " task already",
                "remove one of them",
            )
            return
        self.findings.refuse(
            file.steps,
            f"{shown(file.text)} (line {line}) lies in {shown(around.file.text)}, which"
            f" {self._named(around.maker, around.file)} makes: each attempt of that begins with an"
            " empty place",
            "have each task make files, or a folder, of its own",
        )

    def check_inputs(self, needs: Sequence[Sequence[int]], ordered: Sequence[int]) -> None:
        """Refuse what a task reads of its own, or of one that need not have ended before."""
        asked: list[tuple[int, NamedFile, list[_Made]]] = []
        for number, task in enumerate(self.tasks):
            for file in task.files.inputs:
                found = self._makers_of(file)
                own = next((one for one in found if one.maker == number), None)
                if own is not None:
                    self._refuse_own(file, own)
                elif found:
                    asked.append((number, file, found))
                else:
                    self._look(file)
        if len(ordered) < len(self.tasks):
            # In a circle all come before all others.
            return
        pairs = {(number, one.maker) for number, _, found in asked for one in found}
        known = reached(pairs, needs, ordered)
        for number, file, found in asked:
            early = [one for one in found if (number, one.maker) not in known]
            if early:
                self._refuse_early(file, early)

    def _refuse_own(self, file: NamedFile, own: _Made) -> None:
        what = "is" if own.file.key == file.key else "names, or holds,"
        line = self.findings.document.place(own.file.steps).line
        self.findings.refuse(
            file.steps,
            f"{shown(file.text)} {what} the output {shown(own.file.text)} (line {line}) of this"
            " very task: it is set aside before the task starts",
            "have the task read one file and make another",
        )

    def _refuse_early(self, file: NamedFile, early: Sequence[_Made]) -> None:
        maker, made = early[0]
        name = shown(self.tasks[maker].name)
        more = f", and {len(early) - 1} more" if early[1:] else ""
        says_needs = any(task.says_needs for task in self.tasks)
        if says_needs:
            then = "this task does not need"
            hint = f"add {name} to the 'needs' of this task"
        else:
            then = "comes after this task"
            hint = f"write this task behind {name}, or say with 'needs' what waits for what"
        self.findings.block(
            file.steps,
            f"{shown(file.text)} {_relation(file, made)}made by {self._named(maker, made)}, which"
            f" {then}{more}",
            hint,
        )

    def _look(self, file: NamedFile) -> None:
        """Warn of an input that no task makes and that is not on this machine."""
        if file.is_pattern or file.path in self.looked_at or file.path.startswith(AUTOMOUNTED):
            return
        self.looked_at.add(file.path)
        try:
            there = Path(file.path).exists()
        except OSError:
            return
        if there:
            return
        hint = f"it was looked for as {shown(file.path)[1:-1]}"
        if self.made and self.compared_names < _COMPARED_NAMES:
            self.compared_names += len(self.made)
            near = nearest(file.text, [made.file.text for made in self.made.values()])
            hint = near if near.startswith("did you mean") else hint
        self.findings.warn(
            file.steps,
            "no task makes this, and there is no such file or folder on this machine",
            hint,
        )

    def _makers_of(self, file: NamedFile) -> list[_Made]:
        """The outputs that a task reads which reads this: they are it, lie in it, or hold it."""
        if not self.made:
            return []
        key = file.key
        sign = _SIGNS.search(key) if file.is_pattern else None
        folder = key if sign is None else posixpath.dirname(key[: sign.start()])
        found = [self.made[one] for one in (key, *_above(key)) if one in self.made]
        first = bisect_left(self.keys, f"{folder.rstrip('/')}/")
        last = bisect_left(self.keys, f"{folder.rstrip('/')}0")
        if sign is None:
            return found + [self.made[one] for one in self.keys[first:last]]
        self.compared += last - first
        if self.compared > _COMPARED:
            self.findings.warn(
                file.steps,
                "there are too many patterns and outputs to tell which tasks make what this names",
                "name folders instead",
            )
            return found
        parts = key.split("/")
        return found + [
            self.made[one] for one in self.keys[first:last] if _fits(parts, one.split("/"))
        ]


def _relation(file: NamedFile, made: NamedFile) -> str:
    """What an input has to do with the output that makes it one of another task."""
    if file.key == made.key:
        return "is "
    if file.is_pattern:
        return f"fits {shown(made.text)}, "
    return f"{'lies in' if is_within(file.key, made.key) else 'holds'} {shown(made.text)}, "


def _fits(pattern: Sequence[str], path: Sequence[str]) -> bool:
    """Whether a pattern names a path, what lies in it, or what it lies in."""
    for part, name in zip(pattern, path, strict=False):
        if part == "**":
            return True
        if not _matcher(part).match(name):
            return False
    return True


@lru_cache(maxsize=4096)
def _matcher(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part))


def _above(key: str) -> Iterator[str]:
    """The folders that a path lies in, the innermost first."""
    while (above := posixpath.dirname(key)) != key:
        yield above
        key = above
