"""Credentials: what proves to others who the user is. They are shown, never copied.

They are looked for where the job runs. A task on the host finds a credential where it is, and a
task in a container finds the same file mounted read-only; a variable names it. Of what is in one
no more is read than whose it is and until when it lasts, and nothing of it is written anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from fasthep_flow.environments import Addition, Mount
from fasthep_flow.environments.credentials.found import (
    Found,
    named_path,
    read_credential,
    require_time,
    said_by,
    shown_file,
)
from fasthep_flow.errors import CredentialUnavailable
from fasthep_flow.model import Credential

__all__ = ["find", "present"]


def present(
    credentials: Sequence[Credential],
    *,
    contained: bool,
    lasting_s: float | None,
    variables: Mapping[str, str],
) -> Addition:
    """What shows the credentials to a task: read-only mounts, and the variables that name them.

    Args:
        credentials: That the task asks for.
        contained: Whether it runs in a container; else it sees the files where they are.
        lasting_s: Seconds for which each must last; ``None`` where nobody knows.
        variables: The environment in which to look for them.

    Returns:
        Of facts there is, by kind, until when each lasts.

    Raises:
        CredentialUnavailable: One is not there, is none, or ends too early; with what to do.
    """
    mounts: list[Mount] = []
    named: dict[str, str | None] = {}
    facts: dict[str, str] = {}
    for credential in credentials:
        found = find(credential, variables, contained=contained, lasting_s=lasting_s)
        require_time(found, lasting_s, time.time())
        addition = found.addition
        if twice := [name for name in addition.variables if named.get(name) is not None]:
            raise CredentialUnavailable(
                f"two credentials are to be named by the variable {twice[0]}",
                hint="name another one for one of them, with 'variable'",
            )
        mounts += addition.mounts
        named.update(addition.variables)
        facts[credential.kind] = _until(found)
    return Addition(mounts=tuple(mounts), variables=named, facts=facts)


def find(
    credential: Credential,
    variables: Mapping[str, str],
    *,
    contained: bool,
    lasting_s: float | None,
) -> Found:
    """One credential, which may have ended.

    Args:
        credential: What is asked for.
        variables: The environment in which to look for it.
        contained: Whether the task runs in a container.
        lasting_s: Seconds that a new one would have to last.

    Raises:
        CredentialUnavailable: It is not there, or is none.
    """
    match credential.kind:
        case "x509":
            from fasthep_flow.environments.credentials.proxies import find_proxy

            return find_proxy(credential, variables, contained=contained, lasting_s=lasting_s)
        case "kerberos":
            from fasthep_flow.environments.credentials.tickets import find_tickets

            return find_tickets(credential, variables, contained=contained, now_s=time.time())
        case "bearer":
            from fasthep_flow.environments.credentials.tokens import find_token

            return find_token(credential, variables, contained=contained, now_s=time.time())
        case "file":
            return _find_file(credential, variables, contained=contained)


def _find_file(credential: Credential, variables: Mapping[str, str], *, contained: bool) -> Found:
    """A file of which nothing else is known."""
    variable = credential.variable
    if variable is None:
        raise CredentialUnavailable(
            "a credential that is a file needs a variable to name it",
            hint="write 'variable: NAME' beside its 'file'",
        )
    if credential.file is not None:
        path = named_path(credential.file, "the workflow")
    elif (said := said_by(variables, variable)) is not None:
        path = named_path(said, variable)
    else:
        raise CredentialUnavailable(
            f"the credential that {variable} is to name is not known: the variable is not set",
            hint="write 'file: PATH' beside its 'variable'",
        )
    name = f"the credential {path}"
    content, _ = read_credential(path, name, "is it on the machine where the task runs?")
    if not content:
        raise CredentialUnavailable(f"{name} is empty", hint="put what it is to hold into it")
    return Found(
        name=name,
        why_unknown="it may hold anything",
        renewal="put a new one there",
        addition=shown_file(variable, path, contained=contained),
    )


def _until(found: Found) -> str:
    if found.ends_s is None:
        return f"nobody knows until when: {found.why_unknown}"
    return f"until {datetime.fromtimestamp(found.ends_s, UTC):%Y-%m-%d %H:%M} UTC"
