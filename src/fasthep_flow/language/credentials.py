"""Credentials that a task asks for: which kind, and where else than usual it lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from fasthep_flow.environments.devices.choice import HIDDEN
from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.paths import absolute, check_text
from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.language.schema import CredentialModel
from fasthep_flow.language.variables import name_fault
from fasthep_flow.model import Credential, CredentialKind

__all__ = ["NAMED_BY", "TOKEN", "names_set", "read_credentials"]

NAMED_BY: Final[Mapping[CredentialKind, str]] = {
    "x509": "X509_USER_PROXY",
    "kerberos": "KRB5CCNAME",
    "bearer": "BEARER_TOKEN_FILE",
}
"""The variable that names the file of a credential, where the author names none."""

TOKEN: Final = "BEARER_TOKEN"  # noqa: S105 - the name of a variable
"""It is the token itself, and comes before any file."""

_KINDS: Final[tuple[CredentialKind, ...]] = ("x509", "kerberos", "bearer", "file")
_ALONE: Final = tuple(kind for kind in _KINDS if kind != "file")
_OTHER_NAMES: Final[Mapping[str, CredentialKind]] = {
    "krb5": "kerberos",
    "token": "bearer",
    "voms": "x509",
}
_CACHE: Final = re.compile(
    r"(?P<kind>FILE|DIR|KEYRING|KCM|MEMORY|API|MSLSA):(?P<rest>.*)", re.DOTALL
)
"""How Kerberos names a cache of tickets."""

_TAKEN: Final = frozenset({"HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "PYTHONPATH", *HIDDEN})
"""Variables that tell programs something else, which a file's path would take away."""

_HINT: Final = f"known are {', '.join(_ALONE)}, and a file: {{file: PATH, variable: NAME}}"


def read_credentials(
    items: Sequence[str | CredentialModel | None], steps: Steps, findings: Findings
) -> tuple[Credential, ...]:
    """The credentials that stand at a place; what is wrong with one becomes findings.

    Args:
        items: Kinds, and mappings; ``None`` for what was refused before.
        steps: Their place.
        findings: What is wrong is added to them.
    """
    read: dict[tuple[str, str | None], Credential] = {}
    for number, item in enumerate(items):
        if item is None:
            continue
        here = findings.written((*steps, number))
        try:
            credential = _read(item, findings)
        except Refusal as refusal:
            findings.refuse(here, refusal.message, refusal.hint)
            continue
        # Of a kind, a variable can name but one file.
        key = credential.kind, credential.variable if credential.kind == "file" else None
        earlier = read.setdefault(key, credential)
        if earlier is credential:
            continue
        what = credential.variable if credential.kind == "file" else credential.kind
        if earlier == credential:
            findings.warn(here, f"{what} is asked for twice", "remove one of them")
        else:
            findings.refuse(
                here, f"{what} is asked for twice, each time another one", "keep one of them"
            )
    return tuple(read.values())


def names_set(credential: Credential) -> tuple[str, ...]:
    """The variables whose value the credential decides: the author may not set them besides."""
    if credential.file is None:
        # Its kind's own variable says where it is looked for.
        return () if credential.variable is None else (credential.variable,)
    name = credential.variable or NAMED_BY.get(credential.kind)
    names = () if name is None else (name,)
    return (*names, TOKEN) if credential.kind == "bearer" else names


def _read(item: str | CredentialModel, findings: Findings) -> Credential:
    if isinstance(item, str):
        kind = _kind(item)
        if kind == "file":
            raise Refusal("which file?", "write {file: PATH, variable: NAME}")
        return Credential(kind=kind)
    if item.kind is None and item.file is None:
        raise Refusal("this names no credential", f"such as {', '.join(_ALONE)}")
    kind = "file" if item.kind is None else _kind(item.kind)
    file = item.file
    if kind == "file" and file is None:
        raise Refusal("which file?", "add 'file: PATH'")
    if kind == "file" and item.variable is None:
        raise Refusal(
            "how is the task to find the file?",
            "add 'variable: NAME', the variable that names it, or 'kind' for a known kind",
        )
    if item.variable is not None:
        _check_variable(item.variable)
    if file is not None:
        check_text(file, "file")
        if kind == "kerberos":
            _check_no_cache(file)
        # Whose home '~' is, is known where the job runs.
        if not file.startswith("~/"):
            file = absolute(file, findings.document.directory)
    return Credential(kind=kind, file=file, variable=item.variable)


def _check_variable(name: str) -> None:
    if (fault := name_fault(name)) is not None:
        raise Refusal(*fault)
    if name in _TAKEN:
        raise Refusal(
            f"{name} tells programs something else than where a file is",
            "choose the variable that the program which uses the file looks at",
        )


def _check_no_cache(file: str) -> None:
    if (cache := _CACHE.fullmatch(file)) is None:
        return
    hint = "leave 'file' out, and set the variable KRB5CCNAME to it"
    if cache["kind"] in {"FILE", "DIR"}:
        hint = f"write the path alone, without '{cache['kind']}:'"
    raise Refusal("this is the name of a cache of tickets, and no path", hint)


def _kind(text: str) -> CredentialKind:
    word = text.strip().casefold()
    known = {kind: kind for kind in _KINDS} | dict(_OTHER_NAMES)
    if word in known:
        return known[word]
    if found := placeholders(text):
        raise Refusal(f"{shown(found[0])} is a placeholder", _HINT)
    # What was written there may be the credential itself.
    near = nearest(word, known)
    raise Refusal(
        "there is no such kind of credential", near if near.startswith("did you mean") else _HINT
    )
