"""What is fed to a coverage-guided fuzzer: any bytes get an answer, or an error of our own.

A program of its own, which ``test_fuzz.py`` starts; by hand it runs until it is stopped, and keeps
what it finds::

    python tests/fuzz/targets.py dotenv tests/fuzz/corpus/dotenv -max_total_time=600
    python tests/fuzz/targets.py dotenv crash-0123abcd
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-untyped, unused-ignore]

with atheris.instrument_imports(include=["fasthep_flow.language", "dotenv"]):
    import dotenv.parser  # noqa: F401 - to be instrumented

    from fasthep_flow.errors import WorkflowError
    from fasthep_flow.language import make_plan, read_text, read_workflow
    from fasthep_flow.language.images import parse_image
    from fasthep_flow.language.quantities import parse_cpus, parse_memory, parse_time
    from fasthep_flow.language.refusals import Refusal
    from fasthep_flow.language.sources import parse_source
from fasthep_flow.model import to_json
from fasthep_flow.orchestrators.catalogue import Catalogue

_RUNNERS = Catalogue({"local": ("concurrent",)}, {}, plug_ins=False)
_FOLDER = Path(tempfile.mkdtemp(prefix="fasthep-flow-fuzz-"))
_NOWHERE = Path("/nowhere")


def document(data: bytes) -> None:
    """A workflow file, read and planned."""
    path = _FOLDER / "workflow.yaml"
    path.write_bytes(data)
    try:
        plan = make_plan(read_workflow(path), runners=_RUNNERS, host={})
    except WorkflowError as error:
        _judge(error)
    else:
        to_json(plan)


def _judge(error: WorkflowError) -> None:
    assert error.problems
    assert "\x1b" not in str(error)


_WITH_FILE = read_text(
    json.dumps({"tasks": [{"name": "a", "type": "m.f", "environment": {"variables": ".env"}}]}),
    file="workflow.yaml",
    directory=_FOLDER,
)


def dotenv_file(data: bytes) -> None:
    """A ``.env`` file that a workflow names."""
    path = _FOLDER / ".env"
    path.write_bytes(data)
    try:
        plan = make_plan(_WITH_FILE, runners=_RUNNERS, host={})
    except WorkflowError as error:
        _judge(error)
    else:
        for name, variable in plan.tasks[0].environment.variables.items():
            assert name.isidentifier()
            assert "\0" not in variable.value


def image(data: bytes) -> None:
    """The name of an image; in full it names the same one."""
    text = data.decode("utf-8", "ignore")
    with contextlib.suppress(Refusal):
        name = parse_image(text, _NOWHERE).name
        assert name.isprintable()
        assert parse_image(name, _NOWHERE).name == name


def source(data: bytes) -> None:
    """Where data comes from: an absolute path, or a URL."""
    text = data.decode("utf-8", "ignore")
    with contextlib.suppress(Refusal):
        found, _ = parse_source(text, _NOWHERE)
        assert found.startswith("/") or "://" in found


def quantity(data: bytes) -> None:
    """An amount of memory, of processors, or of time."""
    text = data.decode("utf-8", "ignore")
    for parse in (parse_memory, parse_cpus, parse_time):
        with contextlib.suppress(Refusal):
            assert parse(text) > 0


TARGETS: dict[str, Callable[[bytes], None]] = {
    "document": document,
    "dotenv": dotenv_file,
    "image": image,
    "source": source,
    "quantity": quantity,
}


if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
