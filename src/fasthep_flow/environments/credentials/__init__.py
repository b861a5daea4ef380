"""Credentials: what proves to others who the user is. They are shown, never copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fasthep_flow.environments import Addition
from fasthep_flow.model import Credential

__all__ = ["present"]


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

    Raises:
        CredentialUnavailable: One is not there, is none, or ends too early; with what to do.
    """
    if credentials:
        raise NotImplementedError
    return Addition()
