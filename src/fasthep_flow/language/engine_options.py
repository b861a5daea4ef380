"""Further words for a runtime's command line: ``options`` of an image.

They are the author's own affair but for those that would undo what every task is promised: a
container of its own that ends with the task, its variables and no others, its limits, its
user, its working directory, its own ``/tmp``. These are refused, with the key that says the
same. So is what could be taken for the image, which stands behind the options, and what looks
like a secret: a command line is seen by everyone on the machine, and is in the records.

The names are those of ``podman run``, ``docker run``, ``apptainer exec`` and ``ch-run``.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fasthep_flow.language.refusals import Refusal, shown
from fasthep_flow.redaction import looks_secret

__all__ = ["check_options"]

_VARIABLES: Final = "write it under 'variables'"
_RESOURCES: Final = "write it under 'resources'"
_NETWORK: Final = "write 'network: host' or 'network: none' beside 'image'"
_DEVICES: Final = "write 'process_on' and 'gpus' under 'resources'"
_IMAGE: Final = "write it beside the image's 'name'"
_OWN: Final = "every task has a container of its own, which goes when the task has ended"
_STREAMS: Final = "a task's output goes to its logs, and its input is empty"
_FOLDER: Final = "a task starts in the folder of the workflow file"
_HOME: Final = "set HOME under 'variables'"
_USER: Final = "a task runs as the user who started it, so that its files are that user's"
_PROCESSES: Final = "every task has processes of its own, so that all of them can be ended"
_ENTRYPOINT: Final = "an image's entrypoint is not run: the task's own program is"
_ROOM: Final = "containers are closed off by the runtime, each task like the other"
_SECRETS: Final = "options are readable by everyone on the machine: write it under 'variables'"
_TEMPORARY: Final = frozenset({"/tmp", "/var/tmp"})  # noqa: S108 - a container's own
_SCRATCH: Final = "a task has a /tmp of its own, which goes with its container"
_ATTEMPTS: Final = "write 'retries' or 'timeout' at the task"
_PORTS: Final = "with the network of the host, the ports of a task are open as they are"


@dataclass(frozen=True, slots=True)
class _Grammar:
    """What is known of the options of a runtime.

    Args:
        refused: Options that are refused, and what to do instead.
        flags: Short options and long ones that take no value.
        mounts: Options that mount something, and how they say where.
        abbreviates: Whether the runtime takes the beginning of a long option for all of it.
    """

    refused: Mapping[str, str]
    flags: frozenset[str] = field(default=frozenset())
    mounts: Mapping[str, str] = field(default_factory=dict)
    abbreviates: bool = False


def _spread(*rows: tuple[str, str]) -> dict[str, str]:
    return {name: instead for names, instead in rows for name in names.split(" ")}


_OCI: Final = _Grammar(
    _spread(
        ("--name --replace --rm --rmi --restart --cidfile --pidfile --conmon-pidfile", _OWN),
        ("--pod --pod-id-file --detach -d --detach-keys --help --sdnotify --rootfs", _OWN),
        ("--attach -a --interactive -i --tty -t --sig-proxy", _STREAMS),
        ("--entrypoint", _ENTRYPOINT),
        ("--pid --init --init-path --systemd --stop-signal --stop-timeout", _PROCESSES),
        ("--user -u --userns --uidmap --gidmap --subuidname --subgidname --hostuser", _USER),
        ("--env -e --env-file --env-host --env-merge --http-proxy", _VARIABLES),
        ("--unsetenv --unsetenv-all", _VARIABLES),
        ("--workdir -w", _FOLDER),
        ("--memory -m --memory-swap --memory-reservation --kernel-memory", _RESOURCES),
        ("--cpus --cpu-period --cpu-quota --cpuset-cpus", _RESOURCES),
        ("--cgroups --cgroup-parent --cgroupns --cgroup-conf --oom-kill-disable", _RESOURCES),
        ("--gpus", _DEVICES),
        ("--network --net --network-alias", _NETWORK),
        ("--publish -p --publish-all -P", _PORTS),
        ("--pull --platform --arch --os --variant", _IMAGE),
        ("--timeout", _ATTEMPTS),
    ),
    frozenset(
        {
            "--disable-content-trust",
            "--no-healthcheck",
            "--no-hosts",
            "--passwd",
            "--privileged",
            "--quiet",
            "--read-only",
            "--read-only-tmpfs",
            "--tls-verify",
            "--use-api-socket",
            "-q",
        }
    ),
    _spread(("-v --volume", "pair"), ("--mount", "keys"), ("--tmpfs", "first")),
)
_APPTAINER: Final = _Grammar(
    _spread(
        ("--env --env-file --cleanenv -e --no-eval", _VARIABLES),
        ("--cwd --pwd", _FOLDER),
        ("--home -H --no-home", _HOME),
        ("--memory --memory-reservation --memory-swap --cpus --cpuset-cpus", _RESOURCES),
        ("--apply-cgroups --oom-kill-disable", _RESOURCES),
        ("--net -n --network --network-args --netns-path", _NETWORK),
        ("--nv --nvccli --rocm", _DEVICES),
        ("--pid -p --no-pid --no-init --sharens --app", _PROCESSES),
        ("--fakeroot -f", _USER),
        ("--contain -c --containall -C --compat --no-mount", _ROOM),
        ("--ipc -i --no-ipc", _ROOM),
        ("--scratch -S --workdir -W", _SCRATCH),
        ("--security", _USER),
        ("--passphrase --docker-login", _STREAMS),
        ("--help -h", _OWN),
    ),
    frozenset(
        {
            "--allow-setuid",
            "--disable-cache",
            "--keep-privs",
            "--no-https",
            "--no-privs",
            "--no-umask",
            "--unsquash",
            "--userns",
            "--uts",
            "--writable",
            "--writable-tmpfs",
            "-u",
            "-w",
        }
    ),
    _spread(("-B --bind", "pairs"), ("--mount", "keys"), ("--fusemount", "last")),
)
_CHARLIECLOUD: Final = _Grammar(
    _spread(
        ("--set-env --unset-env --env-no-expand", _VARIABLES),
        ("--cd -c", _FOLDER),
        ("--home --no-home", _HOME),
        ("--uid -u --gid -g", _USER),
        ("--join -j --join-ct --join-pid --join-tag", _PROCESSES),
        ("--storage -s --mount -m", _ROOM),
        ("--feature --help -? --usage --version -V", _OWN),
    ),
    frozenset(
        {
            "--ch-ssh",
            "--no-passwd",
            "--private-tmp",
            "--unsafe",
            "--verbose",
            "--write",
            "-t",
            "-v",
            "-w",
        }
    ),
    _spread(("-b --bind", "pair")),
    abbreviates=True,
)
_GRAMMARS: Final[Mapping[str, _Grammar]] = {
    "podman": _OCI,
    "docker": _OCI,
    "apptainer": _APPTAINER,
    "charliecloud": _CHARLIECLOUD,
}
_TARGETS: Final = frozenset({"target", "destination", "dst"})
_UNKNOWN: Final = _Grammar({})


def check_options(words: Sequence[str], runtime: str) -> Iterator[tuple[int, Refusal]]:
    """What is wrong with the words: their numbers, and why each cannot be.

    Args:
        words: As the author wrote them.
        runtime: Whose command line they are for; of one that a package brings nothing is known.
    """
    grammar = _GRAMMARS.get(runtime, _UNKNOWN)
    takes_value = False
    mounts: str | None = None
    for number, word in enumerate(words):
        mounts, value = _mounted(word, grammar) if mounts is None else (None, (mounts, word))
        target = None if value is None else _own_target(*value)
        is_known = word.startswith("-") and _refused(word, grammar) is not None
        if _holds_secret(word) and not is_known:
            # Its text is not for messages either.
            yield number, Refusal("this looks like a secret, and no option can keep one", _SECRETS)
            takes_value = word.startswith("-") and _may_take_value(word, grammar)
        elif target is not None:
            yield (
                number,
                Refusal(
                    f"nothing can be mounted on {target}, which is the container's own",
                    "mount it elsewhere",
                ),
            )
            takes_value = False
        elif "\0" in word or not word:
            yield number, Refusal("an option is a text without NUL characters, and not empty")
            takes_value = False
        elif not word.startswith("-") or word == "-":
            if not takes_value:
                yield (
                    number,
                    Refusal(
                        f"{shown(word)} is no option, and no option before it waits for a value",
                        "options start with '-'; the image and the command are the task's own",
                    ),
                )
            takes_value = False
        elif word == "--":
            yield number, Refusal("'--' ends the options", "remove it")
            takes_value = False
        else:
            refused = _refused(word, grammar)
            if refused is not None:
                name, instead = refused
                yield (
                    number,
                    Refusal(f"{shown(name)} cannot be among the options of {runtime}", instead),
                )
            takes_value = _may_take_value(word, grammar)


def _refused(word: str, grammar: _Grammar) -> tuple[str, str] | None:
    """The option in a word that is refused, and what to do instead."""
    if word.startswith("--"):
        name = word.partition("=")[0]
        for known, instead in grammar.refused.items():
            if known == name or (grammar.abbreviates and known.startswith(name)):
                return name, instead
        return None
    # Short options may stand in a row; the first that takes a value takes the rest.
    for letter in word[1:]:
        name = f"-{letter}"
        if name in grammar.refused:
            return name, grammar.refused[name]
        if name not in grammar.flags:
            return None
    return None


def _holds_secret(word: str) -> bool:
    # What stands behind it is of a store of the engine's, by name.
    return looks_secret(word.removeprefix("--secret="))


def _mounted(word: str, grammar: _Grammar) -> tuple[str | None, tuple[str, str] | None]:
    """How the next word says where to mount; or how this one does, and its value."""
    if word.startswith("--"):
        name, is_whole, value = word.partition("=")
        known = [
            one
            for one in grammar.mounts
            if one == name or (grammar.abbreviates and len(name) > 2 and one.startswith(name))  # noqa: PLR2004 - of '--'
        ]
        if not known:
            return None, None
        way = grammar.mounts[known[0]]
        return (None, (way, value)) if is_whole else (way, None)
    if word.startswith("-"):
        for position, letter in enumerate(word[1:], start=2):
            if f"-{letter}" in grammar.mounts:
                way, value = grammar.mounts[f"-{letter}"], word[position:].removeprefix("=")
                return (None, (way, value)) if value else (way, None)
            if f"-{letter}" not in grammar.flags:
                break
    return None, None


def _own_target(way: str, value: str) -> str | None:
    """Which folder of the container's own something would be mounted on."""
    targets = []
    if way == "keys":
        for row in csv.reader([value]):
            pairs = (cell.partition("=") for cell in row)
            targets += [path for key, _, path in pairs if key.strip().lower() in _TARGETS]
    elif way == "last":
        targets.append(value.rpartition(" ")[2])
    else:
        for one in re.split(r"(?<!\\),", value) if way == "pairs" else [value]:
            parts = re.split(r"(?<!\\):", one)
            targets.append(parts[0] if way == "first" or len(parts) == 1 else parts[1])
    for target in targets:
        # Two slashes in front may stay two, by POSIX.
        path = posixpath.normpath(f"/{target.strip()}").replace("//", "/")
        if target.strip().startswith("/") and path in _TEMPORARY:
            return path
    return None


def _may_take_value(word: str, grammar: _Grammar) -> bool:
    if word.startswith("--"):
        return "=" not in word and word not in grammar.flags
    for position, letter in enumerate(word[1:], start=1):
        if f"-{letter}" not in grammar.flags:
            return position == len(word) - 1
    return False
