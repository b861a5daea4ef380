"""The parts of a task's identity that its environment has: the same for all tasks that share it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

from fasthep_flow.model import DataItem, Image, PythonSpec, Setup, TaskSpec
from fasthep_flow.records.content import ABSENT, UNKNOWN, Content
from fasthep_flow.records.framing import clear, digest_of
from fasthep_flow.records.key import Key
from fasthep_flow.records.named import path_words
from fasthep_flow.redaction import without_credentials

__all__ = ["EnvironmentParts", "setup_files"]


def setup_files(setup: Setup, content: Content) -> tuple[str, ...]:
    """The scripts that a setup sources, and the files of the workflow's folder that its lines name.

    Args:
        setup: Of a task.
        content: Of files.
    """
    named = []
    for word in path_words(("bash", "-c", setup.lines)):
        path = os.path.normpath(os.path.join(content.folder, word))  # noqa: PTH118 - text
        if path.startswith(f"{content.folder}/") and content.is_file(path):
            named.append(path)
    return tuple(dict.fromkeys((*setup.scripts, *named)))


class EnvironmentParts:
    """Tells the parts of environments; each is looked at once.

    Args:
        content: Of files.
        key: By which values of variables are compared; asked for where there is a variable.
        image_digest: See :class:`fasthep_flow.records.identity.Identities`.
    """

    def __init__(
        self,
        content: Content,
        key: Callable[[], Key],
        image_digest: Callable[[TaskSpec, Image], str | None],
    ) -> None:
        self._content: Final = content
        self._make_key: Final = key
        self._key: Key | None = None
        self._image_digest: Final = image_digest
        # By number: an environment holds mappings, which have no hash.
        self._known: Final[dict[int, dict[str, str]]] = {}
        self._variables: Final[dict[tuple[str, str], str]] = {}

    def of(self, task: TaskSpec) -> dict[str, str]:
        """The parts of its environment.

        Args:
            task: Of a plan that lasts longer than this.

        Raises:
            RecordError: There is no key for values of variables.
        """
        known = self._known.get(id(task.environment))
        if known is None:
            known = self._known[id(task.environment)] = dict(self._parts(task))
        return known

    def _parts(self, task: TaskSpec) -> Iterator[tuple[str, str]]:
        environment = task.environment
        device = environment.resources.process_on
        if device != "cpu":
            yield "device", device
        if environment.image is not None:
            yield from self._of_image(task, environment.image, with_gpu=device != "cpu")
        if environment.setup is not None:
            yield from self._of_setup(environment.setup)
        if environment.python is not None:
            yield from self._of_python(environment.python)
        for item in environment.extra_data:
            yield from self._of_data(item)
        if environment.variables:
            if self._key is None:
                self._key = self._make_key()
            yield "key", self._key.name
            for name, variable in environment.variables.items():
                value = self._of_value(self._key, name, variable.value)
                yield f"variable {clear(name)}", value

    def _of_value(self, key: Key, name: str, value: str) -> str:
        known = self._variables.get((name, value))
        if known is None:
            known = self._variables[name, value] = key.of_value(name, value)
        return known

    def _of_image(
        self, task: TaskSpec, image: Image, *, with_gpu: bool
    ) -> Iterator[tuple[str, str]]:
        environment = task.environment
        yield "image", self._image_digest(task, image) or UNKNOWN
        if environment.gpu_image is not None and with_gpu:
            yield "gpu-image", self._image_digest(task, environment.gpu_image) or UNKNOWN
        if image.platform is not None:
            yield "platform", image.platform
        if environment.network != "host":
            yield "network", environment.network
        if environment.options:
            yield "options", digest_of(*environment.options)

    def _of_setup(self, setup: Setup) -> Iterator[tuple[str, str]]:
        yield "setup", digest_of(setup.lines)
        for script in setup_files(setup, self._content):
            yield self._content.label("script", script), self._content.of(script)

    def _of_python(self, python: PythonSpec) -> Iterator[tuple[str, str]]:
        from fasthep_flow.environments.software.requirements import local_digests

        lines = python.resolved or python.requirements
        yield "python", digest_of(python.version or "", *lines)
        directory = python.directory or self._content.folder
        for path, digest in local_digests(lines, directory).items():
            yield self._content.label("requirement", path), digest or ABSENT

    def _of_data(self, item: DataItem) -> Iterator[tuple[str, str]]:
        source = clear(without_credentials(item.source))
        digest = item.digest
        if digest is None and item.source.startswith("/"):
            digest = self._content.of(item.source)
        yield f"data {source}", digest or UNKNOWN
        yield f"place {source}", digest_of(item.target or "", item.mode)
