"""Kerberos tickets: where they are kept, and until when they can be used.

A cache in a file is read as MIT Kerberos writes it, in the versions 3 and 4 of its format
(https://web.mit.edu/kerberos/krb5-latest/doc/formats/ccache_file_format.html). Of the other
kinds of cache (https://web.mit.edu/kerberos/krb5-latest/doc/basic/ccache_def.html) no more can be
known than what ``klist`` tells, where it is installed, and no container sees them.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from fasthep_flow.environments import Addition
from fasthep_flow.environments.credentials.found import (
    Found,
    MalformedError,
    named_path,
    read_credential,
    said_by,
    shown_file,
    time_text,
)
from fasthep_flow.errors import CredentialUnavailable
from fasthep_flow.model import Credential

__all__ = ["Tickets", "find_tickets", "read_tickets"]

_VARIABLE: Final = "KRB5CCNAME"
_USUAL: Final = "FILE:/tmp/krb5cc_{}"
_SETTINGS: Final = "/etc/krb5.conf"
_KIND: Final = re.compile(r"([A-Za-z0-9]{2,}):(.*)", re.DOTALL)
_SETTING: Final = re.compile(r"\s*default_ccache_name\s*=\s*(\S+)\s*")
_INCLUDE: Final = re.compile(r"\s*include(?P<folder>dir)?\s+(?P<path>/\S+)\s*")
_INCLUDED: Final = re.compile(r"[A-Za-z0-9_-]+|[^.].*\.conf")
_MOST_SETTINGS: Final = 2**20
_PRIMARY: Final = "primary"
_FIRST_BYTE: Final = 5
_VERSIONS: Final = (3, 4)
_WITH_HEADER: Final = 4
_OTHER_KINDS: Final = frozenset({"KEYRING", "KCM", "API", "MSLSA"})
_LIST_LIMIT_S: Final = 10.0
_CONFIGURATION: Final = "X-CACHECONF:"
"""The realm of entries that are settings, and no tickets."""


class Tickets(Struct, frozen=True, kw_only=True):
    """What a cache says of the tickets in it.

    Args:
        principal: Whose they are.
        ends_s: When the one that others are got with ends, seconds since 1970; if there is none,
            the last of the others.
        renewable_until_s: Until when that may be renewed; ``None`` where it may not.
        grants: Whether others can be got with it.
    """

    principal: str
    ends_s: float
    renewable_until_s: float | None = None
    grants: bool = True


class _Ticket(Struct, frozen=True, kw_only=True):
    realm: str
    service: tuple[str, ...]
    ends_s: int
    renewable_until_s: int


def find_tickets(
    credential: Credential, variables: Mapping[str, str], *, contained: bool, now_s: float
) -> Found:
    """The user's tickets.

    Args:
        credential: What is asked for.
        variables: The environment in which to look for them.
        contained: Whether the task runs in a container.
        now_s: Seconds since 1970.

    Raises:
        CredentialUnavailable: There are none, or no container could see them.
    """
    variable = credential.variable or _VARIABLE
    if credential.file is not None:
        named_by, cache = "the workflow", credential.file
    elif (said := said_by(variables, _VARIABLE)) is not None:
        named_by, cache = _VARIABLE, said
    else:
        named_by, cache = f"the setting default_ccache_name of {_SETTINGS}", _default(variables)
    kind, rest = _kind(cache)
    if kind not in {"FILE", "DIR"}:
        return _elsewhere(kind, cache, variable, named_by, variables, contained=contained)
    # DIR::path is one cache of several in a folder.
    is_one_of_several = kind == "DIR" and rest.startswith(":")
    path = named_path(rest.removeprefix(":") if is_one_of_several else rest, named_by)
    if kind == "FILE" and os.path.isdir(path):  # noqa: PTH112 - each run of a job
        kind = "DIR"
    file = _primary(path) if kind == "DIR" and not is_one_of_several else path
    name = f"the Kerberos ticket in {file}"
    renewal = "kinit" if credential.file is None else f"kinit -c {kind}:{path}"
    content, _ = read_credential(file, name, f"get one: {renewal}")
    try:
        tickets = read_tickets(content)
    except MalformedError as error:
        raise CredentialUnavailable(
            f"{name} cannot be read: {error}", hint=f"get a new one: {renewal}"
        ) from None
    prefix = f"{kind}:"
    if is_one_of_several:
        prefix = "FILE:" if contained else "DIR::"
    until_s = tickets.renewable_until_s or 0
    if tickets.ends_s > now_s and until_s > tickets.ends_s:
        anew = renewal.replace("kinit", "kinit -R", 1)
        renewal = f"{anew}, for {time_text(until_s - now_s)} at most, or {renewal}"
    return Found(
        name=name,
        holder=tickets.principal,
        ends_s=tickets.ends_s,
        remark="" if tickets.grants else "it is for single services: no others are got with it",
        renewal=renewal,
        addition=shown_file(variable, path, contained=contained, prefix=prefix),
    )


def _elsewhere(
    kind: str,
    cache: str,
    variable: str,
    named_by: str,
    variables: Mapping[str, str],
    *,
    contained: bool,
) -> Found:
    """Tickets that are in no file.

    Raises:
        CredentialUnavailable: The task could not see them, or there are none.
    """
    usual = _USUAL.format(os.getuid())
    in_a_file = f"get some in a file: kinit -c {usual}, and set {_VARIABLE}={usual}"
    if kind == "MEMORY":
        raise CredentialUnavailable(
            f"the Kerberos tickets are in {cache}, which only the program that got them can see",
            hint=in_a_file,
        )
    if kind not in _OTHER_KINDS:
        known = ", ".join(("FILE", "DIR", *sorted(_OTHER_KINDS)))
        raise CredentialUnavailable(
            f"{named_by} names {cache}, and there is no kind {kind} of caches of tickets",
            hint=f"known are {known}; a path alone is a FILE",
        )
    if contained:
        raise CredentialUnavailable(
            f"the Kerberos tickets are in {cache}, which no container can see", hint=in_a_file
        )
    if _has_none(cache, variables):
        raise CredentialUnavailable(
            f"there is no Kerberos ticket in {cache} that can be used, says klist",
            hint="get one: kinit",
        )
    return Found(
        name=f"the Kerberos tickets in {cache}",
        why_unknown=f"a cache of the kind {kind} cannot be read",
        renewal="kinit",
        addition=Addition(variables={variable: cache}),
    )


def _has_none(cache: str, variables: Mapping[str, str]) -> bool:
    """Whether the cache is empty or its tickets have ended; not so where nobody can tell."""
    program = shutil.which("klist", path=variables.get("PATH"))
    if program is None:
        return False
    try:
        done = subprocess.run(
            # Of MIT and Heimdal alike: it says nothing, and its exit code is the answer.
            (program, "-s", "-c", cache),
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LIST_LIMIT_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return done.returncode == 1


def _kind(cache: str) -> tuple[str, str]:
    """``FILE`` and a path, or another kind and what it is called there."""
    found = _KIND.fullmatch(cache)
    return ("FILE", cache) if found is None else (found[1].upper(), found[2])


def _primary(folder: str) -> str:
    """Of a folder of caches the one that is used."""
    try:
        name = Path(folder, _PRIMARY).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        name = "tkt"
    # That is how the library makes sure that it stays in the folder.
    return f"{folder}/{name}" if name.startswith("tkt") and "/" not in name else f"{folder}/tkt"


def _default(variables: Mapping[str, str]) -> str:
    """What the library's settings say, where that is simple."""
    files = (said_by(variables, "KRB5_CONFIG") or _SETTINGS).split(":")
    uid = str(os.getuid())
    for line in _lines(files):
        if (found := _SETTING.fullmatch(line)) is not None:
            cache = found[1].replace("%{uid}", uid).replace("%{euid}", uid)
            return cache if "%{" not in cache else _USUAL.format(uid)
    return _USUAL.format(uid)


def _lines(files: list[str], depth: int = 0) -> Iterator[str]:
    """Of the section where the setting may be, in the order of the library."""
    for file in files:
        section = ""
        try:
            with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123
                lines = opened.read(_MOST_SETTINGS).splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("["):
                section = line.strip()
            elif (found := _INCLUDE.fullmatch(line)) is not None and depth == 0:
                yield from _lines(_included(found), depth + 1)
            elif section == "[libdefaults]":
                yield line


def _included(found: re.Match[str]) -> list[str]:
    if found["folder"] is None:
        return [found["path"]]
    try:
        names = sorted(os.listdir(found["path"]))  # noqa: PTH208 - names are all that is wanted
    except OSError:
        return []
    return [f"{found['path']}/{name}" for name in names if _INCLUDED.fullmatch(name)]


def read_tickets(content: bytes) -> Tickets:
    """What a cache's file says.

    Args:
        content: Of the file.

    Raises:
        MalformedError: It is none, or of a version that is no longer written.
    """
    cursor = _Cursor(content)
    first, version = cursor.byte(), cursor.byte()
    if first != _FIRST_BYTE:
        raise MalformedError("it is no cache of Kerberos tickets")
    if version not in _VERSIONS:
        raise MalformedError(f"version {version} of the format is not known")
    if version == _WITH_HEADER:
        cursor.skip(cursor.short())
    realm, names = _principal(cursor)
    tickets = []
    while not cursor.at_end():
        ticket = _ticket(cursor, version)
        if ticket.realm != _CONFIGURATION:
            tickets.append(ticket)
    if not tickets:
        raise MalformedError("there is no ticket in it")
    granting = [one for one in tickets if one.service == ("krbtgt", realm)]
    granting = granting or [one for one in tickets if one.service[:1] == ("krbtgt",)]
    last = max(granting or tickets, key=lambda ticket: ticket.ends_s)
    principal = f"{'/'.join(names)}@{realm}"
    return Tickets(
        principal="".join(each if each.isprintable() else "?" for each in principal),
        ends_s=last.ends_s,
        renewable_until_s=last.renewable_until_s or None,
        grants=bool(granting),
    )


class _Cursor:
    """Reads numbers and texts, one behind the other."""

    def __init__(self, content: bytes) -> None:
        self._content: Final = content
        self._at = 0

    def at_end(self) -> bool:
        return self._at >= len(self._content)

    def skip(self, count: int) -> None:
        self.take(count)

    def take(self, count: int) -> bytes:
        taken = self._content[self._at : self._at + count]
        if len(taken) < count:
            raise MalformedError("it is cut off")
        self._at += count
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def short(self) -> int:
        return int(struct.unpack(">H", self.take(2))[0])

    def long(self) -> int:
        return int(struct.unpack(">I", self.take(4))[0])

    def data(self) -> bytes:
        return self.take(self.long())

    def text(self) -> str:
        return self.data().decode("utf-8", "replace")


def _principal(cursor: _Cursor) -> tuple[str, tuple[str, ...]]:
    """The realm, and the names in it."""
    cursor.skip(4)
    count = cursor.long()
    realm = cursor.text()
    # Each takes a few bytes, so that a count that is none ends with them.
    return realm, tuple([cursor.text() for _ in range(count)])


def _ticket(cursor: _Cursor, version: int) -> _Ticket:
    _principal(cursor)
    realm, service = _principal(cursor)
    cursor.skip(2 if version == _WITH_HEADER else 4)
    cursor.skip(cursor.long())
    cursor.skip(8)
    ends_s, renewable_until_s = cursor.long(), cursor.long()
    cursor.skip(5)
    for _ in range(2):
        for _ in range(cursor.long()):
            cursor.skip(2)
            cursor.skip(cursor.long())
    cursor.skip(cursor.long())
    cursor.skip(cursor.long())
    return _Ticket(realm=realm, service=service, ends_s=ends_s, renewable_until_s=renewable_until_s)
