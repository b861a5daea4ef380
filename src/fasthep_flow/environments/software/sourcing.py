"""What bash makes of lines that it sources: variables, and the files that were read for it.

Only variables come out: neither functions nor aliases, options, or the working directory. The
lines are sourced as by hand, in a bash that is not interactive and without ``set -u``. They are
judged as ``set -e`` judges, line by line, but for what is within scripts that they source: there
commands may well fail in the middle, as those of experiments do, and only the status counts that
``source`` itself returns.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from fasthep_flow.environments.software.place import Place, Ran
from fasthep_flow.environments.software.wording import DEVICES, last_words, masked
from fasthep_flow.errors import SoftwareUnavailable
from fasthep_flow.model import Setup
from fasthep_flow.redaction import secret_values

__all__ = ["LIMIT_S", "Sourced", "source"]

LIMIT_S: Final = 600.0
_LARGEST: Final = 16 * 2**20
_LONGEST_VARIABLE: Final = 128 * 2**10
"""Longer ones the kernel hands to no program (MAX_ARG_STRLEN, with the NUL at its end)."""

_LONGEST_LINE: Final = 120
_SIGNALLED: Final = 128
_SHELLS_OWN: Final = frozenset({"_", "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL"})
"""What a shell sets by itself, wherever it is."""

_NOT_ITS: Final = re.compile(r"(?:BASH|_fasthep_|FASTHEP_)", re.ASCII)

# Builtins alone, for an image may have nothing else, and a script may take the PATH away. What
# is noted goes by name into files of ours: descriptors may be closed, and output is the
# script's. `source` stands at the top: within a function `declare` would make local variables.
_PROGRAM: Final = r"""
_fasthep_folder=${BASH_SOURCE[0]%/*}
_fasthep_lines=$_fasthep_folder/lines.sh
_fasthep_known=$'\n' _fasthep_at= _fasthep_inner= _fasthep_alive= _fasthep_reached=
_fasthep_dump() {
  builtin compgen -e >|"$_fasthep_folder/names"
  local IFS _fasthep_name _fasthep_count
  while IFS= builtin read -r _fasthep_name; do
    builtin eval "_fasthep_count=\${#$_fasthep_name[@]}"
    if [ "$_fasthep_count" = 1 ]; then
      builtin printf '%s=%s\0' "$_fasthep_name" "${!_fasthep_name}"
    fi
  done <"$_fasthep_folder/names" >|"$_fasthep_folder/$1"
}
_fasthep_note() {
  builtin printf '%s\0' "$@" >>"$_fasthep_folder/notes"
}
_fasthep_file() {
  local _fasthep_path=$1
  case $_fasthep_path in /*) ;; *) _fasthep_path=$PWD/$1 ;; esac
  case $_fasthep_known in
    *$'\n'"$_fasthep_path"$'\n'*) ;;
    *)
      _fasthep_known=$_fasthep_known$_fasthep_path$'\n'
      _fasthep_note file "$_fasthep_path"
      ;;
  esac
}
_fasthep_see() {
  _fasthep_alive=yes
  # What is run at the shell's end is told as if it were line 1 of the author's.
  case $2 in *_fasthep_*) return 0 ;; esac
  case ${BASH_SOURCE[1]-} in
    "$_fasthep_folder/run.sh") return 0 ;;
    "$_fasthep_lines")
      if [ "${#BASH_SOURCE[@]}" = 3 ]; then
        if [ "$1" != "$_fasthep_at" ]; then
          _fasthep_at=$1 _fasthep_inner=
          _fasthep_note line "$1"
        fi
      fi
      ;;
    *)
      _fasthep_file "${BASH_SOURCE[1]-}"
      _fasthep_inner=$1:${BASH_SOURCE[1]-}
      ;;
  esac
  case $2 in
    *'`'* | *'$('* | *'<('* | *'>('* | *';'* | *'&'* | *'|'* | *:=* | *'[$'*) ;;
    'source '* | '. '* | 'builtin source '*)
      local _fasthep_words
      builtin eval "_fasthep_words=(${2#*source })" 2>/dev/null
      [ "${_fasthep_words[0]-}" != . ] || _fasthep_words=("${_fasthep_words[@]:1}")
      [ "${_fasthep_words[0]-}" != -- ] || _fasthep_words=("${_fasthep_words[@]:1}")
      case ${_fasthep_words[0]-} in
        '') ;;
        *) _fasthep_file "${_fasthep_words[0]}" ;;
      esac
      ;;
  esac
  return 0
}
_fasthep_failed() {
  if [ "${BASH_SOURCE[1]-}" = "$_fasthep_lines" ] && [ "${#BASH_SOURCE[@]}" = 3 ]; then
    _fasthep_note line "$2" failed "$1"
    builtin exit "$1"
  fi
}
_fasthep_gone() {
  builtin trap - DEBUG ERR EXIT
  [ -z "$_fasthep_inner" ] || _fasthep_note inner "$_fasthep_inner"
  _fasthep_note gone "$1"
  # Only for what no message may show.
  builtin set +aefuvx +o posix
  _fasthep_dump after
}
_fasthep_end() {
  _fasthep_alive=
  builtin :
  builtin trap - DEBUG ERR EXIT
  builtin set +aefuvx +o posix
  [ -z "$_fasthep_inner" ] || _fasthep_note inner "$_fasthep_inner"
  [ -n "$_fasthep_reached" ] || _fasthep_note left "$1"
  [ -z "$_fasthep_alive" ] || _fasthep_note traced yes
  _fasthep_dump after && _fasthep_note done yes
  builtin exit 0
}
_fasthep_dump before
trap '_fasthep_gone "$?"' EXIT
trap '_fasthep_failed "$?" "$LINENO"' ERR
trap '_fasthep_see "$LINENO" "$BASH_COMMAND" "$_"' DEBUG
set -T
source "$_fasthep_lines"
_fasthep_end "$?"
"""

_REACHED: Final = "\n\n_fasthep_reached=yes\n"
"""Stands behind the author's lines: where it is not come to, they returned, or are no bash."""


class Sourced(Struct, frozen=True, kw_only=True):
    """What came of it.

    Args:
        variables: That are other than before; ``None`` for one that is gone.
        path: The ``PATH`` there was before.
        files: Absolute paths, where they were sourced, of the scripts that were read; more than
            one for one that is not named by an absolute path.
        is_traced: Whether these are known to be all.
    """

    variables: dict[str, str | None]
    path: str
    files: tuple[str, ...]
    is_traced: bool


def source(
    setup: Setup,
    place: Place,
    environment: Mapping[str, str | None],
    *,
    secrets: frozenset[str] = frozenset(),
    declared: Collection[str] = (),
    limit_s: float = LIMIT_S,
) -> Sourced:
    """Have bash source the lines.

    Args:
        setup: The lines.
        place: Where to.
        environment: Variables, laid over what the place has of its own.
        secrets: Texts that no message shows.
        declared: Names of variables that are secret, if the lines set them.
        limit_s: How long it may take.

    Raises:
        SoftwareUnavailable: They fail, with the line; or there is no bash.
    """
    folder = place.scratch
    (folder / "run.sh").write_text(_PROGRAM, encoding="ascii")
    lines = f"{setup.lines}{_REACHED}"
    (folder / "lines.sh").write_text(lines, encoding="utf-8", errors="surrogateescape")
    for name in ("notes", "before", "after", "names"):
        (folder / name).touch()
    ran = place.run(
        ("bash", "--noprofile", "--norc", f"{folder}/run.sh"),
        environment=environment,
        limit_s=limit_s,
    )
    notes = _Notes(_read(folder / "notes"))
    failure = ran.outcome.failure
    if failure is not None:
        if not ran.is_late:
            raise SoftwareUnavailable(
                f"{place.name} has no bash, which sources the setup script: {failure.message}",
                hint="install bash" if not place.is_contained else "choose an image with bash",
            )
    elif "done" in notes.last and not notes.has_failed(ran, str(folder / "lines.sh")):
        return _sourced(setup, folder, notes)
    with suppress(SoftwareUnavailable):
        secrets |= secret_values(_variables(_read(folder / "after")), declared)
    raise SoftwareUnavailable(
        _complaint(setup, ran, notes, folder, secrets=secrets, limit_s=limit_s),
        hint=_hint(setup, ran, notes, str(folder / "lines.sh")),
    )


class _Notes:
    """What was noted on the way: pairs of a key and a value; of each key the last one counts."""

    def __init__(self, text: bytes) -> None:
        words = text.decode("utf-8", "surrogateescape").split("\0")
        pairs = list(zip(words[::2], words[1::2], strict=False))
        self.last: Final = dict(pairs)
        self.files: Final = [value for key, value in pairs if key == "file"]

    def has_failed(self, ran: Ran, lines: str) -> bool:
        """Whether bash came out of the lines before their end, and not in peace."""
        return self.last.get("left", "0") != "0" or self.unread(ran, lines) is not None

    def unread(self, ran: Ran, lines: str) -> int | None:
        """The line that is no bash; ``None`` where bash read them all.

        It says so in the user's language, and goes on: what tells is the form, and that the
        end was not come to.
        """
        if "left" not in self.last:
            return None
        found = re.findall(rf"^{re.escape(lines)}:[^\n:]*?(\d+)[^\n:]*:", ran.stderr, re.MULTILINE)
        return int(found[-1]) if found else None


def _sourced(setup: Setup, folder: Path, notes: _Notes) -> Sourced:
    before = _variables(_read(folder / "before"))
    after = _variables(_read(folder / "after"))
    variables: dict[str, str | None] = {
        name: value for name, value in after.items() if before.get(name) != value
    }
    variables.update(dict.fromkeys(before.keys() - after.keys()))
    for name in [*variables]:
        if name in _SHELLS_OWN or name in DEVICES or _NOT_ITS.match(name):
            del variables[name]
    for name, value in variables.items():
        if value is not None and len(f"{name}={value}".encode(errors="replace")) >= (
            _LONGEST_VARIABLE
        ):
            raise SoftwareUnavailable(
                f"{_what(setup)} sets {name} to a value that is longer than the 128 KiB which"
                " a program can be handed"
            )
    return Sourced(
        variables=variables,
        path=before.get("PATH", ""),
        files=tuple(dict.fromkeys([*setup.scripts, *notes.files])),
        is_traced="traced" in notes.last,
    )


def _variables(text: bytes) -> dict[str, str]:
    decoded = text.decode(sys.getfilesystemencoding(), "surrogateescape")
    return dict(one.partition("=")[::2] for one in decoded.split("\0") if "=" in one)


def _read(path: Path) -> bytes:
    """The file's bytes; whoever was in the place could write to it.

    Raises:
        SoftwareUnavailable: It is no file any more, or larger than all variables could be.
    """
    try:
        if path.is_symlink() or not path.is_file():
            raise SoftwareUnavailable("the setup script took away what its variables are read from")
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        words = error.strerror or error
        raise SoftwareUnavailable(f"the variables of the setup script are lost: {words}") from error
    if len(text) > _LARGEST:
        raise SoftwareUnavailable("the setup script sets more variables than 16 MiB")
    return text


def _complaint(
    setup: Setup,
    ran: Ran,
    notes: _Notes,
    folder: Path,
    *,
    secrets: frozenset[str],
    limit_s: float,
) -> str:
    lines = f"{folder}/lines.sh"
    unread = notes.unread(ran, lines)
    number = unread or _number(notes.last.get("line"))
    inner_line, _, inner_file = notes.last.get("inner", "").partition(":")
    what, text = _what(setup), _line(setup.lines, number)
    where = f" on line {number}" if number else ""
    if inner_file in setup.scripts and not unread:
        # What the author wrote is its name alone: the line is one of the script's.
        what, where, text = f"the setup script {inner_file}", f" on line {inner_line}", ""
        text = _line(_text_of(inner_file), _number(inner_line))
    elif inner_file and not unread:
        text = f"{text} (in {inner_file}, line {inner_line})"
    shown = f": {masked(text, secrets)}" if text else ""
    words = last_words(ran.stderr, ran.stdout, secrets)
    words = re.sub(rf"{re.escape(str(folder))}/(?:lines|run)\.sh:(?:[^:;]*\d[^:;]*:)? *", "", words)
    words = f": {words}" if words else ""
    if ran.is_late:
        return (
            f"{what} does not come to its end within {limit_s:g} s; it is{where or ' there'}{shown}"
        )
    code = ran.outcome.exit_code
    if "failed" in notes.last or "left" in notes.last:
        code = _number(notes.last.get("failed") or notes.last.get("left"))
        return f"{what} fails{where}{shown}{words or f': it ends with the code {code}'}"
    ended_by = ran.outcome.signal
    if ended_by is None and "gone" not in notes.last and (code or 0) > _SIGNALLED:
        # What serves in a container says it as a shell does.
        ended_by = (code or 0) - _SIGNALLED
    if ended_by is not None:
        return f"{what} is ended by the signal {ended_by}{where}{shown}{words}"
    return f"{what} ends the shell{where}{shown} (code {code}){words}"


def _hint(setup: Setup, ran: Ran, notes: _Notes, lines: str) -> str | None:
    if ran.is_late:
        return "setup scripts have no terminal to ask at; does it wait for something?"
    if notes.unread(ran, lines) is not None:
        return "bash cannot read it"
    inner = notes.last.get("inner", "").partition(":")[2]
    if "failed" in notes.last and inner in setup.scripts:
        return f"if all is well with it, write 'source {inner} || true'"
    if "failed" in notes.last or "left" in notes.last:
        return "where a command may fail, write '|| true' behind it"
    if ran.outcome.exit_code == 0:
        return "write 'return' instead of 'exit': nothing is sourced behind that"
    return None


def _what(setup: Setup) -> str:
    return f"the setup script ({setup.origin})" if setup.origin else "the setup script"


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < len("1000000000") else 0


def _text_of(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return file.read(_LARGEST)
    except OSError:
        return ""


def _line(text: str, number: int) -> str:
    lines = text.split("\n")
    found = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return found if len(found) <= _LONGEST_LINE else f"{found[:_LONGEST_LINE]}..."
