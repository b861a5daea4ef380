"""Where each setting of a task's environment is written.

A setting has a place below ``environment`` and below ``global``. Whatever stands there is its
own; some settings change by what stands elsewhere, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from fasthep_flow.language.document import Document, Steps
from fasthep_flow.language.entries import DEFAULT, Chain, Entry
from fasthep_flow.language.environment import Settings
from fasthep_flow.language.image_settings import OneImage
from fasthep_flow.model import Device, Environment
from fasthep_flow.redaction import without_assigned

__all__ = ["Layer", "place_of", "setting_entry", "settings_of"]

_Find: TypeAlias = Callable[[Document, Steps], Steps | None]


@dataclass(frozen=True, slots=True)
class _Setting:
    """One thing to set.

    Args:
        name: Of the row.
        value: What it is after a layer.
        find: Where an environment at a place says something of it, if it does.
        causes: Where else something is written that may change it.
        unset: What it means that nothing is set.
        is_shown: Whether there is a row though nobody set it.
    """

    name: str
    value: Callable[[Settings], Any]
    find: _Find
    causes: tuple[_Find, ...] = ()
    unset: str = ""
    is_shown: bool = True


def _at(*path: str) -> _Find:
    """A key that says something unless its value is null."""

    def find(document: Document, steps: Steps) -> Steps | None:
        place = (*steps, *path)
        return place if document.value(place) is not None else None

    return find


def _replaced_at(*path: str) -> _Find:
    """A key whose null takes away what there is; of what stands below it, if it does."""

    def find(document: Document, steps: Steps) -> Steps | None:
        if not document.has((*steps, path[0])):
            return None
        return (*steps, *path) if document.has((*steps, *path)) else (*steps, path[0])

    return find


def _of_image(device: Device, key: str) -> _Find:
    """A key of the image on that kind of device, or of the image on both."""

    def find(document: Document, steps: Steps) -> Steps | None:
        for owner in (("image", device), ("image",)):
            place = (*steps, *owner)
            value = document.value(place)
            if isinstance(value, dict):
                if value.get(key) is not None or (key == "name" and key in value):
                    return (*place, key)
            elif key == "name" and document.has(place):
                return place
        return None

    return find


def _image(device: Device, *, prefix: str = "") -> Iterator[_Setting]:
    """The settings of the image on a kind of device."""

    def part(read: Callable[[OneImage], Any]) -> Callable[[Settings], Any]:
        return lambda settings: read(settings.container.on(device))

    yield _Setting(
        f"{prefix}image",
        part(lambda one: one.reference and one.reference.name),
        _of_image(device, "name"),
        unset="none: this machine",
    )
    yield _Setting(
        f"{prefix}form",
        part(lambda one: one.reference and one.reference.form),
        _of_image(device, "name"),
    )
    yield _Setting(
        f"{prefix}pull", part(lambda one: one.pull or "missing"), _of_image(device, "pull")
    )
    yield _Setting(
        f"{prefix}platform",
        part(lambda one: one.platform),
        _of_image(device, "platform"),
        unset="this machine's",
    )


def _items(items: Sequence[Struct]) -> list[Any]:
    return [to_builtins(item) for item in items]


def _each(sizes: Sequence[float]) -> float | list[float] | None:
    """The size of every attempt: one where they are all alike."""
    return list(sizes) if len(sizes) > 1 else next(iter(sizes), None)


_OTHERS: Final = (
    _Setting(
        "runtime",
        lambda all_: all_.container.runtime,
        _at("image", "runtime"),
        unset="the first that will do",
    ),
    _Setting(
        "options",
        lambda all_: list(all_.container.options),
        _at("image", "options"),
        causes=(_at("image", "runtime"),),
        unset="none",
    ),
    _Setting("network", lambda all_: all_.network, _at("network")),
    _Setting("reuse", lambda all_: all_.reuse, _at("reuse")),
    _Setting(
        "setup",
        lambda all_: all_.setup and without_assigned(all_.setup.lines),
        _replaced_at("setup"),
        unset="none",
    ),
    _Setting(
        "python",
        lambda all_: all_.python and (all_.python.version or "any"),
        _replaced_at("python", "version"),
        unset="what there is",
    ),
    _Setting(
        "requirements",
        lambda all_: list(all_.python.requirements) if all_.python else [],
        _replaced_at("python", "requirements"),
        unset="none",
        is_shown=False,
    ),
    _Setting(
        "credentials",
        lambda all_: _items(all_.credentials),
        _replaced_at("credentials"),
        unset="none",
    ),
    _Setting(
        "extra data",
        lambda all_: _items(all_.extra_data),
        _replaced_at("extra_data"),
        unset="none",
    ),
    _Setting(
        "cpus", lambda all_: _each(all_.sizes.cpus), _at("resources", "cpus"), unset="no limit"
    ),
    _Setting(
        "memory",
        lambda all_: _each(all_.sizes.memory),
        _at("resources", "memory"),
        unset="no limit",
    ),
    _Setting(
        "gpus",
        lambda all_: all_.resources.gpus,
        _at("resources", "gpus"),
        causes=(_at("resources", "process_on"),),
        unset="none asked for",
    ),
    _Setting("process_on", lambda all_: all_.resources.process_on, _at("resources", "process_on")),
    _Setting(
        "walltime",
        lambda all_: _each(all_.sizes.walltime),
        _at("resources", "walltime"),
        unset="no limit",
    ),
    _Setting("enforce", lambda all_: all_.resources.enforce, _at("resources", "enforce")),
)


def settings_of(environment: Environment) -> tuple[_Setting, ...]:
    """What there is to set in an environment, but its variables and what runs it."""
    device: Device = "gpu" if environment.resources.process_on == "gpu" else "cpu"
    of_image = [*_image(device)]
    if environment.gpu_image is not None:
        of_image += _image("gpu", prefix="gpu ")
    return (*of_image, *_OTHERS)


@dataclass(frozen=True, slots=True)
class Layer:
    """What holds after the settings at a place."""

    steps: Steps
    settings: Settings


def place_of(document: Document, steps: Steps) -> str:
    """Where something is written: ``file:line``."""
    return f"{document.file}:{document.place(steps).line}"


def setting_entry(document: Document, setting: _Setting, layers: Sequence[Layer]) -> Entry | None:
    """A setting with its origin; ``None`` for one that nobody need know of.

    Args:
        document: The workflow.
        setting: One of :func:`settings_of`.
        layers: The default first.
    """
    chain = Chain()
    before: Any = None
    for layer in layers:
        value = setting.value(layer.settings)
        if not layer.steps:
            chain.add(value, DEFAULT)
        elif (place := _place(document, setting, layer, changed=value != before)) is not None:
            chain.add(value, place_of(document, place))
        before = value
    if not setting.is_shown and not any(former.value for former in chain.values):
        return None
    last = chain.values[-1].value
    note = setting.unset if last is None or last == [] else ""
    entry = chain.entry(setting.name, note=note)
    if setting.name.endswith("form"):
        # It goes with the image, which tells what was replaced.
        return replace(entry, replaced=())
    if not setting.is_shown:
        return replace(entry, replaced=tuple(former for former in entry.replaced if former.value))
    return entry


def _place(document: Document, setting: _Setting, layer: Layer, *, changed: bool) -> Steps | None:
    """Where a layer says something of a setting; ``None`` where it does not."""
    place = setting.find(document, layer.steps)
    if place is None and changed:
        found = (cause(document, layer.steps) for cause in setting.causes)
        return next((one for one in found if one is not None), None)
    return place
