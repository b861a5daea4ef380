"""What is asked of a place that data comes from, and what may go wrong there."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from fasthep_flow.environments.data.sources import Source, SourceKind
from fasthep_flow.environments.host.cache import cache_folder
from fasthep_flow.errors import DataUnavailable

__all__ = [
    "CONNECT_S",
    "SILENCE_S",
    "Entry",
    "Facts",
    "Remote",
    "Trouble",
    "UnkeptError",
    "remote_for",
    "told",
    "tried",
    "unknown_host",
    "unreachable",
]

CONNECT_S: Final = 30.0
"""How long a host may take to answer at all."""

SILENCE_S: Final = 60.0
"""How long nothing may come. There is no limit to the whole: a large file takes its time."""

PAUSES_S: Final = (1.0, 4.0)
"""Before what may have been a bad moment is tried again."""

CHUNK: Final = 2**20

_ResultT = TypeVar("_ResultT")


class Trouble(Exception):  # noqa: N818 - it is told as DataUnavailable
    """Why something cannot be had, in words that follow its name.

    Args:
        words: What is wrong.
        hint: What to do next.
        may_pass: Whether it may be better in a moment.
        is_silence: Whether nobody answered: then nothing is known of the source itself.
    """

    def __init__(
        self,
        words: str,
        *,
        hint: str | None = None,
        may_pass: bool = False,
        is_silence: bool = False,
    ) -> None:
        super().__init__(words)
        self.words: Final = words
        self.hint: Final = hint
        self.may_pass: Final = may_pass
        self.is_silence: Final = is_silence


class UnkeptError(Exception):
    """What comes cannot be written down.

    Args:
        error: Why not.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error: Final = error


class Facts(Struct, frozen=True, kw_only=True):
    """What a source says of itself.

    Args:
        size: Bytes; ``None`` where it is not told.
        validators: What changes when the content does: ``etag``, ``modified``, ``checksum``.
        is_sure: Whether they change whenever the content does.
        is_folder: Whether it is one.
    """

    size: int | None = None
    validators: dict[str, str] = {}
    is_sure: bool = False
    is_folder: bool = False


class Entry(Struct, frozen=True, kw_only=True):
    """A file of several.

    Args:
        name: Its path below the folder, or below what stands before the first letter of the
            pattern that means any.
        url: To fetch it from.
        facts: What is known of it; ``None`` where it was not told.
    """

    name: str
    url: str
    facts: Facts | None = None


class Remote(Protocol):
    """A kind of place that data comes from."""

    def look(self, source: Source, *, limit_s: float | None = None) -> Facts:
        """What there is to be had; fetches nothing.

        Args:
            source: What to ask for.
            limit_s: Seconds, for all of it.

        Raises:
            Trouble: It is not to be had.
        """
        ...

    def entries(self, source: Source) -> list[Entry]:
        """The files of a folder, or those that a pattern fits.

        Raises:
            Trouble: They cannot be listed.
        """
        ...

    def read(
        self, source: Source, known: Facts | None, begin: Callable[[Facts], Callable[[bytes], None]]
    ) -> Facts | None:
        """Have the content, unless it is what is known already.

        Args:
            source: What to fetch.
            known: What the source said of itself when it was fetched before.
            begin: Is told what it says now; what it returns is told the bytes.

        Returns:
            What the source said; ``None`` where nothing has changed.

        Raises:
            Trouble: It is not to be had, or broke off.
            UnkeptError: What ``begin`` or its result raise.
        """
        ...


def remote_for(kind: SourceKind) -> Remote:
    """Who fetches from such a place.

    Raises:
        Trouble: What is needed for it is not installed.
    """
    if kind == "s3":
        try:
            from fasthep_flow.environments.data.objects import ObjectStore
        except ImportError as error:
            raise _missing("s3", error) from None
        return ObjectStore()
    if kind == "root":
        try:
            from fasthep_flow.environments.data.xrootd import XRootD
        except ImportError as error:
            raise _missing("xrootd", error) from None
        return XRootD()
    from fasthep_flow.environments.data.web import Web

    return Web()


def _missing(extra: str, error: ImportError) -> Trouble:
    return Trouble(
        f"what fetches from there is not installed ({error.name or error})",
        hint=f"pip install 'fasthep-flow[{extra}]'",
    )


def unknown_host(host: str, error: OSError) -> Trouble:
    """Why a name leads to no address."""
    if error.errno == socket.EAI_AGAIN:
        words = f"the name {host} cannot be looked up at the moment"
        hint = "is this machine on the network?"
        return Trouble(words, hint=hint, may_pass=True, is_silence=True)
    return Trouble(f"there is no host {host}", hint="look at the address", is_silence=True)


def unreachable(host: str, why: str) -> Trouble:
    """Why there is no connection."""
    return Trouble(
        f"{host} cannot be reached: {why}",
        hint="is the host up, and is there a way to it from this machine?",
        may_pass=True,
        is_silence=True,
    )


def tried(work: Callable[[], _ResultT], say: Callable[[str], None]) -> _ResultT:
    """What ``work`` returns; where it may have been a bad moment, it is tried again.

    Args:
        work: Asks a place for something.
        say: Is told why it is tried again.

    Raises:
        Trouble: It was not better then, either.
    """
    for pause_s in PAUSES_S:
        try:
            return work()
        except Trouble as trouble:
            if not trouble.may_pass:
                raise
            say(f"{trouble.words}; tried again")
        time.sleep(pause_s)
    return work()


def told(shown: str, error: Trouble | UnkeptError | OSError) -> DataUnavailable:
    """The same as an error of ours.

    Args:
        shown: Of the source.
        error: What was wrong.
    """
    if isinstance(error, Trouble):
        return DataUnavailable(f"{shown}: {error.words}", hint=error.hint)
    if isinstance(error, UnkeptError):
        error = error.error
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DataUnavailable(
            f"{shown}: there is no room for it in {cache_folder()}: disk full",
            hint="make room there, or set FASTHEP_FLOW_CACHE to a folder on a larger disk",
        )
    return DataUnavailable(
        f"{shown}: it cannot be kept in {cache_folder()}: {error.strerror or error}",
        hint="set FASTHEP_FLOW_CACHE to a folder that you may write to",
    )
