"""Results that may stand for others: what the tasks of earlier runs came to, by their identities.

::

    output/.cache/  results/<2 digits>/<digest>.json    what a task came to
                    latest/<2 digits>/<digest>.json     which of them was the last of a task
                    digests.json                        of files: see :mod:`.digests`
                    damaged/                            what cannot be believed

Outputs stay where they were made, and are compared by digest with what was recorded before they
are trusted. Of what a task printed nothing is here. Several runs may use it at once. Whoever may
write to it decides what is in it, as with the outputs themselves.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Struct

from fasthep_flow.model import JobResult, TaskSpec
from fasthep_flow.records.digests import Digests
from fasthep_flow.records.framing import clear, digest_of
from fasthep_flow.records.identity import Identity
from fasthep_flow.records.sealed import read_whole, sealed, set_aside, unsealed, write_whole

__all__ = ["CACHE_FOLDER", "Cache", "Cached", "changed_output", "is_reusable"]

CACHE_FOLDER: Final = ".cache"
"""Of the output folder."""

_FORMAT: Final = 1
_LARGEST: Final = 48 * 2**20
"""Bytes of a record; the value of a result has at most 16 MiB, and JSON may double that."""

_MOST: Final = 50_000
_MOST_LOOKED_AT: Final = 1_000
_UNUSED_S: Final = 30 * 24 * 3600.0
_USED_S: Final = 3600.0
_ABANDONED_S: Final = 24 * 3600.0
_T = TypeVar("_T", bound=Struct)


class Cached(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A result that was kept.

    Args:
        format: Of this record.
        digest: Of the identity.
        parts: Of the identity.
        run_id: Of the run that had it.
        stored_s: When it was kept, in seconds since the epoch.
        result: Without the ends of the logs.
    """

    format: int
    digest: str
    parts: dict[str, str]
    run_id: str
    stored_s: float
    result: JobResult


class _Latest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    source: str
    task: str
    digest: str


_DECODERS: Final[dict[type, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind, strict=True) for kind in (Cached, _Latest)
}


def is_reusable(task: TaskSpec, result: JobResult) -> bool:
    """Whether a result says all that the task came to: so that it may stand for another one.

    Args:
        task: As planned.
        result: How its last attempt ended.
    """
    if result.status not in {"succeeded", "reused"}:
        return False
    if task.outputs:
        return set(task.outputs) <= result.outputs.keys()
    return task.cache and result.value is not UNSET


def changed_output(task: TaskSpec, result: JobResult, digests: Digests) -> str | None:
    """Which output is not as it was made, in a clause; ``None`` if they all are.

    Args:
        task: As planned.
        result: That names their digests.
        digests: Of files and folders.
    """
    for output in task.outputs:
        recorded = result.outputs.get(output)
        if recorded is None:
            return f"output {output} was not declared then"
        path = output.rstrip("/")
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                return f"output {output} is a link now"
            digest = digests.of(path)
        except (FileNotFoundError, NotADirectoryError):
            digest = None
        except (OSError, ValueError) as error:
            return f"output {output} cannot be read: {getattr(error, 'strerror', None) or error}"
        if digest is None:
            return f"output {output} is not there any more"
        if digest != recorded:
            return f"output {output} is not as it was made"
    return None


class Cache:
    """The results that are kept for an output folder.

    Where the folder cannot be written to, nothing is kept, and no run fails for that.

    Args:
        folder: Absolute path of the cache; it is made when something is kept.
        source: Absolute path of the workflow file: two may have tasks of the same name.
        noticed: Is told of each record that was damaged, and where it lies now; and once, if
            nothing can be kept.
    """

    def __init__(
        self, folder: Path, source: str, *, noticed: Callable[[str], None] = lambda _: None
    ) -> None:
        self._folder: Final = folder
        self._source: Final = source
        self._noticed: Final = noticed
        self._encode: Final = msgspec.json.Encoder().encode
        self._cannot_keep = False

    def look_up(self, identity: Identity) -> Cached | None:
        """What is kept for an identity; its outputs are still to be verified.

        Args:
            identity: Of the task, as it would run now.
        """
        if not identity.is_known:
            return None
        path = self._result_path(identity.digest)
        found = self._read(path, Cached)
        if found is None:
            return None
        if found.digest != identity.digest or Identity.of(found.parts).digest != identity.digest:
            self._set_aside(path, "it is the record of another task")
            return None
        # What is used last is the last to be removed; to the hour, as it may be a server's file.
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _USED_S:
                os.utime(path)
        return found

    def latest(self, task: str) -> Cached | None:
        """The last result of a task that was kept, whatever it was made of.

        Args:
            task: Its name.
        """
        path = self._latest_path(task)
        known = self._read(path, _Latest)
        if known is None:
            return None
        if (known.source, known.task) != (clear(self._source), clear(task)):
            self._set_aside(path, "it is the record of another task")
            return None
        found = self._read(self._result_path(known.digest), Cached)
        return found if found is not None and found.digest == known.digest else None

    def store(
        self,
        task: TaskSpec,
        identity: Identity,
        result: JobResult,
        run_id: str,
        *,
        sync: bool = True,
    ) -> bool:
        """Keep a result, to stand for others; whether it is kept.

        Args:
            task: As planned.
            identity: Of the attempt.
            result: How it ended.
            run_id: Of the run.
            sync: Whether to wait until it is on the disk.
        """
        if not identity.is_known or not is_reusable(task, result):
            return False
        record = Cached(
            format=_FORMAT,
            digest=identity.digest,
            parts=identity.parts,
            run_id=run_id,
            stored_s=time.time(),
            result=msgspec.structs.replace(result, stdout_tail="", stderr_tail=""),
        )
        latest = _Latest(
            format=_FORMAT,
            source=clear(self._source),
            task=clear(task.name),
            digest=identity.digest,
        )
        try:
            text = sealed(self._encode(record))
            if len(text) > _LARGEST:
                return False
            self._write(self._result_path(identity.digest), text, sync=sync)
            self._write(self._latest_path(task.name), sealed(self._encode(latest)), sync=False)
        except (OSError, UnicodeEncodeError) as error:
            if not self._cannot_keep:
                self._cannot_keep = True
                why = getattr(error, "strerror", None) or error
                self._noticed(f"no results can be kept for other runs in {self._folder}: {why}")
            return False
        return True

    def prune(self, *, most: int = _MOST, unused_s: float = _UNUSED_S) -> int:
        """Remove what is of no more use; how many records that were.

        These are the records that were not used for long and whose outputs are gone, and those
        that are more than so many, the oldest first.

        Args:
            most: How many are kept.
            unused_s: Seconds.
        """
        now_s = time.time()
        found = sorted((used_s, path) for path, used_s in self._files("results"))
        surplus = max(0, len(found) - most)
        removed = 0
        # Of those that may go, so many are looked at in one go: the others are for another run.
        for number, (used_s, path) in enumerate(found[: surplus + _MOST_LOOKED_AT]):
            if number < surplus or (now_s - used_s > unused_s and self._is_void(path)):
                with suppress(OSError):
                    path.unlink()
                    removed += 1
        for path, used_s in self._files("latest"):
            if now_s - used_s > unused_s and not self._leads_somewhere(path):
                with suppress(OSError):
                    path.unlink()
        return removed

    def _is_void(self, path: Path) -> bool:
        found = self._read(path, Cached)
        if found is None:
            return False
        outputs = found.result.outputs
        return bool(outputs) and not any(os.path.lexists(one.rstrip("/")) for one in outputs)

    def _leads_somewhere(self, path: Path) -> bool:
        found = self._read(path, _Latest)
        return found is not None and self._result_path(found.digest).exists()

    def _files(self, kind: str) -> Iterator[tuple[Path, float]]:
        """The records of a kind, and when they were used; what was never finished is removed."""
        for path in (*(self._folder / kind).glob("*/*"), *self._folder.glob(".*.part")):
            with suppress(OSError):
                used_s = path.stat().st_mtime
                if not path.name.startswith("."):
                    yield path, used_s
                elif time.time() - used_s > _ABANDONED_S:
                    path.unlink()

    def _result_path(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self._folder / "results" / name[:2] / f"{name}.json"

    def _latest_path(self, task: str) -> Path:
        name = digest_of(self._source, task)
        return self._folder / "latest" / name[:2] / f"{name}.json"

    def _write(self, path: Path, text: bytes, *, sync: bool) -> None:
        # The values are the user's own affair: neither others nor their groups look in.
        for folder in (self._folder, path.parent.parent, path.parent):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700, parents=folder is self._folder)
        write_whole(path, text, sync=sync)

    def _read(self, path: Path, kind: type[_T]) -> _T | None:
        try:
            text = unsealed(read_whole(path, _LARGEST))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            # Where several users have one output folder, what is another one's is not ours.
            return None
        except OSError as error:
            self._set_aside(path, str(error.strerror or error))
            return None
        if text is None:
            self._set_aside(path, "it was cut short, or changed")
            return None
        try:
            found: _T = _DECODERS[kind].decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._set_aside(path, str(error))
            return None
        # One of another version's is no damage; it is made anew.
        return found if getattr(found, "format", None) == _FORMAT else None

    def _set_aside(self, path: Path, why: str) -> None:
        where = set_aside(path, self._folder / "damaged")
        if where is not None:
            self._noticed(f"the record {path} is not believed: {why}; it is {where} now")
