"""Fetches what a source has, if it has changed, and looks whether it is what its digest says."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from fasthep_flow.environments.data.kept import (
    Incoming,
    Record,
    keep_folder,
    kept,
    read_record,
    source_lock,
    write_record,
)
from fasthep_flow.environments.data.listing import folder_listing, listing_digest
from fasthep_flow.environments.data.remote import (
    Entry,
    Facts,
    Remote,
    Trouble,
    UnkeptError,
    remote_for,
    told,
    tried,
)
from fasthep_flow.environments.data.sources import Source, source_of
from fasthep_flow.environments.host.digests import ALGORITHMS, file_digest
from fasthep_flow.environments.host.machine import bytes_text
from fasthep_flow.errors import DataUnavailable
from fasthep_flow.model import DataItem

__all__ = ["asked_digest", "different", "kept_content", "lookup", "remote_record", "size_text"]

_TELL_EVERY_S: Final = 15.0
_SHORT: Final = {"adler32": 8, "crc32": 8}


def asked_digest(item: DataItem) -> tuple[str, str] | None:
    """Algorithm and hexadecimal digits of what the item must be.

    Raises:
        DataUnavailable: The author wrote no digest that can be looked at.
    """
    if item.digest is None:
        return None
    algorithm, _, digits = item.digest.partition(":")
    algorithm, digits = algorithm.lower(), digits.lower()
    if algorithm not in ALGORITHMS or not digits or set(digits) - set("0123456789abcdef"):
        raise DataUnavailable(
            f"{item.digest!r} is no digest that can be looked at",
            hint=f"write one of {', '.join(f'{name}:...' for name in ALGORITHMS)}",
        )
    # Tools leave out leading zeros.
    return algorithm, digits.rjust(_SHORT.get(algorithm, 0), "0")


def size_text(count: int) -> str:
    """Bytes for people: ``12 bytes``, ``1.5Gi``."""
    return bytes_text(count) if count >= 2**10 else f"{count} bytes"


def different(shown: str, asked: str, found: str) -> DataUnavailable:
    """The error of what is not what its digest says.

    Args:
        shown: The source.
        asked: ``sha256:...`` of what it must be.
        found: The same of what it is.
    """
    return DataUnavailable(
        f"{shown} is not what its digest says: asked for is {asked}, found was {found}",
        hint="if the change is meant, write the new digest",
    )


def remote_record(item: DataItem, *, offline: bool, progress: Callable[[str], None]) -> Record:
    """What the item's source has, which is in the cache then.

    Raises:
        DataUnavailable: It cannot be had, or is not what its digest says.
    """
    source = source_of(item)
    asked = asked_digest(item)
    try:
        # Other sources may have had the same content.
        if offline or (_is_here(asked) and read_record(source) is None):
            return _offline(source, asked)
        record = _record(remote_for(source.kind), source, asked, progress)
    except (Trouble, UnkeptError, OSError) as error:
        raise told(source.shown, error) from None
    _require(source, record, asked)
    return record


def _is_here(asked: tuple[str, str] | None) -> bool:
    return asked is not None and _content(asked) is not None


def kept_content(item: DataItem) -> tuple[Path, bool] | None:
    """Where an item's content is, which is named by SHA-256, and whether that is a folder."""
    asked = asked_digest(item)
    return None if asked is None else _content(asked)


def _content(asked: tuple[str, str]) -> tuple[Path, bool] | None:
    if asked[0] == "sha256":
        for is_folder in (False, True):
            if (path := kept(asked[1], is_folder=is_folder)) is not None:
                return path, is_folder
    return None


def lookup(item: DataItem, *, limit_s: float) -> tuple[Facts, Record | None]:
    """What its source says, and what there is of it in the cache; fetches nothing.

    Args:
        item: That comes from elsewhere.
        limit_s: Seconds that it may take.

    Raises:
        DataUnavailable: It is not to be had.
    """
    source = source_of(item)
    try:
        remote = remote_for(source.kind)
        record = read_record(source)
        try:
            return remote.look(source, limit_s=limit_s), record
        except Trouble:
            if not source.may_be_pattern:
                raise
            return Facts(is_folder=True), record
    except Trouble as error:
        raise told(source.shown, error) from None


def _offline(source: Source, asked: tuple[str, str] | None) -> Record:
    if asked is not None and (here := _content(asked)) is not None:
        path, is_folder = here
        size = 0 if is_folder else path.stat().st_size
        return Record(shown=source.shown, sha256=asked[1], size=size, is_folder=is_folder)
    record = read_record(source)
    if record is not None:
        try:
            _require(source, record, asked)
        except DataUnavailable:
            what = f"in the cache as {record.digest}, and not as {':'.join(asked or ())}"
        else:
            return record
    else:
        what = "not in the cache" if asked is None else f"not in the cache as {':'.join(asked)}"
    raise DataUnavailable(
        f"{source.shown} is {what}, and nothing may be fetched",
        hint="'fasthep-flow pull' brings it in, where there is a network",
    )


def _require(source: Source, record: Record, asked: tuple[str, str] | None) -> None:
    if asked is None:
        return
    algorithm, digits = asked
    found = record.sha256 if algorithm == "sha256" else _digits(record, algorithm)
    if found != digits:
        raise different(source.shown, f"{algorithm}:{digits}", f"{algorithm}:{found}")


def _digits(record: Record, algorithm: str) -> str:
    if algorithm in record.digests:
        return record.digests[algorithm]
    path = kept(record.sha256, is_folder=record.is_folder)
    if path is None:
        raise DataUnavailable(f"{record.shown} is not in the cache any more")
    if record.is_folder:
        return listing_digest(folder_listing(path), algorithm)
    return file_digest(path, algorithm).partition(":")[2]


def _record(
    remote: Remote,
    source: Source,
    asked: tuple[str, str] | None,
    progress: Callable[[str], None],
) -> Record:
    """What the source has now.

    Raises:
        Trouble: It cannot be asked; where what is here has the digest that is asked for, it
            need not be.
    """
    since_s = time.time()
    with source_lock(source):
        known = read_record(source)
        if known is not None and known.is_newer(since_s):
            # Who had the lock before has just asked.
            return known
        try:
            if _is_several(remote, source, progress):
                record = _several(remote, source, progress)
            else:
                record = _single(remote, source, known, asked, progress)
        except Trouble as trouble:
            here = _here(source, known, asked) if trouble.is_silence else None
            if here is None:
                raise
            progress(f"{source.shown}: {trouble.words}; what is in the cache has its digest")
            return here
        write_record(source, record)
        return record


def _here(source: Source, known: Record | None, asked: tuple[str, str] | None) -> Record | None:
    """What is in the cache, if that is what is asked for."""
    if asked is None:
        return None
    try:
        if known is not None:
            _require(source, known, asked)
            return known
        return _offline(source, asked)
    except DataUnavailable:
        return None


def _is_several(remote: Remote, source: Source, progress: Callable[[str], None]) -> bool:
    if source.kind == "http":
        return False
    if source.kind == "root" and source.may_be_pattern:
        return True
    try:
        facts = tried(lambda: remote.look(source), _said(source, progress))
    except Trouble as trouble:
        if source.may_be_pattern and not trouble.is_silence:
            return True
        raise
    return facts.is_folder


def _several(remote: Remote, source: Source, progress: Callable[[str], None]) -> Record:
    entries = tried(lambda: remote.entries(source), _said(source, progress))
    if not entries:
        what = "nothing fits it" if source.may_be_pattern else "it is an empty folder"
        raise Trouble(what, hint="look at what there is")
    entries = sorted(entries, key=lambda one: one.name)
    size = sum(one.facts.size or 0 for one in entries if one.facts is not None)
    count = "1 file" if len(entries) == 1 else f"{len(entries)} files"
    told_size = f", {size_text(size)}" if size else ""
    progress(f"data {source.shown}: {count}{told_size}")
    files: list[tuple[str, Record]] = []
    said_s = time.monotonic()
    for entry in entries:
        files.append((_safe(entry), _file_of(remote, entry)))
        if time.monotonic() - said_s >= _TELL_EVERY_S:
            said_s = time.monotonic()
            progress(f"data {source.shown}: {len(files)} of {len(entries)} files fetched")
    return keep_folder(source, files)


def _safe(entry: Entry) -> str:
    parts = entry.name.split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise Trouble(f"the name {entry.name!r} in there can be no file's")
    return entry.name


def _file_of(remote: Remote, entry: Entry) -> Record:
    item = DataItem(source=entry.url)
    try:
        one = source_of(item)
    except DataUnavailable as error:
        raise Trouble(error.message) from None
    since_s = time.time()
    with source_lock(one):
        known = read_record(one)
        if known is not None and known.is_newer(since_s):
            return known
        facts = entry.facts
        if (
            known is not None
            and known.facts is not None
            and known.facts.is_sure
            and facts is not None
            and facts.validators == known.facts.validators
        ):
            return known
        try:
            record = _single(remote, one, known, None, _say_nothing)
        except Trouble as trouble:
            raise Trouble(
                f"{entry.name}: {trouble.words}", hint=trouble.hint, is_silence=trouble.is_silence
            ) from None
        write_record(one, record)
        return record


def _single(
    remote: Remote,
    source: Source,
    known: Record | None,
    asked: tuple[str, str] | None,
    progress: Callable[[str], None],
) -> Record:
    if known is not None and known.is_folder:
        known = None
    # Of what may have changed unseen only the author's digest says that it has not.
    is_known = (
        known is not None
        and known.facts is not None
        and bool(known.facts.validators)
        and (known.facts.is_sure or _fits(known, asked))
    )
    facts = known.facts if known is not None and is_known else None
    algorithms = [] if asked is None else [asked[0]]

    def fetch() -> Record | None:
        with Incoming(source, algorithms, _Progress(source, progress)) as incoming:
            found = remote.read(source, facts, incoming.begin)
            return None if found is None else incoming.keep(found)

    record = tried(fetch, _said(source, progress))
    if record is None:
        assert known is not None  # noqa: S101 - nothing else can be unchanged
        return known
    return record


def _fits(known: Record, asked: Sequence[str] | None) -> bool:
    if asked is None:
        return False
    return asked[1] == (known.sha256 if asked[0] == "sha256" else _digits(known, asked[0]))


def _say_nothing(_: str) -> None:
    """Of one file of many."""


def _said(source: Source, progress: Callable[[str], None]) -> Callable[[str], None]:
    return lambda words: progress(f"data {source.shown}: {words}")


class _Progress:
    """Tells how far a transfer is: when it starts, and now and then."""

    def __init__(self, source: Source, progress: Callable[[str], None]) -> None:
        self._source: Final = source
        self._progress: Final = progress
        self._said_s = 0.0

    def __call__(self, count: int, size: int | None) -> None:
        now_s = time.monotonic()
        if not self._said_s:
            whole = "of unknown size" if size is None else size_text(size)
            self._progress(f"data {self._source.shown}: {whole}")
        elif now_s - self._said_s < _TELL_EVERY_S:
            return
        else:
            whole = "" if size is None else f" of {size_text(size)}"
            self._progress(f"data {self._source.shown}: {size_text(count)}{whole} fetched")
        self._said_s = now_s
