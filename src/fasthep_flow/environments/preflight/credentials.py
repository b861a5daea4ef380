"""Credentials, examined: whether they are there, and how long they last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from fasthep_flow.environments.preflight.verdicts import Check, noted, passed, refused
from fasthep_flow.errors import CredentialUnavailable
from fasthep_flow.model import Credential

__all__ = ["check_credentials"]


def check_credentials(
    credentials: Sequence[Credential],
    *,
    contained: bool,
    lasting_s: float | None,
    variables: Mapping[str, str],
) -> list[Check]:
    """A row for each credential, by its kind: where it is, whose, and until when.

    Args:
        credentials: That a task asks for.
        contained: Whether it runs in a container.
        lasting_s: Seconds for which they must last.
        variables: The environment in which to look for them.
    """
    from fasthep_flow.environments.credentials import present

    checks = [
        _check(credential, contained=contained, lasting_s=lasting_s, variables=variables)
        for credential in credentials
    ]
    if not any(check.verdict == "refused" for check in checks):
        try:
            present(credentials, contained=contained, lasting_s=lasting_s, variables=variables)
        except CredentialUnavailable as error:
            # What is wrong with none of them alone.
            checks.append(refused(credentials[-1].kind, error))
    return checks


def _check(
    credential: Credential,
    *,
    contained: bool,
    lasting_s: float | None,
    variables: Mapping[str, str],
) -> Check:
    from fasthep_flow.environments.credentials import find
    from fasthep_flow.environments.credentials.found import require_time, time_text

    now_s = time.time()
    try:
        found = find(credential, variables, contained=contained, lasting_s=lasting_s)
        require_time(found, lasting_s, now_s)
    except CredentialUnavailable as error:
        return refused(credential.kind, error)
    told = found.name.removeprefix("the ")
    if found.holder:
        told += f" of {found.holder}"
    remark = f"; {found.remark}" if found.remark else ""
    if found.ends_s is None:
        told += f": until when it lasts is not known ({found.why_unknown}){remark}"
        return noted(credential.kind, told)
    told += f" lasts another {time_text(found.ends_s - now_s)}{remark}"
    return noted(credential.kind, told) if remark else passed(credential.kind, told)
