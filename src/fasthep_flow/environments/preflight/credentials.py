"""Credentials, examined: whether they are there, and how long they last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fasthep_flow.environments.preflight.verdicts import Check
from fasthep_flow.model import Credential

__all__ = ["check_credentials"]


def check_credentials(
    credentials: Sequence[Credential],
    *,
    contained: bool,
    lasting_s: float | None,
    variables: Mapping[str, str],
) -> list[Check]:
    """A row for each credential: where it is, whose, and until when.

    Args:
        credentials: That a task asks for.
        contained: Whether it runs in a container.
        lasting_s: Seconds for which they must last.
        variables: The environment in which to look for them.
    """
    if credentials:
        raise NotImplementedError
    return []
