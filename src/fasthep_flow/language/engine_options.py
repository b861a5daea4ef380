"""Further words for a runtime's command line: ``options`` of an image.

They are the author's own affair but for those that would undo what every task is promised: a
container of its own that ends with the task, its variables and no others, its limits, its
user, its working directory. These are refused, with the key that says the same. So is what
could be taken for the image, which stands behind the options.

The names are those of ``podman run``, ``docker run``, ``apptainer exec`` and ``ch-run``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fasthep_flow.language.refusals import Refusal, shown

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
_ATTEMPTS: Final = "write 'retries' or 'timeout' at the task"
_PORTS: Final = "with the network of the host, the ports of a task are open as they are"


@dataclass(frozen=True, slots=True)
class _Grammar:
    """What is known of the options of a runtime.

    Args:
        refused: Options that are refused, and what to do instead.
        flags: Short options and long ones that take no value.
        abbreviates: Whether the runtime takes the beginning of a long option for all of it.
    """

    refused: Mapping[str, str]
    flags: frozenset[str] = field(default=frozenset())
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
        ("--passphrase --docker-login", _STREAMS),
        ("--help -h", _OWN),
    ),
    frozenset(
        {
            "--allow-setuid",
            "--disable-cache",
            "--ipc",
            "--keep-privs",
            "--no-https",
            "--no-privs",
            "--no-umask",
            "--unsquash",
            "--userns",
            "--uts",
            "--writable",
            "--writable-tmpfs",
            "-i",
            "-u",
            "-w",
        }
    ),
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
    abbreviates=True,
)
_GRAMMARS: Final[Mapping[str, _Grammar]] = {
    "podman": _OCI,
    "docker": _OCI,
    "apptainer": _APPTAINER,
    "charliecloud": _CHARLIECLOUD,
}
_UNKNOWN: Final = _Grammar({})


def check_options(words: Sequence[str], runtime: str) -> Iterator[tuple[int, Refusal]]:
    """What is wrong with the words: their numbers, and why each cannot be.

    Args:
        words: As the author wrote them.
        runtime: Whose command line they are for; of one that a package brings nothing is known.
    """
    grammar = _GRAMMARS.get(runtime, _UNKNOWN)
    takes_value = False
    for number, word in enumerate(words):
        if "\0" in word or not word:
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


def _may_take_value(word: str, grammar: _Grammar) -> bool:
    if word.startswith("--"):
        return "=" not in word and word not in grammar.flags
    for position, letter in enumerate(word[1:], start=1):
        if f"-{letter}" not in grammar.flags:
            return position == len(word) - 1
    return False
