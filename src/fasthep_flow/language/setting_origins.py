"""Where each setting of a task's environment is written.

A setting has a place below ``environment`` and below ``global``. Whatever stands there is its
own; some settings change by what stands elsewhere, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from fasthep_flow.language.document import Document, Steps
from fasthep_flow.language.entries import DEFAULT, Chain, Entry
from fasthep_flow.language.environment import Settings

__all__ = ["SETTINGS", "Layer", "place_of", "setting_entry"]

_Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Setting:
    """One thing to set.

    Args:
        name: Of the row.
        value: What it is after a layer.
        path: Where below an environment it is written.
        causes: Where else something is written that may change it.
        unset: What it means that nothing is set.
    """

    name: str
    value: Callable[[Settings], Any]
    path: _Path
    causes: tuple[_Path, ...] = ()
    unset: str = ""


def _form(settings: Settings) -> str | None:
    reference = settings.container.cpu.reference
    return None if reference is None else reference.form


def _image(settings: Settings) -> str | None:
    reference = settings.container.cpu.reference
    return None if reference is None else reference.name


_NAME: Final = ("image", "name")
_ALL: Final = (
    _Setting("image", _image, _NAME, unset="none: this machine"),
    _Setting("form", _form, _NAME),
    _Setting("pull", lambda all_: all_.container.cpu.pull or "missing", ("image", "pull")),
    _Setting(
        "platform",
        lambda all_: all_.container.cpu.platform,
        ("image", "platform"),
        unset="this machine's",
    ),
    _Setting(
        "runtime",
        lambda all_: all_.container.runtime,
        ("image", "runtime"),
        unset="the first that will do",
    ),
    _Setting(
        "options",
        lambda all_: list(all_.container.options),
        ("image", "options"),
        causes=(("image", "runtime"),),
        unset="none",
    ),
    _Setting("network", lambda all_: all_.network, ("network",)),
    _Setting("reuse", lambda all_: all_.reuse, ("reuse",)),
    _Setting("cpus", lambda all_: all_.resources.cpus, ("resources", "cpus"), unset="no limit"),
    _Setting(
        "memory", lambda all_: all_.resources.memory, ("resources", "memory"), unset="no limit"
    ),
    _Setting(
        "gpus",
        lambda all_: all_.resources.gpus,
        ("resources", "gpus"),
        causes=(("resources", "process_on"),),
        unset="none asked for",
    ),
    _Setting("process_on", lambda all_: all_.resources.process_on, ("resources", "process_on")),
    _Setting(
        "walltime",
        lambda all_: all_.resources.walltime_s,
        ("resources", "walltime"),
        unset="no limit",
    ),
    _Setting("enforce", lambda all_: all_.resources.enforce, ("resources", "enforce")),
)


SETTINGS: Final[Mapping[str, _Setting]] = {setting.name: setting for setting in _ALL}
"""What there is to set in an environment, but its variables and what runs it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What holds after the settings at a place."""

    steps: Steps
    settings: Settings


def place_of(document: Document, steps: Steps) -> str:
    """Where something is written: ``file:line``."""
    return f"{document.file}:{document.place(steps).line}"


def setting_entry(document: Document, name: str, layers: Sequence[Layer]) -> Entry:
    """A setting with its origin.

    Args:
        document: The workflow.
        name: One of :data:`SETTINGS`.
        layers: The default first.
    """
    setting = SETTINGS[name]
    chain = Chain()
    before: Any = None
    for layer in layers:
        value = setting.value(layer.settings)
        if not layer.steps:
            chain.add(value, DEFAULT)
        elif (origin := _origin(document, setting, layer, changed=value != before)) is not None:
            chain.add(value, origin)
        before = value
    last = chain.values[-1].value
    note = setting.unset if last is None or last == [] else ""
    entry = chain.entry(setting.name, note=note)
    if setting.name == "form":
        # It goes with the image, which tells what was replaced.
        return replace(entry, replaced=())
    return entry


def _origin(document: Document, setting: _Setting, layer: Layer, *, changed: bool) -> str | None:
    """Where a layer says something of a setting; ``None`` where it does not."""
    here = (*layer.steps, *setting.path)
    if setting.path == _NAME:
        short = (*layer.steps, "image")
        is_written = document.has(here) or (
            document.has(short) and not isinstance(document.value(short), dict)
        )
    else:
        is_written = document.value(here) is not None
    if is_written:
        return place_of(document, here)
    if changed:
        for cause in setting.causes:
            place = (*layer.steps, *cause)
            if document.value(place) is not None:
                return place_of(document, place)
    return None
