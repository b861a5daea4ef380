"""A canary: the bound on fastapi in pyproject.toml stays as long as Prefect needs it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from uv import find_uv_bin

pytestmark = pytest.mark.prefect

_PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
_BOUND = "fastapi<0.150"
# With a release of fastapi that does not fit, it is not even imported: no flow need be run.
_SERVER = """
from prefect.server.api.server import create_app

assert create_app(ephemeral=True).routes
"""


def _environment(home: Path) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    # The environment is to be the throwaway one, whatever this process runs in.
    known.pop("VIRTUAL_ENV", None)
    return known | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def _run(argv: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=home,
        env=_environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_the_bound_on_fastapi_is_still_needed(tmp_path: Path) -> None:
    extra = tomllib.loads(_PYPROJECT.read_text())["project"]["optional-dependencies"]["prefect"]
    assert _BOUND in extra, "the bound is gone from pyproject.toml: so can this test be"
    prefect = next(text for text in extra if re.match(r"prefect\b(?!-)", text))
    python = tmp_path / "venv" / "bin" / "python"
    uv = find_uv_bin()
    made = _run([uv, "venv", "--quiet", str(tmp_path / "venv")], tmp_path)
    if made.returncode == 0:
        # Without our bound: the newest that Prefect's own range allows.
        install = [uv, "pip", "install", "--quiet", "--upgrade", "--python", str(python), prefect]
        made = _run(install, tmp_path)
    if made.returncode != 0:
        pytest.skip(f"no environment to try it in: {made.stderr.strip().splitlines()[-1]}")
    # Else what is tried here says nothing.
    usual = _run([sys.executable, "-c", _SERVER], tmp_path)
    assert usual.returncode == 0, usual.stderr
    tried = _run([str(python), "-c", _SERVER], tmp_path)
    if tried.returncode != 0:
        return
    found = _run([uv, "pip", "list", "--quiet", "--python", str(python)], tmp_path).stdout
    versions = " and ".join(
        " ".join(line.split())
        for line in found.splitlines()
        if re.match(r"(fastapi|prefect) ", line)
    )
    line = next(
        number
        for number, text in enumerate(_PYPROJECT.read_text().splitlines(), 1)
        if _BOUND in text
    )
    pytest.fail(
        f"Prefect starts with {versions}: drop {_BOUND!r} from line {line} of pyproject.toml "
        f"(and this test), then run `uv lock`"
    )
