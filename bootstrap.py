"""Set this repository up and run its example or its tests, on a plain Python 3.11 or newer.

Needs nothing but Python's own library. Everything goes into `.venv` and `.uv` of this folder.
"""

# ruff: noqa: T201 - a program: what it has to say goes to the terminal

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
OWN_UV = ROOT / ".uv"
OLDEST_PYTHON = (3, 11)
MOST_TESTS = 6
"""Tests that run at once: more of them wait for the engines of one machine."""

HELP = """\
commands:
  setup      install the package and everything that its developers need into .venv
  example    install what the dimuon example needs, and run it on this machine
  test       set up, then check the lock file, style, types and layers, build the
             documentation and run the tests; arguments are handed to pytest:
             python3 bootstrap.py test -k podman

On Debian, as root, `test` first installs podman, docker, apptainer, charliecloud, a registry,
Slurm and HTCondor with apt, starts what is a daemon on the loopback interface and leaves it
running (see tests/testbed/README.md).
Anywhere else the tests use the engines that are there, and skip the others saying why.
"""

CLOSING_LINE = re.compile(
    r"\b(?:passed|failed|errors?|skipped|deselected|no tests ran)\b.* in [\d.]+s"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Argv = list[str | Path]


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; the number is the exit code."""
    parser = argparse.ArgumentParser(
        prog="bootstrap.py",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("setup", "example", "test"))
    chosen, rest = parser.parse_known_args(arguments)
    if rest and chosen.command != "test":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if sys.version_info < OLDEST_PYTHON:
        sys.exit("This needs Python 3.11 or newer: run it with one, as in python3.11 bootstrap.py")
    uv = find_uv()
    env = environment(uv)
    if chosen.command == "example":
        # What another command put there may stay: no second download.
        sync(uv, env, ["--group", "examples"], keep_others=True)
        workflow = ROOT / "examples" / "dimuon" / "workflow.yaml"
        return call([VENV / "bin" / "fasthep-flow", "run", workflow.relative_to(ROOT)], env)
    sync(uv, env, ["--all-extras", "--group", "dev"])
    return run_checks(uv, env, rest) if chosen.command == "test" else 0


def find_uv() -> Path:
    """The uv on PATH, else one that is installed into `.uv` of this folder."""
    own = OWN_UV / "bin" / "uv"
    # A launcher of pyenv may stand on PATH with nothing behind it: ask.
    for found in filter(None, (shutil.which("uv"), shutil.which(own))):
        if call([found, "--version"], stdout=subprocess.DEVNULL) == 0:
            return Path(found)
    print("uv is not installed: getting it into .uv", flush=True)
    # Debian keeps ensurepip in a package of its own: without it there is no pip in a new venv.
    if importlib.util.find_spec("ensurepip"):
        make_it: list[Argv] = [
            [sys.executable, "-m", "venv", OWN_UV],
            [OWN_UV / "bin" / "python", "-m", "pip", "install", "--quiet", "uv"],
        ]
    else:
        make_it = [[sys.executable, "-m", "pip", "install", "--quiet", "--target", OWN_UV, "uv"]]
    if any(call(step, {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}) for step in make_it):
        sys.exit("uv could not be installed: see https://docs.astral.sh/uv/ for other ways")
    return own


def environment(uv: Path) -> dict[str, str]:
    """What every step runs in: the virtual environment first, and no Python from elsewhere."""
    env = {
        **os.environ,
        # Many short processes import the same packages: compiled once, they start twice as fast.
        "PYTHONDONTWRITEBYTECODE": "",
        "PATH": os.pathsep.join([str(VENV / "bin"), os.environ.get("PATH", os.defpath)]),
        "UV": str(uv),
        "UV_PROJECT_ENVIRONMENT": str(VENV),
        "UV_PYTHON_DOWNLOADS": "never",
        "VIRTUAL_ENV": str(VENV),
    }
    # As pip does on Debian: the certificates of the machine count, not a list of uv's own. The
    # second name is the one that older releases know.
    env.setdefault("UV_SYSTEM_CERTS", "true")
    env.setdefault("UV_NATIVE_TLS", "true")
    if "SSL_CERT_FILE" not in env and (certificate := pip_setting("cert")):
        env["SSL_CERT_FILE"] = certificate
    return env


def sync(uv: Path, env: dict[str, str], groups: list[str], *, keep_others: bool = False) -> None:
    """Install what `uv.lock` says into `.venv`; from pip's own index where PyPI is out of reach."""
    print(f"setting up {VENV}", flush=True)
    wanted: Argv = [uv, "sync", "--quiet", "--locked", "--python", sys.executable, *groups]
    # Tests use most of what is installed; an example imports a part, which Python compiles.
    more: Argv = ["--inexact"] if keep_others else ["--compile-bytecode"]
    if call([*wanted, *more], env) == 0:
        return
    index = pip_setting("index-url")
    if not index:
        sys.exit("the packages of uv.lock could not be installed; the reason stands above")
    print("trying the package index that pip is configured with", flush=True)
    # The lock names PyPI's own addresses; the same versions and hashes are asked for elsewhere.
    locked = VENV / "locked.txt"
    export: Argv = [uv, "export", "--quiet", "--frozen", "--no-emit-project", "-o", locked]
    install: Argv = [uv, "pip", "install", "--quiet"]
    steps: list[Argv] = [
        [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, VENV],
        [*export, *groups],
        [*install, "--requirement", locked],
        [*install, "--no-deps", "--editable", ROOT],
    ]
    if any(call(step, {"UV_DEFAULT_INDEX": index, **env}) for step in steps):
        sys.exit("the packages of uv.lock could not be installed from there either")


def pip_setting(name: str) -> str:
    """What pip is configured with under this name, in a file or a variable; empty if nothing."""
    if value := os.environ.get(f"PIP_{name.upper().replace('-', '_')}"):
        return value
    argv = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def run_checks(uv: Path, env: dict[str, str], pytest_arguments: list[str]) -> int:
    """Run every check, also after one has failed; pytest's closing line is printed last."""
    tools = VENV / "bin"
    steps: list[tuple[str, Argv]] = []
    if testbed_possible():
        steps.append(("engines", [ROOT / "tests" / "testbed" / "up.sh"]))
    else:
        print("engines: not Debian as root; those found are used, the rest is skipped", flush=True)
    steps += [
        ("lock file", [uv, "lock", "--check"]),
        ("ruff check", [tools / "ruff", "check"]),
        ("ruff format", [tools / "ruff", "format", "--check"]),
        ("mypy", [tools / "mypy"]),
        ("layers", [tools / "lint-imports"]),
    ]
    if (ROOT / "docs").is_dir():
        build: Argv = [tools / "sphinx-build", "-q", "-W", "--keep-going", "docs"]
        steps.append(("documentation", [*build, "docs/_build/html"]))
    else:
        print("documentation: there is no docs folder yet", flush=True)
    # Many tests wait for engines; in which order files begin says tests/conftest.py.
    beside: Argv = ["-n", str(min(MOST_TESTS, 1 + (os.cpu_count() or 1)))]
    beside += ["--dist", "loadfile", "--no-loadscope-reorder"]
    steps.append(("tests", [tools / "pytest", *beside, *pytest_arguments]))

    rows: list[str] = []
    failed = 0
    closing = ""
    for name, argv in steps:
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        if name == "tests":
            code, closing = call_and_keep_closing_line(argv, env)
        else:
            code = call(argv, env)
        failed += code != 0
        outcome = f"failed ({code})" if code else "passed"
        rows.append(f"  {name:<14} {outcome:<12} {time.monotonic() - started:6.1f} s")
    print("\n== summary", *rows, sep="\n")
    print(closing, flush=True)
    return 1 if failed else 0


def testbed_possible() -> bool:
    """Whether this is a machine on which tests/testbed/up.sh can bring engines up."""
    return (
        os.geteuid() == 0 and Path("/etc/debian_version").exists() and bool(shutil.which("apt-get"))
    )


def call(argv: Argv, env: dict[str, str] | None = None, stdout: int | None = None) -> int:
    """Run to the end with its output shown; a program that cannot be started counts as 127."""
    try:
        return subprocess.run(argv, cwd=ROOT, env=env, stdout=stdout, check=False).returncode
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        return 127


def call_and_keep_closing_line(argv: Argv, env: dict[str, str]) -> tuple[int, str]:
    """Run with the output shown as it comes; answer with pytest's last word besides."""
    if sys.stdout.isatty():
        argv = [*argv, "--color=yes"]
    closing = "(pytest printed no closing line)"
    try:
        with subprocess.Popen(
            argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
        ) as running:
            for line in running.stdout or ():
                print(line, end="", flush=True)
                if CLOSING_LINE.search(plain := COLOUR.sub("", line).strip()):
                    closing = plain
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        return 127, closing
    return running.returncode, closing


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
