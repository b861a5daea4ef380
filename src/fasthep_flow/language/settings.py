"""The settings of a user, and of a site: who runs what by default, and named orchestrations.

They hold nothing else, so that a workflow means the same to everybody: where its tasks run
may differ, what they do does not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple

from fasthep_flow.errors import Problem, WorkflowError
from fasthep_flow.language.document import Document, read_workflow
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.orchestrations import (
    Orchestration,
    read_orchestrations,
    refuse_both,
    refuse_secrets,
)
from fasthep_flow.language.schema import WorkflowModel, read_settings_keys

__all__ = ["VARIABLE", "SettingsFile", "read_settings", "settings_paths"]

VARIABLE: Final = "FASTHEP_FLOW_CONFIG"
"""Names a file in place of the user's; empty for none."""

_NAME: Final = "settings.yaml"
_OTHER_ENDING: Final = ".yml"
"""A user who writes that should not be left without any settings."""
_FOLDER: Final = "fasthep-flow"


class SettingsFile(NamedTuple):
    """A settings file that was read.

    Args:
        level: Whose it is.
        document: What it says, and where.
        flow: The flow of workflows that name none, in the short form.
        workflow: The same in the long form.
        orchestrations: Those that it defines.
    """

    level: Literal["user", "site"]
    document: Document
    flow: str | None
    workflow: WorkflowModel | None
    orchestrations: Sequence[Orchestration]


def settings_paths(
    environment: Mapping[str, str],
) -> list[tuple[Literal["user", "site"], Path]]:
    """Where settings are looked for, the nearest first; the files need not be there.

    The site's is one file, the first that there is, also where ``XDG_CONFIG_DIRS`` names several
    folders.

    Args:
        environment: Of this process.
    """
    from platformdirs import site_config_dir, user_config_path

    paths: list[tuple[Literal["user", "site"], Path]] = []
    chosen = environment.get(VARIABLE)
    if chosen is None:
        paths.append(("user", user_config_path(_FOLDER, appauthor=False) / _NAME))
    elif chosen.strip():
        # As it is where there is no such user: then it is no file.
        with suppress(RuntimeError):
            chosen = str(Path(chosen).expanduser())
        paths.append(("user", Path(chosen).absolute()))
    folders = site_config_dir(_FOLDER, appauthor=False, multipath=True).split(os.pathsep)
    sites = [Path(folder) / _NAME for folder in folders]
    paths.append(("site", next(filter(_is_there, sites), sites[0])))
    return paths


def read_settings(environment: Mapping[str, str]) -> list[SettingsFile]:
    """The settings files that there are, the nearest first.

    Whether their orchestrations can be had is not looked at: that depends on what is installed
    here, and matters to who uses one.

    Args:
        environment: Of this process.

    Raises:
        WorkflowError: One cannot be read, is not YAML, says what no settings file does, or is
            the user's and called otherwise.
    """
    read = []
    for level, path in settings_paths(environment):
        if level == "user" and VARIABLE in environment and not _is_there(path):
            raise WorkflowError(
                Problem(
                    f"{VARIABLE} names {path}, which is no file",
                    hint=f"name a settings file, or set {VARIABLE} to nothing for none",
                )
            )
        if _is_there(path):
            read.append(_read(level, path))
        elif level == "user" and _is_there(other := path.with_suffix(_OTHER_ENDING)):
            raise WorkflowError(
                Problem(f"{other} is not read", hint=f"call it {path.name}, or take it away")
            )
    return read


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # In a folder of somebody else's: what may be there is not meant for this user.
        return False


def _read(level: Literal["user", "site"], path: Path) -> SettingsFile:
    document = read_workflow(path)
    findings = Findings(document)
    findings.add(*document.complaints())
    # An empty file, or one whose lines are all comments, says nothing.
    model = read_settings_keys({} if document.data is None else document.data, findings)
    if model.flow is not None and model.workflow is not None:
        refuse_both((), findings)
    refuse_secrets(model.workflow, ("workflow",), findings)
    orchestrations = read_orchestrations(model.orchestrations, level, findings)
    findings.check()
    return SettingsFile(level, document, model.flow, model.workflow, orchestrations)
